"""The rules of a plan: each alone, in their order, and none forgotten."""

import importlib
import pkgutil

from sglang_operator.observed.model import Observed, ObservedPod
from sglang_operator.plan import plan as plans
from sglang_operator.plan import rules
from sglang_operator.plan.planner import Planner
from sglang_operator.plan.rules.ended import remove_recorded_ends
from sglang_operator.plan.rules.extra import remove_extra_pods
from sglang_operator.plan.rules.lost import remove_lost_pods
from sglang_operator.plan.rules.missing import create_missing_engines
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.builders import NOW, a_pod, a_pool, all_pods, an_ended_pod, planned, removed

POOL = a_pool(device_mapping="[0,1,2,3]")
FIRST, SECOND = POOL.engines


def planner_over(*pods: ObservedPod, **observed: object) -> Planner:
    return Planner(POOL, Observed(pods=pods, **observed), NOW)  # type: ignore[arg-type]


def removed_by(planner: Planner) -> list[str]:
    return [removal.pod.name for removal in planner.removals.values()]


def test_every_file_of_rules_is_in_the_order_of_the_plan():
    files = {module.name for module in pkgutil.iter_modules(rules.__path__)}
    assert {rule.__module__.rsplit(".", 1)[1] for rule in plans.RULES} == files
    for name in files:
        module = importlib.import_module(f"{rules.__name__}.{name}")
        assert (module.__doc__ or "").startswith("Rule: ")


def test_a_plan_is_what_its_rules_say(monkeypatch):
    def drain(planner: Planner) -> None:
        for found in planner.engines.values():
            for group in found.live:
                planner.remove_group(group, "the new rule says so")

    monkeypatch.setattr(plans, "RULES", (drain,))
    plan = plans.plan(POOL, Observed(pods=tuple(all_pods(POOL))), NOW)
    assert [removal.reason for removal in plan.removals] == ["the new rule says so"] * 2
    assert not plan.creates


def test_no_rule_is_asked_about_a_pool_that_goes():
    plan = plans.plan(POOL, Observed(leaving="it is deleted"), NOW)
    assert not (plan.creates or plan.removals)
    assert len(plan.engines) == 2


def test_the_extra_pod_goes_by_a_rule_of_its_own():
    kept, extra = a_pod(POOL, FIRST, 0, ready=True), a_pod(POOL, FIRST, 1)
    planner = planner_over(kept, extra)
    remove_extra_pods(planner)
    assert removed_by(planner) == [extra.name]
    assert [group.members for group in planner.groups_of(FIRST.name).live] == [(kept,)]


def test_a_rule_says_nothing_of_what_is_not_its_own():
    planner = planner_over(a_pod(POOL, FIRST, 0), a_pod(POOL, FIRST, 1))
    for rule in (remove_lost_pods, remove_recorded_ends):
        rule(planner)
    assert not planner.removals


def test_each_missing_engine_is_created_once_however_often_it_is_asked():
    planner = planner_over(a_pod(POOL, FIRST))
    create_missing_engines(planner)
    create_missing_engines(planner)
    assert [create.engine for create in planner.creates] == [SECOND]


def test_an_end_that_is_not_recorded_stays():
    ended = an_ended_pod(POOL, FIRST)
    successor = a_pod(POOL, FIRST, 1)
    for recorded, gone in ((frozenset(), []), (frozenset({ended.uid}), [ended.name])):
        planner = planner_over(ended, successor, recorded=recorded)
        remove_recorded_ends(planner)
        assert removed_by(planner) == gone


def test_a_pod_that_is_being_deleted_is_not_deleted_again():
    planner = planner_over(a_pod(POOL, FIRST, deleting=True))
    planner.remove(planner.observed.pods[0], "whatever")
    assert not planner.removals


def test_of_two_pods_of_an_engine_the_one_that_the_last_commit_covers_is_kept():
    """The other's labels were away while its replacement was synced: it is older."""
    pool = a_pool(replicas=1, weights={"gate": "Off"})
    (engine,) = pool.running
    stray = a_pod(pool, engine, container_id="c0", created=NOW - 900)
    synced = a_pod(pool, engine, 1, container_id="c1", created=NOW - 300)
    assert removed(planned(pool, [stray, synced])) == [synced.name]
    said = Transaction(
        phase=Phase.COMMITTED, version="v", instances=frozenset({str(synced.instance)})
    )
    assert removed(planned(pool, [stray, synced], said=said)) == [stray.name]


def test_what_is_told_of_a_pod_that_has_ended_does_not_wait_for_its_delete():
    """Its engine waits, and is not told as one that starts again in it."""
    ended = an_ended_pod(POOL, FIRST)
    pods = [ended, a_pod(POOL, FIRST, 1), a_pod(POOL, SECOND)]
    made = planned(POOL, pods, recorded=frozenset({ended.uid}))
    assert removed(made) == [ended.name]
    assert made.to_go == frozenset()
