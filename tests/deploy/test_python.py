"""The Python of the tests, by ruff."""

from pathlib import Path

import pytest

from checks import python
from conftest import ROOT


@pytest.mark.parametrize("folder", ("tests/bench", "tests/deploy", "tests/interop"))
def test_nothing_in_the_tests_is_undefined_or_unused(folder: str) -> None:
    assert python.mistakes(ROOT / folder) == []


@pytest.mark.parametrize("folder", ("deploy", "tests/deploy"))
def test_what_is_about_deploying_is_formatted(folder: str) -> None:
    assert python.unformatted(ROOT / folder) == []


@pytest.mark.parametrize("mistake", ("import ssl\n", "print(ssl)\n"))
def test_a_mistake_is_found(mistake: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(mistake)

    assert "`ssl`" in "\n".join(python.mistakes(tmp_path))


def test_a_file_that_is_not_formatted_is_found(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("NUMBERS = [1,2]\n")

    assert "would be reformatted" in "\n".join(python.unformatted(tmp_path))
