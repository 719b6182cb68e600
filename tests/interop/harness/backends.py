"""The backends as the tests see them: how to start, gate and judge each."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from clients import Plan
from clients.conversation import Message

FOLDER = Path(__file__).parent.parent / "backends"
LATE_LISTENER_SECONDS = 1.2


@dataclass(frozen=True)
class Backend:
    """One of the programs in `backends/`."""

    name: str
    script: str
    greetings: tuple[str, ...]
    """The types of the messages that it sends by itself; the last says ready."""
    answer: str
    """The type of its answer to a message, with the message's id."""
    arguments: tuple[str, ...] = ()
    """What it is started with."""
    route: str = ""
    """Further keys of `[[route]]`, as TOML."""
    gate: str = ""
    """The keys of `[route.gate]`, as TOML."""
    rules: str = ""
    """`[[route.message]]` tables, as TOML."""
    replies: dict[str, Message] = field(default_factory=dict)
    """What a client answers to which type of message."""
    listens: bool = True
    """Whether it listens as soon as it runs."""

    @property
    def command(self) -> list[str | Path]:
        interpreter = "node" if self.script.endswith(".mjs") else sys.executable
        return [interpreter, FOLDER / self.script, *self.arguments]

    def plan(self, **changes) -> Plan:
        """What a client does with this backend."""
        return Plan(ready=self.greetings[-1], replies=self.replies, **changes)


FASTAPI_AGENT = Backend(
    name="fastapi-agent",
    script="fastapi_agent.py",
    greetings=("connection_established",),
    answer="ack",
    gate='ready = { json = { "/type" = "connection_established" } }',
)

LATE_HANDLER = Backend(
    name="late-handler",
    script="late_handler.mjs",
    greetings=("ready",),
    answer="echo",
    gate='ready = { json = { "/type" = "ready" } }',
)

HANDSHAKE = Backend(
    name="handshake",
    script="handshake.py",
    greetings=("connection_established", "handshake_response", "handshake_complete"),
    answer="ack",
    gate="""
services_ready = { json = { "/type" = "handshake_response" } }
ready = { json = { "/type" = "handshake_complete" } }
""",
    rules="""
[[route.message]]
match = { json = { "/type" = "handshake_acknowledged" } }
release = "services_ready"
""",
    replies={"handshake_response": {"type": "handshake_acknowledged"}},
)

# Ready as soon as it is connected, so the default gate is the right one.
LATE_LISTENER = Backend(
    name="late-listener",
    script="late_listener.py",
    greetings=("welcome",),
    answer="ack",
    listens=False,
)

BACKENDS = (FASTAPI_AGENT, LATE_HANDLER, HANDSHAKE, LATE_LISTENER)
