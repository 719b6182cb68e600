"""A page that opens a WebSocket to where it came from, on FastAPI and uvicorn.

The WebSocket is accepted at once, but drops what arrives in its first second. The page
sends without waiting, and posts to /result what came back.
"""

import asyncio
import json
import time

import uvicorn
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse

import announce

INIT_SECONDS = 1.0

PAGE = """<!doctype html>
<script>
  const socket = new WebSocket(`wss://${location.host}/ws`, ["chat", "other"]);
  const received = [];
  const post = (close) => fetch("/result", {
    method: "POST",
    body: JSON.stringify({
      page: performance.getEntriesByType("navigation")[0].nextHopProtocol,
      subprotocol: socket.protocol, received, code: close.code, reason: close.reason,
    }),
  });
  socket.onopen = () => { for (let id = 0; id < 100; id++) socket.send(String(id)); };
  socket.onmessage = (message) => {
    received.push(message.data);
    if (message.data === "99") socket.close(4000, "seen");
  };
  socket.onclose = post;
</script>
"""

app = FastAPI()


@app.get("/")
async def page() -> HTMLResponse:
    return HTMLResponse(PAGE)


@app.websocket("/ws")
async def echo(socket: WebSocket) -> None:
    await socket.accept(subprotocol="chat")
    ready_at = time.monotonic() + INIT_SECONDS

    async def announce_ready() -> None:
        await asyncio.sleep(INIT_SECONDS)
        await socket.send_text("ready")

    announcement = asyncio.create_task(announce_ready())
    try:
        while True:
            text = await socket.receive_text()
            if time.monotonic() >= ready_at:
                await socket.send_text(text)
    except WebSocketDisconnect as closed:
        print(json.dumps({"closed": closed.code}), flush=True)
    finally:
        announcement.cancel()


@app.post("/result")
async def result(request: Request) -> None:
    print(json.dumps({"result": await request.json()}), flush=True)


class Server(uvicorn.Server):
    """Says where it listens."""

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        announce.listening(self.servers[0].sockets[0].getsockname()[1])


if __name__ == "__main__":
    arguments = announce.arguments(__doc__).parse_args()
    config = uvicorn.Config(
        app, host=arguments.host, port=arguments.port, log_level="warning"
    )
    Server(config).run()
