"""Kubernetes manifests, by the schemas of its own API in several versions."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from checks import drains, mounts, names, programs, readygate, yaml_files

VERSIONS = ("1.37", "1.36", "1.35", "1.34", "1.30")
"""The current one, three older ones, and the oldest one that the manifests are for."""
WAIT = ["/readygate", "drain", "--wait"]
BACKEND_ENDS_SECONDS = 10
"""What the backend is given to end, when its hook has."""


def problems(file: Path) -> list[str]:
    """What is wrong with a manifest by itself."""
    manifests = yaml_files.documents(file)
    found = yaml_files.problems(file) + invalid(manifests) + unmounted(manifests)
    return found or named(manifests) + hurried(manifests, file.with_name(mounts.FILE))


def configuration(file: Path) -> list[str]:
    """What is wrong with a configuration of readygate for the Deployment beside it."""
    manifests = yaml_files.documents(file.with_name("deployment.yaml"))
    return readygate.problems(file) or hurried(manifests, file)


def kustomization(file: Path) -> list[str]:
    """What is wrong with a folder as `kubectl apply -k` would apply it."""
    found = yaml_files.problems(file) + programs.problems(
        "kubectl", "kustomize", file.parent
    )
    return found or invalid(built(file.parent)) + misnamed(built(file.parent))


def component(file: Path) -> list[str]:
    """What is wrong with a component when an overlay adds it to the base above it."""
    found = yaml_files.problems(file)
    with overlay(file.parent) as folder:
        found += programs.problems("kubectl", "kustomize", folder)
    if found:
        return found
    manifests = with_component(file.parent)
    return invalid(manifests) + scaled(manifests)


@contextmanager
def overlay(component: Path) -> Iterator[Path]:
    """A kustomization that adds a component to the base above it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        (folder / "kustomization.yaml").write_text(
            f"resources: [{os.path.relpath(component.parent, folder)}]\n"
            f"components: [{os.path.relpath(component, folder)}]\n"
        )
        yield folder


def with_component(component: Path) -> list[Any]:
    """The manifests of the base with a component."""
    with overlay(component) as folder:
        return built(folder)


def autoscaler(file: Path) -> list[str]:
    """What is wrong with an autoscaler, by itself and in the component beside it."""
    return problems(file) or component(file.with_name("kustomization.yaml"))


def scaled(manifests: list[Any]) -> list[str]:
    """What an autoscaler scales has to exist and to leave the number to it."""
    present = {
        (one["apiVersion"], one["kind"], one["metadata"]["name"]): one
        for one in manifests
    }
    found = []
    for one in manifests:
        if one["kind"] != "HorizontalPodAutoscaler":
            continue
        target = one["spec"]["scaleTargetRef"]
        named = target["apiVersion"], target["kind"], target["name"]
        if named not in present:
            found.append(f"there is no {named} to scale")
        elif "replicas" in present[named]["spec"]:
            found.append(f"{named}: its replicas are the autoscaler's to say")
    return found


def named(manifests: list[Any]) -> list[str]:
    """Names of what is made, and in a Pod those of containers and volumes."""
    pods = [
        one["spec"]["template"]["spec"]
        for one in manifests
        if one["kind"] == "Deployment"
    ]
    parts = [
        part
        for pod in pods
        for kind in ("initContainers", "containers", "volumes")
        for part in pod.get(kind, [])
    ]
    made = [one["metadata"] for one in manifests]
    return names.unusable(one["name"] for one in made + parts)


def unmounted(manifests: list[Any]) -> list[str]:
    """The sidecar of a Deployment has to find its configuration."""
    return [
        problem
        for one in manifests
        if one["kind"] == "Deployment"
        for sidecar in one["spec"]["template"]["spec"]["initContainers"]
        for problem in mounts.misplaced(
            [mount["mountPath"] for mount in sidecar.get("volumeMounts", [])]
        )
    ]


def hurried(manifests: list[Any], configuration: Path) -> list[str]:
    """What waits for a part of a Pod's end has to wait longer than that takes."""
    return [
        problem
        for one in manifests
        if one["kind"] == "Deployment"
        for problem in out_of_order(
            one["spec"]["template"]["spec"], drains.Drain.of(configuration)
        )
    ]


def out_of_order(pod: Any, drain: drains.Drain) -> list[str]:
    sidecar, backend = pod["initContainers"][0], pod["containers"][0]
    probe = sidecar["readinessProbe"]
    *hook, wait = sidecar["lifecycle"]["preStop"]["exec"]["command"]
    if hook != WAIT:
        return ["the hook of readygate does not wait for a drain"]
    noticed = probe["periodSeconds"] * probe["failureThreshold"]
    waited = drains.seconds(wait)
    slept = backend["lifecycle"]["preStop"]["sleep"]["seconds"]
    ended = slept + BACKEND_ENDS_SECONDS
    killed = pod["terminationGracePeriodSeconds"]
    return [
        f"{first} ({earlier:g} s) is not below {then} ({later:g} s)"
        for first, earlier, then, later in (
            ("the readiness probe", noticed, "delay", drain.delay),
            ("delay and grace", drain.longest, "--wait", waited),
            ("--wait", waited, "the backend's sleep", slept),
            ("the backend's end", ended, "terminationGracePeriodSeconds", killed),
        )
        if earlier >= later
    ]


def misnamed(manifests: list[Any]) -> list[str]:
    """A key of a ConfigMap is the name of the file that it becomes."""
    return [
        problem
        for one in manifests
        if one["kind"] == "ConfigMap"
        for problem in mounts.misnamed(set(one["data"]))
    ]


def built(folder: Path) -> list[Any]:
    """The manifests that a kustomization stands for."""
    return list(yaml.safe_load_all(programs.output("kubectl", "kustomize", folder)))


def invalid(manifests: list[Any]) -> list[str]:
    found = []
    for manifest in manifests:
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(manifest, version, strict=True)
            except (
                kubernetes_validate.ValidationError,
                kubernetes_validate.InvalidSchemaError,
                kubernetes_validate.SchemaNotFoundError,
            ) as error:
                found.append(f"{manifest.get('kind')} {version}: {error}")
    return found
