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
}


def build(manifest: Path, binary: Path, folder: Path) -> subprocess.CompletedProcess:
    """Packages the binary under test as if cargo had just built it."""
    built = folder / "target" / TARGET / "release"
    built.mkdir(parents=True)
    shutil.copy(binary, built / "readygate")
    return subprocess.run(
        [
            *(programs.installed("tools/bin/cargo-deb"), "--manifest-path", manifest),
            *("--no-build", "--no-strip", "--fast", "--target", TARGET),
            *("--output", folder / "readygate.deb"),
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


def test_an_upgrade_keeps_a_configuration_that_was_changed(
    package: Path, root: Path, dpkg: Callable[..., None]
) -> None:
    dpkg("--install", package)
    (root / CONFIGURATION).write_text("# mine\n")

    dpkg("--force-confold", "--install", package)

    assert (root / CONFIGURATION).read_text() == "# mine\n"


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
    package: Path, root: Path, dpkg: Callable[..., None], tmp_path_factory
) -> None:
    dpkg("--install", package)
    folder = tmp_path_factory.mktemp("programs")
    lines = asked_of_systemd(root, folder, "--install", package)

    actions = [line for line in lines if "restart" in line or "stop" in line]
    assert actions == ["try-restart readygate.service"]
    assert "--system daemon-reload" in lines


def test_removal_stops_the_service_and_closes_the_port(
    package: Path, root: Path, dpkg: Callable[..., None], tmp_path_factory
) -> None:
    dpkg("--install", package)

    folder = tmp_path_factory.mktemp("programs")
    lines = asked_of_systemd(root, folder, "--remove", "readygate")

    stopped = {unit for line in lines if "stop" in line for unit in line.split()[1:]}
    assert stopped == {"readygate.service", "readygate.socket"}


def test_a_package_that_names_a_file_that_is_not_there_is_not_built(
    binary: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name in (
        "src",
        "deploy",
        "tests",
        "README.md",
        "proxy.toml",
        "Cargo.lock",
        "build.rs",
    ):
        (project / name).symlink_to(ROOT / name)
    manifest = (ROOT / "Cargo.toml").read_text()
    (project / "Cargo.toml").write_text(
        manifest.replace('["proxy.toml",', '["proxies.toml",')
    )

    built = build(project / "Cargo.toml", binary, tmp_path)

    assert built.returncode != 0
    assert "proxies.toml" in built.stderr
