"""Churn for a minute, or as long as somebody wants; then everything is as before.

Clients of several kinds come and go while their backend is killed and started again and
again, and the configuration is read again, now and then with a mistake. What the proxy says
about their messages has to agree with what they have sent and the backend has received.
Beside them others have a route and a backend of their own that nobody disturbs: these lose
nothing. When all have left the proxy has to be as small as it was: descriptors, threads,
gauges, memory.
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
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness import proxy
from harness.backends import FOLDER
from harness.books import disagreements, losses, read_notes
from harness.crowd import CALM, DISTURBED, Crowd
from harness.processes import Process, Processes, wait_until

WARM_UP_SECONDS = 10
LISTEN_SECONDS = 20
QUIET_SECONDS = 2
"""A session whose client is gone waits a second for its gate, a moment for its backend's silence,
and half a second to be closed."""
SPARE_PIPES = 8
"""How many pipes a worker keeps for large messages, two descriptors each."""
GROWTH_BYTES = 8 * 1024 * 1024
"""What allocators and tables may keep; a leak of 200 bytes a message is more in a minute."""
CONFIG = """\
[[listen]]
address = "127.0.0.1:{port}"
h2c = true

[[route]]
path = "/churn"
upstream = "http://127.0.0.1:{churning}"
hold = {{ overflow = "shed", max_messages = {max_messages}, linger = "200ms" }}
gate = {{ ready = {{ text = "ready" }}, timeout = "1s" }}
tunnel = {{ close_timeout = "500ms" }}
http = {{ hold_timeout = "1s" }}

[[route]]
path = "/calm"
upstream = "http://127.0.0.1:{calm}"
hold = {{ max_messages = 20 }}
gate = {{ ready = {{ text = "ready" }} }}
"""

SHOWN = 20
"""How many of the mistakes of a proxy that makes many."""

Metrics = dict[tuple[str, tuple], float]


class Proxy:
    """The proxy under test, whose configuration changes."""

    def __init__(self, processes: Processes, folder: Path, churning: int, calm: int) -> None:
        self._upstreams = {"churning": churning, "calm": calm}
        self.port = proxy.start_with(processes, folder, self._config)
        self._file = folder / f"proxy-{self.port}.toml"
        self.process = processes.named("readygate")

    def _config(self, port: int, max_messages: object = 50) -> str:
        return CONFIG.format(port=port, max_messages=max_messages, **self._upstreams)

    def reload(self) -> None:
        """Has another configuration read, which in one of four cases has a mistake."""
        max_messages = random.choice((30, 50, 70, '"many"'))
        self._file.write_text(self._config(self.port, max_messages))
        os.kill(self.process.pid, signal.SIGHUP)


class Backend:
    """A backend, which may be killed and comes back at the same port."""

    def __init__(self, processes: Processes, notes: Path, *options: str) -> None:
        self._processes = processes
        self.notes = notes
        self.port = proxy.free_port()
        self.kills = 0
        self._command = [sys.executable, FOLDER / "churn.py", "--port", str(self.port)]
        self._command += ["--notes", notes, *options]
        self._start()
        self._process.announcement(LISTEN_SECONDS)

    def _start(self) -> None:
        self._process = self._processes.start("churn", self._command)

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
    open_ones = total(metrics, "messages_unconfirmed") + total(metrics, "messages_held")
    assert total(metrics, "messages_accepted_total") == settled + open_ones
    back = [
        key
        for key, value in before.items()
        if key[0].endswith(("_total", "_count", "_bucket")) and metrics[key] < value
    ]
    assert back == []


async def churn(
    running: Proxy, admin: str, backend: Backend, crowd: Crowd, seconds: float
) -> None:
    """Lets clients come and go for so long."""
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

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(disturb())
        tasks.create_task(reload())
        tasks.create_task(watch())
        tasks.create_task(crowd.come_and_go(until))


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
    gauges += ("queued_messages", "messages_held", "messages_unconfirmed", "http_held_requests")
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
    backend = Backend(processes, tmp_path / "churning")
    calm = Backend(processes, tmp_path / "calm", "--calm")
    running = Proxy(processes, tmp_path, backend.port, calm.port)
    crowd = Crowd(running.port)
    asyncio.run(churn(running, admin, backend, crowd, WARM_UP_SECONDS))
    before = Footprint(admin, running.process.pid)

    asyncio.run(churn(running, admin, backend, crowd, seconds))

    after = Footprint(admin, running.process.pid)
    assert running.process.exit_code() is None
    assert "panicked" not in running.process.whole_log()
    check_messages(running.process, crowd, [backend.notes, calm.notes])
    kept = 2 * SPARE_PIPES * int(total(after.metrics, "workers"))
    assert after.files.pop("pipe", 0) <= before.files.pop("pipe", 0) + kept
    assert (after.files, after.threads) == (before.files, before.threads)
    assert after.bytes - before.bytes < GROWTH_BYTES
    check_books(after.metrics, before.metrics)
    check_log(running.process, after.metrics)
    opened = by_label(after.metrics, "handshakes_total", "result")["accepted"]
    assert opened == total(after.metrics, "sessions_ended_total")
    accepted = int(total(after.metrics, "messages_accepted_total"))
    growth = (after.bytes - before.bytes) // 1024
    reloads = by_label(after.metrics, "config_reloads_total", "result")
    assert all(reloads.values())
    measured(f"{seconds:.0f} s, {backend.kills} kills, reloads {reloads}, {dict(crowd.seen)}")
    measured(f"{accepted} messages in {opened} sessions")
    measured(f"{growth} KiB more than after the first {WARM_UP_SECONDS} s")


def check_messages(running: Process, crowd: Crowd, notes: list[Path]) -> None:
    """What clients sent and backends received is what the lines of all sessions say."""
    received = {name: got for file in notes for name, got in read_notes(file).items()}
    lines = session_lines(running)
    calm = [line for line in lines if line["path"].startswith(f"{CALM}/")]
    wrong = losses(crowd.sent, received, calm)
    wrong += disagreements(crowd.sent, received, lines) + crowd.complaints
    assert not wrong, f"{len(wrong)} times, first:\n" + "\n".join(wrong[:SHOWN])
    for kind in ("disturb", "disturb_over_http2", "be_calm", "be_calm_over_http2", "download"):
        assert crowd.seen[f"{kind}: finished"] > 0
    assert crowd.seen["download_and_leave: 200"] > 0
    # Else less would be compared than it seems.
    assert any(got.is_whole and got.numbers for name, got in received.items() if DISTURBED in name)


def session_lines(running: Process) -> list[dict[str, Any]]:
    """What it has logged about sessions that have ended."""
    lines = running.whole_log().splitlines()
    return [json.loads(one) for one in lines if '"session ended"' in one]


def check_log(running: Process, metrics: Metrics) -> None:
    """What the lines of all sessions say together is what the metrics say."""
    lines = session_lines(running)
    assert len(lines) == total(metrics, "session_duration_seconds_count")
    accepted = sum(line["accepted"] for line in lines)
    assert accepted == total(metrics, "messages_accepted_total")
    settled = by_label(metrics, "messages_settled_total", "account")
    assert {account: sum(line[account] for line in lines) for account in settled} == settled
