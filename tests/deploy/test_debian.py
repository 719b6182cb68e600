"""The Debian package: built, installed into a root of its own, removed, and purged."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from checks import programs, systemd
from conftest import ROOT

SECONDS = 120
TARGET = f"{os.uname().machine}-unknown-linux-musl"
CONFIGURATION = "etc/readygate/proxy.toml"
FILES = {
    CONFIGURATION,
    "usr/bin/readygate",
    "usr/lib/systemd/system/readygate.service",
    "usr/lib/systemd/system/readygate.socket",
    "usr/share/doc/readygate/README.md",
    "usr/share/doc/readygate/copyright",
    *(
        f"usr/share/doc/readygate/docs/{page.name}"
        for page in (ROOT / "docs").glob("*.md")
    ),
}


PACKAGED = (
    "Cargo.lock",
    "Cargo.toml",
    "README.md",
    "build.rs",
    "deploy",
    "docs",
    "proxy.toml",
    "src",
    "tests",
)
OLDER = "0.0.1"


def project(folder: Path, changed: dict[str, str]) -> Path:
    """The manifest of a copy of this project, in which files may have another text."""
    folder.mkdir()
    for name in PACKAGED:
        if name in changed:
            (folder / name).write_text(changed[name])
        else:
            (folder / name).symlink_to(ROOT / name)
    return folder / "Cargo.toml"


def build(
    manifest: Path, binary: Path, folder: Path, *options: str
) -> subprocess.CompletedProcess:
    """Packages a binary as if cargo had just built it."""
    built = folder / "target" / TARGET / "release"
    built.mkdir(parents=True)
    shutil.copy(binary, built / "readygate")
    return subprocess.run(
        [
            *(programs.installed("tools/bin/cargo-deb"), "--manifest-path", manifest),
            *("--no-build", "--no-strip", "--fast", "--target", TARGET),
            *("--output", folder / "readygate.deb", *options),
        ],
        env=os.environ | {"CARGO_TARGET_DIR": str(folder / "target")},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, binary: Path) -> Path:
    folder = tmp_path_factory.mktemp("package")
    built = build(ROOT / "Cargo.toml", binary, folder)
    assert built.returncode == 0, built.stderr
    return folder / "readygate.deb"


@pytest.fixture(scope="module")
def older_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the version before, with another program and another configuration."""
    folder = tmp_path_factory.mktemp("older")
    binary = folder / "older"
    binary.write_text("#!/bin/sh\n")
    configuration = "# older\n" + (ROOT / "proxy.toml").read_text()
    manifest = project(folder / "project", {"proxy.toml": configuration})
    built = build(manifest, binary, folder, "--deb-version", OLDER)
    assert built.returncode == 0, built.stderr
    return folder / "readygate.deb"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of a system on which only the package's dependency is installed."""
    database = tmp_path / "var/lib/dpkg"
    for folder in ("info", "updates"):
        (database / folder).mkdir(parents=True)
    (database / "status").write_text(
        "Package: init-system-helpers\nStatus: install ok installed\nVersion: 1\n"
        "Architecture: all\nMaintainer: -\nDescription: -\n\n"
    )
    return tmp_path


@pytest.fixture
def dpkg(root: Path) -> Callable[..., None]:
    def dpkg(*arguments: str | Path) -> None:
        done = subprocess.run(
            [
                "dpkg",
                f"--root={root}",
                "--force-script-chrootless",
                "--log=/dev/null",
                *arguments,
            ],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return dpkg


def present(root: Path) -> set[str]:
    """The files in a root, without the package manager's own."""
    files = {str(one.relative_to(root)) for one in root.rglob("*") if one.is_file()}
    return {one for one in files if not one.startswith("var/lib/")}


def test_what_is_installed_runs_and_is_accepted_by_systemd(
    package: Path, root: Path, dpkg: Callable[..., None]
) -> None:
    dpkg("--install", package)

    assert present(root) == FILES
    program, file = root / "usr/bin/readygate", root / CONFIGURATION
    assert programs.problems(program, "check", "--config", file) == []
    for unit in ("readygate.service", "readygate.socket"):
        assert systemd.problems(root / "usr/lib/systemd/system" / unit) == []


def test_the_units_name_files_that_the_package_installs(
    package: Path, root: Path, dpkg: Callable[..., None]
) -> None:
    dpkg("--install", package)

    unit = (root / "usr/lib/systemd/system/readygate.service").read_text()
    assert "ExecStart=/usr/bin/readygate --config /etc/readygate/proxy.toml\n" in unit


def test_removal_keeps_the_configuration_and_purging_leaves_nothing(
    package: Path, root: Path, dpkg: Callable[..., None]
) -> None:
    dpkg("--install", package)
    (root / CONFIGURATION).write_text("# mine\n")

    dpkg("--remove", "readygate")
    after_removal = present(root)
    dpkg("--purge", "readygate")

    assert after_removal - {CONFIGURATION} <= masked(root)
    assert CONFIGURATION in after_removal
    assert present(root) == set()
    assert not (root / "etc/readygate").exists()


def masked(root: Path) -> set[str]:
    """Links to /dev/null by which Debian keeps removed units from being started."""
    return {str(one.relative_to(root)) for one in (root / "etc/systemd").rglob("*")}


def test_an_upgrade_replaces_what_nobody_has_changed(
    older_package: Path,
    package: Path,
    binary: Path,
    root: Path,
    dpkg: Callable[..., None],
) -> None:
    dpkg("--install", older_package)
    before = installed_version(root), (root / CONFIGURATION).read_text()

    dpkg("--install", package)

    assert before[0] == OLDER
    assert before[1].startswith("# older\n")
    assert installed_version(root) != OLDER
    assert present(root) == FILES
    assert (root / CONFIGURATION).read_text() == (ROOT / "proxy.toml").read_text()
    assert (root / "usr/bin/readygate").read_bytes() == binary.read_bytes()


def test_an_upgrade_keeps_a_configuration_that_was_changed(
    older_package: Path, package: Path, root: Path, dpkg: Callable[..., None]
) -> None:
    dpkg("--install", older_package)
    (root / CONFIGURATION).write_text("# mine\n")

    dpkg("--force-confold", "--install", package)

    assert (root / CONFIGURATION).read_text() == "# mine\n"
    offered = root / f"{CONFIGURATION}.dpkg-dist"
    assert offered.read_text() == (ROOT / "proxy.toml").read_text()


def installed_version(root: Path) -> str:
    status = (root / "var/lib/dpkg/status").read_text()
    ours = next(one for one in status.split("\n\n") if "Package: readygate\n" in one)
    return next(
        line.removeprefix("Version: ")
        for line in ours.splitlines()
        if line.startswith("Version: ")
    )


# Lets the package's scripts ask things of a systemd that seems to run.
WITH_SYSTEMD = """
mount -t tmpfs none /run
mkdir -p /run/systemd/system
exec dpkg "$@"
"""
RECORD = '#!/bin/sh\necho "$@" >>"$ASKED"\n'


def asked_of_systemd(root: Path, folder: Path, *arguments: str | Path) -> list[str]:
    """What dpkg, with such arguments, has systemd's programs do, which only record it."""
    for name in ("systemctl", "deb-systemd-invoke", "deb-systemd-helper"):
        (folder / name).write_text(RECORD)
        (folder / name).chmod(0o755)
    asked = folder / "asked"
    options = [f"--root={root}", "--force-script-chrootless", "--log=/dev/null"]
    subprocess.run(
        [
            *("unshare", "--mount", "sh", "-euc", WITH_SYSTEMD, "dpkg"),
            *(*options, *arguments),
        ],
        env=os.environ
        | {"PATH": f"{folder}:{os.environ['PATH']}", "ASKED": str(asked)},
        timeout=SECONDS,
        check=True,
    )
    return asked.read_text().splitlines()


def test_an_upgrade_restarts_the_service_and_leaves_the_port_open(
    older_package: Path,
    package: Path,
    root: Path,
    dpkg: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    dpkg("--install", older_package)
    folder = tmp_path_factory.mktemp("programs")
    lines = asked_of_systemd(root, folder, "--install", package)

    actions = [line for line in lines if "restart" in line or "stop" in line]
    assert actions == ["try-restart readygate.service"]
    assert "--system daemon-reload" in lines


def test_removal_stops_the_service_and_closes_the_port(
    package: Path,
    root: Path,
    dpkg: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    dpkg("--install", package)

    folder = tmp_path_factory.mktemp("programs")
    lines = asked_of_systemd(root, folder, "--remove", "readygate")

    stopped = {unit for line in lines if "stop" in line for unit in line.split()[1:]}
    assert stopped == {"readygate.service", "readygate.socket"}


def test_a_package_that_names_a_file_that_is_not_there_is_not_built(
    binary: Path, tmp_path: Path
) -> None:
    wrong = (
        (ROOT / "Cargo.toml").read_text().replace('["proxy.toml",', '["proxies.toml",')
    )
    manifest = project(tmp_path / "project", {"Cargo.toml": wrong})

    built = build(manifest, binary, tmp_path)

    assert built.returncode != 0
    assert "proxies.toml" in built.stderr
