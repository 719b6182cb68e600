"""A `websockets` server each of whose sessions is ready after a moment of its own.

It says `ready` then, and echoes what it gets. Some sessions it ends by itself, unless it is
`--calm`: with a close frame, or without one. A plain request gets the download that is its
path's last part: so many bytes.

What it has received of which session, whose name is its path, it notes at once in a file
that outlives it: that it has begun, the number with which each message begins, and at last
that it has read everything up to the other side's close frame.
"""

import asyncio
import contextlib
import random
import ssl
from io import FileIO

from websockets.asyncio.server import Request, Response, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

import announce


class Backend:
    """What all sessions share."""

    def __init__(self, notes: FileIO, is_calm: bool) -> None:
        self._notes = notes
        self._is_calm = is_calm

    def _note(self, session: str, what: str) -> None:
        self._notes.write(f"{session} {what}\n".encode())

    async def session(self, connection: ServerConnection) -> None:
        name = connection.request.path
        self._note(name, "begin")
        await asyncio.sleep(random.choice((0, 0.01, 0.1, 0.5)))
        with contextlib.suppress(ConnectionClosed):
            await connection.send("ready")
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                self._note(name, message.split(" ", 1)[0])
                if not self._is_calm and await self._ends(connection):
                    return
                # After the other side's close frame nobody hears it, but there is more to read.
                if connection.state is State.OPEN:
                    with contextlib.suppress(ConnectionClosed):
                        await connection.send(message)
        if connection.protocol.close_rcvd_then_sent:
            self._note(name, "end")

    async def _ends(self, connection: ServerConnection) -> bool:
        end = random.random()
        if end < 0.002:
            connection.transport.abort()
        elif end < 0.01:
            await connection.close(4000, "enough")
        return end < 0.01

    def download(self, connection: ServerConnection, request: Request) -> Response | None:
        if "Upgrade" in request.headers:
            return None
        size = int(request.path.rsplit("/", 1)[1])
        return connection.respond(200, "x" * size)


async def main() -> None:
    parser = announce.arguments(__doc__)
    parser.add_argument("--notes", required=True, help="the file, to which is added")
    parser.add_argument("--calm", action="store_true", help="end no session")
    parser.add_argument("--certificate", help="PEM; with it, TLS")
    parser.add_argument("--key", help="PEM")
    args = parser.parse_args()
    tls = None
    if args.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(args.certificate, args.key)
    # Without a buffer: what is noted is noted, even if this is killed next.
    with open(args.notes, "ab", buffering=0) as notes:
        backend = Backend(notes, args.calm)
        options = {"max_queue": 4, "process_request": backend.download, "ssl": tls}
        async with serve(backend.session, args.host, args.port, **options) as server:
            announce.listening(server.sockets[0].getsockname()[1])
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
