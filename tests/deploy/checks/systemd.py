"""systemd's units, by systemd, in a root of their own with the programs that they name."""

import re
import shutil
import tempfile
from pathlib import Path

from checks import drains, programs
from conftest import ROOT

UNITS = Path("/lib/systemd/system")
PROGRAM = re.compile(r"^Exec\w+=(/\S+)", re.MULTILINE)
STOP = re.compile(r"^TimeoutStopSec=(\S+)$", re.MULTILINE)
CONFIGURATION = ROOT / "proxy.toml"
"""What the package installs."""
MAX_EXPOSURE = "20"
"""Ten times what `systemd-analyze security` shows."""


def problems(file: Path) -> list[str]:
    """Everything that `verify` says: it calls much of it a warning and succeeds."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for unit in UNITS.glob("*.target"):
            place(unit, root / "usr/lib/systemd/system" / unit.name)
        for unit in file.parent.glob("readygate.*"):
            place(unit, root / "etc/systemd/system" / unit.name)
            for program in PROGRAM.findall(unit.read_text()):
                place(Path("/bin/true"), root / program.lstrip("/"))
        said = programs.everything(
            "systemd-analyze",
            "verify",
            "--man=no",
            f"--root={root}",
            root / "etc/systemd/system" / file.name,
        )
        found = [said] if said else []
    if file.suffix == ".service":
        found += programs.problems(
            *("systemd-analyze", "security", "--offline=true"),
            *(f"--threshold={MAX_EXPOSURE}", file),
        )
        (stop,) = STOP.findall(file.read_text())
        found += drains.cut_short(CONFIGURATION, drains.seconds(stop))
    return found


def place(file: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, copy)
