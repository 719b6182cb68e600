"""Where the image looks for its configuration, against what is mounted into it."""

import re

from conftest import ROOT

FILE = "proxy.toml"
"""What readygate reads in its working folder, if nothing else is said."""


def folder() -> str:
    """The working folder of the image."""
    dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text()
    return re.findall(r"^WORKDIR (\S+)$", dockerfile, re.MULTILINE)[-1]


def misplaced(mounted: list[str]) -> list[str]:
    """Nothing is mounted where the image looks."""
    if folder() in mounted:
        return []
    return [f"{mounted} are mounted, and not {folder()}, where the image looks"]


def misnamed(files: set[str]) -> list[str]:
    """What is mounted has another name."""
    return [] if FILE in files else [f"the image looks for {FILE}, not {sorted(files)}"]
