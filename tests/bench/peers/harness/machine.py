"""The machine that measures, and who else was using it."""

import os
import platform
import resource
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class Others:
    """How much of the machine other programs used meanwhile."""

    def __init__(self):
        self.started = time.monotonic()
        self.busy, self.stolen = ticks()
        self.own = own_seconds()

    def shares(self):
        """Of all cores: the share that other programs used, and that the host took."""
        busy, stolen = ticks()
        available = (time.monotonic() - self.started) * os.cpu_count()
        others = (busy - self.busy) - (own_seconds() - self.own)
        return max(others, 0) / available, (stolen - self.stolen) / available


def ticks():
    """Seconds that programs have run, and that the host did not give, since the start."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, _, _, stolen = (int(field) / TICKS for field in fields[:8])
    return user + nice + system, stolen


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
