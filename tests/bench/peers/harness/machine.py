"""The machine that measures, and who else was using it."""

import os
import platform
import resource
import time
from pathlib import Path
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """Seconds up to some moment; but for `elapsed`, of all cores together."""

    elapsed: float
    # What cores have run, whoever for, and what the host did not give.
    busy: float
    stolen: float
    # Of that, what the benchmark and its programs have run.
    own: float


class Others:
    """How much of the machine other programs used meanwhile."""

    def __init__(self):
        self.started = usage()

    def shares(self):
        """The shares since the start, see `shares`."""
        return shares(self.started, usage(), os.cpu_count())


def shares(before, after, cores):
    """Of all cores: the share that other programs used, and that the host took.

    The first may be a little below zero, for both of its terms are counted by the kernel,
    each in its own way: one that is far below says that something is counted in one of them
    only.
    """
    available = (after.elapsed - before.elapsed) * cores
    others = (after.busy - before.busy) - (after.own - before.own)
    return others / available, (after.stolen - before.stolen) / available


def usage():
    """The seconds up to now."""
    busy, stolen = busy_and_stolen(Path("/proc/stat").read_text())
    return Usage(time.monotonic(), busy, stolen, own_seconds())


def busy_and_stolen(stat):
    """The seconds of all cores in /proc/stat: run, and not given by the host.

    Interrupts count as busy. What the network stack does for a program in a soft interrupt
    within its own call is in that program's own seconds, too.
    """
    fields = stat.splitlines()[0].split()[1:9]
    user, nice, system, _, _, irq, softirq, stolen = (int(field) / TICKS for field in fields)
    return user + nice + system + irq + softirq, stolen


def own_seconds():
    """What this program and those that it started, and that have ended, have used."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def description():
    """Cores, kernel, and the machine's load now."""
    models = (
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    model = next(models, platform.machine())
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{os.cpu_count()} × {model}, Linux {platform.release()}, load average {load}"
