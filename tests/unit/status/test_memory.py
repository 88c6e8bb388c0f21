"""Planned and reported memory stand side by side, and are written when they change alone."""

from sglang_operator.api import errors
from sglang_operator.memory import cards
from sglang_operator.observed.model import EngineReport, ObservedNode, Resolved
from sglang_operator.pool import planned_memory
from sglang_operator.status import memory, stored
from tests.builders import a_pool, all_pods, guide_spec, planned, with_config
from tests.unit.manifests.test_crd import STATUS

CARD = cards.CARDS["H100-80GB"]
POOL = a_pool()
NODES = {"gpu-node-0": ObservedNode(name="gpu-node-0", card=CARD)}
PLAN = planned_memory.of(POOL, CARD).plan  # type: ignore[union-attr]
TOKENS = PLAN.pools.tokens


def engines(pool=POOL, **changes):
    return planned(pool, all_pods(pool, container_id="containerd://1", **changes)).engines


def said(rank, tokens, **more):
    instance = engines()[rank].instance or ""
    resolved = Resolved(max_total_tokens=tokens, **more)
    return {instance: EngineReport(instance=instance, resolved=resolved)}


def told(reports, previous=None, nodes=NODES, pool=POOL):
    return memory.memory(pool, engines(pool), reports, nodes, previous or {})


def status_of(held, revision=POOL.revision):
    return {"revision": revision, "memory": held}


def test_before_an_engine_reports_it_is_planned_for_the_card_of_its_node():
    assert told({}) == {
        "card": "H100-80GB",
        "planned": {
            "tokens": TOKENS,
            "weightsGiB": round(PLAN.weights_gib, 2),
            "cacheGiB": round(PLAN.pools.cache_gib, 2),
        },
    }


def test_the_engine_of_which_the_plan_was_most_wrong_is_told():
    reports = said(0, TOKENS) | said(3, int(TOKENS / 1.02), weights_gib=28.4061, cache_gib=25.0)
    held = told(reports | said(5, int(TOKENS / 0.99)))
    assert held["worstEngine"] == POOL.engines[3].name
    assert held["reported"] == {
        "tokens": int(TOKENS / 1.02), "weightsGiB": 28.41, "cacheGiB": 25.0,
    }  # fmt: skip
    assert held["errorPercent"] == 2.0


def test_where_nothing_is_planned_the_engine_with_the_fewest_tokens_is_told():
    held = told(said(0, 2000) | said(1, 1000), nodes={})
    assert held == {"reported": {"tokens": 1000}, "worstEngine": POOL.engines[1].name}


def test_nothing_known_is_nothing_said():
    assert told({}, nodes={}) == {}
    assert told({}, nodes=None) == {}


def test_a_new_operator_takes_nothing_back_while_it_asks_again():
    """Engines are heard one after another: each write would be taken back by the next."""
    everything = said(0, TOKENS) | said(3, int(TOKENS / 1.02))
    held = told(everything)
    before = status_of(held)
    assert told({}, before) == held
    assert told(said(0, TOKENS), before) == held
    assert told(everything, before) == held
    assert told(said(0, TOKENS) | said(3, TOKENS), before)["errorPercent"] == 0.0


def test_nodes_out_of_sight_do_not_take_the_plan_back():
    held = told(said(0, TOKENS))
    assert told(said(0, TOKENS), status_of(held), nodes=None) == held


def test_another_revision_begins_anew():
    held = told(said(0, TOKENS))
    assert "reported" not in told({}, status_of(held, revision="older"))


def test_an_engine_of_an_earlier_revision_says_nothing_of_this_one():
    older = planned(POOL, all_pods(POOL, container_id="c", revision="older")).engines
    instance = older[0].instance or ""
    report = EngineReport(instance=instance, resolved=Resolved(max_total_tokens=5))
    assert memory.memory(POOL, older, {instance: report}, {}, {}) == {}


def test_the_card_that_a_pool_asks_for_does_where_no_node_tells():
    selector = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    pool = a_pool(guide_spec(podTemplate={"spec": {"nodeSelector": selector}}))
    assert told({}, nodes=None, pool=pool)["card"] == "H100-80GB"


def test_what_is_written_is_understood_and_what_another_wrote_does_no_harm():
    held = told(said(0, TOKENS, weights_gib=28.4))
    assert stored.understood({"memory": held})["memory"] == held
    odds: list[object] = [None, 7, [], {"reported": 5}, {"worstEngine": []}]
    for odd in (*odds, {"reported": {"tokens": "x"}}):
        before = stored.understood({"revision": POOL.revision, "memory": odd})
        assert told({}, before) == told({})


def test_all_that_is_written_is_in_the_definition():
    """What is not there the API server drops, and it is written again and again."""
    schema = STATUS["properties"]["memory"]
    held = told(said(0, TOKENS + 1, weights_gib=28.4, cache_gib=25.9))
    types = {int: "integer", float: "number", str: "string", dict: "object"}
    for name, value in held.items():
        assert schema["properties"][name]["type"] == types[type(value)], name
        if isinstance(value, dict):
            numbers = schema["properties"][name]["properties"]
            assert {k: types[type(v)] for k, v in value.items()} == {
                k: field["type"] for k, field in numbers.items()
            }
    assert held.keys() == schema["properties"].keys()


# --- what is tight

TIGHT = with_config(mem_fraction_static=0.96)
LACKING = with_config(mem_fraction_static=0.3)


def warned(raw, held=None, previous=None, nodes=NODES):
    pool = a_pool(raw)
    found = list(memory.warnings(pool, engines(pool), held or {}, nodes, previous or {}))
    assert {problem.severity for problem in found} <= {errors.Severity.WARNING}
    return [(problem.reason, problem.message) for problem in found]


def test_what_fits_is_no_warning():
    assert not warned(guide_spec())


def test_what_is_tight_on_the_card_of_its_nodes_is_a_warning_with_the_knob():
    ((reason, message),) = warned(TIGHT)
    assert reason == "MemoryTight"
    assert message.startswith("H100-80GB: ")
    assert "set mem_fraction_static: 0.8" in message


def test_what_lacks_memory_is_a_warning_too_until_an_engine_shows_that_it_does_not():
    ((_, message),) = warned(LACKING)
    assert message.startswith("H100-80GB: does not fit: weights take 28.")
    assert not warned(LACKING, {"reported": {"tokens": 5}})


def test_nothing_is_said_where_nothing_is_known_or_wanted():
    assert not warned(TIGHT, nodes={})
    assert not warned(TIGHT | {"memoryCheck": "Off"})
    assert not warned(TIGHT | {"model_args": {"model_name_or_path": "mine/own"}})
    assert warned(TIGHT | {"memoryCheck": "Warn"})


def test_a_warning_stays_while_its_card_is_out_of_sight():
    """Each is told by an Event: one that comes and goes would be told again and again."""
    (told_,) = warned(TIGHT)
    entry = {"reason": told_[0], "field": "spec", "message": told_[1], "since": "1.0"}
    before = {"revision": a_pool(TIGHT).revision, "warnings": [entry]}
    assert warned(TIGHT, previous=before, nodes=None) == [told_]
    assert not warned(TIGHT, previous=before | {"revision": "older"}, nodes=None)
