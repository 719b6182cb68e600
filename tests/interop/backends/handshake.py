"""A `websockets` server that needs the client's acknowledgement before it is ready.

It sends `connection_established` and `handshake_response`, waits for the client's
`handshake_acknowledged`, and some time later sends `handshake_complete`. Anything else
that arrives before that is dropped; afterwards every message gets an `ack`.
"""

import asyncio
import json

from websockets.asyncio.server import ServerConnection, serve

import announce

AUTHENTICATION_SECONDS = 0.2
SETUP_SECONDS = 0.6


class Session:
    """One connection: how far its handshake is, and what it has received."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.acknowledged = asyncio.Event()
        self.complete = False
        self.received: list[int] = []
        self.dropped = 0

    async def run(self) -> None:
        handshake = asyncio.create_task(self.shake_hands())
        try:
            async for text in self.socket:
                await self.receive(json.loads(text))
        finally:
            handshake.cancel()

    async def shake_hands(self) -> None:
        await self.send({"type": "connection_established"})
        await asyncio.sleep(AUTHENTICATION_SECONDS)
        await self.send({"type": "handshake_response"})
        await self.acknowledged.wait()
        await asyncio.sleep(SETUP_SECONDS)
        self.complete = True
        await self.send({"type": "handshake_complete"})

    async def receive(self, message: dict) -> None:
        if message["type"] == "handshake_acknowledged":
            self.acknowledged.set()
        elif not self.complete:
            self.dropped += 1
        elif message["type"] == "report":
            await self.send(
                {"type": "report", "received": self.received, "dropped": self.dropped}
            )
        else:
            self.received.append(message["id"])
            await self.send({"type": "ack", "id": message["id"]})

    async def send(self, message: dict) -> None:
        await self.socket.send(json.dumps(message))


async def main() -> None:
    args = announce.arguments(__doc__).parse_args()
    async with serve(
        lambda socket: Session(socket).run(), args.host, args.port
    ) as server:
        announce.listening(server.sockets[0].getsockname()[1])
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
