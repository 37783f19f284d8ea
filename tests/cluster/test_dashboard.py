"""cluster/grafana.json: it asks only for metrics that exist, and shows every metric of a run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray

from tests.cluster.helpers import exported_metrics
from tests.helpers import ROOT

RAYS_OWN = Path(ray.__file__).parent / "dashboard/modules/metrics/dashboards"
Panel = dict[str, Any]


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return json.loads((ROOT / "cluster/grafana.json").read_text())


@pytest.fixture(scope="module")
def panels(dashboard: dict[str, Any]) -> list[Panel]:
    """The panels with data, without the headings of rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    return exported_metrics()


def expressions(panels: list[Panel]) -> list[str]:
    return [target["expr"] for panel in panels for target in panel["targets"]]


def queries(dashboard: dict[str, Any]) -> list[str]:
    """What fills the variables."""
    return [v["query"]["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]


def names(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:ray|autoscaler)_\w+", expression))


def grouped(expression: str) -> set[str]:
    """The labels that a series of the result has."""
    clauses = re.findall(r"\bby \(([^)]*)\)", expression)
    return {label for clause in clauses for label in re.split(r",\s*", clause)}


def test_grafana_can_import_it(dashboard: dict[str, Any], panels: list[Panel]) -> None:
    """No id of another Grafana, panels with ids, and queries to the data source that is chosen."""
    assert "id" not in dashboard
    assert re.fullmatch(r"[\w-]{1,40}", dashboard["uid"])
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    source = {"type": "prometheus", "uid": "${datasource}"}
    variables = {v["name"]: v for v in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    for part in [*panels, *(v for v in variables.values() if v["type"] == "query")]:
        assert part["datasource"] == source
    for panel in panels:
        assert panel["description"]
        assert all(target["datasource"] == source for target in panel["targets"])
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs) > 0


def test_every_metric_of_a_run_is_shown_and_no_other_is_asked_for(
    dashboard: dict[str, Any], panels: list[Panel], exported: dict[str, set[str]]
) -> None:
    shown = set().union(*map(names, expressions(panels)))
    assert {name for name in shown if "sdmad" in name} == set(exported)
    asked = set().union(*map(names, queries(dashboard)))
    assert asked <= set(exported)


def test_labels_of_a_runs_metrics_exist(
    dashboard: dict[str, Any], panels: list[Panel], exported: dict[str, set[str]]
) -> None:
    """Ray adds SessionName to every metric."""
    for expression in [*expressions(panels), *queries(dashboard)]:
        for name, matchers in re.findall(r"\b(ray_sdmad_\w+)\{([^}]*)\}", expression):
            used = set(re.findall(r"(\w+)\s*=~?", matchers))
            assert used <= exported[name] | {"SessionName"}, expression
        if ours := names(expression) & set(exported):
            assert grouped(expression) <= set.intersection(*(exported[name] for name in ours))


def test_other_metrics_are_those_of_rays_own_dashboards(panels: list[Panel]) -> None:
    files = [*RAYS_OWN.glob("*.py"), *RAYS_OWN.glob("*.json")]
    known = set().union(*(names(path.read_text()) for path in files))
    assert len(known) > 100, "Ray's dashboards are somewhere else now"
    for expression in expressions(panels):
        others = {name for name in names(expression) if "sdmad" not in name}
        assert others <= known, expression
        assert names(expression)


def test_legends_name_labels_that_the_result_has(panels: list[Panel]) -> None:
    for panel in panels:
        for target in panel["targets"]:
            legend = set(re.findall(r"{{(\w+)}}", target.get("legendFormat", "")))
            assert legend <= grouped(target["expr"]), panel["title"]


def test_queries_use_variables_that_exist(dashboard: dict[str, Any], panels: list[Panel]) -> None:
    variables = {v["name"] for v in dashboard["templating"]["list"]} | {"__range"}
    for expression in [*expressions(panels), *queries(dashboard)]:
        assert set(re.findall(r"\$(\w+)", expression)) <= variables


def test_brackets_are_balanced(dashboard: dict[str, Any], panels: list[Panel]) -> None:
    pairs = {")": "(", "]": "[", "}": "{"}
    for expression in [*expressions(panels), *queries(dashboard)]:
        assert expression.count('"') % 2 == 0
        open_ones: list[str] = []
        for sign in re.sub(r'"[^"]*"', "", expression):
            if sign in pairs.values():
                open_ones.append(sign)
            elif sign in pairs:
                assert open_ones, expression
                assert open_ones.pop() == pairs[sign], expression
        assert not open_ones, expression
