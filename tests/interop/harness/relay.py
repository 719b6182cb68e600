"""A TCP relay that delays, to put a distance between two programs on one machine."""

import asyncio
import random
import socket
import struct

CHUNK_BYTES = 64 * 1024
CHUNKS_IN_FLIGHT = 1024


class Relay:
    """Forwards connections to `port`, each chunk late by a delay from a range.

    Order is preserved: no chunk overtakes the one before it, whatever its delay.

    While nobody listens on `port`, a connection is accepted and ends one delay later,
    in turns by a reset and by a close: relays in the world do the one or the other.
    """

    def __init__(self, port: int, delay_ms: tuple[int, int], seed: int) -> None:
        self._upstream = port
        self._delay_ms = delay_ms
        self._random = random.Random(seed)
        self._connections: set[asyncio.Task] = set()
        self._refused = 0

    async def __aenter__(self) -> "Relay":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._relay(reader, writer)
        except OSError:
            pass  # one side is gone, and the other learns it from its closed socket
        finally:
            self._connections.discard(task)
            writer.close()

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(
                "127.0.0.1", self._upstream
            )
        except ConnectionRefusedError:
            await asyncio.sleep(self._delay())
            self._refused += 1
            if self._refused % 2:
                reset_on_close(writer)
            return
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._forward(reader, upstream_writer))
                directions.create_task(self._forward(upstream_reader, writer))
        except* OSError:
            pass
        finally:
            upstream_writer.close()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        in_flight: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_IN_FLIGHT)

        async def receive() -> None:
            chunk = b"-"
            while chunk:
                chunk = await reader.read(CHUNK_BYTES)
                await in_flight.put((self._due(), chunk))

        async def deliver() -> None:
            while True:
                due, chunk = await in_flight.get()
                await asyncio.sleep(due - asyncio.get_running_loop().time())
                if not chunk:
                    writer.write_eof()
                    return
                writer.write(chunk)
                await writer.drain()

        async with asyncio.TaskGroup() as ends:
            ends.create_task(receive())
            ends.create_task(deliver())

    def _due(self) -> float:
        """When the chunk that has just arrived is to be delivered."""
        return asyncio.get_running_loop().time() + self._delay()

    def _delay(self) -> float:
        """A delay in seconds."""
        return self._random.uniform(*self._delay_ms) / 1000


def reset_on_close(writer: asyncio.StreamWriter) -> None:
    """Makes the other side see a reset instead of the end of the stream."""
    linger_on_for_no_time = struct.pack("ii", 1, 0)
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_on_for_no_time)
