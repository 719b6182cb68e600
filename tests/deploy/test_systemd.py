"""What the service may do under systemd, against what readygate does."""

import asyncio
import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from checks import programs
from clients import CLIENTS
from conftest import ROOT
from harness import proxy
from harness.backends import FASTAPI_AGENT
from harness.delivery import Delivery, errors
from harness.processes import Processes, wait_until

UNIT = ROOT / "deploy/systemd/readygate.service"
SECONDS = 20
FIRST_DESCRIPTOR = 3
"""Where systemd puts the first socket that a service inherits."""


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


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), SECONDS).close()
    except ConnectionRefusedError:
        return False
    return True


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
    # Its trace has a call before the kernel has made it.
    wait_until(lambda: is_listening(port), SECONDS)

    results = asyncio.run(CLIENTS["websockets"](f"ws://127.0.0.1:{port}/", plans))
    assert errors(results) == []
    readygate.terminate()

    assert readygate.wait(SECONDS) == 0
    ended = re.compile(rf"^{readygate.pid} +\+\+\+ exited with 0", re.MULTILINE)
    wait_until(lambda: ended.search(trace.read_text()), SECONDS)
    return set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE))


def test_it_makes_no_system_call_that_the_unit_forbids(made: set[str]) -> None:
    # The first one is made by who starts it.
    assert {"accept4", "epoll_wait", "writev"} & made
    assert made - system_calls(filters()) == set()


def test_a_call_that_is_forbidden_is_found() -> None:
    allowed = system_calls(filters())

    assert {"mount", "setrlimit", "reboot", "ptrace"} & allowed == set()
    assert {"read", "accept4", "splice", "socket"} <= allowed


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """The port of `readygate.socket`."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Where a service says how it is getting on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(tmp_path / "notify"))
        one.settimeout(SECONDS)
        yield one


def setting(name: str) -> str:
    found = re.search(rf"^{name}=(.+)$", UNIT.read_text(), re.MULTILINE)
    assert found
    return found[1]


def exec_start(configuration: Path) -> list[str]:
    """The unit's command, with the program under test and another file."""
    installed = {
        "/usr/bin/readygate": str(proxy.binary()),
        "/etc/readygate/proxy.toml": str(configuration),
    }
    words = shlex.split(setting("ExecStart"))
    assert installed.keys() <= set(words)
    return [installed.get(word, word) for word in words]


def start_as_systemd_does(
    configuration: Path, listener: socket.socket, manager: socket.socket
) -> subprocess.Popen:
    def inherit() -> None:
        os.dup2(listener.fileno(), FIRST_DESCRIPTOR)
        os.set_inheritable(FIRST_DESCRIPTOR, True)

    # A variable has the process's own id, which is known only there.
    own_id = ["sh", "-euc", 'export LISTEN_PID=$$; exec "$@"', "readygate"]
    return subprocess.Popen(
        [*own_id, *exec_start(configuration)],
        env=os.environ
        | {
            "LISTEN_FDS": "1",
            "LISTEN_FDNAMES": "readygate.socket",
            "NOTIFY_SOCKET": manager.getsockname(),
        },
        stdout=subprocess.DEVNULL,
        preexec_fn=inherit,
        close_fds=False,
    )


def heard(manager: socket.socket, state: str) -> None:
    """Returns once a service has said so."""
    while state not in manager.recv(4096).decode().splitlines():
        pass


def test_the_unit_serves_the_port_that_it_inherits_and_says_when(
    listener: socket.socket,
    manager: socket.socket,
    processes: Processes,
    tmp_path: Path,
) -> None:
    agent = processes.start("agent", FASTAPI_AGENT.command)
    upstream = agent.announcement(SECONDS)["port"]
    file = tmp_path / "proxy.toml"
    # Its own port is another one: nobody would answer on that of the socket.
    file.write_text(
        'admin.listen = ""\n'
        + proxy.config(proxy.free_port(), upstream, FASTAPI_AGENT.gate, "")
    )
    url = f"ws://127.0.0.1:{listener.getsockname()[1]}/"

    assert setting("Type") == "notify"
    readygate = start_as_systemd_does(file, listener, manager)
    try:
        heard(manager, "READY=1")
        results = asyncio.run(CLIENTS["websockets"](url, [FASTAPI_AGENT.plan()]))
        readygate.terminate()
        heard(manager, "STOPPING=1")
        status = readygate.wait(SECONDS)
    finally:
        readygate.kill()
        readygate.wait()

    assert errors(results) == []
    assert Delivery.total(results).perfect
    assert status == 0
