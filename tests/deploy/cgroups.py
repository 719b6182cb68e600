"""Memory cgroups for the programs of a test, of either version."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOTS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max"),
)


@contextmanager
def limited(limits: dict[str, int]) -> Iterator[Path | None]:
    """A folder with a cgroup for each limit in bytes; None where none can be made."""
    for root, file in ROOTS:
        try:
            made = make(root / f"readygate-{uuid.uuid4()}", file, limits)
        except OSError:
            continue
        try:
            yield made[0]
        finally:
            remove(made)
        return
    yield None


def make(folder: Path, file: str, limits: dict[str, int]) -> list[Path]:
    made = [folder]
    try:
        folder.mkdir()
        for name, limit in limits.items():
            (folder / name).mkdir()
            made.append(folder / name)
            (folder / name / file).write_text(str(limit))
    except OSError:
        remove(made)
        raise
    return made


def remove(cgroups: list[Path]) -> None:
    for cgroup in reversed(cgroups):
        if cgroup.exists():
            cgroup.rmdir()
