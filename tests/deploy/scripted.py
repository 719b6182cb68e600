"""A backend that does what its arguments say, for what verify.py has to notice.

It says `connection_established`, and answers each message with the same.
"""

import argparse
import asyncio
import json
import signal
import time

from websockets.asyncio.server import Server, ServerConnection, serve


HALF_A_CODE = b"\x88\x01\x03"
"""A close frame with the first byte of its code."""


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accept", type=float, default=0, help="seconds until the 101")
    parser.add_argument("--ready", type=float, default=0, help="seconds from the 101")
    parser.add_argument(
        "--late", type=float, default=0, help="seconds more for the second client"
    )
    parser.add_argument("--cut", type=float, help="seconds until it drops connections")
    parser.add_argument("--age", type=float, help="seconds until it closes with 1012")
    parser.add_argument(
        "--half-code",
        type=float,
        help="seconds from the 101 until a close frame of one byte",
    )
    parser.add_argument(
        "--turn", type=int, default=1, help="answers so many messages in reverse"
    )
    parser.add_argument("--close", type=int, default=1001, help="the code at SIGTERM")
    arguments = parser.parse_args()
    clients = 0
    closing: list[asyncio.Future] = []

    async def accept(*_: object) -> None:
        nonlocal clients
        clients += 1
        late = arguments.late if clients == 2 else 0
        await asyncio.sleep(arguments.accept + late)

    async def talk(client: ServerConnection) -> None:
        if arguments.half_code:
            asyncio.get_running_loop().call_later(
                arguments.half_code, client.transport.write, HALF_A_CODE
            )
        await asyncio.sleep(arguments.ready)
        await client.send(json.dumps({"type": "connection_established"}))
        if arguments.cut:
            asyncio.get_running_loop().call_later(arguments.cut, client.transport.abort)
        if arguments.age:
            asyncio.get_running_loop().call_later(
                arguments.age,
                lambda: closing.append(asyncio.ensure_future(client.close(1012))),
            )
        waiting = []
        async for message in client:
            waiting.append(message)
            if len(waiting) == arguments.turn:
                while waiting:
                    await client.send(waiting.pop())

    async with serve(talk, "127.0.0.1", 0, process_request=accept) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(json.dumps({"port": port, "listening_at": time.time()}), flush=True)
        await terminated()
        await close(server, arguments.close)


async def terminated() -> None:
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    await asked.wait()


async def close(server: Server, code: int) -> None:
    await asyncio.gather(*(one.close(code) for one in server.connections))


if __name__ == "__main__":
    asyncio.run(main())
