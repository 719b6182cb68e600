"""Child processes: started with their output kept, and ended by their pid."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STOP_SECONDS = 10
LOG_LINES = 200
POLL_SECONDS = 0.01


class Process:
    """A running program. What it prints and logs goes to a file."""

    def __init__(self, name: str, command: list[str | Path], log: Path) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as output:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def announcement(self, timeout: float) -> dict[str, Any]:
        """The JSON line with which a backend says that it listens."""

        def announced() -> list[str]:
            lines = self._log.read_text(errors="replace").splitlines(keepends=True)
            return [one for one in lines if one.startswith("{") and one.endswith("\n")]

        wait_until(lambda: announced() or self.exit_code() is not None, timeout)
        if not announced():
            raise AssertionError(f"{self.name} does not listen; its log:\n{self.log()}")
        return json.loads(announced()[0])

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._child.poll()

    @property
    def pid(self) -> int:
        return self._child.pid

    def whole_log(self) -> str:
        """Everything that it logged."""
        return self._log.read_text(errors="replace")

    def log(self) -> str:
        """The last lines that it logged."""
        lines = self.whole_log().splitlines()
        return "\n".join(lines[-LOG_LINES:]) or "(empty)"

    def kill(self) -> None:
        """Makes it end at once, whatever it does."""
        self._child.kill()
        self._child.wait()

    def stop(self) -> None:
        """Asks it to end, and makes it end if it does not."""
        self._child.terminate()
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


class Processes:
    """The processes of a test or of the whole run."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._started: list[Process] = []

    def start(self, name: str, command: list[str | Path]) -> Process:
        log = self._logs / f"{len(self._started):03}-{name}.log"
        process = Process(name, command, log)
        self._started.append(process)
        return process

    def named(self, name: str) -> Process:
        """The latest of this name."""
        return next(process for process in reversed(self._started) if process.name == name)

    def logs(self) -> list[tuple[str, str]]:
        """Name and log of each process."""
        return [(process.name, process.log()) for process in self._started]

    def stop(self) -> None:
        """Ends all, the last started first."""
        for process in reversed(self._started):
            process.stop()


def wait_until(condition: Callable[[], object], timeout: float) -> None:
    """Returns when `condition` holds, or after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
