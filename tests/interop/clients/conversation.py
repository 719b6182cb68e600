"""What a client says when, apart from the library that says it.

A client numbers its messages from 0 in the order in which it sends them:

* `early` messages in one go, as soon as it has its 101;
* then one every `trickle_ms`, until the backend's ready message arrives;
* then `late` messages, and a `report` request, which the backend answers with the ids
  that it has received. That answer ends the conversation.

So the numbers span the time before readiness, the flush, and the tunnel, and what was
lost, doubled or reordered is known without waiting for things that do not come. The
types of the messages go round in the order of `kinds`, so that an id tells its type.

`node_ws.mjs` is the same in JavaScript.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What one client does."""

    ready: str
    """The type of the message with which the backend says that it is ready."""
    user: str = "user"
    kinds: tuple[str, ...] = ("message",)
    """The types of the messages that the client sends: the nth has `kinds[n % len]`."""
    early: int = 20
    trickle_ms: int = 50
    """0: nothing is sent between the early messages and readiness."""
    late: int = 10
    replies: dict[str, Message] = field(default_factory=dict)
    """What is sent, beside the numbered messages, when a message of a type arrives."""
    padding: int = 0
    """How many characters each numbered message has beyond what it says."""
    deadline_s: float = 25.0


@dataclass
class Result:
    """What one client saw."""

    user: str
    sent: list[int] = field(default_factory=list)
    """The ids it sent or, if it never got its 101, those it came to send."""
    received: list[Message] = field(default_factory=list)
    """All messages that it received, in order, but for the report."""
    reported: list[int] | None = None
    """The ids that the backend received, in order."""
    opened_at: float | None = None
    """The time of the 101, in seconds since the epoch."""
    extensions: str | None = None
    """What client and server agreed on, as far as the client's library tells."""
    close_code: int | None = None
    error: str | None = None


class Conversation:
    """One client's side of a plan: messages in, messages to send out."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.result = Result(plan.user)
        self.outbox: asyncio.Queue[str] = asyncio.Queue()
        self.ready = asyncio.Event()
        self._send_numbered(plan.early)

    async def trickle(self) -> None:
        """Sends one message after the other until the backend is ready."""
        while self.plan.trickle_ms:
            await asyncio.sleep(self.plan.trickle_ms / 1000)
            if self.ready.is_set():
                return
            self._send_numbered(1)

    def receive(self, text: str) -> bool:
        """Takes a message; returns whether it was the last one."""
        message = json.loads(text)
        if message["type"] == "report":
            self.result.reported = message["received"]
            return True
        self.result.received.append(message)
        if reply := self.plan.replies.get(message["type"]):
            self._send(reply)
        if message["type"] == self.plan.ready and not self.ready.is_set():
            self.ready.set()
            self._send_numbered(self.plan.late)
            self._send({"type": "report"})
        return False

    def _send_numbered(self, count: int) -> None:
        for _ in range(count):
            number = len(self.result.sent)
            self.result.sent.append(number)
            kind = self.plan.kinds[number % len(self.plan.kinds)]
            message = {"type": kind, "id": number, "user": self.plan.user}
            if self.plan.padding:
                message["text"] = text(number, self.plan.padding)
            self._send(message)

    def _send(self, message: Message) -> None:
        self.outbox.put_nowait(json.dumps(message))


def text(number: int, length: int) -> str:
    """Something to say that is another for each number."""
    return (f"words of message {number}, " * length)[:length]


async def hold(
    conversation: Conversation,
    send: Callable[[str], Awaitable[None]],
    receive: Callable[[], Awaitable[str]],
) -> None:
    """Holds the conversation over an open connection."""
    conversation.result.opened_at = time.time()

    async def write() -> None:
        while True:
            await send(await conversation.outbox.get())

    async def read() -> None:
        while not conversation.receive(await receive()):
            pass

    background = [
        asyncio.create_task(write()),
        asyncio.create_task(conversation.trickle()),
    ]
    try:
        await read()
    finally:
        for task in background:
            task.cancel()


async def run_all(
    url: str,
    plans: list[Plan],
    connect_and_hold: Callable[[str, Conversation], Awaitable[None]],
) -> list[Result]:
    """Runs the plans at the same time, each on its own connection."""

    async def run_one(plan: Plan) -> Result:
        conversation = Conversation(plan)
        try:
            async with asyncio.timeout(plan.deadline_s):
                await connect_and_hold(url, conversation)
        except Exception as error:  # whatever a library raises is the result
            conversation.result.error = f"{type(error).__name__}: {error}"
        return conversation.result

    return list(await asyncio.gather(*map(run_one, plans)))
