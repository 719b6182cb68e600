"""An AI agent on FastAPI and uvicorn that accepts at once but is not ready.

The handshake is answered immediately and the receive loop runs, but until the
connection's services are up, whatever arrives is dropped without an error. Then the
agent sends `connection_established` and works: five events for each `user_message`,
an `ack` for any other message. With --delay it does not even listen at first, and with
--certificate it speaks TLS. Under
/private it refuses who is not authorized with a 401.
"""

import asyncio
import random
import time

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse

import announce

EVENTS = (
    "agent_started",
    "agent_thinking",
    "tool_executing",
    "tool_completed",
    "agent_completed",
)
INIT_SECONDS = (0.5, 1.5)
STEP_SECONDS = 0.002


class Agent:
    """One connection: its services, and what it has received."""

    def __init__(self, socket: WebSocket, init_seconds: float) -> None:
        self.socket = socket
        self.init_seconds = init_seconds
        self.ready = False
        self.received: list[int] = []
        self.dropped = 0

    async def start_services(self) -> None:
        await asyncio.sleep(self.init_seconds)
        self.ready = True
        await self.socket.send_json({"type": "connection_established"})

    async def receive(self) -> None:
        while True:
            message = await self.socket.receive_json()
            if self.ready:
                await self.answer(message)
            else:
                self.dropped += 1

    async def answer(self, message: dict) -> None:
        if message["type"] == "report":
            await self.socket.send_json(
                {"type": "report", "received": self.received, "dropped": self.dropped}
            )
            return
        self.received.append(message["id"])
        if message["type"] == "user_message":
            await self.work(message)
        else:
            await self.socket.send_json({"type": "ack", "id": message["id"]})

    async def work(self, request: dict) -> None:
        for event in EVENTS:
            await self.socket.send_json(
                {"type": event, "id": request["id"], "user": request["user"]}
            )
            await asyncio.sleep(STEP_SECONDS)


def refusal() -> JSONResponse:
    return JSONResponse(
        {"detail": "who are you?"},
        status_code=401,
        headers={"www-authenticate": "Bearer"},
    )


def application(seed: int) -> FastAPI:
    app = FastAPI()
    init_times = random.Random(seed)

    @app.websocket("/{path:path}")
    async def session(socket: WebSocket, path: str) -> None:
        if path == "private" and "authorization" not in socket.headers:
            await socket.send_denial_response(refusal())
            return
        await socket.accept(headers=[(b"set-cookie", b"session=1")])
        agent = Agent(socket, init_times.uniform(*INIT_SECONDS))
        services = asyncio.create_task(agent.start_services())
        try:
            await agent.receive()
        except WebSocketDisconnect:
            pass
        finally:
            services.cancel()

    return app


class Server(uvicorn.Server):
    """uvicorn, which tells nobody when it listens on port 0."""

    async def startup(self, sockets: list | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            announce.listening(server.sockets[0].getsockname()[1])


def main() -> None:
    parser = announce.arguments(__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--delay", type=float, default=0, help="in seconds")
    parser.add_argument("--certificate", help="a PEM file; with it, TLS is spoken")
    parser.add_argument("--key", help="that of the certificate")
    args = parser.parse_args()
    time.sleep(args.delay)
    config = uvicorn.Config(
        application(args.seed),
        host=args.host,
        port=args.port,
        log_level="warning",
        ssl_certfile=args.certificate,
        ssl_keyfile=args.key,
    )
    Server(config).run()


if __name__ == "__main__":
    main()
