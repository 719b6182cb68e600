"""Clients of three libraries that offer subprotocols, and have one message echoed."""

import asyncio
import json
import os
from asyncio import subprocess
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

MESSAGE = "hello"
SECONDS = 20


@dataclass(frozen=True)
class Told:
    """What a client learned."""

    subprotocol: str | None = None
    """The one that it was told; "" and None: none."""
    echo: str | None = None
    close_code: int | None = None
    error: str | None = None
    """Its library's words, where there was no 101."""


async def websockets(url: str, offers: Sequence[str]) -> Told:
    try:
        async with connect(url, subprotocols=offers, proxy=None) as socket:
            try:
                await socket.send(MESSAGE)
                return Told(socket.subprotocol, await socket.recv())
            except ConnectionClosed as closed:
                return Told(socket.subprotocol, close_code=closed.rcvd.code)
    except InvalidStatus as refused:
        body = refused.response.body.decode()
        return Told(error=f"{refused.response.status_code}: {body}")


async def aiohttp_client(url: str, offers: Sequence[str]) -> Told:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.ws_connect(url, protocols=offers) as socket:
                await socket.send_str(MESSAGE)
                answer = await socket.receive()
                if answer.type is aiohttp.WSMsgType.TEXT:
                    return Told(socket.protocol, answer.data)
                return Told(socket.protocol, close_code=answer.data)
        except aiohttp.WSServerHandshakeError as refused:
            return Told(error=str(refused.status))


async def node_ws(url: str, offers: Sequence[str]) -> Told:
    program = Path(__file__).with_name("offer.mjs")
    node = await asyncio.create_subprocess_exec(
        "node", program, url, *offers, stdout=subprocess.PIPE, env=os.environ
    )
    printed, _ = await node.communicate()
    return Told(**json.loads(printed))


Offer = Callable[[str, Sequence[str]], Awaitable[Told]]

OFFERS: dict[str, Offer] = {
    "websockets": websockets,
    "aiohttp": aiohttp_client,
    "node-ws": node_ws,
}


def offer(client: str, url: str, offers: Sequence[str]) -> Told:
    """What `client` learns."""
    return asyncio.run(asyncio.wait_for(OFFERS[client](url, offers), SECONDS))
