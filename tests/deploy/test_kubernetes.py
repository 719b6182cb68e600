"""The Kubernetes manifests together: what no schema says."""

import re
from typing import Any

import pytest

from checks import kubernetes
from conftest import ROOT

FOLDER = ROOT / "deploy/kubernetes"
Manifest = dict[str, Any]


@pytest.fixture(scope="session")
def manifests() -> dict[str, Manifest]:
    """What `kubectl apply -k` would apply, by kind."""
    return {one["kind"]: one for one in kubernetes.built(FOLDER)}


@pytest.fixture
def pod(manifests: dict[str, Manifest]) -> Manifest:
    return manifests["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture
def sidecar(pod: Manifest) -> Manifest:
    return pod["initContainers"][0]


def seconds(text: str) -> int:
    found = re.fullmatch(r"(\d+)s", text)
    assert found
    return int(found[1])


def test_all_select_the_same_pods(manifests: dict[str, Manifest]) -> None:
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]

    assert manifests["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["Service"]["spec"]["selector"] == labels
    assert manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels


def test_the_pod_mounts_the_configuration_that_is_generated(
    manifests: dict[str, Manifest], pod: Manifest
) -> None:
    generated = manifests["ConfigMap"]

    assert pod["volumes"][0]["configMap"]["name"] == generated["metadata"]["name"]
    assert generated["data"].keys() == {"proxy.toml"}


def test_readygate_is_a_native_sidecar(sidecar: Manifest) -> None:
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["image"] == "registry.example/readygate:0.1.0"


def test_no_probe_of_readygate_asks_for_the_backend(sidecar: Manifest) -> None:
    probes = [
        sidecar[f"{name}Probe"]["httpGet"]
        for name in ("startup", "readiness", "liveness")
    ]

    assert [probe["path"] for probe in probes] == ["/livez", "/readyz", "/livez"]
    assert {probe["port"] for probe in probes} == {"admin"}


def test_every_port_that_is_named_is_one_of_readygate(
    manifests: dict[str, Manifest], sidecar: Manifest
) -> None:
    names = {port["name"] for port in sidecar["ports"]}
    policy = manifests["NetworkPolicy"]["spec"]["ingress"]

    assert {
        port["targetPort"] for port in manifests["Service"]["spec"]["ports"]
    } <= names
    assert {port["port"] for rule in policy for port in rule["ports"]} == names


def test_the_backend_outlives_the_drain_and_both_fit_into_the_grace_period(
    pod: Manifest, sidecar: Manifest
) -> None:
    command = sidecar["lifecycle"]["preStop"]["exec"]["command"]
    backend = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = re.search(
        r'^grace = "(\w+)"', (FOLDER / "proxy.toml").read_text(), re.MULTILINE
    )

    assert drain
    assert command[:3] == ["/readygate", "drain", "--wait"]
    assert seconds(drain[1]) < seconds(command[3]) < backend
    assert backend + 10 < pod["terminationGracePeriodSeconds"]


def test_readygate_has_no_more_rights_than_it_needs(
    pod: Manifest, sidecar: Manifest
) -> None:
    rights = sidecar["securityContext"]

    # Not of the Pod: the backend's image may be one of root.
    assert rights["runAsNonRoot"]
    assert "runAsNonRoot" not in pod["securityContext"]
    assert not pod["automountServiceAccountToken"]
    assert rights["readOnlyRootFilesystem"]
    assert not rights["allowPrivilegeEscalation"]
    assert rights["capabilities"] == {"drop": ["ALL"]}
    assert rights["runAsUser"] == 65532
