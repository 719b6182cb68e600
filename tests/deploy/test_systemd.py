"""What the service may do under systemd, against what readygate does."""

import asyncio
import re
import subprocess
from pathlib import Path

import pytest

from checks import programs
from clients import CLIENTS
from conftest import ROOT
from harness import proxy
from harness.backends import FASTAPI_AGENT
from harness.delivery import errors
from harness.processes import Processes, wait_until

UNIT = ROOT / "deploy/systemd/readygate.service"
SECONDS = 20


def system_calls(filters: list[str]) -> set[str]:
    """What `SystemCallFilter=` lets pass: names and @groups, with ~ those that do not."""
    allowed: set[str] = set()
    for one in ["@default", *filters]:
        names = {call for word in one.lstrip("~").split() for call in expanded(word)}
        allowed = allowed - names if one.startswith("~") else allowed | names
    return allowed


def expanded(word: str) -> set[str]:
    if not word.startswith("@"):
        return {word}
    lines = programs.output("systemd-analyze", "--no-pager", "syscall-filter", word)
    members = [line.strip() for line in lines.splitlines()[1:]]
    return {
        call
        for member in members
        if member and not member.startswith("#")
        for call in expanded(member)
    }


def filters() -> list[str]:
    return re.findall(r"^SystemCallFilter=(.+)$", UNIT.read_text(), re.MULTILINE)


@pytest.fixture
def made(tmp_path: Path, processes: Processes) -> set[str]:
    """The system calls of a process with sessions, from its start to its end."""
    upstream = processes.start("agent", FASTAPI_AGENT.command).announcement(SECONDS)[
        "port"
    ]
    port, trace = proxy.free_port(), tmp_path / "trace"
    file = tmp_path / "proxy.toml"
    file.write_text(proxy.config(port, upstream, FASTAPI_AGENT.gate, ""))
    # With -D it is readygate that gets the signal, and strace that watches from behind.
    command = [
        "strace",
        "-D",
        "-f",
        "-o",
        trace,
        proxy.binary(),
        "--config",
        file,
        "--admin",
        "",
    ]
    readygate = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    plans = [FASTAPI_AGENT.plan(user=f"user-{user}") for user in range(5)]
    while not (trace.exists() and "listen(" in trace.read_text()):
        assert readygate.poll() is None

    results = asyncio.run(CLIENTS["websockets"](f"ws://127.0.0.1:{port}/", plans))
    readygate.terminate()

    assert readygate.wait(SECONDS) == 0
    ended = re.compile(rf"^{readygate.pid} +\+\+\+ exited with 0", re.MULTILINE)
    wait_until(lambda: ended.search(trace.read_text()), SECONDS)
    assert errors(results) == []
    return set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE))


def test_it_makes_no_system_call_that_the_unit_forbids(made: set[str]) -> None:
    # The first one is made by who starts it.
    assert {"accept4", "epoll_wait", "writev"} & made
    assert made - system_calls(filters()) == set()


def test_a_call_that_is_forbidden_is_found() -> None:
    allowed = system_calls(filters())

    assert {"mount", "setrlimit", "reboot", "ptrace"} & allowed == set()
    assert {"read", "accept4", "splice", "socket"} <= allowed


def test_it_is_killed_only_after_its_drain() -> None:
    unit = UNIT.read_text()
    stop = re.search(r"^TimeoutStopSec=(\d+)s$", unit, re.MULTILINE)
    grace = re.search(
        r'^grace = "(\d+)s"$', (ROOT / "proxy.toml").read_text(), re.MULTILINE
    )

    assert stop and grace
    assert int(grace[1]) < int(stop[1])
