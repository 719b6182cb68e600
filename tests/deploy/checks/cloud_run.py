"""Cloud Run services, by Google's own description of the API.

The description is turned into a JSON Schema in which unknown keys are forbidden; what
Google's pages say beside it is added by hand.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from checks import programs, yaml_files

MAX_CONTAINERS = 10
MAX_TIMEOUT_SECONDS = 3600
MAX_CONCURRENCY = 1000
ANNOTATION = re.compile(
    r"(?:run\.googleapis\.com|autoscaling\.knative\.dev)/[A-Za-z-]+"
)
NOT_SUPPORTED = "Not supported by Cloud Run"


def problems(file: Path) -> list[str]:
    found = yaml_files.problems(file)
    for service in yaml_files.documents(file):
        validator = Draft202012Validator(schema())
        found += [
            f"{one.json_path}: {one.message}" for one in validator.iter_errors(service)
        ]
        found += annotations(service)
        if not found:
            found += containers(service["spec"]["template"]["spec"])
    return found


@cache
def description() -> str:
    return programs.installed("run.v1.json").read_text()


def schema() -> dict[str, Any]:
    schemas = json.loads(description())["schemas"]
    return {
        "$ref": "#/$defs/Service",
        "$defs": {name: closed(one) for name, one in schemas.items()},
    }


def closed(described: Any) -> Any:
    """One schema of the description as JSON Schema, without unknown keys."""
    match described:
        case {"$ref": name}:
            return {"$ref": f"#/$defs/{name}"}
        case {"type": "object", "properties": properties}:
            return {
                "type": "object",
                "properties": {
                    name: closed(one)
                    for name, one in properties.items()
                    if NOT_SUPPORTED not in one.get("description", "")
                },
                "additionalProperties": False,
            }
        case {"type": "object", "additionalProperties": values}:
            return {"type": "object", "additionalProperties": closed(values)}
        case {"type": "array", "items": items}:
            return {"type": "array", "items": closed(items)}
        case {"type": "any"}:
            return {}
        case {"type": kind}:
            return {"type": kind}
    return {"type": "object", "additionalProperties": False}


def annotations(service: dict[str, Any]) -> list[str]:
    known = set(ANNOTATION.findall(description()))
    template = service.get("spec", {}).get("template", {})
    return [
        f"unknown annotation {name}"
        for place in (service, template)
        for name in place.get("metadata", {}).get("annotations", {})
        if ANNOTATION.fullmatch(name) and name not in known
    ]


def containers(spec: dict[str, Any]) -> list[str]:
    """What the API's description does not say."""
    all_of_them = spec["containers"]
    found = []
    if len(all_of_them) > MAX_CONTAINERS:
        found.append(f"{len(all_of_them)} containers, at most {MAX_CONTAINERS}")
    ingress = [one for one in all_of_them if "ports" in one]
    if len(ingress) != 1:
        found.append(
            f"{len(ingress)} containers with `ports`, exactly one is the ingress"
        )
    names = [one.get("name") for one in all_of_them]
    if None in names or len(set(names)) != len(names):
        found.append("each container needs a name of its own")
    volumes = {one["name"] for one in spec.get("volumes", [])}
    mounts = {
        one["name"] for each in all_of_them for one in each.get("volumeMounts", [])
    }
    if mounts != volumes:
        found.append(f"volumes {volumes} but mounts of {mounts}")
    if not 0 < spec.get("timeoutSeconds", 300) <= MAX_TIMEOUT_SECONDS:
        found.append(f"timeoutSeconds is up to {MAX_TIMEOUT_SECONDS}")
    if not 0 < spec.get("containerConcurrency", 80) <= MAX_CONCURRENCY:
        found.append(f"containerConcurrency is up to {MAX_CONCURRENCY}")
    found += [
        f"{one['name']}: PORT is set by Cloud Run for the ingress"
        for one in ingress
        if any(variable["name"] == "PORT" for variable in one.get("env", []))
    ]
    return found
