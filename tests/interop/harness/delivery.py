"""Which of a client's messages arrived, and in what order."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from clients import Result

Lane = Callable[[int], object]
"""Takes a message's id; only messages of the same lane have to keep their order."""


def single_lane(_: int) -> None:
    """All messages have to keep their order."""


@dataclass(frozen=True)
class Delivery:
    """What became of messages that were numbered in the order of sending."""

    sent: int
    lost: int
    doubled: int
    out_of_order: int

    @classmethod
    def of(cls, result: Result, lane: Lane = single_lane) -> "Delivery":
        """What the backend reported to the client, against what the client sent."""
        arrived = result.reported or []
        unknown = set(arrived) - set(result.sent)
        assert not unknown, f"the backend received ids that nobody sent: {unknown}"
        return cls(
            sent=len(result.sent),
            lost=len(set(result.sent) - set(arrived)),
            doubled=sum(times - 1 for times in Counter(arrived).values()),
            out_of_order=sum(
                later < earlier
                for one in set(map(lane, arrived))
                for earlier, later in pairwise(id for id in arrived if lane(id) == one)
            ),
        )

    @classmethod
    def total(cls, results: Iterable[Result], lane: Lane = single_lane) -> "Delivery":
        """The sums over many clients."""
        each = [cls.of(result, lane) for result in results]
        return cls(
            sent=sum(one.sent for one in each),
            lost=sum(one.lost for one in each),
            doubled=sum(one.doubled for one in each),
            out_of_order=sum(one.out_of_order for one in each),
        )

    @property
    def perfect(self) -> bool:
        """Whether every message arrived exactly once and in order."""
        return not (self.lost or self.doubled or self.out_of_order)


def answered(result: Result, *answers: str) -> list[int]:
    """The ids of the answers that the client received, in order."""
    return [message["id"] for message in result.received if message["type"] in answers]


def errors(results: Iterable[Result]) -> list[str]:
    """What went wrong for which client."""
    return [f"{result.user}: {result.error}" for result in results if result.error]
