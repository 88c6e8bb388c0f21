"""restart.autoTune: within the user's bounds, one engine first, never silently."""

import dataclasses
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.gates.decide import GatePlan
from sglang_operator.memory import cards
from sglang_operator.observed.model import Observed, ObservedNode, ObservedPod
from sglang_operator.plan.plan import Plan, plan
from sglang_operator.pool import tuning
from sglang_operator.pool.resolve import Pool, resolve_pool
from sglang_operator.pool.tuning import Tuning
from sglang_operator.status import compute, transitions
from sglang_operator.weights.lease_state import Transaction
from tests.builders import (
    NOW,
    OWNER,
    a_failed_start,
    a_pod,
    all_pods,
    an_ended_pod,
    created,
    guide_spec,
    removed,
    with_config,
)

LATER = NOW + 3600
TOO_SMALL = (
    "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. "
    "Current value: self.server_args.mem_fraction_static=0.7"
)


def tunable(tuned: Tuning | None = None, bounds: dict[str, Any] | None = None, **changes) -> Pool:
    """The guide's pool (0.7), with bounds around it."""
    limits = {"min": 0.6, "max": 0.76, "step": 0.04, "tries": 3, **(bounds or {})}
    restart = {"autoTune": {"mem_fraction_static": limits}}
    found = resolve_pool(OWNER, guide_spec(restart=restart, **changes), tuned)
    assert isinstance(found, Pool), found
    return found


def look(pool: Pool, pods: list[ObservedPod]) -> Plan:
    return plan(pool, Observed(pods=tuple(pods)), LATER)


def too_small(pool: Pool, **changes) -> list[ObservedPod]:
    return [
        a_failed_start(pool, engine, message=TOO_SMALL, reason="KVCacheTooSmall", **changes)
        for engine in pool.running
    ]


def fraction(pool: Pool) -> str:
    return next(arg for arg in pool.arguments.argv if arg.startswith("--mem-fraction-static"))


def test_too_small_a_cache_raises_the_share_by_a_step_and_starts_nothing_at_the_old_value():
    pool = tunable()
    result = look(pool, too_small(pool))
    assert result.tuning == Tuning(
        base=pool.revision,
        start=0.7,
        value=0.74,
        changes=1,
        reason="KVCacheTooSmall",
        engine=pool.engines[0].name,
    )
    assert created(result) == []


def test_too_little_memory_lowers_it():
    pool = tunable()
    pods = [a_failed_start(pool, pool.engines[0]), *all_pods(pool)[1:]]
    result = look(pool, pods)
    assert result.tuning is not None
    assert result.tuning.value == 0.66


def test_an_engine_that_runs_out_of_memory_later_lowers_it_too():
    pool = tunable()
    end = a_failed_start(pool, pool.engines[0]).termination
    pod = an_ended_pod(
        pool, pool.engines[0], termination=end, containers_ready_changed=NOW, ended_at=NOW
    )
    result = look(pool, [pod, *all_pods(pool)[1:]])
    assert result.tuning is not None
    assert result.tuning.value == 0.66


def test_the_new_value_is_rendered_and_is_another_revision():
    before = tunable()
    tuned = look(before, too_small(before)).tuning
    after = tunable(tuned)
    assert fraction(after) == "--mem-fraction-static=0.74"
    assert after.revision != before.revision
    assert after.accepted == {before.revision, after.revision}


def test_one_engine_tries_it_first_then_the_others_follow():
    before = tunable()
    pods = too_small(before)
    after = tunable(look(before, pods).tuning)
    assert created(look(after, pods)) == [("g0-1", 1)]
    first = a_pod(after, after.engines[0], 1, containers_ready=False)
    assert created(look(after, [first, *pods[1:]])) == []
    up = a_pod(after, after.engines[0], 1)
    assert len(created(look(after, [up, *pods[1:]]))) == 11


def test_engines_that_run_are_left_as_they_are():
    before = tunable()
    pods = [a_failed_start(before, before.engines[0]), *all_pods(before)[1:]]
    after = tunable(look(before, pods).tuning)
    result = look(after, pods)
    assert created(result) == [("g0-1", 1)]
    assert removed(result) == []
    assert all(view.current for view in result.engines)
    rest = look(after, [a_pod(after, after.engines[0], 1), *all_pods(before)[1:]])
    assert removed(rest) == []


def failing_for_ever(bounds: dict[str, Any]) -> tuple[list[float], Plan]:
    """The values that were tried by engines that always lack cache, and the plan at the end."""
    tuned: Tuning | None = None
    tried: list[float] = []
    pods: list[ObservedPod] = too_small(tunable(None, bounds))
    for _ in range(12):
        pool = tunable(tuned, bounds)
        result = look(pool, pods)
        if result.tuning is not None and result.tuning != tuned:
            tried.append(result.tuning.value)
        tuned = result.tuning
        for create in result.creates:
            assert len(result.creates) == 1
            streak = create.streak
            pod = a_failed_start(
                pool,
                create.engine,
                create.attempt,
                message=TOO_SMALL,
                reason="KVCacheTooSmall",
                startup_failures=streak.count if streak else 0,
            )
            pods = [p for p in pods if p.engine != pod.engine] + [pod]
    return tried, look(tunable(tuned, bounds), pods)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        pytest.param({"max": 0.9}, [0.74, 0.78, 0.82], id="tries"),
        pytest.param({"max": 0.9, "tries": 1}, [0.74], id="one try"),
        pytest.param({"max": 0.76}, [0.74, 0.76], id="the bound"),
        pytest.param({"max": 0.7}, [], id="no room"),
    ],
)
def test_it_is_changed_only_so_often_and_within_the_bounds_then_the_pool_stalls(bounds, expected):
    tried, end = failing_for_ever(bounds)
    assert tried == expected
    assert created(end) == []
    assert [stall.cause.reason for stall in end.stalls] == ["KVCacheTooSmall"]
    assert len(end.stalls[0].engines) == 12


def test_a_step_too_far_is_not_taken_back():
    before = tunable()
    raised = look(before, too_small(before)).tuning
    after = tunable(raised)
    pods = [a_failed_start(after, after.engines[0], 1), *too_small(before)[1:]]
    assert look(after, pods).tuning == raised


def test_a_changed_spec_begins_anew():
    before = tunable()
    tuned = look(before, too_small(before)).tuning
    assert tunable(tuned, image="lmsysorg/sglang:v0.5.9").tuning is None
    assert tunable(tuned, replicas=3).tuning == tuned


def test_other_failures_change_nothing():
    pool = tunable()
    pods = [a_failed_start(pool, e, message="OOMKilled") for e in pool.running]
    assert look(pool, pods).tuning is None


def test_without_bounds_nothing_is_changed():
    found = resolve_pool(OWNER, guide_spec())
    assert isinstance(found, Pool)
    assert look(found, too_small(found)).tuning is None


def told(pool: Pool, result: Plan, previous: dict[str, Any]) -> dict[str, Any]:
    weights = GatePlan(engines=result.engines, transaction=Transaction())
    return compute.compute(
        pool, result, weights, ignored=(), troubles=(), previous=previous, now=NOW
    )


def test_a_change_stands_in_the_status_and_in_one_event():
    pool = tunable()
    result = look(pool, too_small(pool))
    found = told(pool, result, {})
    assert found["tuning"] == {
        "memFractionStatic": 0.74,
        "from": 0.7,
        "changes": 1,
        "limit": 3,
        "reason": "KVCacheTooSmall",
        "engine": "g0-1",
        "baseRevision": pool.revision,
    }
    assert tuning.read(found) == result.tuning
    events = [e for e in transitions.events({}, found) if e.reason == "MemFractionTuned"]
    assert [event.message for event in events] == [
        "mem_fraction_static goes from 0.7 to 0.74 after KVCacheTooSmall on engine g0-1 (change 1 "
        "of 3 that restart.autoTune allows); one engine tries it first"
    ]
    again = transitions.events(found, found)
    assert not [event for event in again if event.reason == "MemFractionTuned"]


@pytest.mark.parametrize("odd", [{}, {"tuning": {}}, {"tuning": {"from": "x"}}, {"tuning": 7}])
def test_what_somebody_else_wrote_into_the_status_is_no_tuning(odd):
    assert tuning.read(odd) is None


NO_SHARES: tuple[Any, ...] = ("0.7", float("inf"), float("-inf"), float("nan"), None, [])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("changes", n) for n in (2_000_000_000, 11, 0, -1, 1.5, "1")),
        *(("from", odd) for odd in NO_SHARES),
        *(("memFractionStatic", odd) for odd in NO_SHARES),
        *(("planned", odd) for odd in NO_SHARES if odd is not None),
        *((name, 7) for name in ("reason", "engine", "baseRevision")),
    ],
)
def test_a_number_in_the_status_that_no_operator_writes_is_no_tuning(field, value):
    pool = tunable()
    found = told(pool, look(pool, too_small(pool)), {})["tuning"]
    assert tuning.read({"tuning": found}) is not None
    assert tuning.read({"tuning": {**found, field: value}}) is None


def test_the_spec_is_rendered_no_more_often_than_it_may_ever_be_changed():
    pool = tunable(bounds={"min": 0.01, "step": 0.01})
    tuned = look(pool, [a_failed_start(pool, pool.engines[0]), *all_pods(pool)[1:]]).tuning
    assert tuned is not None
    often = dataclasses.replace(tuned, changes=500)
    allowed = len(tunable(often, bounds={"min": 0.01, "step": 0.01}).accepted) - 1
    assert allowed == tuning.MOST_TRIES


def test_what_is_in_force_stays_so_where_fewer_changes_are_allowed_now():
    tried = tunable(
        Tuning(
            base=tunable().revision,
            start=0.7,
            value=0.58,
            changes=3,
            reason="x",
            engine=names.EngineName("g0-1"),
        ),
        {"min": 0.5},
    )
    assert tried.tuning is not None
    fewer = tunable(tried.tuning, {"min": 0.5, "tries": 1})
    assert (fewer.revision, fewer.accepted) == (tried.revision, tried.accepted)


# --- where the card is known

CARD = cards.CARDS["H100-80GB"]
NODES = {"gpu-node-0": ObservedNode(name="gpu-node-0", card=CARD)}


def look_on_card(pool: Pool, pods: list[ObservedPod]) -> Plan:
    return plan(pool, Observed(pods=tuple(pods), nodes=NODES), LATER)


def asking_for(share: float, **bounds: Any) -> dict[str, Any]:
    raw = with_config(mem_fraction_static=share)
    limits = {"min": 0.05, "max": 0.95, "step": 0.02, "tries": 3, **bounds}
    return raw | {"restart": {"autoTune": {"mem_fraction_static": limits}}}


def pool_of(raw: dict[str, Any], tuned: Tuning | None = None) -> Pool:
    found = resolve_pool(OWNER, raw, tuned)
    assert isinstance(found, Pool), found
    return found


def test_the_first_change_is_what_the_plan_says_and_steps_follow():
    """At 0.3 the weights alone need 0.37: eight steps of 0.02 would be wanted, of three."""
    raw = asking_for(0.3)
    before = pool_of(raw)
    first = look_on_card(before, too_small(before)).tuning
    assert first is not None
    assert first.planned == first.value > 0.37
    after = pool_of(raw, first)
    assert fraction(after) == f"--mem-fraction-static={first.value}"
    pods = [
        a_failed_start(after, engine, 1, message=TOO_SMALL, reason="KVCacheTooSmall")
        for engine in after.running
    ]
    second = look_on_card(after, pods).tuning
    assert second is not None
    assert second.value == pytest.approx(first.value + 0.02)
    assert second.planned == first.planned
    assert pool_of(raw, second).accepted > after.accepted


def test_a_plan_beyond_the_bounds_ends_at_the_bound():
    raw = asking_for(0.3, max=0.34)
    before = pool_of(raw)
    first = look_on_card(before, too_small(before)).tuning
    assert first is not None
    assert (first.value, first.planned is not None) == (0.34, True)
    assert fraction(pool_of(raw, first)) == "--mem-fraction-static=0.34"


def test_out_of_memory_goes_to_what_sglang_itself_would_have_left():
    raw = asking_for(0.95)
    before = pool_of(raw)
    first = look_on_card(before, [a_failed_start(before, before.engines[0])]).tuning
    assert first is not None
    assert first.value == first.planned
    assert 0.8 < first.value < 0.9


def test_where_the_plan_says_less_than_a_step_a_step_is_taken():
    pool = tunable(bounds={"step": 0.04})
    first = look_on_card(pool, too_small(pool)).tuning
    assert first is not None
    assert (first.value, first.planned) == (0.74, None)


def test_an_unknown_card_or_model_is_tuned_by_steps():
    raw = asking_for(0.3)
    before = pool_of(raw)
    first = look(before, too_small(before)).tuning
    assert first is not None
    assert (first.value, first.planned) == (0.32, None)
    own = pool_of(raw | {"model_args": {"model_name_or_path": "mine/own"}})
    again = look_on_card(own, too_small(own)).tuning
    assert again is not None
    assert again.value == 0.32


def test_what_the_plan_began_with_outlives_the_operator():
    raw = asking_for(0.3)
    before = pool_of(raw)
    result = look_on_card(before, too_small(before))
    found = told(before, result, {})
    assert found["tuning"]["planned"] == found["tuning"]["memFractionStatic"]
    assert tuning.read(found) == result.tuning
