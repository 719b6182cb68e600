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
WANTED_BY = {
    "readygate.service": "multi-user.target",
    "readygate.socket": "sockets.target",
}
"""Who starts a unit that is enabled, with the machine."""
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
        found = [said] if said else not_enabled(root, file.name)
    if file.suffix == ".service":
        found += programs.problems(
            *("systemd-analyze", "security", "--offline=true"),
            *(f"--threshold={MAX_EXPOSURE}", file),
        )
        (stop,) = STOP.findall(file.read_text())
        found += drains.cut_short(CONFIGURATION, drains.seconds(stop))
    return found


def not_enabled(root: Path, unit: str) -> list[str]:
    """`systemctl enable` succeeds though there is nothing to do, or no such target."""
    found = programs.problems(
        "systemctl", "--no-pager", f"--root={root}", "enable", unit
    )
    folder = root / "etc/systemd/system"
    links = {str(one.relative_to(folder)) for one in folder.glob("*/*")}
    wanted = {f"{WANTED_BY[unit]}.wants/{unit}"}
    if links != wanted:
        found.append(f"enabled it is in {sorted(links)}, and not in {sorted(wanted)}")
    return found


def place(file: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, copy)
