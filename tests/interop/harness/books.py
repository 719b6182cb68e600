"""Double entry: what clients sent and a backend received, beside what the proxy says.

The proxy's accounts always add up, for what is left at the end of a session is discarded or
unknown: only who sent and who received know whether they are true.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

ACCOUNTS = ("delivered", "shed", "expired", "discarded", "unknown")


@dataclass
class Received:
    """What the backend noted of one session."""

    numbers: list[int] = field(default_factory=list)
    is_whole: bool = False
    """Whether it has read everything, up to the proxy's close frame."""


def read_notes(file: Path) -> dict[str, Received]:
    """The notes of `backends/churn.py`, by session."""
    sessions: dict[str, Received] = {}
    for line in file.read_text().splitlines():
        name, what = line.split(" ")
        session = sessions.setdefault(name, Received())
        # The proxy connects again when a connection is lost before anything was said.
        session.is_whole = what == "end"
        if what not in ("begin", "end"):
            session.numbers.append(int(what))
    return sessions


def disagreements(
    sent: Counter[str], received: dict[str, Received], lines: Iterable[dict[str, Any]]
) -> list[str]:
    """What the proxy's lines about sessions that have ended say wrongly.

    `sent` is how many messages, numbered from 0, clients have begun to send, by session.
    """
    lines = list(lines)
    names = Counter(line["path"] for line in lines)
    wrong = [f"{name}: {count} lines" for name, count in names.items() if count > 1]
    unknown = (received.keys() | sent.keys()) - names.keys()
    wrong += [f"{name}: no line" for name in sorted(unknown)]
    for line in lines:
        name = line["path"]
        got = received.get(name, Received())
        facts = f"sent {sent[name]}, received {len(got.numbers)}, " + ", ".join(
            f"{account} {line[account]}" for account in ("accepted", *ACCOUNTS)
        )
        wrong += [f"{name}: {what} ({facts})" for what in _wrong(sent[name], got, line)]
    return wrong


def _wrong(sent: int, received: Received, line: dict[str, Any]) -> Iterator[str]:
    numbers = received.numbers
    if line["accepted"] != sum(line[account] for account in ACCOUNTS):
        yield "the accounts do not add up"
    if line["accepted"] > sent:
        yield "more was accepted than sent"
    if any(number >= sent for number in numbers):
        yield "what was not sent was received"
    if any(after <= before for before, after in pairwise(numbers)):
        yield "what was received was doubled or out of order"
    if len(numbers) > line["delivered"] + line["unknown"]:
        yield "more was received than is delivered or unknown"
    # A backend that answers what it reads one by one confirms what it has not read yet.
    if received.is_whole and len(numbers) < line["delivered"]:
        yield "less was received than is delivered"
    if received.is_whole and line.get("ready_ms") is not None and line["discarded"]:
        yield "what a ready backend would have read was discarded"


def losses(
    sent: Counter[str], received: dict[str, Received], lines: Iterable[dict[str, Any]]
) -> list[str]:
    """What is missing of sessions that nobody disturbed: they lose nothing at all."""
    wrong = []
    for line in lines:
        name = line["path"]
        count = sent[name]
        got = received.get(name, Received())
        if got.numbers != list(range(count)):
            missing = sorted(set(range(count)) - set(got.numbers))
            wrong.append(f"{name}: of {count} {len(got.numbers)} were received, without {missing}")
        accounts = {account: line[account] for account in ACCOUNTS if line[account]}
        expected = {"delivered": count} if count else {}
        if line["accepted"] != count or accounts != expected:
            wrong.append(f"{name}: of {count} {line['accepted']} were accepted, {accounts}")
    return wrong
