"""Configurations of readygate, by readygate."""

import os
from pathlib import Path

from checks import programs


def problems(file: Path) -> list[str]:
    return programs.problems(os.environ["READYGATE"], "check", "--config", file)
