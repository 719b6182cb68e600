"""`accept = "after-upstream"`: the backend's own answer, and with it compression.

Clients and backends agree on permessage-deflate, each with its library's defaults, and
readygate holds what they compress: nothing is lost or reordered that should not be, and
gate and rules see what the messages say.
"""

import asyncio
import json
from dataclasses import replace

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from clients import CLIENTS, Plan, Result
from harness.backends import FASTAPI_AGENT, HANDSHAKE, LATE_HANDLER, Backend
from harness.delivery import Delivery, answered, errors
from harness.priorities import KINDS, flush_order, prioritised

EARLY = 1000
LISTEN_SECONDS = 20
PADDING = 200
LONG_PADDING = 1500  # `ws` compresses nothing shorter when it may not take over context
NO_CLIENT_TAKEOVER = "client_no_context_takeover"

# One of the backends needs an answer that comes behind a thousand messages: where the queue
# is full, it is not seen.
ROOM = """
[route.hold]
max_messages = 2000
max_bytes = "2MiB"
"""

BACKENDS = [
    replace(
        backend, route='accept = "after-upstream"', rules=backend.rules + ROOM
    )
    for backend in (
        FASTAPI_AGENT,
        HANDSHAKE,
        replace(LATE_HANDLER, name="late-handler-z", arguments=("--compress",)),
    )
]
COMPRESSING_CLIENTS = ("websockets", "node-ws")

each_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda one: one.name)
each_client = pytest.mark.parametrize("client", COMPRESSING_CLIENTS)


@pytest.fixture
def upstream(backend: Backend, processes) -> int:
    """The port of the backend."""
    started = processes.start(backend.name, backend.command)
    return started.announcement(LISTEN_SECONDS)["port"]


@each_client
@each_backend
def test_a_thousand_compressed_messages_are_held_and_arrive_once_and_in_order(
    backend: Backend, client: str, upstream: int, start_proxy, measured
) -> None:
    port = start_proxy(backend, upstream)
    plan = backend.plan(early=EARLY, padding=PADDING)

    result = run(client, port, plan)

    delivery = Delivery.of(result)
    measured(f"{delivery.lost} of {delivery.sent} lost, {result.extensions}")
    assert errors([result]) == []
    assert is_compressed(result)
    assert delivery.perfect, delivery
    assert result.reported == result.sent
    assert answered(result, backend.answer) == result.sent
    greetings = tuple(message["type"] for message in result.received)
    assert greetings[: len(backend.greetings)] == backend.greetings


@each_client
@each_backend
def test_compressed_messages_are_delivered_by_priority(
    backend: Backend, client: str, upstream: int, start_proxy
) -> None:
    port = start_proxy(prioritised(backend), upstream)
    plan = backend.plan(kinds=KINDS, trickle_ms=0, padding=LONG_PADDING)
    held = range(plan.early)

    result = run(client, port, plan)

    assert errors([result]) == []
    assert is_compressed(result)
    if client == "websockets":
        assert NO_CLIENT_TAKEOVER in result.extensions
    assert result.reported == flush_order(held) + result.sent[plan.early :]


@pytest.mark.parametrize("backend", BACKENDS[:1], ids=lambda one: one.name)
def test_a_ready_message_that_is_kept_back_breaks_no_compressed_message_behind_it(
    backend: Backend, upstream: int, start_proxy
) -> None:
    gate = f"{backend.gate}\nforward_ready = false"
    port = start_proxy(replace(backend, gate=gate), upstream)

    extensions, first = asyncio.run(ask(port, messages=50))

    assert "server_no_context_takeover" in extensions
    assert [message["id"] for message in first] == list(range(50))
    assert {message["type"] for message in first} == {"ack"}


@pytest.mark.parametrize("backend", BACKENDS[:1], ids=lambda one: one.name)
def test_a_client_that_is_refused_sees_the_401_of_uvicorn_with_its_body(
    backend: Backend, upstream: int, start_proxy
) -> None:
    port = start_proxy(backend, upstream)

    with pytest.raises(InvalidStatus) as refused:
        asyncio.run(open_private(port, {}))
    response = refused.value.response
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert json.loads(response.body) == {"detail": "who are you?"}

    cookie = asyncio.run(open_private(port, {"authorization": "Bearer me"}))
    assert cookie == "session=1"


async def ask(port: int, messages: int) -> tuple[str, list[dict]]:
    """What was agreed on, and the backend's first answers to numbered messages."""
    async with connect(f"ws://127.0.0.1:{port}/ws", proxy=None) as socket:
        for number in range(messages):
            await socket.send(json.dumps({"type": "message", "id": number}))
        answers = [json.loads(await socket.recv()) for _ in range(messages)]
        return socket.response.headers["Sec-WebSocket-Extensions"], answers


async def open_private(port: int, headers: dict[str, str]) -> str:
    """The cookie that came with the 101."""
    url = f"ws://127.0.0.1:{port}/private"
    async with connect(url, additional_headers=headers, proxy=None) as socket:
        return socket.response.headers["set-cookie"]


def run(client: str, port: int, plan: Plan) -> Result:
    [result] = asyncio.run(CLIENTS[client](f"ws://127.0.0.1:{port}/ws", [plan]))
    return result


def is_compressed(result: Result) -> bool:
    return (result.extensions or "").startswith("permessage-deflate")
