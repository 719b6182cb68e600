"""Fixtures: backends that live as long as the run, proxies as long as a test."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import proxy
from harness.backends import FASTAPI_AGENT, HANDSHAKE, LATE_HANDLER, Backend
from harness.backends import LATE_LISTENER_SECONDS
from harness.processes import Processes

LISTEN_SECONDS = 20

StartProxy = Callable[[Backend, int], int]
"""Takes a backend and the port to reach it by; returns readygate's port."""
Remember = Callable[[str], None]

_measured: list[str] = []


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """The programs that one test starts."""
    started = Processes(tmp_path)
    yield started
    started.stop()


@pytest.fixture(scope="session")
def backend_ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """The ports of the backends that listen at once, which all tests share."""
    started = Processes(tmp_path_factory.mktemp("backends"))
    try:
        running = {
            backend.name: started.start(backend.name, backend.command)
            for backend in (FASTAPI_AGENT, LATE_HANDLER, HANDSHAKE)
        }
        yield {
            name: process.announcement(LISTEN_SECONDS)["port"]
            for name, process in running.items()
        }
    finally:
        started.stop()


@pytest.fixture
def port_of(
    backend_ports: dict[str, int], processes: Processes
) -> Callable[[Backend], int]:
    """The port of a backend, which may begin to listen only later."""

    def port_of(backend: Backend) -> int:
        if backend.listens:
            return backend_ports[backend.name]
        port = proxy.free_port()
        delay = ["--port", str(port), "--delay", str(LATE_LISTENER_SECONDS)]
        processes.start(backend.name, [*backend.command, *delay])
        return port

    return port_of


@pytest.fixture
def start_proxy(processes: Processes, tmp_path: Path) -> StartProxy:
    """Starts readygate in front of a backend."""

    def start(backend: Backend, upstream: int) -> int:
        return proxy.start_for(processes, tmp_path, backend, upstream)

    return start


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Remember:
    """Adds a line to the numbers that are printed when the run is over."""

    def remember(line: str) -> None:
        _measured.append(f"{request.node.name}: {line}")

    return remember


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "how long test_soak.py lasts (default: 60)"
    parser.addoption("--soak-seconds", type=float, default=60, help=help)


def pytest_configure() -> None:
    """Lets SIGTERM end the run as Ctrl-C does, so that no program is left behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Puts the logs of the programs that a failed test started into its report."""
    report = yield
    started = getattr(item, "funcargs", {}).get("processes")
    if report.when == "call" and report.failed and started:
        report.sections += [(f"log of {name}", log) for name, log in started.logs()]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _measured:
        terminalreporter.section("measured")
    for line in _measured:
        terminalreporter.write_line(line)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skipped test proves nothing, so it fails the run."""
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) + reporter.stats.get("xfailed", [])
    if skipped and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line("FAILED: tests were skipped", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
