"""Compose files, by the schema of the specification, and what they refer to."""

from pathlib import Path

import yaml

from checks import drains, mounts, programs, yaml_files

SCHEMA = "vendor.compose-spec"


def problems(file: Path) -> list[str]:
    found = yaml_files.problems(file) + programs.problems(
        "check-jsonschema", "--builtin-schema", SCHEMA, file
    )
    return found or missing(file) + unmounted(file) + hurried(file)


def missing(file: Path) -> list[str]:
    """Files and services that it names and that are not there."""
    services = yaml.safe_load(file.read_text())["services"]
    found = []
    for name, service in services.items():
        context = file.parent / service["build"]["context"]
        named = [context / service["build"]["dockerfile"]]
        named += [file.parent / one.split(":")[0] for one in service.get("volumes", [])]
        found += [f"{name}: {one} is not there" for one in named if not one.exists()]
        found += [
            f"{name}: there is no service {one}"
            for one in service.get("depends_on", [])
            if one not in services
        ]
    return found


def unmounted(file: Path) -> list[str]:
    """readygate has to find its configuration."""
    service = yaml.safe_load(file.read_text())["services"]["readygate"]
    places = [one.split(":")[:2] for one in service.get("volumes", [])]
    present = {
        one.name for source, _ in places for one in (file.parent / source).glob("*")
    }
    return mounts.misplaced([target for _, target in places]) + mounts.misnamed(present)


def hurried(file: Path) -> list[str]:
    """readygate has to have the time to drain."""
    service = yaml.safe_load(file.read_text())["services"]["readygate"]
    kills_after = drains.seconds(service["stop_grace_period"])
    return drains.cut_short(file.with_name(mounts.FILE), kills_after)
