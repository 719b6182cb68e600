"""Builds container images with buildah, where no image can be pulled and no daemon runs.

The first stage of readygate's needs Debian, Rust and minutes. In its place, under its name,
stands an image of busybox in which `apt-get` and `rustup` note what they are asked for, and
`cargo` looks whether the real one could build, and copies the binary under test; every
instruction of the Dockerfile runs. The second stage, which is what people get, is the real one.
"""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
IGNORED = ROOT / ".dockerignore"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
BUILD_SECONDS = 120
COMMANDS = ("sh", "rm", "cp", "mkdir", "uname", "grep")
NOTE = """\
#!/bin/sh -e
echo "${0##*/} $*" >>/asked
"""
CARGO = """\
#!/bin/sh -e
fail() {
    echo "cargo: $*" >&2
    exit 1
}
target=$(uname -m)-unknown-linux-musl
[ "$*" = "build --release --locked --bin readygate --target $target" ] || fail "asked to $*"
[ "$READYGATE_COMMIT" = abcdef ] || fail "the commit is $READYGATE_COMMIT"
grep -q "^apt-get install .*musl-tools" /asked || fail "musl-tools are not installed"
grep -q "^rustup target add $target" /asked || fail "$target is not installed"
for file in .cargo/config.toml Cargo.lock Cargo.toml build.rs proxy.toml src/main.rs \\
    tests/bench/instructions.rs; do
    [ -e "$file" ] || fail "$file is not in the context"
done
for file in .git deploy target tests/deploy; do
    [ ! -e "$file" ] || fail "$file is in the context"
done
mkdir -p "target/$target/release"
cp /prebuilt "target/$target/release/readygate"
"""


@dataclass(frozen=True)
class Buildah:
    """buildah with a storage of its own."""

    folder: Path

    def __call__(self, *arguments: str | Path) -> str:
        storage = ["--storage-driver", "vfs"]
        storage += ["--root", self.folder / "root", "--runroot", self.folder / "run"]
        done = subprocess.run(
            ["buildah", *storage, *arguments],
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def stand_in(self, name: str, binary: Path) -> None:
        """The first stage's base image."""
        files = self.folder / "stand-in"
        write_stand_in(files, binary)
        self.commit(name, files, path="/bin")

    def commit(self, name: str, files: Path, path: str) -> None:
        """An image of these files, whose programs are looked for in `path`."""
        container = self("from", "scratch")
        self("copy", "--quiet", container, files, "/")
        self("config", "--env", f"PATH={path}", container)
        self("commit", "--quiet", "--rm", container, name)

    def build(
        self,
        dockerfile: Path = DOCKERFILE,
        ignored: Path = IGNORED,
        form: str = "docker",
    ) -> str:
        """The id of readygate's image. Only the form of docker has health checks."""
        said = ("COMMIT=abcdef", "SOURCE=https://git.example")
        return self.build_file(
            dockerfile,
            ROOT,
            *("--format", form, "--timestamp", "0", "--ignorefile", ignored),
            *(f"--build-arg={one}" for one in said),
        )

    def build_file(self, dockerfile: Path, context: Path, *options: str) -> str:
        """The id of the image of a Dockerfile."""
        return self(
            *("bud", "--quiet", "--pull-never", "--no-cache", "--isolation", "chroot"),
            *options,
            *("--file", dockerfile, context),
        ).splitlines()[-1]

    def inspect(self, image: str) -> dict[str, Any]:
        """What the image says about itself."""
        found = json.loads(self("inspect", "--type", "image", image))
        return found["Docker"]["config"]

    def mount(self, image: str) -> Path:
        """The folder with the files of a new container."""
        return Path(self("mount", self("from", "--pull-never", image)))


def write_stand_in(folder: Path, binary: Path) -> None:
    programs_folder = folder / "bin"
    programs_folder.mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox, "busybox is missing; run tests/deploy/run.sh"
    shutil.copy(busybox, programs_folder / "busybox")
    for command in COMMANDS:
        (programs_folder / command).symlink_to("busybox")
    for name, script in {"apt-get": NOTE, "rustup": NOTE, "cargo": CARGO}.items():
        (programs_folder / name).write_text(script)
        (programs_folder / name).chmod(0o755)
    certificates = folder / CERTIFICATES
    certificates.parent.mkdir(parents=True)
    shutil.copy(f"/{CERTIFICATES}", certificates)
    shutil.copy(binary, folder / "prebuilt")


def base_image(dockerfile: Path = DOCKERFILE) -> str:
    """The name of the first stage's base image."""
    named = re.search(r"^FROM (\S+)", dockerfile.read_text(), re.MULTILINE)
    assert named
    return named[1]


def files_in(root: Path) -> dict[str, int]:
    """Every file of an image with its size."""
    return {
        str(Path(folder, name).relative_to(root)): os.lstat(Path(folder, name)).st_size
        for folder, _, names in os.walk(root)
        for name in names
    }
