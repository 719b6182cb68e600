"""Many users of one agent at the same time."""

import asyncio

import pytest

from clients import CLIENTS, Plan, Result
from harness.backends import FASTAPI_AGENT
from harness.delivery import Delivery, errors

USERS = 20
REQUESTS = 5
EVENTS = (
    "agent_started",
    "agent_thinking",
    "tool_executing",
    "tool_completed",
    "agent_completed",
)


@pytest.mark.parametrize("client", CLIENTS)
def test_twenty_users_each_get_the_five_events_of_each_request_in_order(
    client: str, port_of, start_proxy
) -> None:
    port = start_proxy(FASTAPI_AGENT, port_of(FASTAPI_AGENT))

    results = ask_at_once(client, port)

    assert errors(results) == []
    for result in results:
        assert events(result) == [
            (event, request, result.user)
            for request in range(REQUESTS)
            for event in EVENTS
        ]


@pytest.mark.parametrize("client", CLIENTS)
def test_straight_to_the_agent_twenty_users_get_no_answer(
    client: str, port_of, measured
) -> None:
    port = port_of(FASTAPI_AGENT)

    results = ask_at_once(client, port)

    measured(f"{Delivery.total(results).lost} of {USERS * REQUESTS} requests lost")
    assert errors(results) == []
    assert Delivery.total(results).lost >= 1


def ask_at_once(client: str, port: int) -> list[Result]:
    """Each user sends all requests right after the 101."""
    url = f"ws://127.0.0.1:{port}/agent"
    return asyncio.run(CLIENTS[client](url, [plan(user) for user in range(USERS)]))


def plan(user: int) -> Plan:
    return FASTAPI_AGENT.plan(
        user=f"user-{user}",
        kinds=("user_message",),
        early=REQUESTS,
        trickle_ms=0,
        late=0,
    )


def events(result: Result) -> list[tuple[str, int, str]]:
    """Type, request and user of each event that the client received."""
    return [
        (message["type"], message["id"], message["user"])
        for message in result.received
        if message["type"] in EVENTS
    ]
