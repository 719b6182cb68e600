"""The memory cgroups that other tests rely on."""

from pathlib import Path

import pytest

import cgroups

LIMITS = {"one": 1 << 20}


def test_the_limit_is_that_of_the_cgroup() -> None:
    with cgroups.limited(LIMITS) as folder:
        assert folder
        (limit,) = [
            file.read_text()
            for _, name in cgroups.ROOTS
            if (file := folder / "one" / name).exists()
        ]

    assert int(limit) == LIMITS["one"]
    assert not folder.exists()


def test_version_2_is_told_that_memory_is_limited_below(tmp_path: Path) -> None:
    root = tmp_path / cgroups.FOR_CHILDREN
    root.write_text("cpu pids")

    cgroups.bound_children(tmp_path)

    assert root.read_text() == "+memory"


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    (tmp_path / cgroups.FOR_CHILDREN).write_text("cpu memory")

    cgroups.bound_children(tmp_path)

    assert (tmp_path / cgroups.FOR_CHILDREN).read_text() == "cpu memory"


def test_where_no_cgroup_can_be_made_the_tests_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "ROOTS", ((tmp_path / "missing", "memory.max"),))

    with pytest.raises(AssertionError, match="WITHOUT_CGROUPS"):
        with cgroups.limited(LIMITS):
            pass


def test_it_can_be_done_without_them_when_somebody_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(cgroups.DO_WITHOUT, "1")

    with cgroups.limited(LIMITS) as folder:
        assert folder is None
