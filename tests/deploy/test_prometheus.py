"""Alerts and dashboard against what a running readygate says."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import observed
from checks import grafana, pages, programs, prometheus
from checks.prometheus import Known
from conftest import ROOT

ALERTS = ROOT / "deploy/prometheus/alerts.yaml"
DASHBOARD = ROOT / "deploy/grafana/readygate.json"


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Known]:
    """The metrics of a process with one route."""
    with observed.running(tmp_path_factory.mktemp("observed")) as running:
        yield prometheus.known(running.metrics)


def alerts() -> list[dict]:
    return prometheus.rules_in(ALERTS)


def test_each_metric_and_label_of_an_alert_exists(known: Known) -> None:
    assert prometheus.unknown((rule["expr"] for rule in alerts()), known) == set()


def test_each_metric_and_label_of_the_dashboard_exists(known: Known) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    variables = [one["definition"] for one in dashboard["templating"]["list"]]

    expressions = grafana.expressions(dashboard) + variables

    assert len(expressions) > 30
    assert prometheus.unknown(expressions, known) == set()


def test_the_metric_of_the_autoscaler_exists(known: Known) -> None:
    text = (
        (ROOT / "deploy/kubernetes/autoscaler/autoscaler.yaml")
        .read_text()
        .replace("<<.LabelMatchers>>,", "")
    )

    assert (
        prometheus.unknown(re.findall(r"\((readygate_sessions\{.*\})\)", text), known)
        == set()
    )


@pytest.mark.parametrize(
    ("expression", "unknown"),
    (
        ("rate(readygate_session_total[5m])", "readygate_session_total"),
        ('readygate_sessions{state="open"}', 'readygate_sessions{state="open"}'),
        ('readygate_sessions{state=~"idle|busy"}', 'readygate_sessions{state="busy"}'),
        (
            'readygate_draining{reason="sigterm"}',
            'readygate_draining{reason="sigterm"}',
        ),
    ),
)
def test_a_name_that_does_not_exist_is_found(
    expression: str, unknown: str, known: Known
) -> None:
    assert prometheus.unknown([expression], known) == {unknown}


def test_each_alert_fires_when_it_has_to_and_only_then() -> None:
    rules = Path(__file__).parent / "alerts_test.yaml"

    assert programs.problems("promtool", "test", "rules", rules) == []


def test_the_tests_of_the_alerts_notice_a_threshold_that_is_never_reached(
    tmp_path: Path,
) -> None:
    tests = (Path(__file__).parent / "alerts_test.yaml").read_text()
    (tmp_path / "alerts.yaml").write_text(ALERTS.read_text().replace("> 0.8", "> 1.8"))
    (tmp_path / "tests.yaml").write_text(
        tests.replace("../../deploy/prometheus/alerts.yaml", "alerts.yaml")
    )

    assert programs.problems("promtool", "test", "rules", tmp_path / "tests.yaml")


def test_each_alert_names_what_to_do() -> None:
    for rule in alerts():
        page, _, section = rule["annotations"]["runbook"].partition("#")
        assert section in pages.anchors(ROOT / page), rule["alert"]
