"""What a readygate says that had a session: metrics, its log, its commands."""

import asyncio
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from checks import programs
from clients import CLIENTS
from harness import proxy
from harness.backends import FASTAPI_AGENT
from harness.certificates import Certificates
from harness.processes import Processes, wait_until

SECONDS = 10
TOKEN = re.compile(r"[A-Za-z_][\w-]*")


@dataclass(frozen=True)
class Observed:
    """A process that still runs."""

    admin: int
    session: dict[str, Any]
    """The line of the log at the end of a session."""

    def status(self, path: str) -> int:
        """How the admin listener answers a GET."""
        try:
            with urllib.request.urlopen(self._url(path), timeout=SECONDS) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    @property
    def metrics(self) -> str:
        with urllib.request.urlopen(self._url("/metrics"), timeout=SECONDS) as answer:
            return answer.read().decode()

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.admin}{path}"


@contextmanager
def running(folder: Path) -> Iterator[Observed]:
    """A readygate in front of the agent, after a session that had to wait for that one."""
    started = Processes(folder)
    admin = proxy.free_port()
    try:
        upstream = proxy.free_port()
        certificates = Certificates.make(folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(proxy, "ADMIN", f"127.0.0.1:{admin}")
            port = proxy.start_with(
                started, folder, lambda port: config(port, upstream, certificates)
            )
        late = ["--port", str(upstream), "--delay", "0.3"]
        started.start("agent", [*FASTAPI_AGENT.command, *late])
        url = f"ws://127.0.0.1:{port}/"
        asyncio.run(CLIENTS["websockets"](url, [FASTAPI_AGENT.plan()]))

        def ended() -> list[dict[str, Any]]:
            lines = map(json.loads, dict(started.logs())["readygate"].splitlines())
            return [line for line in lines if line["message"] == "session ended"]

        wait_until(ended, SECONDS)
        yield Observed(admin, *ended())
    finally:
        started.stop()


def config(port: int, upstream: int, certificates: Certificates) -> str:
    """With limits and a certificate that have metrics only where they are set."""
    usual = proxy.config(port, upstream, FASTAPI_AGENT.gate, FASTAPI_AGENT.rules)
    files = f'certificate = "{certificates.certificate}", key = "{certificates.key}"'
    listen = f"""\
listen = [
    {{ address = "127.0.0.1:{port}" }},
    {{ address = "127.0.0.1:0", tls = {{ {files} }} }},
]"""
    listening = usual.replace(f'listen = "127.0.0.1:{port}"', listen)
    return listening + '\n[limits]\nmax_memory_bytes = "1GiB"\nsession_rate = 1000\n'


def commands() -> set[str]:
    """The commands that the program has, by its own help."""
    shown = programs.output(proxy.binary(), "--help").partition("\nCommands:\n")[2]
    return set(re.findall(r"^  ([a-z]+)  ", shown.partition("\n\n")[0], re.MULTILINE))


def options(*command: str) -> set[str]:
    """The long options of a command, by its own help."""
    return set(
        re.findall(r"--[a-z-]+", programs.output(proxy.binary(), *command, "--help"))
    )


def tokens(text: str) -> set[str]:
    return set(TOKEN.findall(text))
