"""How long a drain takes, against how long a platform lets a process stop."""

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from checks import programs

DURATION = re.compile(r"(\d+)(ms|s|m|h)")
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Drain:
    """The times of a drain that matter to a platform, in seconds."""

    delay: float
    grace: float

    @classmethod
    def of(cls, file: Path) -> "Drain":
        """What a configuration says, or the defaults."""
        shown = programs.output(
            *(os.environ["READYGATE"], "config", "show", "--config", file)
        )
        drain = tomllib.loads(shown)["drain"]
        return cls(seconds(drain["delay"]), seconds(drain["grace"]))

    @property
    def longest(self) -> float:
        """From the signal until all is cut off."""
        return self.delay + self.grace


def seconds(duration: str) -> float:
    found = DURATION.fullmatch(duration)
    assert found, f"{duration} is no duration"
    return int(found[1]) * UNITS[found[2]]


def cut_short(file: Path, kills_after: float) -> list[str]:
    """The drain of a configuration may last until the process is killed."""
    longest = Drain.of(file).longest
    if longest < kills_after:
        return []
    return [
        f"a drain takes up to {longest:g} s, and after {kills_after:g} s it is killed"
    ]
