"""Slow networks: between client and proxy, between proxy and backend, and both."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from clients import CLIENTS, Result
from harness.backends import FASTAPI_AGENT
from harness.delivery import Delivery, answered, errors
from harness.relay import Relay

CLIENTS_AT_ONCE = 50
DELAY_MS = (100, 300)


@pytest.mark.parametrize(
    ("client", "slow_client", "slow_backend"),
    [
        ("websockets", True, False),
        ("aiohttp", False, True),
        ("node-ws", True, True),
    ],
    ids=["to-the-client", "to-the-backend", "on-both-sides"],
)
def test_fifty_clients_lose_nothing_with_100_to_300_ms_of_latency(
    client: str, slow_client: bool, slow_backend: bool, port_of, start_proxy, measured
) -> None:
    async def scenario() -> list[Result]:
        async with AsyncExitStack() as relays:

            async def behind_relay(port: int, seed: int) -> int:
                relay = Relay(port, DELAY_MS, seed)
                return (await relays.enter_async_context(relay)).port

            port = port_of(FASTAPI_AGENT)
            if slow_backend:
                port = await behind_relay(port, seed=1)
            port = start_proxy(FASTAPI_AGENT, port)
            if slow_client:
                port = await behind_relay(port, seed=2)
            return await CLIENTS[client](f"ws://127.0.0.1:{port}/", plans)

    plans = [FASTAPI_AGENT.plan(user=f"user-{n}") for n in range(CLIENTS_AT_ONCE)]

    results = asyncio.run(scenario())

    delivery = Delivery.total(results)
    measured(
        f"{CLIENTS_AT_ONCE - len(errors(results))} of {CLIENTS_AT_ONCE} clients served; "
        f"of {delivery.sent} messages {delivery.lost} lost, {delivery.doubled} doubled, "
        f"{delivery.out_of_order} out of order"
    )
    assert errors(results) == []
    assert delivery.perfect, delivery
    assert all(answered(one, FASTAPI_AGENT.answer) == one.sent for one in results)
