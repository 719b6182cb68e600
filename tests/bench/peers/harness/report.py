"""Tables of what was measured, in Markdown."""

from collections import defaultdict
from statistics import median

from .bounds import (
    CALLS,
    FLUSH_TIME,
    FLUSH_US,
    FLUSH_WRITES,
    HELD_BYTES,
    IDLE_BYTES,
    LEFT,
    LEFT_OVER,
    RATIO,
    RESIDENT,
    WRITES,
    missed,
    per_session,
)
from .proxies import YARDSTICK, is_copy
from .samples import means, paired_ratios, summary
from .scenarios import FLUSH, HELD, IDLE, loaded

MIB = 1024 * 1024


class Results:
    """The records of one run, by what they are about."""

    def __init__(self, records):
        self.loads = defaultdict(dict)
        self.calls = {}
        self.flushes = defaultdict(list)
        self.writes = {}
        self.memory = defaultdict(dict)
        # Why, by scenario and proxy.
        self.failures = {}
        for record in records:
            self._add(record)
        self.missed = missed(self)

    def _add(self, record):
        scenario, proxy, kind = record["scenario"], record["proxy"], record["kind"]
        if kind == "load":
            self.loads[scenario, proxy][record["round"]] = record
        elif kind == "calls":
            self.calls[scenario, proxy] = record
        elif kind == "flush":
            self.flushes[proxy].append(record)
        elif kind == "writes":
            self.writes[proxy] = record["writes"]
        elif kind == "memory":
            self.memory[scenario][proxy] = record
        elif kind == "failed":
            self.failures[scenario, proxy] = record["why"]

    def scenarios(self):
        """What was measured under load, the usual scenarios first."""
        return loaded(list(dict.fromkeys(name for name, _ in self.loads)))

    def proxies(self, scenario):
        """Who was measured in a scenario, in the order of measurement."""
        return [proxy for name, proxy in self.loads if name == scenario]

    def failed(self, scenario):
        """Who failed in a scenario before anything was measured."""
        known = {*self.proxies(scenario), *self.memory[scenario]}
        known |= {*self.flushes, *self.writes} if scenario == FLUSH else set()
        return [proxy for name, proxy in self.failures if name == scenario and proxy not in known]

    def cost(self, scenario, proxy):
        """Microseconds of CPU per message, by round."""
        rounds = self.loads.get((scenario, proxy), {})
        return {
            number: 1e6 * record["cpu_seconds"] / record["messages"]
            for number, record in rounds.items()
            if record["messages"]
        }

    def ratio(self, scenario, proxy):
        """Cost as a multiple of the relay's in the same round."""
        base = self.cost(scenario, YARDSTICK)
        return summary(paired_ratios(self.cost(scenario, proxy), base))

    def ratio_to_all(self, scenario, proxy):
        """Cost as a multiple of the mean of relay and copies in the same round.

        None without copies. One sample of the relay that is off is off in all ratios to it;
        in these it counts for less.
        """
        relays = [YARDSTICK, *filter(is_copy, self.proxies(scenario))]
        base = means([self.cost(scenario, relay) for relay in relays])
        ratios = paired_ratios(self.cost(scenario, proxy), base)
        return summary(ratios) if len(relays) > 1 else None

    def name(self, scenario, proxy):
        """The first cell of a row."""
        return f"{proxy}, **failed**" if (scenario, proxy) in self.failures else proxy

    def mark(self, text, scenario, proxy, what):
        """`text`, in bold when that figure is above its bound."""
        is_missed = any(figure[:3] == (scenario, proxy, what) for figure in self.missed)
        return f"**{text}**" if is_missed else text


def render(results, heading):
    """The whole report."""
    parts = [heading + "\n" + verdict(results), failures(results), overview(results)]
    for scenario in results.scenarios():
        parts.append(detail(results, scenario))
    if results.flushes or results.writes:
        parts.append(flushes(results))
    if results.memory[IDLE]:
        parts.append(idle(results))
    if results.memory[HELD]:
        parts.append(held(results))
    return "\n\n".join(part for part in parts if part) + "\n"


def verdict(results):
    """The bounds that are missed, as points of the heading."""
    if not results.missed:
        return "- no figure of ours is above its bound"
    figures = (f"  - {figure}" for figure in results.missed)
    return "\n".join(["- **above the bound**, and in bold below:", *figures])


def failures(results):
    """What could not be measured, and why."""
    rows = [
        # A bar would be the end of a cell.
        [scenario, proxy, why.replace("|", "\\|")]
        for (scenario, proxy), why in results.failures.items()
    ]
    return table("failed", ["scenario", "proxy", "why"], rows) if rows else ""


def table(title, columns, rows):
    """A Markdown table; the first column is text, the others are numbers."""
    rule = ["---"] + ["---:"] * (len(columns) - 1)
    lines = ["| " + " | ".join(row) + " |" for row in (columns, rule, *rows)]
    return "\n".join([f"### {title}", "", *lines])


def overview(results):
    """Every scenario with every proxy: the ratios alone."""
    names = list(dict.fromkeys(proxy for _, proxy in results.loads))
    compared = [name for name in names if name != YARDSTICK]
    if not compared or YARDSTICK not in names:
        return ""
    rows = []
    for scenario in results.scenarios():
        if costs := results.cost(scenario.name, YARDSTICK):
            cells = [compact(results, scenario.name, name) for name in compared]
            micros = f"{summary(costs.values()).median:.1f}"
            rows.append([scenario.name, micros, bound(scenario), *cells])
    title = "CPU of the proxy, as a multiple of the relay's in the same round"
    if any(map(is_copy, compared)):
        title += "; after the dot, of the mean of relay and copies"
    return table(title, ["scenario", "relay, µs", "bound", *compared], rows)


def compact(results, scenario, proxy):
    """Both ratios in one cell."""
    ratio = results.mark(spread(results.ratio(scenario, proxy), 2), scenario, proxy, RATIO)
    to_all = results.ratio_to_all(scenario, proxy)
    cell = f"{ratio} · {to_all.median:.2f}" if to_all else ratio
    return f"{cell} **failed**".strip() if (scenario, proxy) in results.failures else cell


def bound(scenario):
    return f"{scenario.bound:.2f}" if scenario.bound else ""


def detail(results, scenario):
    """One scenario with everything that was measured."""
    columns = ["proxy", f"CPU µs/{scenario.unit}", RATIO, "× relays", f"{scenario.unit}s/s"]
    columns += ["p50 µs", "p99 µs", CALLS, "core busy", "errors"]
    rows = []
    for proxy in results.proxies(scenario.name):
        key = scenario.name, proxy
        rounds = list(results.loads[key].values())
        calls = f"{results.calls[key]['total']:.2f}" if key in results.calls else ""
        rows.append([
            results.name(*key),
            spread(summary(results.cost(*key).values()), 2),
            results.mark(spread(results.ratio(*key), 2), *key, RATIO),
            spread(results.ratio_to_all(*key), 2),
            f"{median(r['messages'] / r['seconds'] for r in rounds):,.0f}",
            f"{median(r['p50_us'] for r in rounds):,.0f}",
            f"{median(r['p99_us'] for r in rounds):,.0f}",
            results.mark(calls, *key, CALLS),
            f"{median(r['cpu_seconds'] / r['seconds'] for r in rounds):.0%}",
            str(sum(r["errors"] for r in rounds)),
        ])
    rows += unmeasured(results, scenario.name, columns)
    calls_bound = f"{scenario.calls_bound:.2f}" if scenario.calls_bound else ""
    rows.append(["bound", "", bound(scenario), "", "", "", "", calls_bound, "", ""])
    return table(scenario.name, columns, rows)


def unmeasured(results, scenario, columns):
    """Rows of those that failed before anything was measured."""
    blank = [""] * (len(columns) - 1)
    return [[results.name(scenario, proxy), *blank] for proxy in results.failed(scenario)]


def spread(values, digits):
    """A summary as `median (least–most)`."""
    if values is None:
        return ""
    middle, least, most = (f"{value:.{digits}f}" for value in values)
    return f"{middle} ({least}–{most})"


def flushes(results):
    """The held messages' way to the backend."""
    columns = ["proxy", FLUSH_TIME, "worst µs", WRITES]
    rows = []
    for proxy in dict.fromkeys([*results.flushes, *results.writes]):
        records = results.flushes.get(proxy, [])
        times = spread(summary(record["p50_us"] for record in records), 0)
        worst = f"{max(record['max_us'] for record in records):.0f}" if records else ""
        writes = str(results.writes.get(proxy, ""))
        rows.append([
            results.name(FLUSH, proxy),
            results.mark(times, FLUSH, proxy, FLUSH_TIME),
            worst,
            results.mark(writes, FLUSH, proxy, WRITES),
        ])
    rows += unmeasured(results, FLUSH, columns)
    rows.append(["bound", str(FLUSH_US), "", str(FLUSH_WRITES)])
    title = "flush: 1 000 held messages of 128 B, from the ready message to the last of them"
    return table(title, columns, rows)


def idle(results):
    """Memory of idle sessions."""
    columns = ["proxy", RESIDENT, "dirty B/session", "before MiB", "open MiB"]
    columns += ["closed MiB", "later MiB", LEFT_OVER]
    rows = []
    for proxy, record in results.memory[IDLE].items():
        left = f"{record['later']['resident'] / record['before']['resident']:.2f}"
        rows.append([
            *added(results, IDLE, proxy),
            *mebibytes(record, "before", "open", "closed", "later"),
            results.mark(left, IDLE, proxy, LEFT_OVER),
        ])
    rows += unmeasured(results, IDLE, columns)
    rows.append(["bound", str(IDLE_BYTES), "", "", "", "", "", f"{LEFT:.2f}"])
    sessions = next(iter(results.memory[IDLE].values()))["sessions"]
    return table(f"idle: {sessions:,} sessions after one message of 300 B each", columns, rows)


def held(results):
    """Memory of sessions that wait."""
    columns = ["proxy", RESIDENT, "dirty B/session", "before MiB", "open MiB"]
    rows = [
        [*added(results, HELD, proxy), *mebibytes(record, "before", "open")]
        for proxy, record in results.memory[HELD].items()
    ]
    rows += unmeasured(results, HELD, columns)
    rows.append(["bound", str(HELD_BYTES), "", "", ""])
    sessions = next(iter(results.memory[HELD].values()))["sessions"]
    return table(f"held: {sessions:,} sessions that hold 1 KiB each", columns, rows)


def added(results, scenario, proxy):
    """Who, and what one session adds."""
    record = results.memory[scenario][proxy]
    resident = f"{per_session(record, 'resident'):,.0f}"
    dirty = f"{per_session(record, 'private_dirty'):,.0f}"
    marked = results.mark(resident, scenario, proxy, RESIDENT)
    return [results.name(scenario, proxy), marked, dirty]


def mebibytes(record, *steps):
    """Resident memory at these steps."""
    return [f"{record[step]['resident'] / MIB:.1f}" for step in steps]
