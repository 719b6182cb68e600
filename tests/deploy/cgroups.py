"""Memory cgroups for the programs of a test, of either version."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOTS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max"),
)
FOR_CHILDREN = "cgroup.subtree_control"
"""Of version 2 only: which bounds the cgroups below may have."""
DO_WITHOUT = "WITHOUT_CGROUPS"
"""Set in the environment, it lets the tests run where no cgroup can be made."""


@contextmanager
def limited(limits: dict[str, int]) -> Iterator[Path | None]:
    """A folder with a cgroup for each limit in bytes; None if one is to do without."""
    made = None if DO_WITHOUT in os.environ else first_made(limits)
    try:
        yield made and made[0]
    finally:
        remove(made or [])


def first_made(limits: dict[str, int]) -> list[Path]:
    failures = []
    for root, file in ROOTS:
        try:
            return make(root / f"readygate-{uuid.uuid4()}", file, limits)
        except OSError as error:
            failures.append(str(error))
    raise AssertionError(
        f"no memory cgroup: {'; '.join(failures)}. To test without, set {DO_WITHOUT}=1"
    )


def make(folder: Path, file: str, limits: dict[str, int]) -> list[Path]:
    made = [folder]
    try:
        bound_children(folder.parent)
        folder.mkdir()
        bound_children(folder)
        for name, limit in limits.items():
            (folder / name).mkdir()
            made.append(folder / name)
            (folder / name / file).write_text(str(limit))
    except OSError:
        remove(made)
        raise
    return made


def bound_children(cgroup: Path) -> None:
    """Lets the memory of cgroups below be limited, which version 2 does not by itself."""
    file = cgroup / FOR_CHILDREN
    if file.exists() and "memory" not in file.read_text().split():
        file.write_text("+memory")


def remove(cgroups: list[Path]) -> None:
    for cgroup in reversed(cgroups):
        if cgroup.exists():
            cgroup.rmdir()
