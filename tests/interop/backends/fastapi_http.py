"""Plain HTTP on FastAPI and uvicorn: server-sent events, streamed bodies, uploads.

With --delay it does not listen at first.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

import announce

EVENTS = 20
EVENT_SECONDS = 0.05


def application() -> FastAPI:
    app = FastAPI()
    requests: dict[str, int] = {}

    @app.api_route("/", methods=["GET", "HEAD"])
    async def greet() -> PlainTextResponse:
        return PlainTextResponse("hello, world\n")

    @app.get("/events")
    async def events() -> StreamingResponse:
        async def generate() -> AsyncIterator[str]:
            for number in range(EVENTS):
                yield f"data: {number} {time.time()}\n\n"
                await asyncio.sleep(EVENT_SECONDS)

        return StreamingResponse(generate(), media_type="text/event-stream")

    @app.get("/large")
    async def large() -> Response:
        return Response(bytes(3_000_000))

    @app.api_route("/upload", methods=["POST", "PUT"])
    async def upload(request: Request) -> dict:
        digest, size, pieces = hashlib.sha256(), 0, 0
        async for piece in request.stream():
            digest.update(piece)
            size += len(piece)
            pieces += 1
        name = request.headers.get("x-request-name", "")
        requests[name] = requests.get(name, 0) + 1
        return {
            "sha256": digest.hexdigest(),
            "size": size,
            "pieces": pieces,
            "times": requests[name],
        }

    return app


class Server(uvicorn.Server):
    """uvicorn, which tells nobody when it listens on port 0."""

    async def startup(self, sockets: list | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            announce.listening(server.sockets[0].getsockname()[1])


def main() -> None:
    parser = announce.arguments(__doc__)
    parser.add_argument("--delay", type=float, default=0, help="in seconds")
    args = parser.parse_args()
    time.sleep(args.delay)
    config = uvicorn.Config(
        application(), host=args.host, port=args.port, log_level="warning"
    )
    Server(config).run()


if __name__ == "__main__":
    main()
