"""Builds the image of the example for compose, with the Python of this machine.

In the place of Debian with Python stands an image with a virtual environment in it, and
`/usr` is this machine's, mounted, as is the folder of its Python, if that is another. So `pip`
is a real one and installs what the Dockerfile says.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from image import Buildah, base_image

CONTEXT = ROOT / "tests/interop"
DOCKERFILE = ROOT / "deploy/compose/Dockerfile"
FOLDER = "opt/python"
LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}
OF_THIS_MACHINE = ("etc/pip.conf", "etc/ssl/certs/ca-certificates.crt")
"""This machine's way to the packages."""
MOUNTED = (
    ["/usr"]
    if Path(sys.base_prefix).is_relative_to("/usr")
    else ["/usr", sys.base_prefix]
)
PIP = f'#!/bin/sh\nexec /{FOLDER}/bin/python -m pip "$@"\n'


def build(buildah: Buildah) -> str:
    """The image's id."""
    files = buildah.folder / "python"
    write_stand_in(files)
    buildah.commit(base_image(DOCKERFILE), files, path=f"/{FOLDER}/bin:/bin")
    volumes = [f"--volume={folder}:{folder}:ro" for folder in MOUNTED]
    return buildah.build_file(DOCKERFILE, CONTEXT, *volumes)


def write_stand_in(root: Path) -> None:
    for folder in MOUNTED:
        (root / folder.lstrip("/")).mkdir(parents=True)
    (root / "tmp").mkdir()
    (root / "etc").mkdir()
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
    environment = root / FOLDER
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    (environment / "bin/pip").write_text(PIP)
    for name in OF_THIS_MACHINE:
        if (Path("/") / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path("/") / name, root / name)
