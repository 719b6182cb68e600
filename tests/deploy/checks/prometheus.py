"""Files of Prometheus, by promtool, and the names in their expressions."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from checks import programs, yaml_files

METRIC = re.compile(r"\b((?:readygate|process)_[a-z_]+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|=)\s*"([^"]*)"')

Known = dict[str, dict[str, set[str]]]
"""The labels of each metric, and the values of each label."""


def rules(file: Path) -> list[str]:
    return yaml_files.problems(file) + programs.problems(
        "promtool", "check", "rules", file
    )


def config(file: Path) -> list[str]:
    return yaml_files.problems(file) + programs.problems(
        "promtool", "check", "config", file
    )


def rules_in(file: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load(file.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def known(page: str) -> Known:
    """What a page of metrics has."""
    found: Known = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


def unknown(expressions: Iterable[str], known: Known) -> set[str]:
    """The metrics, labels and values of labels that no page of metrics has."""
    found = set()
    for expression in expressions:
        for name, matchers in METRIC.findall(expression):
            if name not in known:
                found.add(name)
                continue
            for label, operator, value in MATCHER.findall(matchers):
                if value.startswith("$") or label in TARGET_LABELS:
                    continue
                values = value.split("|") if operator == "=~" else [value]
                there = known[name].get(label, set())
                found |= {
                    f'{name}{{{label}="{one}"}}' for one in values if one not in there
                }
    return found


TARGET_LABELS = {"instance", "job", "namespace", "pod"}
"""Labels that Prometheus adds."""
