"""The defaults, in a small container."""

import asyncio
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect

import cgroups
from harness import proxy
from harness.processes import wait_until
from instance import is_open

MEBIBYTE = 1024 * 1024
MEMORY = 128 * MEBIBYTE
IDLE = 15 * MEBIBYTE
CLIENTS = 300
MESSAGE = "x" * 8000
MESSAGES = 30
SENT = CLIENTS * MESSAGES * len(MESSAGE)
FILL_SECONDS = 25
"""Less than the default `timeout` of the gate."""
BESIDE_THE_LIMIT = 16 * 1024
"""What each session may hold beyond the limit of all: 4 KiB, and the message under way."""
SECONDS = 10


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen
    port: int
    admin: int

    @property
    def resident(self) -> int:
        """In bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [one for one in status.splitlines() if one.startswith("VmRSS")]
        return int(line.split()[1]) * 1024

    def metric(self, name: str) -> int:
        url = f"http://127.0.0.1:{self.admin}/metrics"
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            lines = answer.read().decode().splitlines()
        (line,) = [one for one in lines if one.startswith(f"{name} ")]
        return int(line.split()[1])


@pytest.fixture
def running() -> Iterator[Running]:
    """A readygate with defaults whose backend never listens, in a cgroup."""
    port, admin, upstream = (proxy.free_port() for _ in range(3))
    command = [proxy.binary(), "--upstream", f"http://127.0.0.1:{upstream}"]
    addresses = [f"--listen=127.0.0.1:{port}", f"--admin=127.0.0.1:{admin}"]
    with cgroups.limited({"readygate": MEMORY}) as cgroup:
        join = cgroup and (cgroup / "readygate/cgroup.procs")
        process = subprocess.Popen(
            [*command, *addresses],
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: join and join.write_text("0"),
        )
        try:
            wait_until(lambda: is_open(port), SECONDS)
            yield Running(process, port, admin)
        finally:
            process.terminate()
            process.wait(SECONDS)


def test_it_takes_little_while_nothing_happens(running: Running) -> None:
    assert running.resident < IDLE


def test_clients_that_send_without_end_do_not_get_it_killed(running: Running) -> None:
    # Without a cgroup readygate goes by the machine's memory: more than is sent.
    limit = min(running.metric("readygate_held_limit_bytes"), SENT)

    held, resident = asyncio.run(push(running, limit))

    assert running.process.poll() is None
    assert limit <= held <= limit + CLIENTS * BESIDE_THE_LIMIT
    assert resident < MEMORY


async def push(running: Running, enough: int) -> tuple[int, int]:
    """What is held once it is enough, and what the process takes then."""
    url = f"ws://127.0.0.1:{running.port}/"
    clients = [await connect(url, proxy=None) for _ in range(CLIENTS)]
    senders = [asyncio.create_task(send(client)) for client in clients]
    async with asyncio.timeout(FILL_SECONDS):
        while running.metric("readygate_held_bytes") < enough:
            await asyncio.sleep(0.1)
    seen = running.metric("readygate_held_bytes"), running.resident
    for sender in senders:
        sender.cancel()
    for client in clients:
        client.transport.abort()
    return seen


async def send(client: ClientConnection) -> None:
    for _ in range(MESSAGES):
        await client.send(MESSAGE)
