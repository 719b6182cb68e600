"""Terraform: the syntax, and the provider's attributes.

The provider itself cannot be had here. The Python binding that is generated from it
names every block and attribute with its type, in dataclasses which are read as text.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hcl2

from checks import programs

META_ARGUMENTS = {"depends_on", "for_each", "lifecycle", "count", "provider"}
"""Those of Terraform itself, which every resource has."""
LIFECYCLE_ARGUMENTS = {
    *("create_before_destroy", "prevent_destroy", "ignore_changes"),
    *("replace_triggered_by", "precondition", "postcondition"),
}
BLOCKS = {"terraform", "variable", "provider", "resource", "output", "locals", "import"}
VARIABLE_ARGUMENTS = {
    *("type", "default", "description", "validation"),
    *("sensitive", "nullable", "ephemeral"),
}
REFERENCE = re.compile(r"\b(var|google_\w+)\.(\w+)(?:\.(\w+))?")
FILE = re.compile(r'\bfile\("([^"]*)"\)')
SERVICE = "google_cloud_run_v2_service"
SECRET_VERSION = "google_secret_manager_secret_version"
MAX_TIMEOUT_SECONDS = 3600
MARKS = {"__is_block__", "__comments__", "__inline_comments__"}
"""What the parser adds by itself."""

Fields = dict[str, tuple[bool, str]]
"""Whether a field is required, and its type."""


def problems(file: Path) -> list[str]:
    found: list[str] = []
    try:
        with file.open() as opened:
            configuration = hcl2.load(opened)
    except Exception as error:  # the parser raises many kinds
        return [f"not HCL: {error}"]
    found += [f"unknown block {one}" for one in configuration.keys() - MARKS - BLOCKS]
    for name, body in blocks(configuration, "variable"):
        unknown = body.keys() - MARKS - VARIABLE_ARGUMENTS
        found += [f"variable {name}: unknown {one}" for one in unknown]
    for (kind, name), body in resources(configuration):
        found += resource(kind, f"{kind}.{name}", body)
        if kind == SERVICE and not found:
            found += service(body)
        if kind == SECRET_VERSION and not found:
            found += unkept(f"{kind}.{name}", body)
    return found + references(configuration) + missing(configuration, file.parent)


def blocks(configuration: dict[str, Any], kind: str) -> Iterator[tuple[str, Any]]:
    """The blocks of a kind with their labels, without quotes."""
    for block in configuration.get(kind, []):
        for label, body in block.items():
            yield label.strip('"'), body


def resources(
    configuration: dict[str, Any],
) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    for kind, named in blocks(configuration, "resource"):
        for name, body in named.items():
            yield (kind, name.strip('"')), body


def references(configuration: dict[str, Any]) -> list[str]:
    """What is named has to be declared and to have the attribute, and variables used."""
    variables = {("var", name) for name, _ in blocks(configuration, "variable")}
    declared = variables | {place for place, _ in resources(configuration)}
    named = {
        reference
        for text in texts(configuration)
        for reference in REFERENCE.findall(text)
    }
    places = {(kind, name) for kind, name, _ in named}
    return (
        [f"{kind}.{name} is not declared" for kind, name in places - declared]
        + [f"{kind}.{name} is not used" for kind, name in variables - places]
        + [
            f"{kind}.{name} has no {attribute}"
            for kind, name, attribute in named
            if kind != "var" and attribute and attribute not in exported(kind)
        ]
    )


def missing(configuration: dict[str, Any], folder: Path) -> list[str]:
    """Files that are read and not there."""
    named = {
        one.replace("${path.module}", str(folder))
        for text in texts(configuration)
        for one in FILE.findall(text)
    }
    return [f"{one} is not there" for one in named if not Path(one).exists()]


def texts(value: Any) -> Iterator[str]:
    """Every value that is written, but no comments."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from texts(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            if key not in MARKS:
                yield from texts(one)


def service(body: dict[str, Any]) -> list[str]:
    """What the provider's attributes do not say."""
    (template,) = body["template"]
    found = []
    volumes = {one["name"] for one in template.get("volumes", [])}
    mounts = {
        one["name"]
        for each in template["containers"]
        for one in each.get("volume_mounts", [])
    }
    if mounts != volumes:
        found.append(f"volumes {volumes} but mounts of {mounts}")
    timeout = re.fullmatch(r'"(\d+)s"', template.get("timeout", '"300s"'))
    if not timeout or not 0 < int(timeout[1]) <= MAX_TIMEOUT_SECONDS:
        found.append(f"timeout is up to {MAX_TIMEOUT_SECONDS}s")
    return found


def unkept(place: str, body: dict[str, Any]) -> list[str]:
    """A version of a secret has to be there for as long as a revision names it."""
    found = []
    (lifecycle,) = body.get("lifecycle", [{}])
    if lifecycle.get("create_before_destroy") is not True:
        found.append(f"{place}: is destroyed before there is another one")
    if body.get("deletion_policy") != '"ABANDON"':
        found.append(f"{place}: is destroyed though older revisions name it")
    return found


def resource(kind: str, place: str, body: dict[str, Any]) -> list[str]:
    known = classes(kind)
    if not known:
        return [f"{place}: no such resource"]
    configuration = f"{camel(kind.removeprefix('google_'))}Config"
    own = {key: one for key, one in body.items() if key not in META_ARGUMENTS}
    found = attributes(known, configuration, place, own)
    for one in body.get("lifecycle", []):
        if not isinstance(one, dict):
            return [*found, f"{place}.lifecycle: has to be a block"]
        unknown = one.keys() - MARKS - LIFECYCLE_ARGUMENTS
        found += [f"{place}.lifecycle: unknown {key}" for key in unknown]
    return found


def attributes(
    known: dict[str, Fields], name: str, place: str, body: dict[str, Any]
) -> list[str]:
    fields = known[name]
    given = body.keys() - MARKS
    found = [f"{place}: unknown {key}" for key in given - fields.keys()]
    found += [
        f"{place}: {key} is missing"
        for key, (is_required, _) in fields.items()
        if is_required and key not in given
    ]
    for key in given & fields.keys():
        found += value(known, fields[key][1], f"{place}.{key}", body[key])
    return found


def value(known: dict[str, Fields], kind: str, place: str, given: Any) -> list[str]:
    nested = next((one for one in known if f"'{one}'" in kind), None)
    several = given if isinstance(given, list) else [given]
    if nested is None:
        is_block = any(
            isinstance(one, dict) and "__is_block__" in one for one in several
        )
        is_map = "Mapping" in kind
        return (
            [f"{place}: is no block"]
            if is_block and not is_map
            else scalar(kind, place, given)
        )
    found = []
    for index, one in enumerate(several):
        if not isinstance(one, dict) or "__is_block__" not in one:
            found.append(f"{place}: has to be a block")
        else:
            found += attributes(known, nested, f"{place}[{index}]", one)
    return found


def scalar(kind: str, place: str, given: Any) -> list[str]:
    """Literals only; what an expression yields is not known here."""
    is_literal_text = (
        isinstance(given, str) and given.startswith('"') and "${" not in given
    )
    wants_number = "jsii.Number" in kind
    if wants_number and is_literal_text and not given.strip('"').isdigit():
        return [f"{place}: has to be a number"]
    if "builtins.bool" in kind and is_literal_text:
        return [f"{place}: has to be true or false"]
    return []


@cache
def binding(kind: str) -> list[ast.ClassDef]:
    """The classes of a resource, none if there is no such resource."""
    file = programs.installed("provider") / f"{kind.removeprefix('google_')}.py"
    if not file.exists():
        return []
    tree = ast.parse(file.read_text())
    return [one for one in tree.body if isinstance(one, ast.ClassDef)]


def exported(kind: str) -> set[str]:
    """The attributes of a resource that others may name."""
    name = camel(kind.removeprefix("google_"))
    return {
        one.name
        for definition in binding(kind)
        if definition.name == name
        for one in definition.body
        if isinstance(one, ast.FunctionDef)
        and any("property" in ast.unparse(mark) for mark in one.decorator_list)
        and not one.name.endswith("_input")
    }


@cache
def classes(kind: str) -> dict[str, Fields]:
    """The dataclasses of a resource: names of their fields as in Terraform."""
    found = {
        one.name: fields_of(one)
        for one in binding(kind)
        if not one.name.endswith(("OutputReference", "List"))
    }
    # The longest name first: one name may be the beginning of another.
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def fields_of(definition: ast.ClassDef) -> Fields:
    for one in definition.body:
        if isinstance(one, ast.FunctionDef) and one.name == "__init__":
            names = one.args.kwonlyargs
            defaults = one.args.kw_defaults
            return {
                name.arg.rstrip("_"): (
                    default is None,
                    ast.unparse(name.annotation or name),
                )
                for name, default in zip(names, defaults, strict=True)
            }
    return {}


def camel(snake: str) -> str:
    return "".join(part.capitalize() for part in snake.split("_"))
