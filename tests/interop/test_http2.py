"""HTTP/2 from curl, h2load, the `h2` of Python and Chromium."""

import json
import socket
import subprocess
from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from websockets.frames import Close, Frame, Opcode

from harness import proxy
from harness.backends import FASTAPI_AGENT, Backend
from harness.certificates import Certificates
from harness.processes import Process, Processes, wait_until

LISTEN_SECONDS = 20
BROWSER_SECONDS = 60
PAGE = Backend(name="page", script="page.py", greetings=("ready",), answer="")


def h2c(upstream: int, gate: str = "") -> Callable[[int], str]:
    return lambda port: f"""\
[[listen]]
address = "127.0.0.1:{port}"
h2c = true

[[route]]
upstream = "http://127.0.0.1:{upstream}"
[route.gate]
{gate}
"""


def start_page(processes: Processes) -> tuple[Process, int]:
    page = processes.start("page", PAGE.command)
    return page, page.announcement(LISTEN_SECONDS)["port"]


def run(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl_gets_pages_and_posts_over_both_versions(processes, tmp_path) -> None:
    _, upstream = start_page(processes)
    port = proxy.start_with(processes, tmp_path, h2c(upstream))
    url = f"http://127.0.0.1:{port}"
    show = ["--silent", "--output", tmp_path / "body"]
    show += ["--write-out", "%{http_version} %{http_code}"]

    assert run("curl", *show, "--http2-prior-knowledge", url) == "2 200"
    assert "new WebSocket" in (tmp_path / "body").read_text()
    assert run("curl", *show, "--http1.1", url) == "1.1 200"
    # An offer to upgrade is not taken.
    assert run("curl", *show, "--http2", url) == "1.1 200"
    posted = tmp_path / "posted"
    posted.write_text(json.dumps({"text": "x" * 1_000_000}))
    post = ["--http2-prior-knowledge", "--data-binary", f"@{posted}", f"{url}/result"]
    assert run("curl", *show, *post) == "2 200"


def test_h2load_gets_every_answer(processes, tmp_path, measured) -> None:
    _, upstream = start_page(processes)
    port = proxy.start_with(processes, tmp_path, h2c(upstream))

    report = run("h2load", "-n", 2000, "-c", 10, "-m", 20, f"http://127.0.0.1:{port}/")

    measured(report.split("finished in")[1].splitlines()[0])
    assert "2000 done, 2000 succeeded, 0 failed, 0 errored" in report


class Tunnel:
    """A WebSocket over HTTP/2 by the `h2` package (RFC 8441)."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        config = h2.config.H2Configuration(header_encoding="utf-8")
        self._http = h2.connection.H2Connection(config)
        self._http.initiate_connection()
        self._unread = b""
        self.answer: dict[str, str] = {}
        self.has_ended = False
        self._until(lambda: self._http.remote_settings.enable_connect_protocol)
        headers = {
            ":method": "CONNECT",
            ":protocol": "websocket",
            ":scheme": "http",
            ":authority": f"127.0.0.1:{port}",
            ":path": "/",
            "sec-websocket-version": "13",
        }
        self.stream = self._http.get_next_available_stream_id()
        self._http.send_headers(self.stream, list(headers.items()))
        self._until(lambda: self.answer)

    def send(self, frame: Frame) -> None:
        self._http.send_data(self.stream, frame.serialize(mask=True))
        self._flush()

    def receive(self) -> tuple[int, bytes]:
        self._until(lambda: len(self._unread) >= 2)
        length = self._unread[1]
        assert length < 126
        self._until(lambda: len(self._unread) >= 2 + length)
        opcode = self._unread[0] & 0x0F
        payload = self._unread[2 : 2 + length]
        self._unread = self._unread[2 + length :]
        return opcode, payload

    def wait_for_end(self) -> None:
        self._until(lambda: self.has_ended)
        self._socket.close()

    def _flush(self) -> None:
        self._socket.sendall(self._http.data_to_send())

    def _until(self, condition) -> None:
        self._flush()
        while not condition():
            received = self._socket.recv(65536)
            assert received, "the connection has ended"
            for event in self._http.receive_data(received):
                if isinstance(event, h2.events.ResponseReceived):
                    self.answer = dict(event.headers)
                elif isinstance(event, h2.events.DataReceived):
                    self._unread += event.data
                    count = event.flow_controlled_length
                    self._http.acknowledge_received_data(count, self.stream)
                elif isinstance(event, h2.events.StreamEnded):
                    self.has_ended = True
                elif isinstance(event, h2.events.StreamReset):
                    # With no error it only means that nothing more is read.
                    assert self.has_ended and event.error_code == 0, event
            self._flush()


def test_a_session_of_pythons_h2_is_held_and_loses_nothing(
    backend_ports, processes, tmp_path
) -> None:
    upstream = backend_ports[FASTAPI_AGENT.name]
    port = proxy.start_with(processes, tmp_path, h2c(upstream, FASTAPI_AGENT.gate))
    tunnel = Tunnel(port)
    assert tunnel.answer[":status"] == "200"
    assert "sec-websocket-accept" not in tunnel.answer

    for number in range(50):
        message = json.dumps({"type": "note", "id": number}).encode()
        tunnel.send(Frame(Opcode.TEXT, message))

    answers = [json.loads(tunnel.receive()[1]) for _ in range(51)]
    assert answers[0]["type"] == "connection_established"
    assert [answer["id"] for answer in answers[1:]] == list(range(50))
    tunnel.send(Frame(Opcode.CLOSE, Close(1000, "").serialize()))
    assert tunnel.receive() == (Opcode.CLOSE, b"\x03\xe8")
    tunnel.wait_for_end()


@pytest.mark.parametrize(("h2", "http"), [("true", "2"), ("false", "1.1")])
def test_chromium_opens_its_websocket_on_the_connection_that_it_has(
    h2: str, http: str, processes, tmp_path, measured
) -> None:
    page, upstream = start_page(processes)
    tls = Certificates.make(tmp_path)
    port = proxy.start_with(
        processes,
        tmp_path,
        lambda port: f"""\
[[listen]]
address = "127.0.0.1:{port}"
[listen.tls]
certificate = "{tls.certificate}"
key = "{tls.key}"
h2 = {h2}

[[route]]
upstream = "http://127.0.0.1:{upstream}"
[route.gate]
ready = {{ text = "ready" }}
forward_ready = false
""",
    )
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu"]
    browser += ["--disable-quic", "--no-first-run", "--disable-background-networking"]
    browser += ["--disable-component-update", "--disable-sync"]
    browser += ["--ignore-certificate-errors", f"--user-data-dir={tmp_path / 'profile'}"]
    processes.start("chromium", [*browser, f"https://127.0.0.1:{port}/"])

    def result() -> list[str]:
        lines = page.log().splitlines()
        return [line for line in lines if line.startswith('{"result"')]

    wait_until(result, BROWSER_SECONDS)
    assert result(), page.log()
    seen = json.loads(result()[0])["result"]
    assert seen["received"] == [str(number) for number in range(100)]
    assert (seen["code"], seen["reason"]) == (4000, "seen")
    assert seen["subprotocol"] == "chat"
    assert seen["page"] == ("h2" if http == "2" else "http/1.1")

    def ended() -> list[dict]:
        log = dict(processes.logs())["readygate"]
        return [json.loads(line) for line in log.splitlines() if "session ended" in line]

    # The page has told what it saw before its own close frame has been answered.
    wait_until(ended, BROWSER_SECONDS)
    ended = ended()
    assert [session["http"] for session in ended] == [http]
    assert ended[0]["delivered"] == ended[0]["accepted"]
    measured(f"HTTP/{http}, {ended[0]['accepted']} messages held or passed on")
