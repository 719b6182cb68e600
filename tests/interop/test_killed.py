"""A backend on `websockets` that is killed: what the log says of the messages it had not read.

The client sends up to 20 messages a second, and waits for each answer, so that an answer
confirms no message that the backend had not read. What the backend notes outlives it.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from harness import proxy
from harness.backends import FOLDER
from harness.books import read_notes
from harness.certificates import Certificates
from harness.processes import Process, Processes, wait_until
from test_metrics import admin_port, metrics

__all__ = ["admin_port"]

WAIT_SECONDS = 20
INTERVAL_SECONDS = 1 / 20
ANSWERED = 20
UNREAD = 5
BAD_GATEWAY = 1014
PATH = "/killed"


@dataclass
class Scene:
    """A proxy, and the backend behind it."""

    url: str
    admin_port: int
    proxy: Process
    backend: Process
    notes: Path

    def accepted(self) -> int:
        """Messages that the proxy has taken from its clients."""
        lines = metrics(self.admin_port).decode().splitlines()
        counts = [line for line in lines if line.startswith("readygate_messages_accepted_total{")]
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in counts)

    def received(self) -> list[int]:
        """Numbers of the messages that the backend has read."""
        return read_notes(self.notes)[PATH].numbers

    def line(self) -> dict[str, Any]:
        """The proxy's line about the only session, which has ended."""

        def ended() -> list[str]:
            lines = self.proxy.whole_log().splitlines(keepends=True)
            return [one for one in lines if '"session ended"' in one and one.endswith("\n")]

        wait_until(ended, WAIT_SECONDS)
        [line] = ended()
        return json.loads(line)


@pytest.fixture(params=["tcp", "tls"])
def scene(
    request: pytest.FixtureRequest,
    processes: Processes,
    tmp_path: Path,
    admin_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Scene]:
    notes = tmp_path / "notes"
    command = [sys.executable, FOLDER / "churn.py", "--calm", "--notes", notes]
    tls = None
    if request.param == "tls":
        tls = Certificates.make(tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(tls.authority))
        command += ["--certificate", tls.certificate, "--key", tls.key]
    backend = processes.start("killed", command)
    upstream = backend.announcement(WAIT_SECONDS)["port"]
    gate = 'ready = { text = "ready" }'
    port = proxy.start(processes, tmp_path, upstream, gate, "", tls=tls)
    scheme = "wss" if tls else "ws"
    url = f"{scheme}://127.0.0.1:{port}{PATH}"
    yield Scene(url, admin_port, processes.named("readygate"), backend, notes)
    # One that is stopped does not end when it is asked to.
    backend.kill()


async def say(client: ClientConnection, number: int) -> None:
    """Sends a message, 20 of which take a second."""
    await client.send(f"{number} message")
    await asyncio.sleep(INTERVAL_SECONDS)


async def converse(client: ClientConnection) -> None:
    """Has as many messages answered as the tests want."""
    assert await client.recv() == "ready"
    for number in range(ANSWERED):
        await say(client, number)
        assert await client.recv() == f"{number} message"


async def end(client: ClientConnection) -> tuple[int, str]:
    """How the session ends: code and reason."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            await client.recv()
    assert closed.value.rcvd
    return closed.value.rcvd.code, closed.value.rcvd.reason


def lost(line: dict[str, Any], received: list[int]) -> int:
    """How many messages were taken from the client that the backend has not read."""
    assert received == list(range(len(received)))
    return line["accepted"] - len(received)


def test_what_a_killed_backend_had_not_read_is_unknown(scene: Scene, measured) -> None:
    async def run() -> tuple[int, str]:
        async with connect(scene.url, proxy=None) as client:
            await converse(client)
            os.kill(scene.backend.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, scene.backend.pid, os.WSTOPPED | os.WNOWAIT)
            for number in range(ANSWERED, ANSWERED + UNREAD):
                await say(client, number)
            taken = ANSWERED + UNREAD
            await asyncio.to_thread(wait_until, lambda: scene.accepted() == taken, WAIT_SECONDS)
            scene.backend.kill()
            return await end(client)

    told = asyncio.run(run())

    line, received = scene.line(), scene.received()
    measured(f"{lost(line, received)} lost, {line['unknown']} unknown")
    assert told == (BAD_GATEWAY, f"upstream_lost; {UNREAD} messages may be lost")
    assert lost(line, received) == UNREAD
    assert (line["delivered"], line["unknown"]) == (ANSWERED, UNREAD)


def test_what_a_killed_backend_was_reading_is_not_called_delivered(scene: Scene, measured) -> None:
    async def run() -> tuple[int, str]:
        async with connect(scene.url, proxy=None) as client:
            await converse(client)
            await client.send(f"{ANSWERED} message")
            scene.backend.kill()
            return await end(client)

    code, _ = asyncio.run(run())

    line, received = scene.line(), scene.received()
    measured(f"{lost(line, received)} lost, {line['unknown']} unknown")
    assert code == BAD_GATEWAY
    assert line["delivered"] <= len(received)
    assert line["unknown"] + line["discarded"] >= lost(line, received)
    assert line["delivered"] + line["unknown"] + line["discarded"] == line["accepted"]
