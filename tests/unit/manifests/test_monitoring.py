"""Dashboards and alerts: every name, label and state in a query exists in a scrape."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from generators.dashboards import FOLDER
from generators.dashboards.definitions import DASHBOARDS
from sglang_operator.api import conditions, names
from sglang_operator.controller import families
from sglang_operator.observed.engine_state import EngineState
from tests.promql import queries

# What Prometheus and the PodMonitors add to every series.
TARGET = {"namespace", "pod", "instance", "job", "container", "endpoint"}
# Of the client library, told by the operator too.
PROCESS: dict[str, set[str]] = {
    "process_cpu_seconds_total": set(),
    "process_resident_memory_bytes": set(),
}
ENGINE_LABELS = {"pool", "engine", "le", "model_name", "engine_type", "tp_rank", "pp_rank"}
SGLANG = json.loads((Path(__file__).parents[2] / "data" / "sglang-metrics.json").read_text())
VALUES = {
    "state": {state.value for state in EngineState},
    "condition": {
        conditions.READY,
        conditions.STALLED,
        conditions.RECONCILING,
        conditions.SUSPENDED,
    },
    "status": {"True", "False", "Unknown"},
}


def _known() -> dict[str, set[str]]:
    """The labels of every series by its name, as a scrape has it."""
    known = {name: {*labels, *TARGET} for name, labels in PROCESS.items()}
    for family in families.families():
        labels = {*family.labels, *TARGET}
        if family.kind == families.HISTOGRAM:
            known |= {f"{family.name}_{part}": labels for part in ("count", "sum")}
            known[f"{family.name}_bucket"] = {*labels, "le"}
        else:
            known[family.name] = labels
    for name, kind in SGLANG.items():
        suffixes = ("_bucket", "_count", "_sum") if kind["histogram"] else ("",)
        for suffix in suffixes:
            known[f"{name}{suffix}"] = {*TARGET, *ENGINE_LABELS}
    return known


KNOWN = _known()


QUERIES = [*queries.panels(), *queries.alerts()]


def _parsed(query: str) -> Any:
    """The syntax tree."""
    return promql_parser.parse(queries.filled(query))


def _nodes(tree: Any) -> Iterator[Any]:
    yield tree
    for child in ("expr", "lhs", "rhs", "param", "vector_selector", "vs"):
        found = getattr(tree, child, None)
        if found is not None and not isinstance(found, (str, int, float)):
            yield from _nodes(found)
    for argument in getattr(tree, "args", None) or ():
        yield from _nodes(argument)


def _selectors(tree: Any) -> Iterator[tuple[str, list[Any]]]:
    for node in _nodes(tree):
        if isinstance(node, promql_parser.VectorSelector):
            yield node.name or "", list(node.matchers.matchers)


def _grouped(tree: Any) -> set[str]:
    found: set[str] = set()
    for node in _nodes(tree):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            found |= set(node.modifier.labels)
    return found


def test_the_walk_finds_every_selector():
    tree = _parsed('sum by (a) (rate(x{b="1"}[5m])) / on (c) max(y) unless z')
    assert {name for name, _ in _selectors(tree)} == {"x", "y", "z"}
    assert _grouped(tree) == {"a"}


@pytest.mark.parametrize(("where", "query"), QUERIES, ids=[where for where, _ in QUERIES])
def test_every_metric_and_label_of_a_query_exists(where, query):
    tree = _parsed(query)
    selectors = list(_selectors(tree))
    assert selectors
    labels: set[str] = set()
    for name, matchers in selectors:
        assert name in KNOWN, name
        labels |= KNOWN[name]
        for matcher in matchers:
            assert matcher.name in KNOWN[name], f"{name} has no label {matcher.name}"
            for value in matcher.value.split("|") if matcher.name in VALUES else ():
                assert value in VALUES[matcher.name], value
    assert _grouped(tree) <= labels


def _strangers(tree: Any) -> Iterator[str]:
    """The series of a query that other programs have too, and that nothing holds to ours."""
    if isinstance(tree, promql_parser.BinaryExpr):
        if _holds_to_ours(tree):
            return
        yield from _strangers(tree.lhs)
        yield from _strangers(tree.rhs)
    elif isinstance(tree, promql_parser.VectorSelector):
        ours = (tree.name or "").startswith("sglang_operator_")
        engines = {"pool", "engine"} & {matcher.name for matcher in tree.matchers.matchers}
        if not ours and not ((tree.name or "").startswith("sglang:") and engines):
            yield tree.name or ""
    else:
        for child in ("expr", "vector_selector", "vs"):
            found = getattr(tree, child, None)
            if found is not None:
                yield from _strangers(found)
        for argument in getattr(tree, "args", None) or ():
            yield from _strangers(argument)


def _holds_to_ours(tree: Any) -> bool:
    """``… and on (job, instance) sglang_operator_build_info``."""
    matching = tree.modifier.matching if tree.modifier else None
    joined = matching is not None and {*matching.labels} == {"job", "instance"}
    return bool(
        joined
        and str(tree.op) == "and"
        and [name for name, _ in _selectors(tree.rhs)] == ["sglang_operator_build_info"]
    )


@pytest.mark.parametrize(("where", "query"), QUERIES, ids=[where for where, _ in QUERIES])
def test_no_query_counts_what_other_programs_tell_under_the_same_name(where, query):
    assert [*_strangers(_parsed(query))] == []


def test_a_series_that_others_have_too_is_found():
    for query in ("sum(rate(rest_client_requests_total[5m]))", "max(sglang:token_usage)"):
        assert [*_strangers(_parsed(query))] != []


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_a_dashboard_is_as_generated(dashboard):
    """``make dashboards`` writes it anew."""
    assert dashboard.path.read_text() == dashboard.text()


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_panels_stand_side_by_side_and_none_over_another(dashboard):
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(dashboard.text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_variables_ask_for_metrics_that_exist(dashboard):
    for query in dashboard.variables.values():
        found = re.match(r"label_values\((\w+).*, (\w+)\)", query)
        assert found
        assert found[2] in KNOWN[found[1]]


def test_the_monitors_select_what_is_labelled_so():
    monitors = list(yaml.safe_load_all((FOLDER / "pod_monitors.yaml").read_text()))
    engines = next(m for m in monitors if m["metadata"]["name"] == "sglang-engines")
    assert engines["spec"]["selector"]["matchLabels"] == {
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_COMPONENT: "engine",
    }
    endpoint = engines["spec"]["podMetricsEndpoints"][0]
    assert endpoint["port"] == names.ENGINE_PORT_NAME
    sources = [rule["sourceLabels"][0] for rule in endpoint["relabelings"]]
    wanted = [names.LABEL_POOL, names.LABEL_ENGINE]
    assert sources == [f"__meta_kubernetes_pod_label_{re.sub('[^a-z]', '_', w)}" for w in wanted]


def test_every_alert_says_what_it_is_and_what_to_do():
    body = yaml.safe_load((FOLDER / "prometheus_rule.yaml").read_text())
    for group in body["spec"]["groups"]:
        for rule in group["rules"]:
            assert {*rule["annotations"]} == {"summary", "description"}
            assert rule["labels"]["severity"] in ("critical", "warning", "info")
