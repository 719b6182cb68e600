#!/usr/bin/env python3
"""Verifies a deployment: 101 at once, nothing lost, and 1001 when an instance ends.

    ./verify.py wss://my-service-abc-ew.a.run.app/ws

Opens WebSockets, sends numbered messages at once, from before the application is ready, and
looks for an answer to each, in the same order. Then it waits, with the connections open, until
their instance ends, and looks at the close codes. For a cold start, run it when the service has
no instance, or directly after the deployment of a new revision. Nobody can tell from outside
whether a late first 101 waited for an instance that Cloud Run had to start, or for the
application: only with --wake, the seconds that your instances take for that, does one pass.

Exit status: 0 passed, 1 failed, 3 nothing failed, but something that was to be seen did not
happen: the first 101 was late, it was not a cold start, or the instance did not end; 2 the
command line is wrong.

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
SECURE = {"ws": False, "http": False, "wss": True, "https": True}
"""The schemes of a WebSocket's URL, and of the page that it belongs to: whether they mean TLS."""
NO_CLOSE_FRAME = 1006
GOING_AWAY = 1001
SERVICE_RESTART = 1012
PASSED, FAILED, PROVES_NOTHING = 0, 1, 3
CONNECT_SECONDS = 30
AT_ONCE_SECONDS = 0.3
"""An application that is ready this soon after the 101 was there already."""
DEFAULT_REQUEST_TIMEOUT = 300
REQUEST_TIMEOUT_SLACK = 5
"""How far from the request timeout, in seconds, a cut still is one by it."""
MAX_AGE_SHARE = 0.9
"""readygate ends a session up to a tenth before its greatest age."""


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
        secure = SECURE[parts.scheme]
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
                code = close_code(payload)
                await self._answer_close(payload)
                return code
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


def close_code(payload: bytes) -> int:
    """That of a close frame: 1005 if there is none in it."""
    if len(payload) == 1:
        raise ConnectionError("a close frame with half a code")
    return struct.unpack("!H", payload[:2])[0] if payload else 1005


@dataclass
class Visit:
    """What one client saw."""

    handshake_seconds: float | None = None
    ready_seconds: float | None = None
    answered: Counter[int] = field(default_factory=Counter)
    latest: int = -1
    """The last of the messages that have an answer."""
    out_of_order: int = 0
    """How many first answers came after that to a later message."""
    close_code: int | None = None
    closed_seconds: float | None = None
    error: str | None = None


def value_at(message: Any, pointer: str) -> Any:
    """The value at a JSON pointer without escapes; None if there is none."""
    for part in pointer.split("/")[1:]:
        if isinstance(message, dict) and part in message:
            message = message[part]
        elif isinstance(message, list) and part.isdigit() and int(part) < len(message):
            message = message[int(part)]
        else:
            return None
    return message


def is_ready(message: Any, wanted: dict[str, Any]) -> bool:
    """As in proxy.toml: each pointer leads to its value, or to one of a list of values."""
    return all(
        value_at(message, pointer) in (value if isinstance(value, list) else [value])
        for pointer, value in wanted.items()
    )


async def visit(
    arguments: argparse.Namespace, seen: Visit, answered: asyncio.Event
) -> None:
    started = time.monotonic()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
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
        seen.closed_seconds = time.monotonic() - started
    except Exception as error:  # whatever it is, this client saw it
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
        if number not in seen.answered:
            seen.out_of_order += number < seen.latest
            seen.latest = max(seen.latest, number)
        seen.answered[number] += 1


async def run(arguments: argparse.Namespace) -> int:
    """The exit status."""
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
    status = say(delivery(arguments, visits))
    if status != FAILED and not arguments.no_close:
        status = say(of_both(status, await end(arguments, visits, clients)))
    for client in clients:
        client.cancel()
    return status


def delivery(arguments: argparse.Namespace, visits: list[Visit]) -> tuple[int, str]:
    """Prints what came back; the status of it, and why."""
    handshakes = [
        one.handshake_seconds for one in visits if one.handshake_seconds is not None
    ]
    ready = [one.ready_seconds for one in visits if one.ready_seconds is not None]
    sent = arguments.messages * len(handshakes)
    lost = sent - sum(len(one.answered) for one in visits)
    doubled = sum(count - 1 for one in visits for count in one.answered.values())
    out_of_order = sum(one.out_of_order for one in visits)
    print(f"101:       {span(handshakes)}, {len(handshakes)} of {len(visits)} clients")
    print(f"ready:     {span(ready)}, {len(ready)} of {len(visits)} clients")
    print(
        f"messages:  {sent} sent, {lost} without an answer, {doubled} with more than one,"
        f" {out_of_order} with one out of order"
    )
    errors = Counter(one.error for one in visits if one.error)
    for error, count in errors.items():
        print(f"error:     {error} ({count} clients)")
    if errors or lost or doubled or len(ready) < len(visits):
        return FAILED, "not every message of every client has one answer"
    if out_of_order and not arguments.any_order:
        return (
            FAILED,
            "answers came in another order than the messages were sent; if your application"
            " works on several at once, say --any-order",
        )
    return cold_start(arguments.handshake, arguments.wake, handshakes, ready)


def span(seconds: list[float]) -> str:
    return f"{min(seconds):.2f} to {max(seconds):.2f} s" if seconds else "never"


def cold_start(
    limit: float, wake: float | None, handshakes: list[float], ready: list[float]
) -> tuple[int, str]:
    """Whether all clients had their 101 soon, and before the application was ready."""
    first, last = min(handshakes), max(handshakes)
    margin = min(ready) - last
    print(f"margin:    {margin:.2f} s from the last 101 to the first ready")
    waited = max(end - start for start, end in zip(handshakes, ready, strict=True))
    if last - first > limit:
        return FAILED, f"each 101 has to come within {limit:g} s of the first"
    if margin < 0 and waited >= AT_ONCE_SECONDS:
        return FAILED, "a 101 came only after the application was ready"
    if first > (limit if wake is None else wake):
        return (
            PROVES_NOTHING,
            f"the first 101 took {first:.2f} s: an instance that had to start, or clients"
            " that wait for your application; run it again while an instance runs, so"
            " directly after a deployment, or say --wake SECONDS",
        )
    if waited < AT_ONCE_SECONDS:
        return PROVES_NOTHING, "not a cold start: proves nothing about one"
    return PASSED, ""


async def end(
    arguments: argparse.Namespace, visits: list[Visit], clients: list[asyncio.Task]
) -> tuple[int, str]:
    """Waits for it and prints how the connections ended; the status of it, and why."""
    print(
        "\nEnd the instance now; a new revision alone leaves open requests to the old one,"
        "\nuntil that one is deleted:  gcloud run revisions delete OLD_REVISION"
        f"\nWaiting up to {arguments.wait:.0f} s."
    )
    await asyncio.wait(clients, timeout=arguments.wait)
    without_error = (one for one in visits if not one.error)
    for code, count in Counter(one.close_code for one in without_error).items():
        print(f"closed:    {'not yet' if code is None else code}, {count} clients")
    for error, count in Counter(one.error for one in visits if one.error).items():
        print(f"error:     {error} ({count} clients)")
    return judged(arguments.request_timeout, arguments.max_session_age, visits)


def judged(
    request_timeout: float, max_session_age: float, visits: list[Visit]
) -> tuple[int, str]:
    timeouts = (DEFAULT_REQUEST_TIMEOUT, request_timeout)
    is_cut = [cut_by(timeouts, one) for one in visits]
    is_old = [ended_by_age(max_session_age, one) for one in visits]
    others = {
        one.close_code
        for one, cut, old in zip(visits, is_cut, is_old, strict=True)
        if one.error or not (cut or old) and one.close_code not in (GOING_AWAY, None)
    }
    if others:
        return FAILED, f"an instance that ends closes with {GOING_AWAY}"
    if cuts := {one for one in is_cut if one}:
        return (
            PROVES_NOTHING,
            f"cut after {max(cuts):g} s, by the request timeout and not by readygate:"
            f" proves nothing about {GOING_AWAY}",
        )
    if any(is_old):
        return (
            PROVES_NOTHING,
            f"closed with {SERVICE_RESTART} at an age of about {max_session_age:g} s, as"
            f" max_session_age says: proves nothing about {GOING_AWAY}",
        )
    if any(one.close_code is None for one in visits):
        return PROVES_NOTHING, "not all instances ended: proves nothing about those"
    return PASSED, ""


def of_both(start: int, ended: tuple[int, str]) -> tuple[int, str]:
    """What the start did not prove, the end does not either."""
    if start == PROVES_NOTHING and ended[0] == PASSED:
        return PROVES_NOTHING, "the end passed, but not the start, as said above"
    return ended


def cut_by(timeouts: tuple[float, ...], seen: Visit) -> float | None:
    """The request timeout, in seconds, that ended a connection without a close frame."""
    if seen.close_code != NO_CLOSE_FRAME or seen.closed_seconds is None:
        return None
    age = seen.closed_seconds
    return next(
        (one for one in timeouts if abs(age - one) <= REQUEST_TIMEOUT_SLACK), None
    )


def ended_by_age(max_session_age: float, seen: Visit) -> bool:
    """Whether readygate ended a session because of its age, as it is told to."""
    if seen.close_code != SERVICE_RESTART or seen.closed_seconds is None:
        return False
    earliest = max_session_age * MAX_AGE_SHARE
    latest = max_session_age + REQUEST_TIMEOUT_SLACK
    return max_session_age > 0 and earliest <= seen.closed_seconds <= latest


def say(judgement: tuple[int, str]) -> int:
    status, why = judgement
    word = {PASSED: "passed", FAILED: "FAILED", PROVES_NOTHING: "NOT PROVEN"}[status]
    print(f"{word}: {why}" if why else word, flush=True)
    return status


def web_socket(url: str) -> str:
    """A URL that a WebSocket can be opened at."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # must be a number
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{url} is no URL: {error}") from error
    if parts.scheme not in SECURE:
        raise argparse.ArgumentTypeError(f"{url} does not begin with wss:// or ws://")
    if not parts.hostname:
        raise argparse.ArgumentTypeError(f"{url} names no host")
    return url


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "url",
        type=web_socket,
        help="ws:// or wss://, or http:// or https://, with the path of the WebSocket",
    )
    parser.add_argument(
        *("--ready", "-r"),
        type=json.loads,
        metavar="JSON",
        default={"/type": "connection_established"},
        help="JSON pointers and values of the ready message, as in proxy.toml; of a list of"
        " values, one",
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
    parser.add_argument(
        "--any-order",
        action="store_true",
        help="for an application that works on several messages of a client at once: pass,"
        " whatever the order of its answers; that messages are delivered in order is then"
        " not verified",
    )
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--messages", type=int, default=20, help="of each client")
    parser.add_argument(
        "--wake",
        type=float,
        help="seconds until the first 101 where an instance has to start; fewer than the"
        " application takes to listen; otherwise those of --handshake",
    )
    parser.add_argument(
        "--handshake",
        type=float,
        default=2,
        help="seconds until the first 101, and from that to the last",
    )
    parser.add_argument(
        "--patience", type=float, default=60, help="seconds until all answers"
    )
    parser.add_argument(
        "--wait", type=float, default=1800, help="seconds until the close"
    )
    parser.add_argument(
        "--request-timeout",
        type=float,
        default=3600,
        help="that of the service, in seconds: it ends connections, too",
    )
    parser.add_argument(
        "--max-session-age",
        type=float,
        default=3540,
        help="that of the route, in seconds: readygate closes with 1012 then; 0: it has none",
    )
    parser.add_argument("--no-close", action="store_true", help="end after the answers")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(run(arguments())))
