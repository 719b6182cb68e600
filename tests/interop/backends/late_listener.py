"""An aiohttp server that begins to listen some seconds after it was launched.

Once it listens it is ready: it says `welcome` to each client and acknowledges every
message with an `ack`.
"""

import asyncio

from aiohttp import WSMsgType, web

import announce


async def session(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_json({"type": "welcome"})
    received: list[int] = []
    async for frame in socket:
        if frame.type is WSMsgType.TEXT:
            await answer(socket, frame.json(), received)
    return socket


async def answer(
    socket: web.WebSocketResponse, message: dict, received: list[int]
) -> None:
    if message["type"] == "report":
        await socket.send_json({"type": "report", "received": received})
    else:
        received.append(message["id"])
        await socket.send_json({"type": "ack", "id": message["id"]})


async def main() -> None:
    parser = announce.arguments(__doc__)
    parser.add_argument("--delay", type=float, required=True, help="in seconds")
    args = parser.parse_args()

    app = web.Application()
    app.router.add_get("/{path:.*}", session)
    runner = web.AppRunner(app)
    await runner.setup()
    await asyncio.sleep(args.delay)
    await web.TCPSite(runner, args.host, args.port).start()
    announce.listening(runner.addresses[0][1])
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
