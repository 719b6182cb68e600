"""Plain HTTP from curl, wrk and slowhttptest to FastAPI on uvicorn."""

import hashlib
import json
import re
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from harness import proxy
from harness.backends import Backend
from harness.processes import Processes

LISTEN_SECONDS = 20
LATE_SECONDS = 2.0
UPLOAD_BYTES = 32_000_000
EVENTS = 20
ATTACK_SECONDS = 6
ATTACKERS = 100

FASTAPI_HTTP = Backend(
    name="fastapi_http", script="fastapi_http.py", greetings=(), answer=""
)


def start(processes: Processes, folder: Path, *, impatient: bool = False) -> str:
    """The address of readygate in front of a backend that listens."""
    backend = processes.start(FASTAPI_HTTP.name, FASTAPI_HTTP.command)
    upstream = backend.announcement(LISTEN_SECONDS)["port"]
    port = proxy.start_with(processes, folder, lambda port: config(port, upstream, impatient))
    return f"http://127.0.0.1:{port}"


def config(port: int, upstream: int, impatient: bool = False) -> str:
    seconds = 2 if impatient else 10
    return f"""\
listen = "127.0.0.1:{port}"
[limits]
header_timeout = "{seconds}s"
write_timeout = "{seconds}s"
[admin]
listen = ""
[[route]]
upstream = "http://127.0.0.1:{upstream}"
[route.http]
body_timeout = "{seconds}s"
"""


def run(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_events_arrive_as_they_are_made(processes, tmp_path) -> None:
    url = start(processes, tmp_path)

    delays = []
    with urllib.request.urlopen(f"{url}/events", timeout=30) as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        for line in events:
            if line.startswith(b"data: "):
                _, _, made = line.decode().split()
                delays.append(time.time() - float(made))

    assert len(delays) == EVENTS
    # The whole answer takes a second: one that was collected first would come at its end.
    assert sorted(delays)[EVENTS // 2] < 0.4


def test_uploads_and_downloads_of_any_framing_arrive_whole(processes, tmp_path) -> None:
    url = start(processes, tmp_path)
    file = tmp_path / "upload"
    file.write_bytes(bytes(range(256)) * (UPLOAD_BYTES // 256))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    size = file.stat().st_size

    for framing in ([], ["--header", "Transfer-Encoding: chunked"]):
        for expect in ("Expect:", "Expect: 100-continue"):
            curl = ["curl", "--silent", "--upload-file", file, "--header", expect]
            answer = json.loads(run(*curl, *framing, f"{url}/upload"))
            assert (answer["sha256"], answer["size"]) == (digest, size), (framing, expect)
            # It came in pieces, not at the end.
            assert answer["pieces"] > 10

    count = ["--output", "/dev/null", "--write-out", "%{size_download} %{http_code}"]
    assert run("curl", "--silent", *count, f"{url}/large") == "3000000 200"


def test_head_has_no_body_and_the_connection_is_used_again(processes, tmp_path) -> None:
    url = start(processes, tmp_path)
    show = ["--write-out", "%{http_code} %{num_connects} %{size_download}\n"]

    heads = run("curl", "--silent", "--head", "--output", "/dev/null", *show, url, "--next",
                "--silent", "--output", "/dev/null", *show, url)

    assert heads.splitlines() == ["200 1 0", "200 0 13"]


@pytest.mark.parametrize("expect", ["Expect:", "Expect: 100-continue"])
def test_a_post_before_the_backend_listens_arrives_once(processes, tmp_path, expect) -> None:
    upstream = proxy.free_port()
    port = proxy.start_with(processes, tmp_path, lambda port: config(port, upstream))
    late = ["--port", str(upstream), "--delay", str(LATE_SECONDS)]
    processes.start(FASTAPI_HTTP.name, [*FASTAPI_HTTP.command, *late])

    posted = run("curl", "--silent", "--data-binary", "x" * 100_000, "--header", expect,
                 "--header", "x-request-name: once", f"http://127.0.0.1:{port}/upload")

    answer = json.loads(posted)
    assert (answer["size"], answer["times"]) == (100_000, 1)


def test_wrk_gets_every_answer(processes, tmp_path, measured) -> None:
    url = start(processes, tmp_path)

    report = run("wrk", "--threads", 1, "--connections", 32, "--duration", "3s", url)

    measured(re.search(r"Requests/sec: *(\S+)", report).group(0))
    assert "Socket errors" not in report and "Non-2xx" not in report, report
    assert int(re.search(r"(\d+) requests in", report).group(1)) > 100


@pytest.mark.parametrize(
    ("attack", "options"),
    [
        ("slow headers", ["-H", "-i", 2]),
        ("slow body", ["-B", "-i", 2, "-s", 8192]),
        ("slow read", ["-X", "-w", 1, "-y", 10, "-n", 2, "-z", 5]),
    ],
)
def test_others_are_served_during_an_attack(
    processes, tmp_path, measured, attack, options
) -> None:
    url = start(processes, tmp_path, impatient=True)
    target = f"{url}/large" if "-X" in options else f"{url}/upload"
    served, failed = [], []

    def others(until: float) -> None:
        while time.time() < until:
            begun = time.time()
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    assert answer.read() == b"hello, world\n"
                served.append(time.time() - begun)
            except OSError as error:
                failed.append(error)
            time.sleep(0.05)

    bystander = threading.Thread(target=others, args=(time.time() + ATTACK_SECONDS,))
    bystander.start()
    report = run("slowhttptest", "-c", ATTACKERS, "-r", ATTACKERS, "-l", ATTACK_SECONDS,
                 "-x", 10, *options, "-u", target)
    bystander.join()

    measured(f"{attack}: {len(served)} others served, the slowest in {max(served):.3f} s")
    assert not failed
    assert served
    assert "Exit status" in report
