"""Kubernetes manifests, by the schemas of its own API in four versions."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from checks import programs, yaml_files

VERSIONS = ("1.37", "1.36", "1.35", "1.34")


def problems(file: Path) -> list[str]:
    """What is wrong with a manifest by itself."""
    return yaml_files.problems(file) + invalid(yaml_files.documents(file))


def kustomization(file: Path) -> list[str]:
    """What is wrong with a folder as `kubectl apply -k` would apply it."""
    found = yaml_files.problems(file) + programs.problems(
        "kubectl", "kustomize", file.parent
    )
    return found or invalid(built(file.parent))


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
