"""Shell scripts, by shellcheck."""

from pathlib import Path

from checks import programs


def problems(file: Path) -> list[str]:
    return programs.problems("shellcheck", "--enable=all", file)
