"""The Python library `aiohttp`, with its defaults."""

import aiohttp

from clients.conversation import Conversation, Plan, Result, hold, run_all


async def run(url: str, plans: list[Plan]) -> list[Result]:
    return await run_all(url, plans, _connect_and_hold)


async def _connect_and_hold(url: str, conversation: Conversation) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(url) as socket:
            await hold(conversation, socket.send_str, socket.receive_str)
        conversation.result.close_code = socket.close_code
