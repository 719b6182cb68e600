"""The Python library `websockets`, with its defaults."""

from functools import partial

from websockets.asyncio.client import connect

from clients.conversation import Conversation, Plan, Result, hold, run_all


async def run(url: str, plans: list[Plan]) -> list[Result]:
    return await run_all(url, plans, _connect_and_hold)


async def _connect_and_hold(url: str, conversation: Conversation) -> None:
    # proxy=None: a forward proxy in the environment is not for 127.0.0.1.
    async with connect(url, proxy=None) as socket:
        headers = socket.response.headers
        conversation.result.extensions = headers.get("Sec-WebSocket-Extensions")
        await hold(conversation, socket.send, partial(socket.recv, decode=True))
    conversation.result.close_code = socket.close_code
