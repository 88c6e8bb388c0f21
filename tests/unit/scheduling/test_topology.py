"""One domain for all pods of an engine, engines spread over domains: what pods say of both."""

from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.children import engine_pod
from sglang_operator.pool.resolve import Pool
from sglang_operator.scheduling import texts, topology
from sglang_operator.scheduling.topology import PREFERRED, REQUIRED, SPREAD
from tests.builders import a_pool, guide_spec, refused

RACK = "example.com/rack"
GROUP, FIRST = names.LABEL_GROUP, names.LABEL_FIRST
SPANNING: dict[str, Any] = {"num_gpus_per_worker": 16, "device_mapping": "list(range(0,32))"}
TERM = {"labelSelector": {"matchLabels": {"app": "cache"}}, "topologyKey": "zone"}


def spanning(**changes: Any) -> Pool:
    return a_pool(guide_spec(**{**SPANNING, **changes}))


def made(pool: Pool, rank: int = 0, attempt: int = 0, engine: int = 0) -> dict[str, Any]:
    template = engine_pod.template(pool)
    return engine_pod.pod(pool, template, pool.engines[engine], attempt, node_rank=rank)


def own(pod: dict[str, Any]) -> dict[str, str]:
    labels = pod["metadata"]["labels"]
    return {key: labels[key] for key in (GROUP, FIRST) if key in labels}


def matches(selector: dict[str, Any], pod: dict[str, Any]) -> bool:
    """As Kubernetes has it, for what is used here."""
    labels = pod["metadata"]["labels"]
    return all(labels.get(k) == v for k, v in selector["matchLabels"].items()) and all(
        each["operator"] == "In" and labels.get(each["key"]) in each["values"]
        for each in selector.get("matchExpressions", ())
    )


def term_of(pod: dict[str, Any]) -> dict[str, Any]:
    (term,) = pod["spec"]["affinity"]["podAffinity"][REQUIRED]
    assert term["topologyKey"] == RACK
    selector: dict[str, Any] = term["labelSelector"]
    return selector


# --- one domain for an engine


def test_a_pool_that_asks_for_no_domain_says_nothing_of_any():
    for rank in (0, 1):
        pod = made(spanning(), rank)
        assert own(pod) == {}
        assert "affinity" not in pod["spec"]
        assert SPREAD not in pod["spec"]


def test_every_pod_has_to_be_where_the_one_is_that_is_made_first():
    """Followers are made before their leader: it would have them wait without need."""
    pool = spanning(scheduling={"requiredTopology": RACK})
    leader, follower = made(pool, 0), made(pool, 1)
    assert own(follower) == {GROUP: "actor-infer-g0-15-0", FIRST: "true"}
    assert own(leader) == {GROUP: "actor-infer-g0-15-0"}
    for pod in (leader, follower):
        assert matches(term_of(pod), follower)  # also the first, or it would wait for itself
        assert not matches(term_of(pod), leader)


def test_another_try_and_another_engine_draw_nobody():
    pool = spanning(scheduling={"requiredTopology": RACK})
    leader = made(pool, 0)
    for other in (made(pool, 1, attempt=1), made(pool, 1, engine=1)):
        assert not matches(term_of(leader), other)


def test_an_engine_of_one_pod_is_its_own_first():
    pod = made(a_pool(scheduling={"requiredTopology": RACK}))
    assert matches(term_of(pod), pod)


def test_where_it_is_only_better_each_pod_draws_each_other():
    pool = spanning(scheduling={"preferredTopology": RACK})
    leader, follower = made(pool, 0), made(pool, 1)
    for pod in (leader, follower):
        affinity = pod["spec"]["affinity"]["podAffinity"]
        (weighed,) = affinity[PREFERRED]
        assert REQUIRED not in affinity
        assert weighed["weight"] == 100
        selector = weighed["podAffinityTerm"]["labelSelector"]
        assert matches(selector, leader)
        assert matches(selector, follower)
        assert not matches(selector, made(pool, 0, attempt=1))


# --- engines spread over domains


def test_an_engine_counts_once_whatever_number_of_pods_it_is():
    pool = spanning(scheduling={"spread": {"topologyKey": RACK}})
    leader, follower = made(pool, 0), made(pool, 1)
    assert SPREAD not in leader["spec"]
    (constraint,) = follower["spec"][SPREAD]
    selector = constraint.pop("labelSelector")
    assert constraint == {
        "topologyKey": RACK,
        "maxSkew": 1,
        "whenUnsatisfiable": "DoNotSchedule",
        "nodeTaintsPolicy": "Honor",
    }
    assert [matches(selector, made(pool, rank, engine=1)) for rank in (0, 1)] == [False, True]


def test_old_engines_do_not_count_beside_new_ones():
    spread = {"topologyKey": RACK, "maxSkew": 2, "whenUnsatisfiable": "ScheduleAnyway"}
    pool = a_pool(scheduling={"spread": spread})
    (constraint,) = made(pool)["spec"][SPREAD]
    assert (constraint["maxSkew"], constraint["whenUnsatisfiable"]) == (2, "ScheduleAnyway")
    assert matches(constraint["labelSelector"], made(pool, engine=1))
    before = made(a_pool(scheduling={"spread": spread}, seed=7), engine=1)
    assert not matches(constraint["labelSelector"], before)


# --- what cannot be


@pytest.mark.parametrize(
    ("scheduling", "field", "words"),
    [
        ({"requiredTopology": "a/b/c"}, "requiredTopology", "a label's key"),
        ({"preferredTopology": "-"}, "preferredTopology", "a label's key"),
        (
            {"preferredTopology": "rack", "requiredTopology": "rack"},
            "preferredTopology",
            texts.ONE_TOPOLOGY,
        ),
        ({"spread": {"topologyKey": "no key"}}, "spread.topologyKey", "a label's key"),
        ({"spread": {"topologyKey": "rack", "maxSkew": 0}}, "spread.maxSkew", "1 to 4096"),
    ],
)
def test_what_cannot_be_is_refused_in_words(scheduling, field, words):
    (problem,) = refused(scheduling=scheduling).errors
    assert problem.field == f"spec.scheduling.{field}"
    assert words in problem.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("requiredTopology", "rack"),
        ("preferredTopology", "rack"),
        ("spread", {"topologyKey": "rack"}),
    ],
)
def test_who_is_bound_to_a_trainers_node_is_asked_for_no_domain(field, value):
    (problem,) = refused(scheduling={field: value}, placement={"mode": "Shared"}).errors
    assert (problem.reason, problem.field) == ("TopologyOfSharedPool", f"spec.scheduling.{field}")
    assert f"scheduling.{field} is rack in placement mode Shared" in problem.message


def test_a_second_required_term_is_refused_for_the_scheduler_wants_one_pod_for_both():
    template = {"spec": {"affinity": {"podAffinity": {REQUIRED: [TERM]}}}}
    chosen = {"requiredTopology": RACK}
    (problem,) = refused(**SPANNING, scheduling=chosen, podTemplate=template).errors
    assert problem.field == f"spec.podTemplate.spec.affinity.podAffinity.{REQUIRED}"
    assert texts.ONE_AFFINITY in problem.message
    for also in ({"preferredTopology": RACK}, {"spread": {"topologyKey": RACK}}):
        assert spanning(scheduling=also, podTemplate=template)
    template = {"spec": {"affinity": {"podAntiAffinity": {REQUIRED: [TERM]}}}}
    assert spanning(scheduling=chosen, podTemplate=template)


@pytest.mark.parametrize(
    ("when", "is_refused"), [("DoNotSchedule", True), ("ScheduleAnyway", False)]
)
def test_two_spreads_that_the_api_server_takes_for_one_are_refused(when, is_refused):
    given = {"topologyKey": RACK, "maxSkew": 1, "whenUnsatisfiable": when}
    changes: dict[str, Any] = {
        "scheduling": {"spread": {"topologyKey": RACK}},
        "podTemplate": {"spec": {SPREAD: [given]}},
    }
    if not is_refused:
        assert len(made(a_pool(guide_spec(**changes)))["spec"][SPREAD]) == 2
        return
    (problem,) = refused(**changes).errors
    assert problem.field == f"spec.podTemplate.spec.{SPREAD}[0]"
    assert texts.ONE_SPREAD.format(when=when) in problem.message


@pytest.mark.parametrize(
    "template",
    [
        {"spec": []},
        {"spec": {"affinity": []}},
        {"spec": {"affinity": {"podAffinity": {REQUIRED: "x"}}}},
        {"spec": {SPREAD: ["x"]}},
    ],
)
def test_a_podtemplate_of_another_form_is_told_as_that(template):
    chosen = {"requiredTopology": RACK, "spread": {"topologyKey": RACK}}
    found = refused(scheduling=chosen, podTemplate=template).errors
    assert all(texts.ONE_AFFINITY not in each.message for each in found)


# --- why there is no place


def test_what_helps_is_told_only_to_a_pool_that_asks_for_it():
    said = "2 didn't match pod affinity rules, 2 didn't match pod topology spread constraints"
    assert not list(topology.advice(a_pool().spec, said, None))
    chosen = {"requiredTopology": RACK, "spread": {"topologyKey": "zone"}}
    first = topology.First("actor-infer-g0-15-0n1", "node-1", 1)
    apart, together = topology.advice(spanning(scheduling=chosen).spec, said, first)
    assert "scheduling.spread keeps engines apart by zone" in apart
    assert "actor-infer-g0-15-0n1, on node-1, has no room for 1 more" in together
    _, unlabelled = topology.advice(spanning(scheduling=chosen).spec, said, None)
    assert f"only nodes with the label {RACK}" in unlabelled
