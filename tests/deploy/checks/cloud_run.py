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

from checks import drains, mounts, names, programs, readygate, yaml_files
from instance import KILL_SECONDS

MAX_CONTAINERS = 10
MAX_TIMEOUT_SECONDS = 3600
MAX_CONCURRENCY = 1000
MAX_PORT = 65535
PORT_NAME = "http1"
"""WebSockets do not work with the other one, h2c."""
DEPENDENCIES = "run.googleapis.com/container-dependencies"
QUANTITIES = {
    "cpu": re.compile(r"\d+(\.\d+)?|\d+m"),
    "memory": re.compile(r"\d+(k|M|G|Ki|Mi|Gi)"),
}
VALUES = {
    "run.googleapis.com/sessionAffinity": {"true", "false"},
    "run.googleapis.com/startup-cpu-boost": {"true", "false"},
    "run.googleapis.com/cpu-throttling": {"true", "false"},
    "run.googleapis.com/execution-environment": {"gen1", "gen2"},
}
"""What annotations may say, which to the API are any text."""
ANNOTATION = r"(?:run\.googleapis\.com|autoscaling\.knative\.dev)/[A-Za-z-]+"
PLACES = re.compile(rf"`({ANNOTATION})`: ([A-Za-z, ]+)")
"""An annotation and the kinds of resources that it is for."""
EVERYWHERE = "All resources"
SECRET = re.compile(r"[A-Za-z0-9_-]{1,255}")
SECRET_VERSION = re.compile(r"[1-9][0-9]*|[A-Za-z][A-Za-z0-9_-]{0,62}")
"""A number or an alias; `latest` has the form of one."""
NOT_SUPPORTED = "Not supported by Cloud Run"


def problems(file: Path) -> list[str]:
    found = yaml_files.problems(file)
    for service in yaml_files.documents(file):
        validator = Draft202012Validator(schema())
        found += [
            f"{one.json_path}: {one.message}" for one in validator.iter_errors(service)
        ]
        found += kind(service) + annotations(service)
        if not found:
            template = service["spec"]["template"]
            found += containers(template["spec"]) + dependencies(template)
            found += named(service)
    return found


def configuration(file: Path) -> list[str]:
    """What is wrong with a configuration of readygate for an instance."""
    return readygate.problems(file) or drains.cut_short(file, KILL_SECONDS)


def kind(service: dict[str, Any]) -> list[str]:
    given = service.get("apiVersion"), service.get("kind")
    wanted = "serving.knative.dev/v1", "Service"
    return [] if given == wanted else [f"is a {given}, and no {wanted}"]


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
    template = service.get("spec", {}).get("template", {})
    return [
        problem
        for resource, place in (("Service", service), ("Revision", template))
        for name, value in place.get("metadata", {}).get("annotations", {}).items()
        for problem in annotation(resource, name, value)
    ]


def annotation(resource: str, name: str, value: str) -> list[str]:
    if not re.fullmatch(ANNOTATION, name):
        return []
    if name not in places():
        return [f"unknown annotation {name}"]
    if not {resource, EVERYWHERE} & places()[name]:
        return [f"{name} is for {sorted(places()[name])}, and not for a {resource}"]
    if name in VALUES and value not in VALUES[name]:
        return [f"{name}: {value} is none of {sorted(VALUES[name])}"]
    return []


@cache
def places() -> dict[str, set[str]]:
    """What the description says which annotations are for."""
    return {
        name: {one.strip() for one in kinds.split(",")}
        for name, kinds in PLACES.findall(description())
    }


def named(service: dict[str, Any]) -> list[str]:
    spec = service["spec"]["template"]["spec"]
    volumes = spec.get("volumes", [])
    secrets = [one["secret"] for one in volumes if "secret" in one]
    labels = [one["name"] for one in (service["metadata"], *volumes)]
    labels += [one["name"] for one in spec["containers"] if "name" in one]
    return (
        names.unusable(labels)
        + names.unusable((one.get("secretName", "") for one in secrets), SECRET)
        + names.unusable(
            (item["key"] for one in secrets for item in one.get("items", [])),
            SECRET_VERSION,
        )
    )


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
    mounted = {
        one["name"] for each in all_of_them for one in each.get("volumeMounts", [])
    }
    if mounted != volumes:
        found.append(f"volumes {volumes} but mounts of {mounted}")
    if not 0 < spec.get("timeoutSeconds", 300) <= MAX_TIMEOUT_SECONDS:
        found.append(f"timeoutSeconds is up to {MAX_TIMEOUT_SECONDS}")
    if not 0 < spec.get("containerConcurrency", 80) <= MAX_CONCURRENCY:
        found.append(f"containerConcurrency is up to {MAX_CONCURRENCY}")
    found += [
        f"{one['name']}: image is missing"
        for one in all_of_them
        if not one.get("image")
    ]
    found += [
        f"volume {one['name']}: secretName is missing"
        for one in spec.get("volumes", [])
        if "secret" in one and not one["secret"].get("secretName")
    ]
    for one in ingress:
        folders = [mount["mountPath"] for mount in one.get("volumeMounts", [])]
        found += mounts.misplaced(folders)
    for one in spec.get("volumes", []):
        items = one.get("secret", {}).get("items", [])
        found += mounts.misnamed({item["path"] for item in items})
    return found + ports(all_of_them) + quantities(all_of_them)


def ports(all_of_them: list[dict[str, Any]]) -> list[str]:
    found = []
    given = [port for one in all_of_them for port in one.get("ports", [])]
    for port in given:
        if not 0 < port.get("containerPort", 8080) <= MAX_PORT:
            found.append(f"containerPort is up to {MAX_PORT}")
        if port.get("name", PORT_NAME) != PORT_NAME:
            found.append(f"the name of the port has to be {PORT_NAME}")
    taken = {str(port.get("containerPort", 8080)) for port in given}
    for one in all_of_them:
        set_here = [
            each["value"] for each in one.get("env", []) if each["name"] == "PORT"
        ]
        if set_here and "ports" in one:
            found.append(f"{one['name']}: PORT is set by Cloud Run for the ingress")
        elif taken & set(set_here):
            found.append(
                f"{one['name']}: PORT is that of the ingress; they share one network"
            )
    return found


def quantities(all_of_them: list[dict[str, Any]]) -> list[str]:
    return [
        f"{one['name']}: {value} is no quantity of {name}"
        for one in all_of_them
        for name, value in one.get("resources", {}).get("limits", {}).items()
        if name in QUANTITIES and not QUANTITIES[name].fullmatch(value)
    ]


def dependencies(template: dict[str, Any]) -> list[str]:
    """Containers that others wait for have to exist, and to say that they have started."""
    given = template.get("metadata", {}).get("annotations", {}).get(DEPENDENCIES, "{}")
    described = {one["name"]: one for one in template["spec"]["containers"]}
    try:
        waits = json.loads(given)
        awaited = set().union(*waits.values())
    except (ValueError, TypeError, AttributeError):
        return [f"{DEPENDENCIES}: not JSON of lists: {given}"]
    absent = (set(waits) | awaited) - described.keys()
    return [f"{DEPENDENCIES}: there is no container {one}" for one in absent] + [
        f"{DEPENDENCIES}: {one} has no startupProbe to wait for"
        for one in awaited - absent
        if "startupProbe" not in described[one]
    ]
