"""The example for compose: its services, without Docker, do what it says."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from conftest import ROOT

FOLDER = ROOT / "deploy/compose"
INTEROP = ROOT / "tests/interop"
SECONDS = 60

# All services share one network in which their ports differ, and find each other by name.
SCRIPT = """
mount --bind "$HOSTS" /etc/hosts
ip link set lo up
"$READYGATE" --config "$FOLDER/proxy.toml" >/dev/null &
cd "$INTEROP"
$AGENT >/dev/null &
exec $CLIENTS
"""


def command(service: str) -> str:
    """What the service runs, with this Python and the mounted file in its place."""
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    words = services[service]["command"]
    assert words[0] == "python"
    return " ".join([sys.executable, *words[1:]]).replace(
        " race.py", f" {FOLDER}/race.py"
    )


def test_messages_are_lost_straight_and_none_through_readygate(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 agent readygate\n")

    own = [
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]
    done = subprocess.run(
        [*own, "sh", "-eu", "-c", SCRIPT],
        env=os.environ
        | {
            "HOSTS": str(hosts),
            "FOLDER": str(FOLDER),
            "INTEROP": str(INTEROP),
            "PYTHONPATH": str(INTEROP),
            "AGENT": command("agent"),
            "CLIENTS": command("clients"),
        },
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    straight, readygate = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert straight.startswith("straight:") and not straight.endswith(", 0 lost")
    assert readygate.startswith("readygate:") and readygate.endswith(", 0 lost")
