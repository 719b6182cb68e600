"""Churn for a minute, or as long as somebody wants; then everything is as before.

Clients of several kinds come and go while the backend is killed and started again and
again, and the configuration is read again, now and then with a mistake. The books of the proxy have to be right all the time, and when all have left it has
to be as small as it was: descriptors, threads, gauges, memory.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from harness import proxy
from harness.backends import FOLDER
from harness.processes import Process, Processes, wait_until

CLIENTS = 60
WARM_UP_SECONDS = 10
QUIET_SECONDS = 20
SPARE_PIPES = 8
"""How many pipes a worker keeps for large messages, two descriptors each."""
GROWTH_BYTES = 8 * 1024 * 1024
"""What allocators and tables may keep; a leak of 200 bytes a message is more in a minute."""
CONFIG = """\
listen = "127.0.0.1:{port}"

[[route]]
upstream = "http://127.0.0.1:{upstream}"
hold = {{ overflow = "shed", max_messages = {max_messages} }}
gate = {{ ready = {{ text = "ready" }}, timeout = "2s" }}
"""

Metrics = dict[tuple[str, tuple], float]


class Proxy:
    """The proxy under test, whose configuration changes."""

    def __init__(self, processes: Processes, folder: Path, upstream: int) -> None:
        self._upstream = upstream
        self.port = proxy.start_with(processes, folder, self._config)
        self._file = folder / f"proxy-{self.port}.toml"
        self.process = processes.named("readygate")

    def _config(self, port: int, max_messages: object = 50) -> str:
        return CONFIG.format(port=port, upstream=self._upstream, max_messages=max_messages)

    def reload(self) -> None:
        """Has another configuration read, which in one of four cases has a mistake."""
        max_messages = random.choice((30, 50, 70, '"many"'))
        self._file.write_text(self._config(self.port, max_messages))
        os.kill(self.process.pid, signal.SIGHUP)


class Backend:
    """A backend that is killed and comes back at the same port."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self.port = proxy.free_port()
        self.kills = 0
        self._start()

    def _start(self) -> None:
        command = [sys.executable, FOLDER / "churn.py", "--port", str(self.port)]
        self._process = self._processes.start("churn", command)

    async def restart(self) -> None:
        """Kills it, so that its connections end anyhow, and starts it a moment later."""
        self._process.kill()
        self.kills += 1
        await asyncio.sleep(random.uniform(0, 1))
        self._start()


def scrape(admin: str) -> Metrics:
    """Every sample, by name and labels."""
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def total(metrics: Metrics, name: str) -> float:
    """The sum over all labels."""
    return sum(value for (known, _), value in metrics.items() if known == f"readygate_{name}")


def by_label(metrics: Metrics, name: str, label: str) -> Counter:
    """The sums by the values of one label."""
    sums: Counter = Counter()
    for (known, labels), value in metrics.items():
        if known == f"readygate_{name}":
            sums[dict(labels)[label]] += int(value)
    return sums


def check_books(metrics: Metrics, before: Metrics) -> None:
    """Every accepted message is in one account, and no counter has gone back."""
    settled = total(metrics, "messages_settled_total")
    held = total(metrics, "messages_held")
    assert total(metrics, "messages_accepted_total") == settled + held
    back = [
        key
        for key, value in before.items()
        if key[0].endswith(("_total", "_count", "_bucket")) and metrics[key] < value
    ]
    assert back == []


async def talk(client: ClientConnection) -> None:
    """Sends at once, and reads what comes as fast as it comes."""
    for number in range(random.randint(1, 40)):
        await client.send(f"{number}" * random.randint(1, 200))
    async with asyncio.timeout(random.uniform(0, 3)):
        async for _ in client:
            pass


async def read_slowly(client: ClientConnection) -> None:
    """Lets megabytes pile up on the way back."""
    for _ in range(40):
        await client.send("x" * 50_000)
        await asyncio.sleep(0.01)
    for _ in range(10):
        await client.recv()
        await asyncio.sleep(random.uniform(0, 0.2))


async def vanish(client: ClientConnection) -> None:
    """Is gone without a word, in the middle of whatever."""
    for _ in range(random.randint(0, 20)):
        await client.send("gone")
    await asyncio.sleep(random.uniform(0, 1))
    client.transport.abort()


async def overflow(client: ClientConnection) -> None:
    """Sends more than may be held."""
    for _ in range(120):
        await client.send("much")
    await client.recv()


async def be_a_client(url: str, until: float, seen: Counter) -> None:
    while time.monotonic() < until:
        behave = random.choices((talk, read_slowly, vanish, overflow), (6, 1, 2, 1))[0]
        try:
            async with connect(url, max_queue=1, close_timeout=1, proxy=None) as client:
                await behave(client)
                seen["finished"] += 1
        except (ConnectionClosed, TimeoutError) as end:
            seen[type(end).__name__] += 1
        except (OSError, InvalidHandshake, EOFError) as refusal:
            seen[f"no session: {type(refusal).__name__}"] += 1
            await asyncio.sleep(0.05)


async def churn(running: Proxy, admin: str, backend: Backend, seconds: float) -> Counter:
    """Lets clients come and go for so long; what became of them."""
    seen: Counter = Counter()
    until = time.monotonic() + seconds

    async def disturb() -> None:
        while time.monotonic() < until - 2:
            await asyncio.sleep(random.uniform(0.5, 4))
            await backend.restart()

    async def reload() -> None:
        while time.monotonic() < until:
            await asyncio.sleep(random.uniform(0.2, 2))
            running.reload()

    async def watch() -> None:
        before = await asyncio.to_thread(scrape, admin)
        while time.monotonic() < until:
            await asyncio.sleep(1)
            now = await asyncio.to_thread(scrape, admin)
            check_books(now, before)
            before = now
            seen["scrapes"] += 1

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(disturb())
        tasks.create_task(reload())
        tasks.create_task(watch())
        for _ in range(CLIENTS):
            tasks.create_task(be_a_client(f"ws://127.0.0.1:{running.port}/", until, seen))
    return seen


class Footprint:
    """What the process has of the machine, and what is open in it, when nobody is there."""

    def __init__(self, admin: str, pid: int) -> None:
        wait_until(lambda: not _is_busy(scrape(admin)), QUIET_SECONDS)
        self.metrics = scrape(admin)
        assert not _is_busy(self.metrics)
        # The connection of the scrape itself is closed a moment after its answer.
        wait_until(lambda: _has_settled(pid), QUIET_SECONDS)
        self.files = _files(pid)
        process = Path("/proc") / str(pid)
        self.threads = len(list((process / "task").iterdir()))
        self.bytes = int((process / "statm").read_text().split()[1]) * 4096


def _has_settled(pid: int) -> bool:
    before = _files(pid)
    time.sleep(1)
    return _files(pid) == before


def _files(pid: int) -> Counter:
    """How many descriptors there are of which kind: without the numbers of sockets."""
    kinds: Counter = Counter()
    for descriptor in (Path("/proc") / str(pid) / "fd").iterdir():
        try:
            kinds[os.readlink(descriptor).split(":[")[0]] += 1
        except FileNotFoundError:
            pass  # closed meanwhile
    return kinds


def _is_busy(metrics: Metrics) -> bool:
    gauges = ("sessions", "connections", "held_bytes", "session_held_bytes")
    gauges += ("queued_messages", "messages_held", "http_held_requests")
    return any(total(metrics, gauge) for gauge in gauges)


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    address = f"127.0.0.1:{proxy.free_port()}"
    monkeypatch.setattr(proxy, "ADMIN", address)
    yield address


def test_after_churn_everything_is_as_before(
    processes, tmp_path: Path, admin: str, measured, request: pytest.FixtureRequest
) -> None:
    seconds = request.config.getoption("--soak-seconds")
    backend = Backend(processes)
    running = Proxy(processes, tmp_path, backend.port)
    asyncio.run(churn(running, admin, backend, WARM_UP_SECONDS))
    before = Footprint(admin, running.process.pid)

    seen = asyncio.run(churn(running, admin, backend, seconds))

    after = Footprint(admin, running.process.pid)
    assert running.process.exit_code() is None
    kept = 2 * SPARE_PIPES * int(total(after.metrics, "workers"))
    assert after.files.pop("pipe", 0) <= before.files.pop("pipe", 0) + kept
    assert (after.files, after.threads) == (before.files, before.threads)
    assert after.bytes - before.bytes < GROWTH_BYTES
    check_books(after.metrics, before.metrics)
    check_log(running.process, after.metrics)
    accepted = int(total(after.metrics, "messages_accepted_total"))
    growth = (after.bytes - before.bytes) // 1024
    reloads = by_label(after.metrics, "config_reloads_total", "result")
    assert all(reloads.values())
    measured(f"{seconds:.0f} s, {backend.kills} kills, reloads {reloads}, {dict(seen)}")
    measured(f"{accepted} messages, {growth} KiB more than after the first {WARM_UP_SECONDS} s")
    assert seen["finished"] > 0 and accepted > 0


def check_log(running: Process, metrics: Metrics) -> None:
    """What the lines of all sessions say together is what the metrics say."""
    lines = [json.loads(one) for one in running.whole_log().splitlines() if '"session ended"' in one]
    assert not any("panicked" in one for one in running.whole_log().splitlines())
    assert len(lines) == total(metrics, "session_duration_seconds_count")
    accepted = sum(line["accepted"] for line in lines)
    assert accepted == total(metrics, "messages_accepted_total")
    settled = by_label(metrics, "messages_settled_total", "account")
    assert {account: sum(line[account] for line in lines) for account in settled} == settled
