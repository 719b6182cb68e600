"""Clients that come and go: WebSockets over HTTP/1.1 and HTTP/2, and downloads.

Some disturb: they read slowly, vanish, or send more than may be held. Others are calm, on a
route of their own: they send, read every echo, and close. Each message begins with its number
in its session, whose name is its path.
"""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from harness.multiplexed import Connection, Stream

CALM = "/calm"
DISTURBED = "/churn"
ANSWER_SECONDS = 20
"""For what comes at once, even on a machine that does much else."""
STREAMS = 3
DOWNLOAD_BYTES = 2_000_000


class Session:
    """A client's side of a session that counts what it sends."""

    def __init__(self, name: str, sent: Counter[str], over: ClientConnection | Stream) -> None:
        self.name = name
        self.over = over
        self._sent = sent

    async def send(self, padding: str) -> str:
        """Sends the next message, and returns it. It counts even if it does not get far."""
        message = f"{self._sent[self.name]} {padding}"
        self._sent[self.name] += 1
        await self.over.send(message)
        return message


class Crowd:
    """All clients of a proxy, and what became of them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._numbers = itertools.count()
        self.sent: Counter[str] = Counter()
        """How many messages, by session."""
        self.seen: Counter[str] = Counter()
        self.complaints: list[str] = []
        """What should not have happened to calm clients."""

    async def come_and_go(self, until: float) -> None:
        """Clients of all kinds, one after the other, for so long."""
        kinds = (
            (60, self._disturb),
            (2, self._disturb_over_http2),
            (2, self._download_and_leave),
            (6, self._be_calm),
            (1, self._be_calm_over_http2),
            (1, self._download),
        )
        async with asyncio.TaskGroup() as tasks:
            for count, kind in kinds:
                for _ in range(count):
                    tasks.create_task(self._again_and_again(kind, until))

    async def _again_and_again(
        self, kind: Callable[[], Coroutine[None, None, str]], until: float
    ) -> None:
        while time.monotonic() < until:
            what = await kind()
            self.seen[f"{kind.__name__.strip('_')}: {what}"] += 1

    def _name(self, route: str) -> str:
        return f"{route}/{next(self._numbers)}"

    def _connect(self, name: str) -> connect:
        url = f"ws://127.0.0.1:{self._port}{name}"
        return connect(url, max_queue=1, close_timeout=1, proxy=None)

    async def _disturb(self) -> str:
        behave = random.choices((talk, read_slowly, vanish, overflow), (6, 1, 2, 1))[0]
        name = self._name(DISTURBED)
        try:
            async with self._connect(name) as client:
                await behave(Session(name, self.sent, client))
            return "finished"
        except (ConnectionClosed, TimeoutError) as end:
            return type(end).__name__
        except (OSError, InvalidHandshake, EOFError) as refusal:
            await asyncio.sleep(0.05)
            return f"no session, {type(refusal).__name__}"

    async def _disturb_over_http2(self) -> str:
        """Sessions that share a connection, which is cut off or closed."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS), Connection(self._port) as connection:
                for _ in range(STREAMS):
                    name = self._name(DISTURBED)
                    if stream := await connection.open(name):
                        await send_some(Session(name, self.sent, stream))
                        if random.random() < 0.5:
                            await stream.close()
            return "finished"
        except (OSError, TimeoutError) as end:
            await asyncio.sleep(0.05)
            return type(end).__name__

    async def _be_calm(self) -> str:
        name = self._name(CALM)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                async with self._connect(name) as client:
                    await self._converse(Session(name, self.sent, client), client.recv)
            return "finished"
        except (ConnectionClosed, OSError, InvalidHandshake, EOFError, TimeoutError) as error:
            return self._complain(name, f"{type(error).__name__} {error}")

    async def _be_calm_over_http2(self) -> str:
        """Sessions that share a connection, all at once."""

        async def one(connection: Connection) -> None:
            name = self._name(CALM)
            try:
                if stream := await connection.open(name):
                    await self._converse(Session(name, self.sent, stream), stream.receive)
                    await stream.close()
                else:
                    self._complain(name, "refused")
            except ConnectionError as error:
                self._complain(name, str(error))

        try:
            async with asyncio.timeout(ANSWER_SECONDS), Connection(self._port) as connection:
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(STREAMS):
                        tasks.create_task(one(connection))
            return "finished"
        except (OSError, TimeoutError) as error:
            return self._complain(CALM, f"over HTTP/2: {type(error).__name__} {error}")

    async def _converse(
        self, session: Session, receive: Callable[[], Coroutine[None, None, str | None]]
    ) -> None:
        """Some messages at once, which are held, and some later."""
        echoes = ["ready", *await send_some(session)]
        for number, echo in enumerate(echoes):
            received = await receive()
            if received != echo:
                self._complain(session.name, f"{received!r} came instead of {echo!r}")
                return
            if number % 5 == 0 and len(echoes) < 60:
                echoes.append(await session.send("later"))

    async def _download(self) -> str:
        size = random.randint(0, DOWNLOAD_BYTES)
        path = f"{CALM}/{size}"
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                head, body = await self._get(path, DOWNLOAD_BYTES + 1)
        except (OSError, EOFError, TimeoutError) as error:
            return self._complain(path, type(error).__name__)
        if not head.startswith(b"HTTP/1.1 200 ") or body != b"x" * size:
            return self._complain(path, f"{len(body)} bytes after {head!r}")
        return "finished"

    async def _download_and_leave(self) -> str:
        """Reads as much as it likes, of a backend that may die meanwhile."""
        size = random.randint(0, DOWNLOAD_BYTES)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                head, _ = await self._get(f"{DISTURBED}/{size}", random.randint(0, 2 * size))
            return head.split(b" ")[1].decode()
        except (OSError, EOFError, TimeoutError) as end:
            await asyncio.sleep(0.05)
            return type(end).__name__

    async def _get(self, path: str, most: int) -> tuple[bytes, bytes]:
        """The head of an answer, and as much of the body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            request = f"GET {path} HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n"
            writer.write(request.encode())
            head = await reader.readuntil(b"\r\n\r\n")
            body = b""
            while len(body) < most and (data := await reader.read(most - len(body))):
                body += data
            return head, body
        finally:
            writer.transport.abort()

    def _complain(self, name: str, what: str) -> str:
        self.complaints.append(f"{name}: {what}")
        return "disturbed"


async def send_some(session: Session) -> list[str]:
    """Sends at once; what it has sent."""
    count = random.randint(1, 40)
    return [await session.send("x" * random.randint(1, 200)) for _ in range(count)]


async def talk(session: Session) -> None:
    """Sends at once, and reads what comes as fast as it comes."""
    await send_some(session)
    async with asyncio.timeout(random.uniform(0, 3)):
        async for _ in session.over:
            pass


async def read_slowly(session: Session) -> None:
    """Lets megabytes pile up on the way back."""
    for _ in range(40):
        await session.send("x" * 50_000)
        await asyncio.sleep(0.01)
    for _ in range(10):
        await session.over.recv()
        await asyncio.sleep(random.uniform(0, 0.2))


async def vanish(session: Session) -> None:
    """Is gone without a word, in the middle of whatever."""
    for _ in range(random.randint(0, 20)):
        await session.send("gone")
    await asyncio.sleep(random.uniform(0, 1))
    session.over.transport.abort()


async def overflow(session: Session) -> None:
    """Sends more than may be held."""
    for _ in range(120):
        await session.send("much")
    await session.over.recv()
