"""WebSockets that share a connection of HTTP/2 (RFC 8441), by `h2` and `websockets`."""

import asyncio
import contextlib
from types import TracebackType

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

Event = h2.events.Event
READ_BYTES = 65536


class Stream:
    """One WebSocket. What is sent has to fit into the windows that there are at first."""

    def __init__(self, connection: "Connection", number: int, uri: str) -> None:
        self._connection = connection
        self.number = number
        self._protocol = ClientProtocol(parse_uri(uri), state=State.OPEN)
        self.status: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._texts: asyncio.Queue[str | None] = asyncio.Queue()

    async def send(self, text: str) -> None:
        if self._protocol.state is not State.OPEN:
            raise ConnectionResetError("the session has ended")
        self._protocol.send_text(text.encode())
        await self._flush()

    async def receive(self) -> str | None:
        """The next message; None when the session has ended."""
        return await self._texts.get()

    async def close(self) -> None:
        """Closes, and waits for the answer."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
        await self._flush()
        while await self._texts.get() is not None:
            pass

    async def _flush(self) -> None:
        data = b"".join(self._protocol.data_to_send())
        # A session that has ended needs no answer.
        with contextlib.suppress(h2.exceptions.StreamClosedError):
            self._connection.http.send_data(self.number, data)
        await self._connection.flush()

    async def take(self, event: Event) -> None:
        """What the connection has received for it."""
        if isinstance(event, h2.events.ResponseReceived):
            self.status.set_result(dict(event.headers)[":status"])
        elif isinstance(event, h2.events.DataReceived):
            self._protocol.receive_data(event.data)
            for frame in self._protocol.events_received():
                if isinstance(frame, Frame) and frame.opcode == Opcode.TEXT:
                    self._texts.put_nowait(bytes(frame.data).decode())
            await self._flush()
        elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
            self.lose()

    def lose(self) -> None:
        """It has ended, anyhow."""
        if not self.status.done():
            self.status.set_result("")
        self._texts.put_nowait(None)


class Connection:
    """A connection with prior knowledge; leaving the block cuts it off."""

    def __init__(self, port: int) -> None:
        self._port = port
        config = h2.config.H2Configuration(header_encoding="utf-8")
        self.http = h2.connection.H2Connection(config)
        self._streams: dict[int, Stream] = {}
        self._is_told = asyncio.Event()

    async def __aenter__(self) -> "Connection":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self.http.initiate_connection()
        await self.flush()
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.transport.abort()
        await asyncio.wait([self._reading])

    async def open(self, path: str) -> Stream | None:
        """A WebSocket; None when it is refused."""
        await self._is_told.wait()
        authority = f"127.0.0.1:{self._port}"
        headers = {
            ":method": "CONNECT",
            ":protocol": "websocket",
            ":scheme": "http",
            ":authority": authority,
            ":path": path,
            "sec-websocket-version": "13",
        }
        stream = Stream(self, self.http.get_next_available_stream_id(), f"ws://{authority}{path}")
        self._streams[stream.number] = stream
        self.http.send_headers(stream.number, list(headers.items()))
        await self.flush()
        return stream if await stream.status == "200" else None

    async def flush(self) -> None:
        self._writer.write(self.http.data_to_send())
        await self._writer.drain()

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(READ_BYTES):
                for event in self.http.receive_data(data):
                    await self._take(event)
                await self.flush()
        except ConnectionError:
            pass
        finally:
            self._is_told.set()
            for stream in self._streams.values():
                stream.lose()

    async def _take(self, event: Event) -> None:
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self._is_told.set()
        elif isinstance(event, h2.events.DataReceived):
            self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        stream = self._streams.get(getattr(event, "stream_id", None))
        if stream:
            await stream.take(event)
