"""Starts readygate in front of a backend."""

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness.backends import Backend
from harness.certificates import Certificates
from harness.processes import Process, Processes, wait_until

START_SECONDS = 5
ATTEMPTS = 3
ADMIN = ""
"""Where the admin listener of a proxy is; empty: it has none."""


def free_port() -> int:
    """A port that nobody listens on, for a program that cannot report its own.

    Somebody else may take it before that program does.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def config(
    port: int,
    upstream: int,
    gate: str,
    rules: str,
    route: str = "",
    tls: Certificates | None = None,
) -> str:
    """A proxy.toml: one listener, one route, both over TLS or both without."""
    listen = f'listen = "127.0.0.1:{port}"'
    scheme = "http"
    if tls:
        scheme = "https"
        listen = f"""\
[[listen]]
address = "127.0.0.1:{port}"
[listen.tls]
certificate = "{tls.certificate}"
key = "{tls.key}\""""
    return f"""\
{listen}

[[route]]
upstream = "{scheme}://127.0.0.1:{upstream}"
{route}

[route.gate]
timeout = "30s"
{gate}
{rules}"""


def start(
    processes: Processes,
    folder: Path,
    upstream: int,
    gate: str,
    rules: str,
    route: str = "",
    tls: Certificates | None = None,
) -> int:
    """Starts readygate with one route and returns its port once it listens."""
    return start_with(
        processes,
        folder,
        lambda port: config(port, upstream, gate, rules, route, tls),
    )


def start_with(
    processes: Processes, folder: Path, file_for: Callable[[int], str]
) -> int:
    """Starts readygate with the file for a port, which it returns once it listens."""
    for attempt in range(1, ATTEMPTS + 1):
        port = free_port()
        file = folder / f"proxy-{port}.toml"
        file.write_text(file_for(port))
        process = processes.start("readygate", [binary(), "--config", file, "--admin", ADMIN])
        wait_until(partial(_has_ended_or_listens, process, port), START_SECONDS)
        if process.exit_code() is None and _listens(port):
            return port
        if attempt == ATTEMPTS or "in use" not in process.log():
            raise AssertionError(_failure(process, port, file))
    raise AssertionError("unreachable")


def start_for(
    processes: Processes, folder: Path, backend: Backend, upstream: int
) -> int:
    """Starts readygate with the gate and the rules that `backend` needs."""
    return start(
        processes, folder, upstream, backend.gate, backend.rules, backend.route
    )


def binary() -> Path:
    """The readygate under test."""
    assert "READYGATE" in os.environ, "READYGATE is not set; run tests/interop/run.sh"
    return Path(os.environ["READYGATE"])


def _has_ended_or_listens(process: Process, port: int) -> bool:
    return process.exit_code() is not None or _listens(port)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _failure(process: Process, port: int, file: Path) -> str:
    code = process.exit_code()
    what = "is running" if code is None else f"exited with {code}"
    return (
        f"readygate {what} but does not listen on 127.0.0.1:{port}\n"
        f"--- {file}\n{file.read_text()}\n--- log\n{process.log()}"
    )
