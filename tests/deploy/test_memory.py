"""The defaults, in a small container."""

import asyncio
import contextlib
import socket
import subprocess
import time
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
FLOODS = 24
STREAMS = 6
WINDOW = 65535
SMALLEST = b"\x81\x81\0\0\0\0x"
"""A message of one byte; as a frame of its own it takes more than thirty times its length."""
TAKEN_SECONDS = 1
"""When nothing of them is taken for so long, nothing more is sent."""


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
def running(tmp_path: Path) -> Iterator[Running]:
    """A readygate with defaults whose backend never listens, in a cgroup."""
    port, admin, upstream = (proxy.free_port() for _ in range(3))
    configuration = tmp_path / "proxy.toml"
    configuration.write_text(
        f"""\
listen = [{{ address = "127.0.0.1:{port}", h2c = true }}]
admin.listen = "127.0.0.1:{admin}"
[[route]]
upstream = "http://127.0.0.1:{upstream}"
"""
    )
    with cgroups.limited({"readygate": MEMORY}) as cgroup:
        join = cgroup and (cgroup / "readygate/cgroup.procs")
        process = subprocess.Popen(
            [proxy.binary(), f"--config={configuration}"],
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


def test_small_frames_without_end_over_http_2_do_not_get_it_killed(
    running: Running,
) -> None:
    connections = [flood(running.port) for _ in range(FLOODS)]
    held = -1
    while held != (held := running.metric("readygate_held_bytes")):
        # Memory is looked at once a second.
        time.sleep(2)

    # Without a cgroup nothing bounds it, and what is sent is less than the machine has.
    assert running.process.poll() is None
    assert held >= FLOODS
    for connection in connections:
        connection.close()


def flood(port: int) -> socket.socket:
    """A connection with sessions that send small messages for as long as they are taken."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
    streams = [1 + 2 * number for number in range(STREAMS)]
    for stream in streams:
        connection.sendall(frame(HEADERS, END_HEADERS, stream, HANDSHAKE))
    connection.settimeout(TAKEN_SECONDS)
    with contextlib.suppress(TimeoutError, ConnectionError):
        for stream in streams:
            connection.sendall(
                frame(DATA, 0, stream, SMALLEST) * (WINDOW // len(SMALLEST))
            )
    return connection


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Of HTTP/2 (RFC 9113, section 4.1)."""
    return (
        len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload
    )


def literal(name: str, value: str) -> bytes:
    """A header field that is not indexed (RFC 7541, section 6.2.2)."""
    return b"".join([b"\0", *(bytes([len(it)]) + it.encode() for it in (name, value))])


DATA, HEADERS, SETTINGS = 0, 1, 4
END_HEADERS = 4
HANDSHAKE = b"".join(
    literal(name, value)
    for name, value in [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "chat.example"),
        (":path", "/"),
        ("sec-websocket-version", "13"),
    ]
)
