"""The proxies: how each is started, and which row of the table it is."""

import contextlib
import resource
import signal
from dataclasses import dataclass, field
from pathlib import Path

from .processes import fresh_address, wait_for_listener

CONFIG = Path(__file__).parent.parent / "config"
YARDSTICK = "relay"
# The yardstick again: how far measurements of one program are apart.
COPY = "relay-copy"
OURS = "readygate"
OPENS_AT_ONCE = '{ on = "upgrade" }'
OPENS_WHEN_TOLD = '{ text = "go" }'


@dataclass(frozen=True)
class Proxy:
    """One row: a program with its tuning."""

    name: str
    # Words of the command line; @NAME@ is replaced, and @CONFIG@ is the filled-in file.
    command: tuple
    config: str = ""
    values: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    processes: int = 1
    stop: signal.Signals = signal.SIGKILL
    # Its tuning is for large messages; with small ones it would repeat another row.
    only_large: bool = False
    # It holds messages until the backend says that it is ready.
    holds: bool = False


def is_copy(row):
    """Whether the row of this name is one of the yardstick's copies."""
    return row == COPY or row.startswith(f"{COPY}-")


def is_ours(row):
    """Whether the row of this name is a build of ours, for which the bounds are."""
    return row == OURS or row.startswith(f"{OURS}-")


def all_proxies(tools, programs, readygates, copies=1):
    """Every row that can be measured, the yardstick first, then so many copies of it.

    `programs` has the paths of nginx, haproxy, envoy and caddy, as far as they are there,
    and `readygates` those of our builds by the names of their rows.
    """
    relay = (str(tools), "relay", "--listen", "@LISTEN@", "--to", "@BACKEND@")
    names = [COPY] + [f"{COPY}-{number}" for number in range(2, copies + 1)]
    rows = [
        Proxy(YARDSTICK, relay),
        *(Proxy(name, relay) for name in names[:copies]),
        Proxy("relay-splice", (*relay, "--splice"), only_large=True),
    ]
    for name, path in readygates.items():
        command = (str(path), "--config", "@CONFIG@")
        values = {"READY": OPENS_AT_ONCE}
        rows.append(Proxy(name, command, "readygate.toml", values, holds=True))
    builders = {"nginx": nginx, "haproxy": haproxy, "envoy": envoy, "caddy": caddy}
    for name, path in programs.items():
        rows += builders[name](str(path))
    return rows


def nginx(path):
    """A master and one worker; buffers as they come, or of 64 KiB."""
    command = (path, "-p", "@DIRECTORY@", "-c", "@CONFIG@")
    usual = {"processes": 2, "stop": signal.SIGTERM}
    small = {"BUFFER": "4k", "BUSY": "8k"}
    large = {"BUFFER": "64k", "BUSY": "128k"}
    return [
        Proxy("nginx", command, "nginx.conf", small, **usual),
        Proxy("nginx-64k", command, "nginx.conf", large, only_large=True, **usual),
    ]


def haproxy(path):
    """As it comes, or moving bytes through pipes in both directions."""
    command = (path, "-db", "-f", "@CONFIG@")
    copying = {"SPLICE_REQUESTS": "", "SPLICE_RESPONSES": ""}
    # `splice-auto` never finds a tunnel worth it. Pipes take descriptors from sessions.
    splicing = {
        "SPLICE_REQUESTS": "option splice-request",
        "SPLICE_RESPONSES": "option splice-response",
        "SESSIONS": "4000",
    }
    return [
        Proxy("haproxy", command, "haproxy.cfg", copying),
        Proxy("haproxy-splice", command, "haproxy.cfg", splicing, only_large=True),
    ]


def envoy(path):
    """One worker, beside the main thread."""
    options = "--concurrency 1 --disable-hot-restart --log-level error".split()
    return [Proxy("envoy", (path, "-c", "@CONFIG@", *options), "envoy.yaml")]


def caddy(path):
    """One thread that runs Go code at a time."""
    command = (path, "run", "--adapter", "caddyfile", "--config", "@CONFIG@")
    return [Proxy("caddy", command, "Caddyfile", environment={"GOMAXPROCS": "1"})]


@dataclass(frozen=True)
class Running:
    """A proxy that listens."""

    address: str
    pids: list


@contextlib.contextmanager
def running(fleet, proxy, backend, cpu, directory, **values):
    """Starts `proxy` in front of the address `backend`, and ends it after the block."""
    address = fresh_address()
    filled = fill(proxy, address, backend, directory, values)
    process = fleet.start(filled, cpu, proxy.environment)
    try:
        wait_for_listener(address, process)
        yield Running(address, process.pids(proxy.processes))
    finally:
        fleet.stop(process, proxy.stop)


def fill(proxy, listen, backend, directory, values):
    """Writes the configuration, and returns the command line."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    listen_host, listen_port = listen.split(":")
    backend_host, backend_port = backend.split(":")
    values = {
        "LISTEN": listen,
        "LISTEN_HOST": listen_host,
        "LISTEN_PORT": listen_port,
        "BACKEND": backend,
        "BACKEND_HOST": backend_host,
        "BACKEND_PORT": backend_port,
        "DIRECTORY": str(directory),
        "DESCRIPTORS": str(descriptors),
        "SESSIONS": str((descriptors - 100) // 2),
        **proxy.values,
        **values,
    }
    if proxy.config:
        path = directory / proxy.config
        path.write_text(replace((CONFIG / proxy.config).read_text(), values))
        values["CONFIG"] = str(path)
    return [replace(word, values) for word in proxy.command]


def replace(text, values):
    """Puts the values in the places of their @NAME@s."""
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
