"""Builds of Cloud Build, by its schema, and what they refer to."""

import re
from pathlib import Path

import yaml

from checks import programs, yaml_files
from conftest import ROOT

SCHEMA = "vendor.cloudbuild"
SUBSTITUTION = re.compile(r"\$\{?(_[A-Z_]+)")
DOCKERFILE = "--file="


def problems(file: Path) -> list[str]:
    found = yaml_files.problems(file) + programs.problems(
        "check-jsonschema", "--builtin-schema", SCHEMA, file
    )
    return found or unresolved(file) + missing(file)


def unresolved(file: Path) -> list[str]:
    """Substitutions that are used and not declared, or the other way round."""
    build = yaml.safe_load(file.read_text())
    used = set(SUBSTITUTION.findall(str(build["steps"]) + str(build["images"])))
    declared = build.get("substitutions", {}).keys()
    return [f"{one} is not declared" for one in used - declared] + [
        f"{one} is not used" for one in declared - used
    ]


def missing(file: Path) -> list[str]:
    """Dockerfiles that are not there; a build begins at the top of the repository."""
    steps = yaml.safe_load(file.read_text())["steps"]
    named = [
        one.removeprefix(DOCKERFILE)
        for step in steps
        for one in step["args"]
        if one.startswith(DOCKERFILE)
    ]
    return [f"{one} is not there" for one in named if not (ROOT / one).exists()]
