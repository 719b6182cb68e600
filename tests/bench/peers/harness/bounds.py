"""The bounds of the project's design, and which of them a run has missed."""

from statistics import median
from typing import NamedTuple

from .proxies import is_ours
from .scenarios import FLUSH, HELD, IDLE

# Without a relay to compare with; those on the ratio to it are with the scenarios.
IDLE_BYTES = 2048
HELD_BYTES = 8192
LEFT = 1.20
FLUSH_US = 2000
FLUSH_WRITES = 16

RATIO = "× relay"
CALLS = "calls"
FLUSH_TIME = "µs"
WRITES = "write calls"
RESIDENT = "RSS B/session"
LEFT_OVER = "later / before"


class Figure(NamedTuple):
    """A measured figure that there is a bound for."""

    scenario: str
    proxy: str
    what: str
    value: float
    bound: float

    def __str__(self):
        return f"{self.scenario}: {self.proxy}, {self.what} {self.value:,.2f} of {self.bound:,.2f}"


def missed(results):
    """The figures of ours that are above their bounds, in the order of the report."""
    ours = (figure for figure in bounded(results) if is_ours(figure.proxy))
    return [figure for figure in ours if figure.value > figure.bound]


def bounded(results):
    """Every measured figure that there is a bound for."""
    for scenario in results.scenarios():
        for proxy in results.proxies(scenario.name):
            key = scenario.name, proxy
            ratio, calls = results.ratio(*key), results.calls.get(key)
            if scenario.bound and ratio:
                yield Figure(*key, RATIO, ratio.median, scenario.bound)
            if scenario.calls_bound and calls:
                yield Figure(*key, CALLS, calls["total"], scenario.calls_bound)
    for proxy, records in results.flushes.items():
        time = median(record["p50_us"] for record in records)
        yield Figure(FLUSH, proxy, FLUSH_TIME, time, FLUSH_US)
    for proxy, writes in results.writes.items():
        yield Figure(FLUSH, proxy, WRITES, writes, FLUSH_WRITES)
    for proxy, record in results.memory[IDLE].items():
        left = record["later"]["resident"] / record["before"]["resident"]
        yield Figure(IDLE, proxy, RESIDENT, per_session(record, "resident"), IDLE_BYTES)
        yield Figure(IDLE, proxy, LEFT_OVER, left, LEFT)
    for proxy, record in results.memory[HELD].items():
        yield Figure(HELD, proxy, RESIDENT, per_session(record, "resident"), HELD_BYTES)


def per_session(record, kind):
    """What one session adds, in bytes."""
    return (record["open"][kind] - record["before"][kind]) / record["sessions"]
