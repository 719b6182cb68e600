"""Dockerfiles, by hadolint."""

from pathlib import Path

from checks import programs


def problems(file: Path) -> list[str]:
    return programs.problems("hadolint", "--no-color", file)
