"""Slow networks: between client and proxy, between proxy and backend, and both.

The clients are of all three libraries at the same time.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from clients import CLIENTS, Plan, Result
from harness import proxy
from harness.backends import FASTAPI_AGENT
from harness.delivery import Delivery, answered, errors
from harness.priorities import KINDS, flush_order, prioritised, priority
from harness.relay import Relay

CLIENTS_AT_ONCE = 50
DELAY_MS = (100, 300)
SEED = 1
ABSENT_SECONDS = 3
LISTEN_SECONDS = 20

each_leg = pytest.mark.parametrize(
    ("slow_client", "slow_backend"),
    [(True, False), (False, True), (True, True)],
    ids=["to-the-client", "to-the-backend", "on-both-sides"],
)


@each_leg
def test_fifty_clients_lose_nothing_with_100_to_300_ms_of_latency(
    slow_client: bool, slow_backend: bool, port_of, start_proxy, measured
) -> None:
    backend = FASTAPI_AGENT
    plans = [backend.plan(user=f"user-{n}") for n in range(CLIENTS_AT_ONCE)]

    async def scenario() -> list[Result]:
        async with distance(port_of(backend), slow_backend) as upstream:
            async with distance(start_proxy(backend, upstream), slow_client) as port:
                return await talk(port, plans)

    results = asyncio.run(scenario())

    delivery = Delivery.total(results)
    measured(summary(results, delivery))
    assert errors(results) == []
    assert delivery.perfect, delivery
    assert all(answered(one, backend.answer) == one.sent for one in results)


@each_leg
def test_fifty_clients_of_a_distant_late_backend_lose_nothing_and_keep_priorities(
    slow_client: bool, slow_backend: bool, processes, start_proxy, measured
) -> None:
    backend = prioritised(FASTAPI_AGENT)
    changes = {"kinds": KINDS, "trickle_ms": 200}
    plans = [backend.plan(user=f"user-{n}", **changes) for n in range(CLIENTS_AT_ONCE)]
    agent = proxy.free_port()

    async def scenario() -> list[Result]:
        async with distance(agent, slow_backend) as upstream:
            async with distance(start_proxy(backend, upstream), slow_client) as port:
                return await talk(port, plans)

    delay = ["--port", str(agent), "--delay", str(ABSENT_SECONDS)]
    process = processes.start("late-agent", [*backend.command, *delay])
    results = asyncio.run(scenario())

    delivery = Delivery.total(results, lane=priority)
    measured(f"{summary(results, delivery)} within a priority")
    listening_at = process.announcement(LISTEN_SECONDS)["listening_at"]
    held = range(plans[0].early)
    assert errors(results) == []
    assert all(all_held_before(listening_at, one) for one in results)
    assert delivery.perfect, delivery
    for result in results:
        assert [id for id in result.reported if id in held] == flush_order(held)
        # A user_message has five answers; this type is the last.
        assert answered(result, backend.answer, "agent_completed") == result.reported


@asynccontextmanager
async def distance(port: int, slow: bool) -> AsyncIterator[int]:
    """The port by which to reach `port`, far away if it is `slow`."""
    if not slow:
        yield port
        return
    async with Relay(port, DELAY_MS, SEED) as relay:
        yield relay.port


async def talk(port: int, plans: list[Plan]) -> list[Result]:
    """Carries out the plans at the same time, an equal share with each library."""
    url = f"ws://127.0.0.1:{port}/"
    shares = [plans[n :: len(CLIENTS)] for n in range(len(CLIENTS))]
    clients = zip(CLIENTS.values(), shares, strict=True)
    results = await asyncio.gather(*(run(url, share) for run, share in clients))
    return [one for share in results for one in share]


def summary(results: list[Result], delivery: Delivery) -> str:
    return (
        f"{len(results) - len(errors(results))} of {CLIENTS_AT_ONCE} clients served; "
        f"of {delivery.sent} messages {delivery.lost} lost, "
        f"{delivery.doubled} doubled, {delivery.out_of_order} out of order"
    )


def all_held_before(listening_at: float, result: Result) -> bool:
    """Whether the early messages had reached readygate before the backend listened."""
    return result.opened_at + DELAY_MS[1] / 1000 < listening_at
