"""Servers of three libraries that echo, and choose subprotocols as those do.

Without `--speaks` they know of none, and name none to a client that offers some. The
one on `websockets` answers 404 below /gone.
"""

import argparse
import asyncio
import http
import socket

import uvicorn
from aiohttp import web
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

import announce


async def on_websockets(args: argparse.Namespace) -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    def choose(connection: ServerConnection, offers: list[str]) -> str | None:
        return next((offer for offer in offers if offer in args.speaks), None)

    def answer(connection: ServerConnection, request: Request) -> Response | None:
        if request.path.startswith("/gone"):
            return connection.respond(http.HTTPStatus.NOT_FOUND, "no such kernel\n")
        return None

    options = {"select_subprotocol": choose, "process_request": answer}
    async with serve(echo, args.host, args.port, **options) as server:
        announce.listening(server.sockets[0].getsockname()[1])
        await server.serve_forever()


async def on_aiohttp(args: argparse.Namespace) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(protocols=args.speaks)
        await connection.prepare(request)
        async for message in connection:
            await connection.send_str(message.data)
        return connection

    app = web.Application()
    app.router.add_get("/{path:.*}", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, args.host, args.port).start()
    announce.listening(runner.addresses[0][1])
    await asyncio.Event().wait()


async def on_starlette(args: argparse.Namespace) -> None:
    async def echo(connection: WebSocket) -> None:
        await connection.accept()
        async for message in connection.iter_text():
            await connection.send_text(message)

    app = Starlette(routes=[WebSocketRoute("/{path:path}", echo)])
    with socket.create_server((args.host, args.port)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        announce.listening(listener.getsockname()[1])
        await server.serve(sockets=[listener])


SERVERS = {
    "websockets": on_websockets,
    "aiohttp": on_aiohttp,
    "starlette": on_starlette,
}


def main() -> None:
    parser = announce.arguments(__doc__)
    parser.add_argument("--server", choices=SERVERS, required=True)
    parser.add_argument("--speaks", nargs="*", default=[])
    args = parser.parse_args()
    asyncio.run(SERVERS[args.server](args))


if __name__ == "__main__":
    main()
