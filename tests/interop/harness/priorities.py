"""Message rules under which a message's type, and so its id, tells its priority."""

from collections.abc import Iterable
from dataclasses import replace

from harness.backends import Backend

KINDS = ("typing", "message", "agent_request", "user_message")
"""For `Plan.kinds`, the lowest priority first: what a client sends last goes first."""
PRIORITIES = ("low", "normal", "high", "critical")
"""The priority of each kind."""

# No rule is for "message": without one, its priority is normal. The request for the
# report is low too, so that nothing which the client sent before it can come after it.
RULES = """
[[route.message]]
match = { json = { "/type" = "user_message" } }
priority = "critical"

[[route.message]]
match = { json = { "/type" = "agent_request" } }
priority = "high"

[[route.message]]
match = { json = { "/type" = ["typing", "report"] } }
priority = "low"
"""


def prioritised(backend: Backend) -> Backend:
    """The backend with these rules behind its own."""
    return replace(backend, rules=backend.rules + RULES)


def priority(id: int) -> str:
    """The priority of a message of which only the id is known."""
    return PRIORITIES[id % len(KINDS)]


def flush_order(ids: Iterable[int]) -> list[int]:
    """By priority, and within a priority as they were sent."""
    return sorted(ids, key=lambda id: (-PRIORITIES.index(priority(id)), id))
