"""Each file of `deploy/`: its validator accepts it, and refuses a copy with a mistake."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree

import pytest

from checks import (
    cloud_build,
    cloud_run,
    compose,
    dockerfile,
    grafana,
    kubernetes,
    prometheus,
    python,
    readygate,
    shell,
    systemd,
    terraform,
)
from conftest import ROOT

DEPLOY = ROOT / "deploy"
Check = Callable[[Path], list[str]]

FILES: dict[str, Check] = {
    "cloudrun/cloudbuild.yaml": cloud_build.problems,
    "cloudrun/main.tf": terraform.problems,
    "cloudrun/proxy.toml": cloud_run.configuration,
    "cloudrun/service.yaml": cloud_run.problems,
    "cloudrun/verify.py": python.problems,
    "compose/Dockerfile": dockerfile.problems,
    "compose/compose.yaml": compose.problems,
    "compose/proxy.toml": readygate.problems,
    "compose/race.py": python.problems,
    "docker/Dockerfile": dockerfile.problems,
    "grafana/readygate.json": grafana.problems,
    "kubernetes/autoscaler/autoscaler.yaml": kubernetes.autoscaler,
    "kubernetes/autoscaler/kustomization.yaml": kubernetes.component,
    "kubernetes/deployment.yaml": kubernetes.problems,
    "kubernetes/disruption-budget.yaml": kubernetes.problems,
    "kubernetes/kustomization.yaml": kubernetes.kustomization,
    "kubernetes/network-policy.yaml": kubernetes.problems,
    "kubernetes/proxy.toml": kubernetes.configuration,
    "kubernetes/service.yaml": kubernetes.problems,
    "prometheus/alerts.yaml": prometheus.rules,
    "prometheus/prometheus.yaml": prometheus.config,
    "systemd/debian/postinst": shell.problems,
    "systemd/readygate.service": systemd.problems,
    "systemd/readygate.socket": systemd.problems,
}
"""What judges which file; pages are read by test_docs.py."""


@dataclass(frozen=True)
class Mistake:
    """A change that makes a file wrong."""

    file: str
    right: str
    wrong: str
    complaint: str
    """What the validator says of it."""


# fmt: off
MISTAKES = (
    Mistake("cloudrun/cloudbuild.yaml", "steps:", "step:", "steps"),
    Mistake("cloudrun/cloudbuild.yaml", "--tag=${_IMAGE}", "--tag=${_IMAGES}", "_IMAGES is not declared"),
    Mistake("cloudrun/cloudbuild.yaml", "--build-arg=COMMIT=${_COMMIT}", "--pull", "_COMMIT is not used"),
    Mistake("cloudrun/cloudbuild.yaml", "--file=deploy/docker/Dockerfile", "--file=deploy/Dockerfile", "deploy/Dockerfile is not there"),
    Mistake("cloudrun/main.tf", "container_port =", "containerPort =", "unknown containerPort"),
    Mistake("cloudrun/main.tf", "image = var.backend_image", "", "image is missing"),
    Mistake("cloudrun/main.tf", "scaling {", "scaling = {", "has to be a block"),
    Mistake("cloudrun/main.tf", "session_affinity                 = true", 'session_affinity = "yes"', "true or false"),
    Mistake("cloudrun/main.tf", "scaling {", "scaling {{", "not HCL"),
    Mistake("cloudrun/main.tf", "= var.region", "= var.regoin", "var.regoin is not declared"),
    Mistake("cloudrun/main.tf", 'variable "region" {', 'variable "region" {\n  kind = 1', "unknown kind"),
    Mistake("cloudrun/main.tf", 'variable "region" {', 'variable "zone" {\n  type = string\n}\n\nvariable "region" {', "var.zone is not used"),
    Mistake("cloudrun/main.tf", "secret_iam_member.readygate]", "secret_iam_member.reader]", "reader is not declared"),
    Mistake("cloudrun/main.tf", 'provider "google"', 'providers "google"', "unknown block providers"),
    Mistake("cloudrun/main.tf", '"3600s"', '"7200s"', "timeout is up to 3600s"),
    Mistake("cloudrun/main.tf", 'volumes {\n      name = "readygate"', 'volumes {\n      name = "config"', "mounts of"),
    Mistake("cloudrun/main.tf", "= google_secret_manager_secret.readygate.secret_id", "= google_secret_manager_secret.readygate.secretid", "secret.readygate has no secretid"),
    Mistake("cloudrun/main.tf", "= google_secret_manager_secret_version.readygate.version", "= google_secret_manager_secret_version.readygate.versions", "secret_version.readygate has no versions"),
    Mistake("cloudrun/main.tf", "/proxy.toml", "/proxies.toml", "cloudrun/proxies.toml is not there"),
    Mistake("cloudrun/main.tf", "create_before_destroy", "create_before_destory", "lifecycle: unknown create_before_destory"),
    Mistake("cloudrun/main.tf", "lifecycle {", "lifecycle = {", "lifecycle: has to be a block"),
    Mistake("cloudrun/main.tf", "create_before_destroy = true", "", "is destroyed before there is another one"),
    Mistake("cloudrun/main.tf", 'deletion_policy = "ABANDON"\n', "", "is destroyed though older revisions name it"),
    Mistake("cloudrun/proxy.toml", "[route.gate]", "[route.gates]", "gates"),
    Mistake("cloudrun/proxy.toml", '"45s"', '"45 parsecs"', "timeout"),
    Mistake("cloudrun/proxy.toml", 'grace = "8s"', 'grace = "10s"', "takes up to 10 s"),
    Mistake("cloudrun/proxy.toml", "[drain]", '[drain]\ndelay = "2500ms"', "takes up to 10.5 s"),
    Mistake("cloudrun/service.yaml", "containerConcurrency", "containerConcurency", "containerConcurency"),
    Mistake("cloudrun/service.yaml", "timeoutSeconds: 3600", 'timeoutSeconds: "1h"', "not of type 'integer'"),
    Mistake("cloudrun/service.yaml", "timeoutSeconds: 3600", "timeoutSeconds: 7200", "timeoutSeconds"),
    Mistake("cloudrun/service.yaml", "googleapis.com/sessionAffinity", "googleapis.com/session-affinity", "session-affinity"),
    Mistake("cloudrun/service.yaml", "          env:", "          ports:\n            - containerPort: 8081\n          env:", "2 containers with `ports`"),
    Mistake("cloudrun/service.yaml", "        - name: readygate\n          secret", "        - name: config\n          secret", "mounts of"),
    Mistake("cloudrun/service.yaml", "kind: Service", "kind: Services", "is a ("),
    Mistake("cloudrun/service.yaml", "serving.knative.dev/v1", "serving.knative.dev/v2", "is a ("),
    Mistake("cloudrun/service.yaml", "          image: REGION", "          # image: REGION", "readygate: image is missing"),
    Mistake("cloudrun/service.yaml", "            secretName: readygate\n", "", "secretName is missing"),
    Mistake("cloudrun/service.yaml", "256Mi", "256 MB", "256 MB is no quantity of memory"),
    Mistake("cloudrun/service.yaml", 'cpu: "1"', 'cpu: "one"', "one is no quantity of cpu"),
    Mistake("cloudrun/service.yaml", "containerPort: 8080", "containerPort: 80800", "up to 65535"),
    Mistake("cloudrun/service.yaml", "name: http1", "name: http", "has to be http1"),
    Mistake("cloudrun/service.yaml", "name: http1", "name: h2c", "has to be http1"),
    Mistake("cloudrun/service.yaml", 'sessionAffinity: "true"', 'sessionAffinity: "yes please"', "yes please is none of"),
    Mistake("cloudrun/service.yaml", "execution-environment: gen2", "execution-environment: gen3", "gen3 is none of"),
    Mistake("cloudrun/service.yaml", "# run.googleapis.com/container-dependencies", "run.googleapis.com/container-dependencies", "backend has no startupProbe"),
    Mistake("cloudrun/service.yaml", 'value: "8081"', 'value: "8080"', "PORT is that of the ingress"),
    Mistake("cloudrun/service.yaml", "# run.googleapis.com/container-dependencies: '{\"readygate\":[\"backend\"]}'", "run.googleapis.com/container-dependencies: '{\"readygate\":[\"application\"]}'", "no container application"),
    Mistake("cloudrun/service.yaml", "mountPath: /etc/readygate", "mountPath: /etc/gate", "not /etc/readygate, where the image looks"),
    Mistake("cloudrun/service.yaml", "path: proxy.toml", "path: readygate.toml", "looks for proxy.toml"),
    Mistake("cloudrun/service.yaml", "name: my-service", "name: My_Service", "'My_Service' is no name"),
    Mistake("cloudrun/service.yaml", "- name: backend", "- name: back_end", "'back_end' is no name"),
    Mistake("cloudrun/service.yaml", "secretName: readygate", "secretName: read gate", "'read gate' is no name"),
    Mistake("cloudrun/service.yaml", 'key: "1"', 'key: "one two"', "'one two' is no name"),
    Mistake("cloudrun/service.yaml", "spec:\n  template:\n    metadata:\n      annotations:\n", '  annotations:\n    autoscaling.knative.dev/maxScale: "20"\nspec:\n  template:\n    metadata:\n      annotations:\n', "is for ['Revision'], and not for a Service"),
    Mistake("cloudrun/service.yaml", "autoscaling.knative.dev/maxScale", "run.googleapis.com/maxScale", "is for ['Service'], and not for a Revision"),
    Mistake("cloudrun/verify.py", "import ssl\n", "", "ssl"),
    Mistake("cloudrun/verify.py", "GUID =", "GUIDE =", "GUID"),
    Mistake("compose/Dockerfile", "COPY requirements.txt ./", "ADD requirements.txt ./", "DL3020"),
    Mistake("compose/compose.yaml", "read_only: true", "readonly: true", "readonly"),
    Mistake("compose/compose.yaml", "./race.py:", "./races.py:", "is not there"),
    Mistake("compose/compose.yaml", "depends_on: [agent,", "depends_on: [backend,", "no service backend"),
    Mistake("compose/compose.yaml", ".:/etc/readygate", ".:/etc/gate", "not /etc/readygate, where the image looks"),
    Mistake("compose/compose.yaml", ".:/etc/readygate", "../docker:/etc/readygate", "looks for proxy.toml"),
    Mistake("compose/compose.yaml", "stop_grace_period: 12s", "stop_grace_period: 8s", "after 8 s it is killed"),
    Mistake("compose/proxy.toml", "http://agent", "ws://agent", "write"),
    Mistake("compose/race.py", "import sys\n", "", "sys"),
    Mistake("docker/Dockerfile", " AS build", "", "DL"),
    Mistake("docker/Dockerfile", "--no-install-recommends ", "", "DL3015"),
    Mistake("docker/Dockerfile", "rust:1.95.0-bookworm", "rust:latest", "DL3007"),
    Mistake("grafana/readygate.json", "histogram_quantile(0.5, sum", "histogram_quantile(sum", "histogram_quantile"),
    Mistake("grafana/readygate.json", '"name": "route"', '"name": "path"', "$route: is not defined"),
    Mistake("grafana/readygate.json", '"x": 8,', '"x": 6,', "is over"),
    Mistake("grafana/readygate.json", '"id": 3,', '"id": 2,', "more than once"),
    Mistake("grafana/readygate.json", '"unit": "ops",', "", "has no unit"),
    Mistake("kubernetes/autoscaler/autoscaler.yaml", "averageValue", "averageVal", "averageVal"),
    Mistake("kubernetes/autoscaler/autoscaler.yaml", "kind: Deployment\n    name: my-service", "kind: Deployment\n    name: my-servcie", "there is no ('apps/v1', 'Deployment', 'my-servcie') to scale"),
    Mistake("kubernetes/autoscaler/kustomization.yaml", "op: remove", "op: test\n        value: 2", "replicas are the autoscaler's"),
    Mistake("kubernetes/autoscaler/kustomization.yaml", "- autoscaler.yaml", "- autoscalers.yaml", "autoscalers.yaml"),
    Mistake("kubernetes/deployment.yaml", "  restartPolicy: Always", "  restart: Always", "restart"),
    Mistake("kubernetes/deployment.yaml", "failureThreshold: 10", "failureThreshold: ten", "ten"),
    Mistake("kubernetes/deployment.yaml", "mountPath: /etc/readygate", "mountPath: /etc/gate", "not /etc/readygate, where the image looks"),
    Mistake("kubernetes/deployment.yaml", "kind: Deployment", "kind: Deploymnet", "Deploymnet"),
    Mistake("kubernetes/deployment.yaml", "            preStop:", "            stopSignal: SIGTERM\n            preStop:", "Deployment 1.30"),
    Mistake("kubernetes/deployment.yaml", "name: my-service", "name: my-service\n  name: other", "duplication"),
    Mistake("kubernetes/deployment.yaml", "periodSeconds: 2\n", "periodSeconds: 5\n", "readiness probe (5 s) is not below delay (5 s)"),
    Mistake("kubernetes/deployment.yaml", "failureThreshold: 1\n", "failureThreshold: 3\n", "readiness probe (6 s) is not below delay (5 s)"),
    Mistake("kubernetes/deployment.yaml", '"--wait", "20s"', '"--wait", "15s"', "delay and grace (15 s) is not below --wait (15 s)"),
    Mistake("kubernetes/deployment.yaml", ', "--wait", "20s"', "", "does not wait for a drain"),
    Mistake("kubernetes/deployment.yaml", "seconds: 21", "seconds: 20", "--wait (20 s) is not below the backend's sleep (20 s)"),
    Mistake("kubernetes/deployment.yaml", "PeriodSeconds: 35", "PeriodSeconds: 31", "is not below terminationGracePeriodSeconds (31 s)"),
    Mistake("kubernetes/disruption-budget.yaml", "policy/v1", "policy/v1beta1", "PodDisruptionBudget"),
    Mistake("kubernetes/kustomization.yaml", "- service.yaml", "- services.yaml", "services.yaml"),
    Mistake("kubernetes/kustomization.yaml", "- proxy.toml", "- gate.toml=proxy.toml", "looks for proxy.toml"),
    Mistake("kubernetes/kustomization.yaml", "configMapGenerator", "configMapGenerators", "configMapGenerators"),
    Mistake("kubernetes/network-policy.yaml", "podSelector", "podSelectors", "podSelector"),
    Mistake("kubernetes/proxy.toml", 'listen = "0.0.0.0:9901"', 'listen = "everywhere"', "everywhere"),
    Mistake("kubernetes/proxy.toml", 'delay = "5s"', 'delay = "10s"', "delay and grace (20 s) is not below --wait (20 s)"),
    Mistake("kubernetes/proxy.toml", 'delay = "5s"', 'delay = "2s"', "readiness probe (2 s) is not below delay (2 s)"),
    Mistake("kubernetes/proxy.toml", 'grace = "10s"', 'grace = "15s"', "delay and grace (20 s) is not below --wait (20 s)"),
    Mistake("kubernetes/deployment.yaml", "- name: backend", "- name: back_end", "'back_end' is no name"),
    Mistake("kubernetes/service.yaml", "name: my-service", "name: My_Service", "'My_Service' is no name"),
    Mistake("kubernetes/service.yaml", "targetPort: 8080", "targetPort: [8080]", "8080"),
    Mistake("prometheus/alerts.yaml", "for: 5m", "during: 5m", "during"),
    Mistake("prometheus/alerts.yaml", "sum by (instance, route) (rate", "sum by (instance, route) rate", "parse error"),
    Mistake("prometheus/prometheus.yaml", "job_name: readygate", "jobname: readygate", "jobname"),
    Mistake("prometheus/prometheus.yaml", "- alerts.yaml", "- alarms.yaml", "alarms.yaml"),
    Mistake("systemd/debian/postinst", '"$2"', "$2", "SC2070"),
    Mistake("systemd/debian/postinst", "\nfi\n", "\n", "SC1046"),
    Mistake("systemd/readygate.service", "WatchdogSec=", "WatchdogSecs=", "WatchdogSecs"),
    Mistake("systemd/readygate.service", "LimitNOFILE=65536", "LimitNOFILE=many", "many"),
    Mistake("systemd/readygate.service", "CapabilityBoundingSet=\n", "", "exited with 1"),
    Mistake("systemd/readygate.service", "TimeoutStopSec=15s", "TimeoutStopSec=8s", "after 8 s it is killed"),
    Mistake("systemd/readygate.service", "WantedBy=multi-user.target", "WantedBy=multiuser.target", "in ['multiuser.target.wants/readygate.service']"),
    Mistake("systemd/readygate.socket", "[Install]\nWantedBy=sockets.target\n", "", "enabled it is in []"),
    Mistake("systemd/readygate.socket", "Backlog=4096", "Backlog=long", "long"),
)
# fmt: on


STRICT_MODE = re.compile(
    r"^( +)# (run\.googleapis.*|startupProbe:|startup_probe \{|depends_on = .*|\}|  .*)$",
    re.MULTILINE,
)
"""Settings that are comments, and what is indented below one."""


@pytest.mark.parametrize("file", FILES)
def test_its_validator_accepts_the_file(file: str) -> None:
    assert FILES[file](DEPLOY / file) == []


@pytest.mark.parametrize(
    "mistake", MISTAKES, ids=lambda one: f"{one.file}: {one.wrong}"
)
def test_its_validator_refuses_a_copy_with_a_mistake(
    mistake: Mistake, tmp_path: Path
) -> None:
    # With its neighbours, for some files name others.
    copy = copytree(DEPLOY, tmp_path / "deploy") / mistake.file
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    text = copy.read_text()
    assert mistake.right in text
    copy.write_text(text.replace(mistake.right, mistake.wrong, 1))

    found = FILES[mistake.file](copy)

    assert mistake.complaint in "\n".join(found)


@pytest.mark.parametrize("file", ("cloudrun/service.yaml", "cloudrun/main.tf"))
def test_strict_mode_is_accepted_when_its_comments_become_settings(
    file: str, tmp_path: Path
) -> None:
    copy = copytree(DEPLOY, tmp_path / "deploy") / file
    text, count = STRICT_MODE.subn(r"\1\2", copy.read_text())
    assert count >= 5
    copy.write_text(text)

    assert re.search(r"^ *(startupProbe:|startup_probe \{)$", text, re.MULTILINE)
    assert re.search(
        r"^ *(run.+dependencies: |depends_on = \[\"backend)", text, re.MULTILINE
    )
    assert FILES[file](copy) == []


def test_each_file_has_a_validator_and_a_mistake_that_this_one_finds() -> None:
    present = {
        str(file.relative_to(DEPLOY)) for file in DEPLOY.rglob("*") if file.is_file()
    }
    pages = {file for file in present if file.endswith(".md")}

    assert FILES.keys() == present - pages
    assert {mistake.file for mistake in MISTAKES} == FILES.keys()
