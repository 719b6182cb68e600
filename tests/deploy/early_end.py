"""The end of a Cloud Run instance whose backend never listened; prints what clients saw.

It has to be run in a network namespace of its own, as test_cloudrun.py does.
"""

import asyncio
import json
import time
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from cold_start import admin, metric, play
from instance import Instance

MESSAGES = 3
SECONDS = 30


async def run(instance: Instance) -> dict[str, Any]:
    """With a client that sends nothing and one that sends messages, which are held."""
    instance.start()
    url = f"ws://127.0.0.1:{await instance.until_requests_come_in()}/"
    async with (
        asyncio.timeout(SECONDS),
        connect(url, proxy=None) as silent,
        connect(url, proxy=None) as talking,
    ):
        for number in range(MESSAGES):
            await talking.send(json.dumps({"type": "message", "id": number}))
        while metric("readygate_queued_messages") < MESSAGES:
            await asyncio.sleep(0.01)
        stopping = time.time()
        stop = asyncio.create_task(instance.stop())
        await silent.wait_closed()
        # Not from the metrics, which go on with the last numbers of a worker that has ended.
        while (left := json.loads(admin("/sessions"))["total"]) > 1:
            await asyncio.sleep(0.01)
        await talking.wait_closed()
        exits = await stop
    return {
        "silent": closed(silent),
        "left_after_silent": left,
        "talking": closed(talking),
        "exits": exits,
        "seconds_to_stop": time.time() - stopping,
        "log": instance.lines("readygate"),
    }


def closed(client: ClientConnection) -> list[Any]:
    return [client.close_code, client.close_reason]


if __name__ == "__main__":
    play(run, backend=["sleep", "infinity"])
