"""The example for compose: its image is built, and its services, without Docker, do what it says."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import example_image
from conftest import ROOT
from image import Buildah

FOLDER = ROOT / "deploy/compose"
SECONDS = 60
INSTALLED = re.compile(r"^RUN pip install .* (--constraint .*)$", re.MULTILINE)
PYTHON = re.compile(r"^FROM \S+/python:(\d+\.\d+)", re.MULTILINE)

# All services share one network in which their ports differ, and find each other by name.
SCRIPT = """
mount --bind "$IMAGE" "$IMAGE"
for folder in $MOUNTED; do mount --bind "$folder" "$IMAGE$folder"; done
mount --bind "$HOSTS" "$IMAGE/etc/hosts"
mount --bind "$SOURCE" "$IMAGE$TARGET"
mount -o remount,ro,bind "$IMAGE"
mount --bind "$HOSTS" /etc/hosts
ip link set lo up
"$READYGATE" --config "$FOLDER/proxy.toml" >/dev/null &
in_image() {
    exec unshare --root "$IMAGE" --wd "$WORKDIR" --setuid "$USER" --setgid "$USER" \
        env -i $ENVIRONMENT "$@"
}
(in_image $AGENT >/dev/null) &
in_image $CLIENTS
"""


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    buildah = Buildah(tmp_path_factory.mktemp("buildah"))
    yield buildah
    buildah("rm", "--all")
    buildah("rmi", "--all", "--force")


@pytest.fixture(scope="module")
def image(buildah: Buildah) -> str:
    """The image of the agent and of the clients."""
    return example_image.build(buildah)


def services() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]


def mount(files: Path) -> dict[str, str]:
    """What the clients mount into their image, in which the place of it is made."""
    (volume,) = services()["clients"]["volumes"]
    source, target, mode = volume.split(":")
    assert mode == "ro"
    (files / target.lstrip("/")).touch()
    return {"SOURCE": str(FOLDER / source), "TARGET": target}


def test_messages_are_lost_straight_and_none_through_readygate(
    tmp_path: Path, buildah: Buildah, image: str
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 agent readygate\n")
    files = buildah.mount(image)
    config = buildah.inspect(image)
    user, _ = config["User"].split(":")

    own = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]
    done = subprocess.run(
        [*own, "--mount-proc", "sh", "-eu", "-c", SCRIPT],
        env=os.environ
        | mount(files)
        | {
            "HOSTS": str(hosts),
            "FOLDER": str(FOLDER),
            "IMAGE": str(files),
            "MOUNTED": " ".join(example_image.MOUNTED),
            "WORKDIR": config["WorkingDir"],
            "USER": user,
            "ENVIRONMENT": " ".join(config["Env"]),
            "AGENT": " ".join(services()["agent"]["command"]),
            "CLIENTS": " ".join(services()["clients"]["command"]),
        },
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    straight, readygate = done.stdout.splitlines()
    assert straight.startswith("straight:") and not straight.endswith(", 0 lost")
    assert readygate.startswith("readygate:") and readygate.endswith(", 0 lost")


def test_the_packages_are_there_for_the_python_of_the_image(tmp_path: Path) -> None:
    dockerfile = example_image.DOCKERFILE.read_text()
    (version,) = PYTHON.findall(dockerfile)
    (wanted,) = INSTALLED.findall(dockerfile)

    # Whether there are such wheels; pip wants a folder, in which it puts nothing.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--quiet"),
            *("--python-version", version, "--only-binary", ":all:"),
            *("--target", tmp_path, "--ignore-installed", *wanted.split()),
        ],
        cwd=example_image.CONTEXT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert done.returncode == 0, done.stderr
