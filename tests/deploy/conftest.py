"""Fixtures of all tests: what they start is stopped, and a skipped test fails the run."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.processes import Processes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """The programs that one test starts."""
    started = Processes(tmp_path)
    yield started
    started.stop()


@pytest.fixture(scope="session")
def binary() -> Path:
    """The readygate under test: a static binary."""
    assert "READYGATE" in os.environ, "READYGATE is not set; run tests/deploy/run.sh"
    return Path(os.environ["READYGATE"])


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


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skipped test proves nothing, so it fails the run."""
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) + reporter.stats.get("xfailed", [])
    if skipped and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line("FAILED: tests were skipped", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
