"""Clients of an agent that is not ready yet: straight to it, and through readygate.

Takes the two addresses. Fails if a message is lost on the way through readygate, or none is
on the other.
"""

import asyncio
import sys

from clients.conversation import Plan
from clients.websockets_client import run
from harness.delivery import Delivery, errors

CLIENTS = 20
LISTEN_SECONDS = 30


async def main() -> int:
    straight, readygate = sys.argv[1:]
    for address in (straight, readygate):
        await until_it_listens(address)
    lost = await talk("straight", straight)
    lost_through_readygate = await talk("readygate", readygate)
    return int(lost_through_readygate > 0 or lost == 0)


async def until_it_listens(address: str) -> None:
    host, port = address.split(":")
    async with asyncio.timeout(LISTEN_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return


async def talk(way: str, address: str) -> int:
    """Returns how many messages were lost."""
    plan = Plan(ready="connection_established", early=10, trickle_ms=100, late=5)
    results = await run(f"ws://{address}/", [plan] * CLIENTS)
    delivery = Delivery.total(results)
    for error in errors(results):
        print(f"{way}: {error}")
    print(
        f"{way + ':':<10} {delivery.sent} messages sent, {delivery.lost} lost",
        flush=True,
    )
    return delivery.lost


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
