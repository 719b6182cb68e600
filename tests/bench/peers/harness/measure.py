"""Measurements: each starts a backend and a proxy of its own, and returns one record."""

import contextlib
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .processes import Fleet, Load, fresh_address, memory, tree, wait_for_listener
from .proxies import OPENS_WHEN_TOLD, Proxy, running
from .scenarios import Scenario

# Memory is looked at when nothing moves any more.
SETTLE = 1.0

FLUSHED_MESSAGES = 1000
FLUSHES = 20
WRITES = {"write", "writev", "sendto", "sendmsg", "sendmmsg", "splice", "sendfile"}


@dataclass(frozen=True)
class Bench:
    """What all measurements need."""

    fleet: Fleet
    tools: Path
    directory: Path
    proxy_cpu: int
    load_cpu: int

    @contextlib.contextmanager
    def backend(self):
        """An echo backend; gives its address."""
        address = fresh_address()
        process = self.fleet.start([str(self.tools), "echo", "--listen", address], self.load_cpu)
        try:
            wait_for_listener(address, process)
            yield address
        finally:
            self.fleet.stop(process)

    @contextlib.contextmanager
    def load(self, *options):
        """The load generator."""
        load = Load(self.fleet, [str(self.tools), "load", *map(str, options)], self.load_cpu)
        try:
            yield load
        finally:
            load.end()

    @contextlib.contextmanager
    def proxy(self, proxy, backend, **values):
        """The proxy in front of `backend`; what goes wrong meanwhile names it."""
        try:
            cpu, directory = self.proxy_cpu, self.directory
            with running(self.fleet, proxy, backend, cpu, directory, **values) as running_proxy:
                yield running_proxy
        except RuntimeError as error:
            raise RuntimeError(f"{proxy.name}: {error}") from error


def cpu(bench: Bench, scenario: Scenario, proxy: Proxy, seconds: float):
    """CPU of the proxy per message, and how long messages take, under full load."""
    with bench.backend() as backend, bench.proxy(proxy, backend) as running_proxy:
        options = ["--to", running_proxy.address, "--seconds", seconds]
        options += ["--warm-up", scenario.warm_up]
        options += ["--cpu-of", ",".join(map(str, running_proxy.pids))]
        with bench.load(*scenario.load, *options) as load:
            return load.line()


def calls(bench: Bench, scenario: Scenario, proxy: Proxy):
    """System calls of the proxy per message, by name.

    The tracer slows the proxy down, so that more is ready each time it looks: this counts
    the fewest calls of `epoll_wait` that it can do with.
    """
    with bench.backend() as backend, bench.proxy(proxy, backend) as running_proxy:
        options = ["--to", running_proxy.address, "--messages", scenario.traced]
        with bench.load(*scenario.load, *options) as load:
            load.until("connected")
            with traced(running_proxy.pids) as counts:
                load.go_on()
                load.until("done")
    per_message = {name: count / scenario.traced for name, count in counts.items()}
    return {"calls": dict(sorted(per_message.items())), "total": sum(per_message.values())}


def idle(bench: Bench, proxy: Proxy, sessions: int, patience: float):
    """Memory of sessions that have had one message, and what is left when they are gone."""
    with bench.backend() as backend, bench.proxy(proxy, backend) as running_proxy:
        pids = running_proxy.pids
        options = ["--to", running_proxy.address, "--sessions", sessions, "--payload", 300]
        with bench.load("hold", *options) as load:
            record = {"sessions": sessions}
            for step in ("before", "open", "closed"):
                load.until(step)
                time.sleep(SETTLE)
                record[step] = memory(tree_of(pids))
                # After `open` it fails if the proxy has ended any of the sessions.
                load.go_on()
        time.sleep(patience)
        record["later"] = memory(tree_of(pids))
        return record


def held(bench: Bench, proxy: Proxy, sessions: int):
    """Memory of sessions that hold one message of 1 KiB."""
    with bench.backend() as backend:
        with bench.proxy(proxy, backend, READY=OPENS_WHEN_TOLD) as running_proxy:
            options = ["--to", running_proxy.address, "--sessions", sessions, "--payload", 1024]
            with bench.load("hold", "--held", *options) as load:
                record = {"sessions": sessions}
                for step in ("before", "open"):
                    load.until(step)
                    time.sleep(SETTLE)
                    record[step] = memory(tree_of(running_proxy.pids))
                    load.go_on()
                load.until("closed")
                return record


def tree_of(pids):
    """A process may have got children since."""
    return tree(pids[0])


def flush(bench: Bench, proxy: Proxy):
    """From the backend's ready message until it has the last of the held ones."""
    with flushing(bench, proxy, FLUSHED_MESSAGES, FLUSHES) as (_, load):
        return load.line()


def flush_writes(bench: Bench, proxy: Proxy):
    """System calls that write during a flush, the ready message to the client among them."""
    with flushing(bench, proxy, FLUSHED_MESSAGES, 1, "--steps") as (pids, load):
        load.until("filled")
        with traced(pids) as counts:
            load.go_on()
            load.until("flushed")
    return {"writes": sum(count for name, count in counts.items() if name in WRITES)}


@contextlib.contextmanager
def flushing(bench, proxy, messages, repeat, *options):
    """The proxy, and a load generator that is its client and its backend."""
    backend = fresh_address()
    with bench.proxy(proxy, backend, READY=OPENS_WHEN_TOLD) as running_proxy:
        options += ("--to", running_proxy.address, "--listen", backend)
        options += ("--messages", messages, "--repeat", repeat, "--payload", 128)
        with bench.load("flush", *options) as load:
            yield running_proxy.pids, load


@contextlib.contextmanager
def traced(pids):
    """Counts the system calls of processes; the result is filled in after the block."""
    counts = {}
    command = ["strace", "-c", "-f"] + [f"--attach={pid}" for pid in pids]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        attached = 0
        while attached < len(pids):
            line = tracer.stderr.readline()
            if not line:
                raise RuntimeError("strace cannot attach")
            attached += "attached" in line
        yield counts
    finally:
        tracer.terminate()
        _, output = tracer.communicate(timeout=10)
    counts.update(parse_strace(output))


def parse_strace(table):
    """The calls by name in what `strace -c` prints."""
    rows = (line.split() for line in table.splitlines())
    rows = (row for row in rows if len(row) >= 5 and row[3].isdigit())
    return {row[-1]: int(row[3]) for row in rows if row[-1] != "total"}
