"""The Kubernetes manifests together: what no schema says."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from checks import kubernetes
from conftest import ROOT
from harness import proxy
from harness.backends import FASTAPI_AGENT
from harness.processes import Processes, wait_until
from instance import is_open

FOLDER = ROOT / "deploy/kubernetes"
SECONDS = 20
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
    drain = tomllib.loads((FOLDER / "proxy.toml").read_text())["drain"]

    assert command[:3] == ["/readygate", "drain", "--wait"]
    assert seconds(drain["grace"]) < seconds(command[3]) < backend
    assert backend + 10 < pod["terminationGracePeriodSeconds"]


@pytest.fixture
def late_drain() -> Manifest:
    """The Pod with the component that lets the drain begin later."""
    manifests = kubernetes.with_component(FOLDER / "late-drain")
    (deployment,) = (one for one in manifests if one["kind"] == "Deployment")
    return deployment["spec"]["template"]["spec"]


def hook_of_the_backend(pod: Manifest) -> str:
    command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command[:2] == ["sh", "-c"]
    return command[2]


def test_a_late_drain_fits_into_the_grace_period(late_drain: Manifest) -> None:
    drain = tomllib.loads((FOLDER / "proxy.toml").read_text())["drain"]

    late, wait = map(int, re.findall(r"sleep (\d+)", hook_of_the_backend(late_drain)))

    assert late > 0 and seconds(drain["grace"]) < wait
    assert late + wait + 10 < late_drain["terminationGracePeriodSeconds"]
    assert "lifecycle" not in late_drain["initContainers"][0]


def test_the_hook_of_a_late_drain_ends_readygate(
    late_drain: Manifest,
    processes: Processes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configured = tomllib.loads((FOLDER / "proxy.toml").read_text())["admin"]["listen"]
    port = proxy.free_port()
    monkeypatch.setattr(proxy, "ADMIN", f"127.0.0.1:{port}")
    proxy.start_for(processes, tmp_path, FASTAPI_AGENT, upstream=9)
    hook = hook_of_the_backend(late_drain)
    hook = re.sub(r"sleep \d+", "sleep 0", hook)
    hook = hook.replace(configured.removeprefix("0.0.0.0"), f":{port}")
    (tmp_path / "wget").symlink_to(shutil.which("busybox") or "busybox")
    assert is_open(port)

    subprocess.run(
        ["sh", "-euc", hook],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=True,
        timeout=SECONDS,
    )

    wait_until(lambda: not is_open(port), SECONDS)


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
