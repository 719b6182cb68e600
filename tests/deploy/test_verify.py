"""`deploy/cloudrun/verify.py`, on a deployment that is right and on those that are not."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from harness import proxy
from harness.backends import FASTAPI_AGENT
from harness.processes import Process, Processes, wait_until
from instance import is_open

PROGRAM = ROOT / "deploy/cloudrun/verify.py"
SCRIPTED = ROOT / "tests/deploy/scripted.py"
PASSED, FAILED, WRONG_COMMAND, PROVES_NOTHING = 0, 1, 2, 3
SECONDS = 30
CLIENTS = ["--clients", "10", "--messages", "5"]


@pytest.fixture
def upstream(processes: Processes) -> int:
    return processes.start("agent", FASTAPI_AGENT.command).announcement(SECONDS)["port"]


def verify(port: int, *arguments: str) -> subprocess.Popen:
    return verify_at(f"ws://127.0.0.1:{port}/", *arguments)


def verify_at(url: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, PROGRAM, url, *CLIENTS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def scripted(processes: Processes, *arguments: str) -> Process:
    return processes.start("scripted", [sys.executable, SCRIPTED, *arguments])


def verified(process: Process, *arguments: str) -> tuple[int, str]:
    """The exit status with a backend, and what it says, until the answers are there."""
    running = verify(process.announcement(SECONDS)["port"], "--no-close", *arguments)
    said = running.communicate(timeout=SECONDS)[0]
    return running.returncode, said


def until_deployment(running: subprocess.Popen) -> str:
    """What it says until it waits for the end of its connections."""
    said = ""
    while "Waiting up to" not in said:
        assert running.stdout
        line = running.stdout.readline()
        assert line, said
        said += line
    return said


def test_it_passes_when_nothing_is_lost_and_1001_comes_at_the_end(
    processes: Processes, tmp_path: Path, upstream: int
) -> None:
    port = proxy.start_for(processes, tmp_path, FASTAPI_AGENT, upstream)

    running = verify(port)
    said = until_deployment(running)
    processes.stop()
    said += running.communicate(timeout=SECONDS)[0]

    assert running.returncode == PASSED, said
    assert "50 sent, 0 without an answer" in said
    assert "closed:    1001, 10 clients" in said


def test_it_fails_when_messages_are_lost(upstream: int) -> None:
    running = verify(upstream, "--patience", "3", "--no-close")
    said = running.communicate(timeout=SECONDS)[0]

    assert running.returncode == FAILED
    assert "50 sent, 50 without an answer" in said
    assert "FAILED: not every message" in said


def test_it_fails_when_connections_break_off_without_a_close_code(
    tmp_path: Path, upstream: int
) -> None:
    port = proxy.free_port()
    file = tmp_path / "proxy.toml"
    file.write_text(proxy.config(port, upstream, FASTAPI_AGENT.gate, ""))
    readygate = subprocess.Popen([proxy.binary(), "--config", file, "--admin", ""])
    wait_until(lambda: is_open(port), SECONDS)
    running = verify(port)
    until_deployment(running)

    readygate.kill()
    readygate.wait()
    said = running.communicate(timeout=SECONDS)[0]

    assert running.returncode == FAILED
    assert "closed:    1006, 10 clients" in said


def test_it_fails_when_nobody_listens() -> None:
    running = verify(proxy.free_port(), "--no-close")
    said = running.communicate(timeout=SECONDS)[0]

    assert running.returncode == FAILED
    assert "error:" in said


def test_it_fails_when_the_backend_closes_before_readygate_does(
    processes: Processes,
) -> None:
    backend = scripted(processes, "--ready", "0.5", "--close", "1012")
    running = verify(backend.announcement(SECONDS)["port"])
    until_deployment(running)

    backend.stop()
    said = running.communicate(timeout=SECONDS)[0]

    assert running.returncode == FAILED
    assert "closed:    1012, 10 clients\nFAILED: " in said


def test_it_fails_when_a_101_takes_long_though_the_instance_is_there(
    processes: Processes,
) -> None:
    backend = scripted(processes, "--late", "1", "--ready", "2")

    status, said = verified(backend, "--handshake", "0.5")

    assert status == FAILED
    assert "FAILED: each 101 has to come within 0.5 s of the first" in said


@pytest.mark.parametrize("ready", ("1", "0"))
def test_clients_that_may_have_waited_for_the_application_prove_nothing(
    processes: Processes, ready: str
) -> None:
    backend = scripted(processes, "--accept", "6", "--ready", ready)

    status, said = verified(backend)

    assert status == PROVES_NOTHING
    assert "NOT PROVEN: the first 101 took " in said


@pytest.mark.parametrize(
    ("wake", "judgement"), (("10", PASSED), ("0.5", PROVES_NOTHING))
)
def test_an_instance_that_has_to_start_is_no_fault_within_the_time_for_it(
    processes: Processes, wake: str, judgement: int
) -> None:
    backend = scripted(processes, "--accept", "2", "--ready", "1")

    status, said = verified(backend, "--handshake", "1", "--wake", wake)

    assert status == judgement
    assert ("the first 101 took " in said) == (judgement == PROVES_NOTHING)


def test_it_fails_when_a_101_comes_after_the_application_is_ready(
    processes: Processes,
) -> None:
    backend = scripted(processes, "--late", "1.5", "--ready", "0.5")

    status, said = verified(backend)

    assert status == FAILED
    assert "FAILED: a 101 came only after the application was ready" in said


def test_an_application_that_is_ready_at_once_proves_nothing(
    processes: Processes,
) -> None:
    status, said = verified(scripted(processes))

    assert status == PROVES_NOTHING
    assert "NOT PROVEN: not a cold start" in said


def test_an_end_that_passes_does_not_hide_a_start_that_proved_nothing(
    processes: Processes,
) -> None:
    backend = scripted(processes)
    running = verify(backend.announcement(SECONDS)["port"])
    until_deployment(running)

    backend.stop()
    said = running.communicate(timeout=SECONDS)[0]

    assert running.returncode == PROVES_NOTHING
    assert "closed:    1001, 10 clients\nNOT PROVEN: the end passed" in said


def test_the_request_timeout_is_no_fault_of_readygate(processes: Processes) -> None:
    backend = scripted(processes, "--ready", "0.5", "--cut", "1")
    running = verify(backend.announcement(SECONDS)["port"], "--request-timeout", "2")
    said = running.communicate(timeout=SECONDS)[0]

    assert running.returncode == PROVES_NOTHING
    assert "closed:    1006, 10 clients\nNOT PROVEN: cut after 2 s" in said


def test_the_greatest_age_of_a_session_is_no_fault(processes: Processes) -> None:
    # Closed after 2 s: a little early, as readygate does.
    backend = scripted(processes, "--ready", "0.5", "--age", "1.5")
    running = verify(backend.announcement(SECONDS)["port"], "--max-session-age", "2.1")
    said = running.communicate(timeout=SECONDS)[0]

    assert running.returncode == PROVES_NOTHING
    assert "closed:    1012, 10 clients\nNOT PROVEN: closed with 1012 at an age" in said


@pytest.mark.parametrize("greatest", ("3540", "0"))
def test_it_fails_when_1012_comes_at_another_age(
    processes: Processes, greatest: str
) -> None:
    backend = scripted(processes, "--ready", "0.5", "--age", "1.5")
    running = verify(
        backend.announcement(SECONDS)["port"], "--max-session-age", greatest
    )
    said = running.communicate(timeout=SECONDS)[0]

    assert running.returncode == FAILED
    assert "closed:    1012, 10 clients\nFAILED: " in said


def test_an_instance_that_does_not_end_proves_nothing(processes: Processes) -> None:
    backend = scripted(processes, "--ready", "0.5")
    running = verify(backend.announcement(SECONDS)["port"], "--wait", "0.5")
    said = running.communicate(timeout=SECONDS)[0]

    assert running.returncode == PROVES_NOTHING
    assert "closed:    not yet, 10 clients\nNOT PROVEN: " in said


def test_a_ready_message_may_be_one_of_a_list(processes: Processes) -> None:
    wanted = {"/type": ["ready", "connection_established"]}
    backend = scripted(processes, "--ready", "0.5")

    assert verified(backend, "--ready", json.dumps(wanted))[0] == PASSED


def test_a_header_that_has_no_end_is_an_error(processes: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = verify(listener.getsockname()[1], "--no-close", "--clients", "1")
        client, _ = listener.accept()
        with client:
            client.sendall(b"HTTP/1.1 101 Switching\r\n" + b"X: y\r\n" * 40_000)
            said = running.communicate(timeout=SECONDS)[0]

    assert running.returncode == FAILED
    assert "error:     LimitOverrunError" in said


def test_answers_in_another_order_fail_unless_any_order_will_do(
    processes: Processes,
) -> None:
    backend = scripted(processes, "--ready", "0.5", "--turn", "5")

    status, said = verified(backend)
    status_of_any, said_of_any = verified(backend, "--any-order")

    assert status == FAILED
    assert "0 with more than one, 40 with one out of order" in said
    assert "FAILED: answers came in another order" in said
    assert status_of_any == PASSED, said_of_any


@pytest.mark.parametrize(
    ("seconds", "complaint"),
    (
        ("0.2", "FAILED: not every message"),
        ("2", "FAILED: an instance that ends closes with 1001"),
    ),
)
def test_half_a_close_code_is_an_error_before_all_answers_and_after_them(
    processes: Processes, seconds: str, complaint: str
) -> None:
    backend = scripted(processes, "--ready", "1", "--half-code", seconds)
    running = verify(backend.announcement(SECONDS)["port"])
    said = running.communicate(timeout=SECONDS)[0]

    assert running.returncode == FAILED
    assert "error:     ConnectionError: a close frame with half a code" in said
    assert "not yet" not in said
    assert complaint in said


@pytest.mark.parametrize(
    ("scheme", "first"),
    (("ws", b"G"), ("http", b"G"), ("wss", b"\x16"), ("https", b"\x16")),
)
def test_an_address_of_a_page_is_that_of_its_websocket(
    scheme: str, first: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/"
        running = verify_at(url, "--no-close", "--clients", "1")
        client, _ = listener.accept()
        with client:
            sent = client.recv(1)
        running.communicate(timeout=SECONDS)

    # What TLS begins with is a record of type 22.
    assert sent == first


@pytest.mark.parametrize(
    ("url", "complaint"),
    (
        ("my-service.run.app/ws", "does not begin with wss:// or ws://"),
        ("ftp://my-service.run.app/ws", "does not begin with wss:// or ws://"),
        ("wss:///ws", "names no host"),
        ("wss://my-service.run.app:https/ws", "is no URL"),
    ),
)
def test_what_is_no_address_of_a_websocket_is_refused(url: str, complaint: str) -> None:
    running = verify_at(url)
    complaints = running.communicate(timeout=SECONDS)[1]

    assert running.returncode == WRONG_COMMAND
    assert f"{url} {complaint}" in complaints
