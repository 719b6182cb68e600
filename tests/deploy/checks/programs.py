"""Runs the validators that are programs of their own."""

import os
import subprocess
from pathlib import Path

SECONDS = 60


def problems(*command: str | Path, stdin: str | None = None) -> list[str]:
    """What the program complains about: its output when it fails, else nothing."""
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode == 0:
        return []
    return [f"{command[0]} exited with {done.returncode}", done.stdout + done.stderr]


def installed(name: str) -> Path:
    """A file that `run.sh` has installed for the suite."""
    assert "READYGATE_DEPLOY" in os.environ, "run tests/deploy/run.sh"
    return Path(os.environ["READYGATE_DEPLOY"]) / name


def output(*command: str | Path) -> str:
    """What a program writes that must not fail."""
    return subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS, check=True
    ).stdout


def everything(*command: str | Path) -> str:
    """What a program writes and complains about, whether it fails or not."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    return done.stdout + done.stderr
