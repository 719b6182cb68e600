"""Every backend with every client: what is lost without readygate, and what with it."""

import asyncio

import pytest

from clients import CLIENTS
from harness.backends import BACKENDS, Backend
from harness.delivery import Delivery, answered, errors
from harness.priorities import KINDS, flush_order, prioritised

NORMAL_CLOSURE = 1000

each_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda one: one.name)
each_client = pytest.mark.parametrize("client", CLIENTS)


@each_client
@each_backend
def test_straight_to_the_backend_messages_are_lost(
    backend: Backend, client: str, port_of, measured
) -> None:
    port = port_of(backend)

    [result] = asyncio.run(CLIENTS[client](url(port), [backend.plan()]))

    delivery = Delivery.of(result)
    error = (result.error or "no error").partition(":")[0]
    measured(f"{delivery.lost} of {delivery.sent} lost, {error}")
    assert delivery.lost >= 1
    # Only the backend that does not listen yet tells the client about it.
    assert (result.error is None) == backend.listens


@each_client
@each_backend
def test_through_readygate_every_message_arrives_exactly_once_and_in_order(
    backend: Backend, client: str, port_of, start_proxy, measured
) -> None:
    port = start_proxy(backend, port_of(backend))

    [result] = asyncio.run(CLIENTS[client](url(port), [backend.plan()]))

    delivery = Delivery.of(result)
    measured(f"{delivery.lost} of {delivery.sent} lost")
    assert errors([result]) == []
    assert delivery.perfect, delivery
    assert result.reported == result.sent
    assert answered(result, backend.answer) == result.sent
    assert result.close_code == NORMAL_CLOSURE


@each_backend
def test_through_readygate_the_backends_own_messages_arrive_first_and_unchanged(
    backend: Backend, port_of, start_proxy
) -> None:
    port = start_proxy(backend, port_of(backend))

    [result] = asyncio.run(CLIENTS["websockets"](url(port), [backend.plan()]))

    greetings = len(backend.greetings)
    types = [message["type"] for message in result.received]
    assert errors([result]) == []
    assert tuple(types[:greetings]) == backend.greetings
    assert set(types[greetings:]) == {backend.answer}


@each_backend
def test_what_was_held_arrives_by_priority_and_what_came_later_in_its_own_order(
    backend: Backend, port_of, start_proxy
) -> None:
    port = start_proxy(prioritised(backend), port_of(backend))
    plan = backend.plan(kinds=KINDS, trickle_ms=0)
    held = range(plan.early)

    [result] = asyncio.run(CLIENTS["websockets"](url(port), [plan]))

    assert errors([result]) == []
    # The client sends a low message first and a critical one last.
    low, critical = held[0], held[-1]
    assert result.reported.index(critical) < result.reported.index(low)
    assert result.reported == flush_order(held) + result.sent[plan.early :]


def url(port: int) -> str:
    return f"ws://127.0.0.1:{port}/ws?token=t"
