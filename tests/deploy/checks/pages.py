"""Pages in Markdown: what they name exists."""

import re
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import observed
from checks import programs, prometheus, readygate
from conftest import ROOT
from observed import Observed

TOML = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^ *```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"""\]\(([^)\s]+)\)|\b(?:src|srcset)="([^"]+)\"""")
CODE = re.compile(r"`([^`\n]+)`")
IDENTIFIER = re.compile(r"[a-z]+(?:_[a-z0-9]+)+")
FIRST_CELL = re.compile(r"^\| ([^|]+) \|", re.MULTILINE)
METRIC = re.compile(r"`((?:readygate|process)_\w+)`")
OPTION = re.compile(r"--[a-z-]+")
COMMAND = re.compile(
    r"(?:^ *(?:sudo +)?(?:\w+=\S+ +)*readygate| /readygate|/readygate:[\w.]+) +([a-z]+)\b(.*)$",
    re.MULTILINE,
)
"""On this machine, in a container, and of an image."""
VERIFY = ROOT / "deploy/cloudrun/verify.py"
OTHER_IDENTIFIERS = {
    *("depends_on", "stop_grace_period"),
    *("client_no_context_takeover", "server_no_context_takeover"),
    *("connection_init", "handshake_complete"),
    *("epoll_wait", "internal_error", "tcp_retries2"),
    *("command_line", "log_level", "min_age"),
}
"""Keys of compose; parameters of permessage-deflate; messages of examples; names of the system
and of TLS; fields and parameters of the admin listener."""
OTHER_OPTIONS = {"--platform", "--to-latest"}
"""Those of docker and gcloud."""
CHANGES = {"/drain", "/reload"}
"""Paths that want a POST."""


def configurations(page: Path) -> list[str]:
    """Examples that are no valid configuration."""
    found = []
    for block in TOML.findall(page.read_text()):
        if "/etc/readygate/" in block:
            # Certificates are read by the check; here only their place matters.
            tomllib.loads(block)
            continue
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(block)
            file.flush()
            found += readygate.problems(Path(file.name))
    return found


def links(page: Path, folder: Path) -> list[str]:
    """Links that lead nowhere from a folder."""
    found = []
    for link in map("".join, LINK.findall(page.read_text())):
        if link.startswith(("http://", "https://")):
            continue
        path, _, section = link.partition("#")
        target = (folder / path).resolve() if path else page
        if not target.exists():
            found.append(f"{link} leads nowhere")
        elif section and section not in anchors(target):
            found.append(f"{link} is no section")
    return found


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {anchor(heading) for heading in headings}


def anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def commands(page: Path) -> list[str]:
    """Lines for a shell that are none, and commands and options that the program has not."""
    known = observed.commands()
    found = []
    for block in SHELL.findall(page.read_text()):
        found += programs.problems("bash", "-n", stdin=block)
        for command, rest in COMMAND.findall(block):
            if command not in known:
                found.append(f"there is no command {command}")
                continue
            wanted = set(OPTION.findall(rest.partition("#")[0]))
            found += [
                f"{command} has no {one}" for one in wanted - observed.options(command)
            ]
    return found


def options(page: Path) -> list[str]:
    """Options in the text that neither the program nor verify.py has."""
    named = {
        code.split()[0] for code in CODE.findall(page.read_text()) if OPTION.match(code)
    }
    return [f"nothing has {one}" for one in named - known_options()]


@cache
def known_options() -> set[str]:
    verify = set(OPTION.findall(programs.output(sys.executable, VERIFY, "--help")))
    commands = observed.commands() - {"help"}
    return verify.union(
        OTHER_OPTIONS, observed.options(), *map(observed.options, commands)
    )


def identifiers(page: Path) -> set[str]:
    return {
        word
        for code in CODE.findall(page.read_text())
        for word in IDENTIFIER.findall(code)
    }


def unknown_identifiers(page: Path, running: Observed) -> list[str]:
    """Words that are no key, no metric and no field of the log."""
    known = observed.tokens((ROOT / "proxy.toml").read_text())
    metrics = observed.tokens(running.metrics)
    # The table of metrics leaves out the prefix that all of them have.
    known |= metrics | {name.removeprefix("readygate_") for name in metrics} | fields()
    known |= observed.tokens(running.session["trail"])
    return sorted(identifiers(page) - known - OTHER_IDENTIFIERS)


@cache
def fields() -> set[str]:
    """Fields of the log's lines: tests/logs holds this page's table against the program."""
    page = (ROOT / "docs/logs.md").read_text()
    return {field for cell in FIRST_CELL.findall(page) for field in CODE.findall(cell)}


def unknown_metrics(page: Path, running: Observed) -> list[str]:
    known = prometheus.known(running.metrics)
    histograms = {
        name.removesuffix("_bucket") for name in known if name.endswith("_bucket")
    }
    named = set(METRIC.findall(page.read_text()))
    return sorted(named - known.keys() - histograms)


def unknown_paths(page: Path, running: Observed) -> list[str]:
    """Paths that the admin listener has not."""
    return [path for path in set(paths(page.read_text())) if not has(running, path)]


def paths(text: str) -> Iterator[str]:
    yield from re.findall(r"`GET (/[^\s`{]*)`", text)
    yield from re.findall(r"127\.0\.0\.1:9901(/[^\s'`<>;]*)", text)


def has(running: Observed, path: str) -> bool:
    if path == "/events":
        return True  # it has no end
    status = running.status(path.replace("/7", ""))
    return status in (200, 503) or path in CHANGES and status == 405
