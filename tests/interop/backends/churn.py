"""A `websockets` server each of whose sessions is ready after a moment of its own.

It says `ready` then, and echoes what it gets. Some sessions it ends by itself: with a
close frame, or without one.
"""

import asyncio
import random

from websockets.asyncio.server import ServerConnection, serve

import announce


async def session(connection: ServerConnection) -> None:
    await asyncio.sleep(random.choice((0, 0.01, 0.1, 0.5)))
    await connection.send("ready")
    async for message in connection:
        end = random.random()
        if end < 0.002:
            connection.transport.abort()
        elif end < 0.01:
            await connection.close(4000, "enough")
        else:
            await connection.send(message)


async def main() -> None:
    args = announce.arguments(__doc__).parse_args()
    async with serve(session, args.host, args.port, max_queue=4) as server:
        announce.listening(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
