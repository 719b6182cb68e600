"""Clients that come while the backend does not even listen."""

import asyncio

import pytest

from clients import CLIENTS
from harness import proxy
from harness.backends import LATE_LISTENER
from harness.delivery import Delivery, answered, errors

CLIENTS_AT_ONCE = 50
DELAY_SECONDS = 3
LISTEN_SECONDS = 20


@pytest.mark.parametrize("client", CLIENTS)
def test_fifty_clients_of_a_backend_that_does_not_listen_yet_lose_nothing(
    client: str, processes, start_proxy, measured
) -> None:
    upstream = proxy.free_port()
    port = start_proxy(LATE_LISTENER, upstream)
    delay = ["--port", str(upstream), "--delay", str(DELAY_SECONDS)]
    backend = processes.start("late-listener", [*LATE_LISTENER.command, *delay])
    plans = [
        LATE_LISTENER.plan(user=f"user-{user}", early=10, trickle_ms=200)
        for user in range(CLIENTS_AT_ONCE)
    ]

    results = asyncio.run(CLIENTS[client](f"ws://127.0.0.1:{port}/", plans))

    delivery = Delivery.total(results)
    measured(f"{delivery.lost} of {delivery.sent} lost")
    listening_at = backend.announcement(LISTEN_SECONDS)["listening_at"]
    assert errors(results) == []
    assert all(result.opened_at < listening_at for result in results)
    assert delivery.perfect, delivery
    assert all(answered(one, LATE_LISTENER.answer) == one.sent for one in results)
