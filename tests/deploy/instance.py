"""One instance of a Cloud Run service, as far as a machine without Cloud Run can have one.

From Google's pages: all containers start at the same time and share one network; PORT is set
for the ingress only, and requests come in as soon as that port is open; memory is limited for
each container and descriptors for each process; without CPU an instance stands still; at the
end SIGTERM goes to all containers, and SIGKILL 10 s later.

Containers, variables, ports and limits are those of `deploy/cloudrun/service.yaml`, and the
configuration is the file beside it. The caller has put this process into a network of its
own, where the ports of these files are free.
"""

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from conftest import ROOT

FOLDER = ROOT / "deploy/cloudrun"
DESCRIPTORS = 25_000
KILL_SECONDS = 10
MEBIBYTE = 1024 * 1024
PORTS_OPEN_SECONDS = 10


@dataclass(frozen=True)
class Container:
    """A container as `service.yaml` describes it."""

    name: str
    environment: dict[str, str]
    memory_bytes: int
    ingress_port: int | None

    @classmethod
    def of(cls, described: dict[str, Any]) -> "Container":
        memory = described["resources"]["limits"]["memory"]
        assert memory.endswith("Mi")
        environment = {one["name"]: one["value"] for one in described.get("env", [])}
        port = next((one["containerPort"] for one in described.get("ports", [])), None)
        if port:
            environment["PORT"] = str(port)
        return cls(
            name=described["name"],
            environment=environment,
            memory_bytes=int(memory.removesuffix("Mi")) * MEBIBYTE,
            ingress_port=port,
        )


def containers() -> dict[str, Container]:
    """The containers of the service, by name."""
    service = yaml.safe_load((FOLDER / "service.yaml").read_text())
    described = service["spec"]["template"]["spec"]["containers"]
    return {one["name"]: Container.of(one) for one in described}


@dataclass
class Instance:
    """What runs: one process for each container, all started at once."""

    commands: dict[str, list[str | Path]]
    cgroups: Path | None
    """The folder with a memory cgroup for each container. Without one, the data segment is
    limited instead (RLIMIT_DATA), which only the process itself notices."""
    logs: Path
    running: dict[str, subprocess.Popen] = field(default_factory=dict)
    states_without_cpu: dict[str, str] = field(default_factory=dict)
    """What the kernel said of each process while it stood still."""

    def start(self) -> None:
        for name, container in containers().items():
            with (self.logs / f"{name}.log").open("wb") as log:
                self.running[name] = subprocess.Popen(
                    self.commands[name],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # The image's folder, where the secret is mounted.
                    cwd=FOLDER,
                    env=self._environment(container),
                    preexec_fn=lambda one=container: self._limit(one),
                )

    def _environment(self, container: Container) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if name != "PORT"}
        return ours | {"K_SERVICE": "my-service"} | container.environment

    def _limit(self, container: Container) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, hard),) * 2)
        if self.cgroups:
            (self.cgroups / container.name / "cgroup.procs").write_text("0")
        else:
            resource.setrlimit(resource.RLIMIT_DATA, (container.memory_bytes,) * 2)

    async def until_requests_come_in(self) -> int:
        """The port of the ingress, once it is open: the default startup probe."""
        ports = [one.ingress_port for one in containers().values() if one.ingress_port]
        deadline = time.monotonic() + PORTS_OPEN_SECONDS
        while not is_open(ports[0]):
            assert time.monotonic() < deadline, self.log("readygate")
            await asyncio.sleep(0.005)
        return ports[0]

    async def without_cpu(self, seconds: float) -> None:
        """Stands still, as an instance does between requests."""
        self._signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self.states_without_cpu = {
            name: state(one.pid) for name, one in self.running.items()
        }
        self._signal(signal.SIGCONT)

    async def stop(self) -> dict[str, int]:
        """The exit status of each container; -9 for one that had to be killed."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + KILL_SECONDS
        while any(one.poll() is None for one in self.running.values()):
            if time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
            await asyncio.sleep(0.01)
        return {name: one.returncode for name, one in self.running.items()}

    def kill(self) -> None:
        """Leaves no process behind, whatever became of the instance."""
        for process in self.running.values():
            process.kill()
            process.wait()

    def descriptors(self) -> dict[str, int]:
        """How many each container may open, as the kernel says."""
        return {name: max_open_files(one.pid) for name, one in self.running.items()}

    def log(self, name: str) -> str:
        return (self.logs / f"{name}.log").read_text(errors="replace")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The log of a container that writes JSON."""
        return [json.loads(line) for line in self.log(name).splitlines()]

    def _signal(self, number: signal.Signals) -> None:
        for process in self.running.values():
            process.send_signal(number)


def state(pid: int) -> str:
    """The letter of a process in proc(5): T is stopped."""
    # After the name, which may have any character in it.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def max_open_files(pid: int) -> int:
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith("Max open files"):
            return int(line.split()[3])
    raise AssertionError(f"{pid} has no limit of open files")


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
