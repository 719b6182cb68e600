"""Tables of what was measured, in Markdown."""

from collections import defaultdict
from statistics import median

from .proxies import YARDSTICK
from .samples import paired_ratios, summary
from .scenarios import HELD, IDLE, loaded

MIB = 1024 * 1024

# Bounds without a relay to compare with, from the project's design.
IDLE_BOUND_BYTES = 2048
HELD_BOUND_BYTES = 8192
LEFT_BOUND = 1.20
FLUSH_BOUND_US = 2000
FLUSH_BOUND_WRITES = 16


class Results:
    """The records of one run, by what they are about."""

    def __init__(self, records):
        self.loads = defaultdict(dict)
        self.calls = {}
        self.flushes = defaultdict(list)
        self.writes = {}
        self.memory = defaultdict(dict)
        for record in records:
            self._add(record)

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

    def scenarios(self):
        """What was measured under load, the usual scenarios first."""
        return loaded(list(dict.fromkeys(name for name, _ in self.loads)))

    def proxies(self, scenario):
        """Who was measured in a scenario, in the order of measurement."""
        return [proxy for name, proxy in self.loads if name == scenario]

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


def render(results, heading):
    """The whole report."""
    parts = [heading, overview(results)]
    for scenario in results.scenarios():
        if results.proxies(scenario.name):
            parts.append(detail(results, scenario))
    if results.flushes or results.writes:
        parts.append(flushes(results))
    if results.memory[IDLE]:
        parts.append(idle(results.memory[IDLE]))
    if results.memory[HELD]:
        parts.append(held(results.memory[HELD]))
    return "\n\n".join(part for part in parts if part) + "\n"


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
            cells = [spread(results.ratio(scenario.name, name), 2) for name in compared]
            micros = f"{summary(costs.values()).median:.1f}"
            rows.append([scenario.name, micros, bound(scenario), *cells])
    title = "CPU of the proxy, as a multiple of the relay's in the same round"
    return table(title, ["scenario", "relay, µs", "bound", *compared], rows)


def bound(scenario):
    return f"{scenario.bound:.2f}" if scenario.bound else ""


def detail(results, scenario):
    """One scenario with everything that was measured."""
    columns = ["proxy", f"CPU µs/{scenario.unit}", "× relay", f"{scenario.unit}s/s"]
    columns += ["p50 µs", "p99 µs", "calls", "core busy", "errors"]
    rows = []
    for proxy in results.proxies(scenario.name):
        rounds = list(results.loads[scenario.name, proxy].values())
        calls = results.calls.get((scenario.name, proxy))
        rows.append([
            proxy,
            spread(summary(results.cost(scenario.name, proxy).values()), 2),
            spread(results.ratio(scenario.name, proxy), 2),
            f"{median(r['messages'] / r['seconds'] for r in rounds):,.0f}",
            f"{median(r['p50_us'] for r in rounds):,.0f}",
            f"{median(r['p99_us'] for r in rounds):,.0f}",
            f"{calls['total']:.2f}" if calls else "",
            f"{median(r['cpu_seconds'] / r['seconds'] for r in rounds):.0%}",
            str(sum(r["errors"] for r in rounds)),
        ])
    calls_bound = f"{scenario.calls_bound:.2f}" if scenario.calls_bound else ""
    rows.append(["bound", "", bound(scenario), "", "", "", calls_bound, "", ""])
    return table(scenario.name, columns, rows)


def spread(values, digits):
    """A summary as `median (least–most)`."""
    if values is None:
        return ""
    middle, least, most = (f"{value:.{digits}f}" for value in values)
    return f"{middle} ({least}–{most})"


def flushes(results):
    """The held messages' way to the backend."""
    rows = []
    for proxy, records in results.flushes.items():
        times = summary(record["p50_us"] for record in records)
        worst = max(record["max_us"] for record in records)
        writes = results.writes.get(proxy)
        counted = "" if writes is None else str(writes)
        rows.append([proxy, spread(times, 0), f"{worst:.0f}", counted])
    rows.append(["bound", str(FLUSH_BOUND_US), "", str(FLUSH_BOUND_WRITES)])
    title = "flush: 1 000 held messages of 128 B, from the ready message to the last of them"
    return table(title, ["proxy", "µs", "worst µs", "write calls"], rows)


def idle(records):
    """Memory of idle sessions."""
    rows = []
    for proxy, record in records.items():
        before, still = record["before"]["resident"], record["later"]["resident"]
        rows.append([
            proxy,
            *per_session(record),
            *(f"{record[step]['resident'] / MIB:.1f}" for step in ("before", "open", "closed")),
            f"{still / MIB:.1f}",
            f"{still / before:.2f}",
        ])
    rows.append(["bound", str(IDLE_BOUND_BYTES), "", "", "", "", "", f"{LEFT_BOUND:.2f}"])
    sessions = next(iter(records.values()))["sessions"]
    columns = ["proxy", "RSS B/session", "dirty B/session", "before MiB", "open MiB"]
    columns += ["closed MiB", "later MiB", "later / before"]
    return table(f"idle: {sessions:,} sessions after one message of 300 B each", columns, rows)


def held(records):
    """Memory of sessions that wait."""
    rows = [
        [proxy, *per_session(record)]
        + [f"{record[step]['resident'] / MIB:.1f}" for step in ("before", "open")]
        for proxy, record in records.items()
    ]
    rows.append(["bound", str(HELD_BOUND_BYTES), "", "", ""])
    sessions = next(iter(records.values()))["sessions"]
    columns = ["proxy", "RSS B/session", "dirty B/session", "before MiB", "open MiB"]
    return table(f"held: {sessions:,} sessions that hold 1 KiB each", columns, rows)


def per_session(record):
    """What one session adds."""
    kinds = ("resident", "private_dirty")
    added = [record["open"][kind] - record["before"][kind] for kind in kinds]
    return [f"{added_bytes / record['sessions']:,.0f}" for added_bytes in added]
