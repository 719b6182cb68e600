#!/usr/bin/env python3
"""Verifies a deployment: 101 at once, nothing lost, and 1001 when an instance ends.

    ./verify.py wss://my-service-abc-ew.a.run.app/ws

Opens WebSockets, sends numbered messages at once, from before the application is ready, and
looks for an answer to each. Then it waits, with the connections open, until you deploy a new
revision or stop the service, and looks at the close codes. For a cold start, run it when the
service has no instance, or directly after the deployment of a new revision.

It needs Python 3.11 and nothing else. The defaults are those of readygate's examples; say
with --ready, --message and --answer what your application's messages look like.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import os
import ssl
import struct
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING = 0, 1, 2, 8, 9
PONG = 10
NO_CLOSE_FRAME = 1006
GOING_AWAY, SERVICE_RESTART = 1001, 1012


class WebSocket:
    """As much of RFC 6455 as this program needs."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, url: str, headers: list[str]) -> "WebSocket":
        parts = urlsplit(url)
        secure = parts.scheme == "wss"
        port = parts.port or (443 if secure else 80)
        context = ssl.create_default_context() if secure else None
        reader, writer = await asyncio.open_connection(
            parts.hostname, port, ssl=context
        )
        key = base64.b64encode(os.urandom(16)).decode()
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        request = [
            f"GET {path} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
            *headers,
        ]
        writer.write("".join(f"{line}\r\n" for line in [*request, ""]).encode())
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
        if " 101 " not in f"{answer[0]} " or f": {accept}" not in "\r\n".join(answer):
            raise ConnectionError(f"no 101 but: {answer[0]}")
        return cls(reader, writer)

    async def send(self, payload: bytes, opcode: int = TEXT) -> None:
        mask = os.urandom(4)
        length = len(payload)
        if length < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | length)
        elif length < 1 << 16:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, length)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, length)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        self._writer.write(head + mask + masked)
        await self._writer.drain()

    async def receive(self) -> bytes | int:
        """The next message, or the close code: 1006 if there was no close frame."""
        message = b""
        while True:
            try:
                opcode, is_last, payload = await self._frame()
            except (asyncio.IncompleteReadError, OSError):
                return NO_CLOSE_FRAME
            if opcode == PING:
                await self.send(payload, PONG)
            elif opcode == CLOSE:
                await self._answer_close(payload)
                return struct.unpack("!H", payload[:2])[0] if payload else 1005
            elif opcode in (TEXT, BINARY, CONTINUATION):
                message += payload
                if is_last:
                    return message

    async def _frame(self) -> tuple[int, bool, bytes]:
        first, length = await self._reader.readexactly(2)
        if length == 126:
            (length,) = struct.unpack("!H", await self._reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self._reader.readexactly(8))
        return first & 0x0F, bool(first & 0x80), await self._reader.readexactly(length)

    async def _answer_close(self, payload: bytes) -> None:
        try:
            await self.send(payload[:2], CLOSE)
            self._writer.close()
        except OSError:
            pass  # the other side did not wait for the answer


@dataclass
class Visit:
    """What one client saw."""

    handshake_seconds: float | None = None
    ready_seconds: float | None = None
    answered: Counter[int] = field(default_factory=Counter)
    close_code: int | None = None
    error: str | None = None


def value_at(message: Any, pointer: str) -> Any:
    """The value at a JSON pointer without escapes; None if there is none."""
    for part in pointer.split("/")[1:]:
        if not isinstance(message, dict) or part not in message:
            return None
        message = message[part]
    return message


def is_ready(message: Any, wanted: dict[str, Any]) -> bool:
    return all(value_at(message, pointer) == value for pointer, value in wanted.items())


async def visit(
    arguments: argparse.Namespace, seen: Visit, answered: asyncio.Event
) -> None:
    started = time.monotonic()
    try:
        async with asyncio.timeout(arguments.handshake):
            client = await WebSocket.connect(arguments.url, arguments.header)
        seen.handshake_seconds = time.monotonic() - started
        for number in range(arguments.messages):
            await client.send(arguments.message.replace("{n}", str(number)).encode())
        while not isinstance(received := await client.receive(), int):
            take(arguments, seen, received, time.monotonic() - started)
            if (
                len(seen.answered) == arguments.messages
                and seen.ready_seconds is not None
            ):
                answered.set()
        seen.close_code = received
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        seen.error = f"{type(error).__name__}: {error}"
    answered.set()


def take(
    arguments: argparse.Namespace, seen: Visit, received: bytes, seconds: float
) -> None:
    try:
        message = json.loads(received)
    except ValueError:
        return
    if seen.ready_seconds is None and is_ready(message, arguments.ready):
        seen.ready_seconds = seconds
    number = value_at(message, arguments.answer)
    if isinstance(number, int) and 0 <= number < arguments.messages:
        seen.answered[number] += 1


async def run(arguments: argparse.Namespace) -> bool:
    visits = [Visit() for _ in range(arguments.clients)]
    answered = [asyncio.Event() for _ in visits]
    clients = [
        asyncio.create_task(visit(arguments, *one))
        for one in zip(visits, answered, strict=True)
    ]
    try:
        async with asyncio.timeout(arguments.patience):
            await asyncio.gather(*(one.wait() for one in answered))
    except TimeoutError:
        pass
    passed = report_delivery(arguments, visits)
    if passed and not arguments.no_close:
        passed = await until_closed(arguments, visits, clients)
    for client in clients:
        client.cancel()
    return passed


def report_delivery(arguments: argparse.Namespace, visits: list[Visit]) -> bool:
    failed = [one.error for one in visits if one.error]
    handshakes = [
        one.handshake_seconds for one in visits if one.handshake_seconds is not None
    ]
    ready = [one.ready_seconds for one in visits if one.ready_seconds is not None]
    sent = arguments.messages * len(handshakes)
    lost = sent - sum(len(one.answered) for one in visits)
    doubled = sum(count - 1 for one in visits for count in one.answered.values())
    print(f"101:       {span(handshakes)}, {len(handshakes)} of {len(visits)} clients")
    print(f"ready:     {span(ready)}, {len(ready)} of {len(visits)} clients")
    print(
        f"messages:  {sent} sent, {lost} without an answer, {doubled} with more than one"
    )
    for error, count in Counter(failed).items():
        print(f"error:     {error} ({count} clients)")
    return verdict(
        not failed and not lost and not doubled and len(ready) == len(visits)
    )


def span(seconds: list[float]) -> str:
    return f"{min(seconds):.2f} to {max(seconds):.2f} s" if seconds else "never"


async def until_closed(
    arguments: argparse.Namespace, visits: list[Visit], clients: list[asyncio.Task]
) -> bool:
    print(
        f"\nDeploy a new revision now; waiting up to {arguments.wait:.0f} s for the end."
    )
    await asyncio.wait(clients, timeout=arguments.wait)
    codes = Counter(one.close_code for one in visits)
    for code, count in codes.items():
        print(f"closed:    {'not yet' if code is None else code}, {count} clients")
    return verdict(codes.keys() <= {GOING_AWAY, SERVICE_RESTART})


def verdict(is_good: bool) -> bool:
    print("passed" if is_good else "FAILED", flush=True)
    return is_good


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="ws:// or wss://, with the path of the WebSocket")
    parser.add_argument(
        *("--ready", "-r"),
        type=json.loads,
        metavar="JSON",
        default={"/type": "connection_established"},
        help="JSON pointers and values of the ready message, as in proxy.toml",
    )
    parser.add_argument(
        *("--message", "-m"),
        default='{"type": "message", "id": {n}}',
        help="what to send; {n} becomes the number",
    )
    parser.add_argument(
        *("--answer", "-a"),
        default="/id",
        metavar="POINTER",
        help="where the answer to a message has its number",
    )
    parser.add_argument(
        "--header", action="append", default=[], help="such as 'Cookie: a=b'"
    )
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--messages", type=int, default=20, help="of each client")
    parser.add_argument(
        "--handshake", type=float, default=10, help="seconds until the 101"
    )
    parser.add_argument(
        "--patience", type=float, default=60, help="seconds until all answers"
    )
    parser.add_argument(
        "--wait", type=float, default=3900, help="seconds until the close"
    )
    parser.add_argument("--no-close", action="store_true", help="end after the answers")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(run(arguments())) else 1)
