"""Python programs, by ruff: nothing undefined, nothing unused, no syntax of a later Python."""

from pathlib import Path

from checks import programs


RULES = ("--select=E,F,B,UP", "--target-version=py311")


def problems(file: Path) -> list[str]:
    """What is wrong with a program that people get."""
    return checked("--line-length=100", file)


def mistakes(folder: Path) -> list[str]:
    """The same in tests, which may have long lines."""
    return checked("--ignore=E501", folder)


def checked(*arguments: str | Path) -> list[str]:
    return programs.problems(
        "ruff", "check", "--isolated", "--no-cache", *RULES, *arguments
    )


def unformatted(folder: Path) -> list[str]:
    return programs.problems(
        "ruff", "format", "--check", "--isolated", "--no-cache", folder
    )
