"""`deploy/cloudrun/verify.py`, on a deployment that is right and on those that are not."""

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from harness import proxy
from harness.backends import FASTAPI_AGENT
from harness.processes import Processes, wait_until
from instance import is_open

PROGRAM = ROOT / "deploy/cloudrun/verify.py"
SECONDS = 30
CLIENTS = ["--clients", "10", "--messages", "5"]


@pytest.fixture
def upstream(processes: Processes) -> int:
    return processes.start("agent", FASTAPI_AGENT.command).announcement(SECONDS)["port"]


def verify(port: int, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, PROGRAM, f"ws://127.0.0.1:{port}/", *CLIENTS, *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )


def until_deployment(running: subprocess.Popen) -> str:
    """What it says until it waits for the end of its connections."""
    said = ""
    while "Deploy a new revision" not in said:
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

    assert running.returncode == 0, said
    assert "50 sent, 0 without an answer" in said
    assert "closed:    1001, 10 clients" in said


def test_it_fails_when_messages_are_lost(upstream: int) -> None:
    running = verify(upstream, "--patience", "3", "--no-close")
    said = running.communicate(timeout=SECONDS)[0]

    assert running.returncode == 1
    assert "50 sent, 50 without an answer" in said
    assert said.endswith("FAILED\n")


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

    assert running.returncode == 1
    assert "closed:    1006, 10 clients" in said


def test_it_fails_when_nobody_listens() -> None:
    running = verify(proxy.free_port(), "--no-close")
    said = running.communicate(timeout=SECONDS)[0]

    assert running.returncode == 1
    assert "error:" in said
