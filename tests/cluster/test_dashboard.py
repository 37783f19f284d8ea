"""cluster/grafana.json: what it asks for exists, and all that sdmad measures is shown."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray

from sdmad.scoring import monitoring
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
    """The labels of each metric of a scoring run, by the name that a Ray node exports."""
    found: dict[str, set[str]] = {}

    def record(suffix: str) -> Any:
        return lambda name, _, tags: found.update({f"ray_{name}{suffix}": set(tags)})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitoring, "Counter", record("_total"))
        patch.setattr(monitoring, "Gauge", record(""))
        monitoring.ScoringMonitor("x")
    assert found
    return found


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


def test_it_has_the_shape_that_grafana_imports(dashboard: dict[str, Any]) -> None:
    assert dashboard["schemaVersion"] >= 36
    assert dashboard["title"]
    assert re.fullmatch(r"[\w-]{1,40}", dashboard["uid"])
    assert "id" not in dashboard, "Grafana gives it"
    variables = {v["name"]: v for v in dashboard["templating"]["list"]}
    assert list(variables) == ["datasource", "run", "session"]
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == (
        "datasource",
        "prometheus",
    )
    source = {"type": "prometheus", "uid": "${datasource}"}
    for variable in list(variables.values())[1:]:
        assert variable["datasource"] == source
        assert variable["definition"] == variable["query"]["query"]
        assert re.fullmatch(r"label_values\(.+, \w+\)", variable["definition"])
    kinds = {panel["type"] for panel in dashboard["panels"]}
    assert kinds == {"row", "stat", "timeseries", "table"}


def test_every_panel_says_what_it_shows_and_asks_for_it(panels: list[Panel]) -> None:
    titles = [panel["title"] for panel in panels]
    assert len(set(titles)) == len(titles)
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels:
        assert re.search(r"\w+ \w+.*\.$", panel["description"]), panel["title"]
        assert panel["datasource"] == source
        refs = [target["refId"] for target in panel["targets"]]
        assert refs == sorted(set(refs)) != []
        for target in panel["targets"]:
            assert target["datasource"] == source
            assert target.get("instant", False) != target.get("range", False)


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


def test_panels_have_ids_and_places_of_their_own(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        columns = range(place["x"], place["x"] + place["w"])
        rows = range(place["y"], place["y"] + place["h"])
        for cell in itertools.product(columns, rows):
            assert cell not in cells, (panel["title"], cells[cell])
            cells[cell] = panel["title"]
