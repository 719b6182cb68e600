"""`main.tf` describes the same service as `service.yaml`."""

from typing import Any

import hcl2
import pytest
import yaml

from checks import terraform
from conftest import ROOT

FOLDER = ROOT / "deploy/cloudrun"
ANNOTATIONS = {
    "session_affinity": "run.googleapis.com/sessionAffinity",
    "max_instance_count": "autoscaling.knative.dev/maxScale",
    "cpu_idle": "run.googleapis.com/cpu-throttling",
    "startup_cpu_boost": "run.googleapis.com/startup-cpu-boost",
}


@pytest.fixture
def template() -> dict[str, Any]:
    """That of main.tf."""
    with (FOLDER / "main.tf").open() as file:
        resources = dict(terraform.resources(hcl2.load(file)))
    (found,) = resources[terraform.SERVICE, "my_service"]["template"]
    return plain(found)


@pytest.fixture
def service() -> dict[str, Any]:
    """The template of service.yaml."""
    return yaml.safe_load((FOLDER / "service.yaml").read_text())["spec"]["template"]


def plain(value: Any) -> Any:
    """Without the quotes that the parser leaves."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value.strip('"') if isinstance(value, str) else value


def test_requests_have_the_same_bounds(template: dict, service: dict) -> None:
    spec = service["spec"]

    assert template["timeout"] == f"{spec['timeoutSeconds']}s"
    assert template["max_instance_request_concurrency"] == spec["containerConcurrency"]


def test_instances_are_the_same(template: dict, service: dict) -> None:
    annotations = service["metadata"]["annotations"]
    scale = template["scaling"][0]["max_instance_count"]
    generation = template["execution_environment"].rsplit("_", 1)[1].lower()

    assert str(scale) == annotations[ANNOTATIONS["max_instance_count"]]
    assert generation == annotations["run.googleapis.com/execution-environment"]
    assert said(template, "session_affinity") == of(annotations, "session_affinity")
    for container in template["containers"]:
        (resources,) = container["resources"]
        for name in ("cpu_idle", "startup_cpu_boost"):
            assert said(resources, name) == of(annotations, name)


def said(block: dict, name: str) -> str:
    return str(block[name]).lower()


def of(annotations: dict[str, str], name: str) -> str:
    return annotations[ANNOTATIONS[name]]


def test_containers_are_the_same(template: dict, service: dict) -> None:
    described = [in_terraform(one) for one in template["containers"]]

    assert described == [in_yaml(one) for one in service["spec"]["containers"]]


def in_terraform(container: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": container["name"],
        "limits": container["resources"][0]["limits"],
        "ports": [
            (one["name"], one["container_port"]) for one in container.get("ports", [])
        ],
        "env": {one["name"]: one["value"] for one in container.get("env", [])},
        "mounts": [
            (one["name"], one["mount_path"])
            for one in container.get("volume_mounts", [])
        ],
    }


def in_yaml(container: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": container["name"],
        "limits": container["resources"]["limits"],
        "ports": [
            (one["name"], one["containerPort"]) for one in container.get("ports", [])
        ],
        "env": {one["name"]: one["value"] for one in container.get("env", [])},
        "mounts": [
            (one["name"], one["mountPath"]) for one in container.get("volumeMounts", [])
        ],
    }


def test_the_secret_is_mounted_under_the_same_name(
    template: dict, service: dict
) -> None:
    (volume,) = template["volumes"]
    (described,) = service["spec"]["volumes"]

    assert volume["name"] == described["name"]
    assert (
        volume["secret"][0]["items"][0]["path"]
        == (described["secret"]["items"][0]["path"])
    )
