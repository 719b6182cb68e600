"""The Kubernetes manifests together: what no schema says."""

import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from checks import kubernetes, programs
from conftest import ROOT
from harness import proxy
from harness.processes import Processes, wait_until

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


def test_the_oldest_version_is_the_one_that_the_page_says() -> None:
    page = (FOLDER / "README.md").read_text()

    assert re.findall(r"needs Kubernetes ([\d.]+\d)", page) == [kubernetes.VERSIONS[-1]]


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


def test_the_pod_names_the_ports_on_which_readygate_listens(
    sidecar: Manifest, binary: Path
) -> None:
    shown = programs.output(binary, "config", "show", "--config", FOLDER / "proxy.toml")
    configuration = tomllib.loads(shown)

    assert {port["name"]: port["containerPort"] for port in sidecar["ports"]} == {
        "http": port_of(configuration["listen"]),
        "admin": port_of(configuration["admin"]["listen"]),
    }


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_who_comes_from_outside_the_pod_is_let_to_ports_of_readygate_by_number(
    manifests: dict[str, Manifest], sidecar: Manifest
) -> None:
    ports = {port["name"]: port["containerPort"] for port in sidecar["ports"]}
    (service,) = manifests["Service"]["spec"]["ports"]
    clients, prometheus = manifests["NetworkPolicy"]["spec"]["ingress"]
    annotations = manifests["Deployment"]["spec"]["template"]["metadata"]["annotations"]

    assert service["targetPort"] == ports["http"]
    assert [port["port"] for port in clients["ports"]] == [ports["http"]]
    assert [port["port"] for port in prometheus["ports"]] == [ports["admin"]]
    assert "from" in prometheus
    assert annotations["prometheus.io/port"] == str(ports["admin"])


def test_who_is_sent_to_a_pod_that_ends_is_let_in_and_closed_with_1001(
    sidecar: Manifest, binary: Path, processes: Processes
) -> None:
    address, admin = (f"127.0.0.1:{proxy.free_port()}" for _ in range(2))
    of_the_pod = ["--config", FOLDER / "proxy.toml", "--listen", address]
    _, *hook = sidecar["lifecycle"]["preStop"]["exec"]["command"]
    readygate = processes.start("readygate", [binary, *of_the_pod, "--admin", admin])
    wait_until(lambda: readiness(admin) == 200, SECONDS)

    draining = processes.start("hook", [binary, *hook, "--admin", admin])
    wait_until(lambda: readiness(admin) == 503, SECONDS)
    assert readiness(admin) == 503
    with connect(f"ws://{address}/", proxy=None) as client:
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=SECONDS)

    assert client.close_code == 1001
    wait_until(lambda: draining.exit_code() is not None, SECONDS)
    assert (draining.exit_code(), readygate.exit_code()) == (0, 0)


def readiness(admin: str) -> int | None:
    """What a readiness probe is answered; None: nobody listens."""
    try:
        with urlopen(f"http://{admin}/readyz", timeout=SECONDS) as answer:
            return answer.status
    except HTTPError as error:
        return error.code
    except URLError:
        return None


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
