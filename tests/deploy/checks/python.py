"""Python programs, by ruff: nothing undefined, nothing unused, no syntax of a later Python."""

from pathlib import Path

from checks import programs


def problems(file: Path) -> list[str]:
    rules = ["--select=E,F,B,UP", "--line-length=100", "--target-version=py311"]
    return programs.problems("ruff", "check", "--isolated", "--no-cache", *rules, file)
