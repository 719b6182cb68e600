"""The pages for people: what they name exists, and in a copy with a mistake it does not."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import observed
from checks import pages
from conftest import ROOT
from observed import Observed

GUIDES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / ".github/SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "deploy").rglob("*.md")),
]
PAGES = [*GUIDES, *sorted((ROOT / "tests").rglob("README.md"))]
DOCS = sorted((ROOT / "docs").glob("*.md"))
TROUBLESHOOTING = ROOT / "docs/troubleshooting.md"
TABLE = re.compile(r"^(\|.+\|)\n\|[-|]+\|\n((?:\|.+\|\n)+)", re.MULTILINE)
CODE_SPAN = re.compile(r"`[^`\n]+`")
REASON = re.compile(r'\breason="(\w+)"')


by_name = pytest.mark.parametrize(
    "page", PAGES, ids=lambda one: str(one.relative_to(ROOT))
)
guide = pytest.mark.parametrize(
    "page", GUIDES, ids=lambda one: str(one.relative_to(ROOT))
)
documentation = pytest.mark.parametrize("page", DOCS, ids=lambda one: one.name)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    with observed.running(tmp_path_factory.mktemp("observed")) as one:
        yield one


@by_name
def test_each_configuration_is_one(page: Path) -> None:
    assert pages.configurations(page) == []


@guide
def test_no_line_is_longer_than_200_characters(page: Path) -> None:
    lines = enumerate(page.read_text().splitlines(), 1)
    assert [number for number, line in lines if len(line) > 200] == []


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= 10_000


@by_name
def test_each_link_leads_somewhere(page: Path) -> None:
    assert pages.links(page, page.parent) == []


@by_name
def test_each_command_and_option_exists(page: Path) -> None:
    assert pages.commands(page) == []


@guide
def test_each_option_in_the_text_exists(page: Path) -> None:
    assert pages.options(page) == []


@by_name
def test_each_path_of_the_admin_listener_is_there(
    page: Path, running: Observed
) -> None:
    assert pages.unknown_paths(page, running) == []


@documentation
def test_each_identifier_is_a_key_a_metric_or_a_field(
    page: Path, running: Observed
) -> None:
    assert CODE_SPAN.search(page.read_text()), "a page names something"
    assert pages.unknown_identifiers(page, running) == []


@documentation
def test_each_metric_exists(page: Path, running: Observed) -> None:
    assert pages.unknown_metrics(page, running) == []


def test_the_runbook_has_the_cause_of_each_reason(running: Observed) -> None:
    assert wrong_reasons(TROUBLESHOOTING, running) == []


def wrong_reasons(page: Path, running: Observed) -> list[str]:
    """Reasons in metrics that no table of a page has, and those in tables that are none."""
    known = set(REASON.findall(running.metrics))
    column = " ".join(reason_cells(page))
    named = set(pages.CODE.findall(column))
    return [
        *(f"{one} has no cause" for one in sorted(known - observed.tokens(column))),
        *(f"{one} is no reason" for one in sorted(named - known)),
    ]


def reason_cells(page: Path) -> Iterator[str]:
    """What stands in the columns of tables that are headed `reason`."""
    for head, rows in TABLE.findall(page.read_text()):
        for row in rows.splitlines():
            for heading, cell in zip(cells(head), cells(row), strict=True):
                if heading.startswith("reason"):
                    yield cell


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_readme_says_how_large_the_image_is(binary: Path) -> None:
    (said,) = re.findall(r"an image of (\d+) MB", (ROOT / "README.md").read_text())

    # Beside its one program there are a few files of text.
    assert int(said) == round(binary.stat().st_size / 1e6)


@dataclass(frozen=True)
class Mistake:
    """A change that makes a page wrong."""

    page: str
    right: str
    wrong: str
    complaint: str


# fmt: off
MISTAKES = (
    Mistake("README.md", "readygate check ", "readygate czech ", "no command czech"),
    Mistake("README.md", 'src="docs/images/page-light.png"', 'src="docs/images/page.png"', "page.png leads nowhere"),
    Mistake("docs/gate.md", 'path = "/agent"', 'paths = "/agent"', "paths"),
    Mistake("docs/running.md", "readygate demo\n", "readygate show\n", "no command show"),
    Mistake("README.md", "(docs/platforms.md)", "(docs/platform.md)", "docs/platform.md leads nowhere"),
    Mistake("deploy/README.md", "(systemd/README.md)", "(system/README.md)", "system/README.md leads nowhere"),
    Mistake("deploy/cloudrun/README.md", "#why-readygate-must-not-wait", "#why-readygate-must-wait", "is no section"),
    Mistake("deploy/cloudrun/README.md", "readygate:0.1.0 check", "readygate:0.1.0 czech", "no command czech"),
    Mistake("deploy/cloudrun/README.md", "`--wake`", "`--awake`", "nothing has --awake"),
    Mistake("deploy/cloudrun/README.md", "'value(status.url)'", "'value(status.url)", "bash exited"),
    Mistake("deploy/kubernetes/README.md", "#nobody-is-refused", "#somebody-is-refused", "is no section"),
    Mistake("deploy/kubernetes/README.md", "`--wait`", "`--waits`", "nothing has --waits"),
    Mistake("deploy/systemd/README.md", "readygate drain --wait", "readygate drain --await", "drain has no --await"),
    Mistake("docs/platforms.md", "`max_session_age`", "`max_session_ages`", "max_session_ages"),
    Mistake("docs/platforms.md", "`max_session_age`", "`max_session_age2`", "max_session_age2"),
    Mistake("docs/troubleshooting.md", "`ready_ms`", "`ready_millis`", "ready_millis"),
    Mistake("docs/troubleshooting.md", "`readygate_worker_up`", "`readygate_worker_down`", "readygate_worker_down"),
    Mistake("docs/troubleshooting.md", "`GET /livez`", "`GET /lives`", "/lives"),
    Mistake("docs/troubleshooting.md", "9901/sessions", "9901/session", "/session"),
    Mistake("docs/troubleshooting.md", "| `silent` |", "| `refused` |", "silent has no cause"),
    Mistake("docs/troubleshooting.md", "| `lost` |", "| `lost`, `gone` |", "gone is no reason"),
)
# fmt: on


@pytest.mark.parametrize(
    "mistake", MISTAKES, ids=lambda one: f"{one.page}: {one.wrong.strip()}"
)
def test_a_copy_with_a_mistake_is_refused(
    mistake: Mistake, running: Observed, tmp_path: Path
) -> None:
    page = ROOT / mistake.page
    copy = tmp_path / "page.md"
    text = page.read_text()
    assert mistake.right in text
    copy.write_text(text.replace(mistake.right, mistake.wrong, 1))

    found = pages.configurations(copy) + pages.links(copy, page.parent)
    found += pages.commands(copy) + pages.options(copy)
    found += pages.unknown_paths(copy, running) + pages.unknown_metrics(copy, running)
    if page in DOCS:
        found += pages.unknown_identifiers(copy, running)
    if page == TROUBLESHOOTING:
        found += wrong_reasons(copy, running)

    assert mistake.complaint in "\n".join(found)


def test_each_page_of_deploy_has_a_mistake_that_is_found() -> None:
    deploy = {page for page in PAGES if page.is_relative_to(ROOT / "deploy")}

    assert deploy <= {ROOT / mistake.page for mistake in MISTAKES}


def test_the_changelog_has_the_version_that_is_built_or_what_is_unreleased() -> None:
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    headings = re.findall(
        r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )

    assert headings[0] == "Unreleased" or headings[0].startswith(version)
