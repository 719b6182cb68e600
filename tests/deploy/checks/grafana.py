"""Grafana dashboards: their form, and each expression by promtool."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from checks import programs

COLUMNS = 24
VARIABLES = {"$__rate_interval": "5m", "$instance": ".*", "$route": ".*", "$job": ".*"}
PANELS = {"row", "stat", "timeseries", "heatmap", "table", "bargauge"}

Panel = dict[str, Any]


def problems(file: Path) -> list[str]:
    try:
        dashboard = json.loads(file.read_text())
    except ValueError as error:
        return [f"not JSON: {error}"]
    missing = {
        "title",
        "uid",
        "schemaVersion",
        "panels",
        "templating",
        "__inputs",
    } - dashboard.keys()
    if missing:
        return [f"missing: {sorted(missing)}"]
    panels = dashboard["panels"]
    found = [one for panel in panels for one in panel_problems(panel)]
    repeated = [
        id
        for id, times in Counter(one.get("id") for one in panels).items()
        if times > 1
    ]
    found += [f"id {id} is there more than once" for id in repeated]
    found += overlaps(panels)
    found += undefined(dashboard)
    return found + invalid(expressions(dashboard))


def panel_problems(panel: Panel) -> list[str]:
    name = panel.get("title")
    found = [] if panel["type"] in PANELS else [f"{name}: unknown type {panel['type']}"]
    if panel["type"] == "row":
        return found
    missing = {
        "title",
        "description",
        "datasource",
        "gridPos",
        "fieldConfig",
        "targets",
    } - panel.keys()
    if missing:
        found.append(f"{name}: missing {sorted(missing)}")
    elif "unit" not in panel["fieldConfig"]["defaults"]:
        found.append(f"{name}: has no unit")
    return found


def overlaps(panels: list[Panel]) -> list[str]:
    taken: dict[tuple[int, int], str] = {}
    found = []
    for panel in panels:
        place = panel["gridPos"]
        if place["x"] + place["w"] > COLUMNS:
            found.append(f"{panel['title']}: is wider than the page")
        cells = [
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        over = {taken[cell] for cell in cells if cell in taken}
        found += [f"{panel['title']}: is over {other}" for other in over]
        taken |= dict.fromkeys(cells, panel["title"])
    return found


def undefined(dashboard: dict[str, Any]) -> list[str]:
    """Variables that are used and not defined."""
    names = {one["name"] for one in dashboard["templating"]["list"]}
    used = json.dumps(dashboard["panels"])
    return [
        f"{name}: is not defined"
        for name in VARIABLES
        if name in used and name[1:] not in names and not name.startswith("$__")
    ]


def expressions(dashboard: dict[str, Any]) -> list[str]:
    return list(raw_expressions(dashboard))


def raw_expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]


def invalid(expressions: list[str]) -> list[str]:
    """What promtool says of the expressions, as if they were recording rules."""
    rules = []
    for index, expression in enumerate(expressions):
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        rules.append({"record": f"panel:{index}", "expr": expression})
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}, file)
        file.flush()
        return programs.problems("promtool", "check", "rules", file.name)
