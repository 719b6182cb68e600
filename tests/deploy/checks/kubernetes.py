"""Kubernetes manifests, by the schemas of its own API in four versions."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from checks import mounts, programs, yaml_files

VERSIONS = ("1.37", "1.36", "1.35", "1.34")


def problems(file: Path) -> list[str]:
    """What is wrong with a manifest by itself."""
    manifests = yaml_files.documents(file)
    return yaml_files.problems(file) + invalid(manifests) + unmounted(manifests)


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
