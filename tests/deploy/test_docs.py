"""The pages for people: what they name exists."""

import re
import tomllib
from pathlib import Path

import pytest

import observed
import pages
from checks import prometheus, readygate
from conftest import ROOT
from observed import Observed

PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / ".github/SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "deploy").rglob("*.md")),
    *sorted((ROOT / "tests").rglob("README.md")),
]
RUNBOOKS = sorted((ROOT / "docs").glob("*.md"))
TOML = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^ *```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
IDENTIFIER = re.compile(r"[a-z]+(?:_[a-z]+)+")
COMMAND = re.compile(r"^ *readygate +([a-z]+)\b(.*)$", re.MULTILINE)

by_name = pytest.mark.parametrize(
    "page", PAGES, ids=lambda one: str(one.relative_to(ROOT))
)
runbook = pytest.mark.parametrize("page", RUNBOOKS, ids=lambda one: one.name)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory):
    with observed.running(tmp_path_factory.mktemp("observed")) as one:
        yield one


@by_name
def test_each_configuration_is_one(page: Path, tmp_path: Path) -> None:
    for index, block in enumerate(TOML.findall(page.read_text())):
        if "/etc/readygate/" in block:
            # Certificates are read by the check; here only their place matters.
            tomllib.loads(block)
            continue
        file = tmp_path / f"{index}.toml"
        file.write_text(block)
        assert readygate.problems(file) == [], block


@by_name
def test_each_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, section = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if section:
            assert section in pages.anchors(target), link


@by_name
def test_each_command_and_option_exists(page: Path) -> None:
    known = observed.commands()
    for block in SHELL.findall(page.read_text()):
        for command, rest in COMMAND.findall(block):
            assert command in known, command
            wanted = set(re.findall(r"--[a-z-]+", rest.partition("#")[0]))
            assert wanted <= observed.options(command), (command, rest)


@runbook
def test_each_identifier_is_a_key_a_metric_or_a_field(
    page: Path, running: Observed
) -> None:
    assert identifiers(page), "a runbook names something"
    assert unknown_identifiers(page, running) == set()


def identifiers(page: Path) -> set[str]:
    return {
        word
        for code in CODE.findall(page.read_text())
        for word in IDENTIFIER.findall(code)
    }


def unknown_identifiers(page: Path, running: Observed) -> set[str]:
    known = observed.tokens((ROOT / "proxy.toml").read_text())
    known |= observed.tokens(running.metrics) | running.session.keys()
    known |= observed.tokens(running.session["trail"])
    return identifiers(page) - known - ELSEWHERE


ELSEWHERE = {"depends_on", "stop_grace_period"}
"""Keys of compose."""


@runbook
def test_each_metric_exists(page: Path, running: Observed) -> None:
    known = prometheus.known(running.metrics)
    histograms = {
        name.removesuffix("_bucket") for name in known if name.endswith("_bucket")
    }
    named = set(re.findall(r"`((?:readygate|process)_\w+)`", page.read_text()))

    assert named - known.keys() - histograms == set()


@pytest.mark.parametrize("word", ("ready_millis", "session_stated"))
def test_an_identifier_that_nothing_has_is_found(
    word: str, running: Observed, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Look at `ready_ms`, and at `{word}`.\n")

    assert unknown_identifiers(page, running) == {word}


@by_name
def test_each_path_of_the_admin_listener_is_there(
    page: Path, running: Observed
) -> None:
    text = page.read_text()
    paths = re.findall(r"`GET (/[^\s`{]*)`", text)
    paths += re.findall(r"127\.0\.0\.1:9901(/[^\s'`<>]*)", text)
    for path in paths:
        if path == "/events":
            continue  # it has no end
        status = running.status(path.replace("/7", ""))
        assert status in (200, 503) or path in CHANGES and status == 405, path


CHANGES = {"/drain", "/reload"}
"""Paths that want a POST."""


def test_the_changelog_has_the_version_that_is_built_or_what_is_unreleased() -> None:
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    headings = re.findall(
        r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )

    assert headings[0] == "Unreleased" or headings[0].startswith(version)
