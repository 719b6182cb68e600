"""Programs that this benchmark starts, and what /proc says about them.

Every process is started through a Fleet, which ends all of them, whatever happens, and
nothing else.
"""

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import time
from pathlib import Path

START_TIMEOUT = 15.0
STOP_TIMEOUT = 3.0


def fresh_address():
    """A loopback address that nothing has used, as `IP:PORT`.

    Linux remembers for each pair of addresses how TCP fared between them, and begins new
    connections with that. On addresses of its own a measurement does not inherit from the
    one before. The port is below those that the kernel gives to outgoing connections.
    """
    high, middle, low = (random.randrange(1, 255) for _ in range(3))
    return f"127.{high}.{middle}.{low}:{random.randrange(15000, 30000)}"


def wait_for_listener(address, process):
    """Until somebody listens; fails when `process` has ended."""
    host, port = address.split(":")
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if (status := process.popen.poll()) is not None:
            raise RuntimeError(process.ending(status))
        with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
            return
        time.sleep(0.01)
    raise RuntimeError(f"{process.name} does not listen on {address}")


class Process:
    """One running process and its descendants."""

    def __init__(self, name, popen, logged):
        self.name = name
        self.popen = popen
        self.descendants = {}
        self._logged = logged

    def ending(self, status):
        """That it has ended, and the last that was logged since it was started."""
        lines = self._logged().splitlines()
        words = f": {lines[-1].strip()}" if lines else ""
        return f"{self.name} ended with status {status}{words}"

    def pids(self, at_least=1):
        """Its process ids, descendants included, once there are enough of them."""
        deadline = time.monotonic() + START_TIMEOUT
        while len(pids := tree(self.popen.pid)) < at_least:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} has only the processes {pids}")
            time.sleep(0.01)
        self.descendants = {pid: start_time(pid) for pid in pids[1:]}
        return pids

    def stop(self, first=signal.SIGTERM):
        """Ends it: asks, waits, kills; then what it may have left behind."""
        for number in (first, signal.SIGKILL):
            if self.popen.poll() is None:
                self.popen.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.popen.wait(STOP_TIMEOUT)
        for pid, started in self.descendants.items():
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                if start_time(pid) == started:
                    os.kill(pid, signal.SIGKILL)
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream:
                # A pipe whose reader is gone cannot be flushed.
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class Fleet(contextlib.AbstractContextManager):
    """Starts processes, and ends them all when the block does."""

    def __init__(self, log):
        self.log = log
        self.running = []

    def __exit__(self, *_):
        while self.running:
            self.running.pop().stop()

    def start(self, command, cpu, environment=None, **pipes):
        """Starts `command` on one core. Its errors go to the log."""
        log, start = Path(self.log.name), Path(self.log.name).stat().st_size
        popen = subprocess.Popen(
            # A process whose starter was killed ends, too.
            ["setpriv", "--pdeathsig", "TERM", "taskset", "--cpu-list", str(cpu), *command],
            stdin=pipes.get("stdin", subprocess.DEVNULL),
            stdout=pipes.get("stdout", self.log),
            stderr=pipes.get("stderr", self.log),
            env=os.environ | (environment or {}),
            text=True,
        )
        words = itertools.takewhile(lambda word: not word.startswith("-"), command[1:])
        name = " ".join([Path(command[0]).name, *words])
        process = Process(name, popen, lambda: log.read_bytes()[start:].decode(errors="replace"))
        self.running.append(process)
        return process

    def stop(self, process, first=signal.SIGTERM):
        """Ends one process before the block does."""
        self.running.remove(process)
        process.stop(first)


class Load:
    """The load generator while it runs: it reports steps, and waits to go on."""

    def __init__(self, fleet, command, cpu):
        self.fleet = fleet
        self.process = fleet.start(
            command, cpu, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def line(self):
        """The next thing it says."""
        line = self.process.popen.stdout.readline()
        if not line:
            raise RuntimeError(self.process.ending(self.process.popen.wait()))
        return json.loads(line)

    def until(self, step):
        """Waits until it has come to `step`; returns what it said before, if anything."""
        said = None
        while (line := self.line()) != {"step": step}:
            said = line
        return said

    def go_on(self):
        """Lets it go on to the next step."""
        self.process.popen.stdin.write("\n")
        self.process.popen.stdin.flush()

    def end(self):
        """Ends it, whatever it does."""
        self.fleet.stop(self.process, signal.SIGKILL)


def tree(pid):
    """`pid` and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid] + [below for child in children for below in tree(int(child))]


def start_time(pid):
    """When a process started, which tells it from a later one with the same id."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]


def memory(pids):
    """Resident and private dirty bytes of processes."""
    resident = dirty = 0
    for pid in pids:
        fields = dict(
            line.split(":", 1)
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        )
        resident += int(fields["Rss"].split()[0]) * 1024
        dirty += int(fields["Private_Dirty"].split()[0]) * 1024
    return {"resident": resident, "private_dirty": dirty}
