"""With how many engines a pool starts: their pods are one group, and nobody else is made before."""

import dataclasses
from typing import Any

import pytest

from sglang_operator import actions
from sglang_operator.api import conditions, names
from sglang_operator.children import engine_pod, gang_groups, kinds
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.model import Observed, ObservedChild, ObservedPod
from sglang_operator.plan import starting
from sglang_operator.plan.plan import Plan, plan
from sglang_operator.pool.resolve import Pool
from sglang_operator.scheduling import gangs, texts
from sglang_operator.scheduling.base import Grouped
from sglang_operator.status import gangs as told
from tests import structural
from tests.builders import NOW, OWNER, a_pod, a_pool, an_ended_pod, created, guide_spec, refused
from tests.builders import removed as removed_by

EACH = pytest.mark.parametrize("declared", gangs.GROUPED, ids=lambda each: each.name)
OF_TWO = {"num_gpus_per_worker": 16, "device_mapping": "list(range(0,64))"}  # four of two nodes
START = "actor-infer-start-4-0"
RULES = structural.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][
    "spec"
]["properties"]["scheduling"]["x-kubernetes-validations"]


def of(declared: Grouped | None = None, least: int | None = 2, **changes: Any) -> Pool:
    """Four engines of two nodes, of which so many are to start at once."""
    gang = declared.name if declared is not None else "PodGroup"
    chosen: dict[str, Any] = {"gang": gang, **({"queueName": "q"} if gang == "KAI" else {})}
    if least is not None:
        chosen["minEngines"] = least
    return a_pool(guide_spec(**OF_TWO, **changes, scheduling=chosen))


def waiting(pool: Pool, rank: int, start: str = START, **changes: Any) -> list[ObservedPod]:
    """The pods of an engine that have no node."""
    values: dict[str, Any] = {
        "node": "",
        "phase": "Pending",
        "containers_ready": False,
        "engine_runs": False,
        "scheduling": "Unschedulable",
        "unschedulable": "0/2 nodes are available",
        "scheduler": "theirs",
        "start": start,
        **changes,
    }
    return [a_pod(pool, pool.engines[rank], node_rank=n, **values) for n in (0, 1)]


def running(pool: Pool, rank: int, **changes: Any) -> list[ObservedPod]:
    return [a_pod(pool, pool.engines[rank], node_rank=n, **changes) for n in (0, 1)]


def seen(pool: Pool, pods: list[ObservedPod], groups: Any = None, **more: Any) -> Observed:
    owned = {
        (gangs.kind(pool.spec), name): ObservedChild(
            uid=names.Uid(f"uid-{name}"), owner=OWNER.uid, body=body
        )
        for name, body in (groups or {}).items()
    }
    return Observed(pods=tuple(pods), children=owned, **more)


def starts(found: Plan) -> dict[str, str]:
    """The group that each engine is made in beside others; "" for its own."""
    return {create.engine.name: create.start for create in found.creates}


def wanted(pool: Pool, observed: Observed) -> dict[str, Any]:
    """The groups that there are to be, by name."""
    kind = next(each for each in kinds.GANGS if each.kind == gangs.kind(pool.spec))
    assert kind.history is not None
    return {body["metadata"]["name"]: dict(body) for body in kind.history(pool, observed)}


def least_of(body: dict[str, Any]) -> int:
    spec = body["spec"]
    return int(spec.get("minMember") or spec["schedulingPolicy"]["gang"]["minCount"])


# --- who starts


@EACH
def test_the_first_engines_are_one_group_and_no_other_is_made_before_they_have_nodes(declared):
    """A fourth one that fits alone would keep its nodes from the first three, for ever."""
    pool = of(declared)
    first, second, *others = (engine.name for engine in pool.engines)
    found = plan(pool, seen(pool, []), NOW)
    assert starts(found) == {first: START, second: START}
    states = {engine.name: engine.state for engine in found.engines}
    assert [states[name] for name in others] == [EngineState.WAITING] * 2
    ((engines, (step,)),) = actions.group_actions(pool, found, seen(pool, [])).items()
    assert set(engines) == {first, second}
    assert isinstance(step, actions.CreateChild)
    assert step.name == START
    assert least_of(dict(step.body)) == 4
    if declared.name in ("Volcano", "Coscheduling"):
        assert step.body["spec"]["minResources"] == {"nvidia.com/gpu": "32"}
    pods = [*waiting(pool, 0), *waiting(pool, 1)]
    assert not plan(pool, seen(pool, pods), NOW).creates
    up = [*running(pool, 0, start=START), *running(pool, 1, start=START)]
    assert starts(plan(pool, seen(pool, up), NOW)) == dict.fromkeys(others, "")


@EACH
def test_all_pods_of_the_start_name_its_group(declared):
    pool = of(declared)
    found = plan(pool, seen(pool, []), NOW)
    for made in actions.pod_actions(pool, found, engine_pod.template(pool)):
        assert isinstance(made, actions.CreatePod)
        body = made.body
        written = {**body["metadata"]["labels"], **body["metadata"]["annotations"]}
        named = [body["spec"].get("schedulingGroup", {}).get("podGroupName"), *written.values()]
        assert START in named
        assert written[names.ANNOTATION_START] == START
        alone = names.pod_name(OWNER.name, made.engine, 0)
        assert alone not in named


def test_an_engine_that_was_half_made_is_completed_in_the_same_group():
    pool = of()
    half = waiting(pool, 0)[1:]
    again = plan(pool, seen(pool, half), NOW)
    assert starts(again) == {engine.name: START for engine in pool.engines[:2]}
    assert not again.removals


@pytest.mark.parametrize("least", [None, 1])
def test_of_one_engine_its_own_group_is_enough(least):
    pool = of(least=least)
    assert set(starts(plan(pool, seen(pool, []), NOW)).values()) == {""}
    assert len(created(plan(pool, seen(pool, []), NOW))) == 4


def test_fewer_engines_than_that_start_all_at_once():
    pool = of(least=4, replicas=3)
    found = plan(pool, seen(pool, []), NOW)
    assert set(starts(found).values()) == {"actor-infer-start-6-0"}
    assert len(found.creates) == 3


# --- once it has started


def test_a_replacement_waits_for_nobody():
    """By then the others have their nodes: of the start's group it would wait for a whole one."""
    pool = of(least=4)
    up = [pod for rank in (1, 2, 3) for pod in running(pool, rank, start="actor-infer-start-8-0")]
    assert starts(plan(pool, seen(pool, up), NOW)) == {pool.engines[0].name: ""}
    ended = [
        an_ended_pod(pool, pool.engines[0], node_rank=n, start="actor-infer-start-8-0")
        for n in (0, 1)
    ]
    recorded = frozenset(pod.uid for pod in ended)
    later = NOW + 3600
    found = plan(pool, seen(pool, [*up, *ended], recorded=recorded), later)
    assert starts(found) == {pool.engines[0].name: ""}


def test_no_pool_starts_so_that_knows_of_a_failure():
    """One engine tries first whether it starts, and would wait for the others."""
    pool = of(least=4)
    ended = [an_ended_pod(pool, e, node_rank=n) for e in pool.engines for n in (0, 1)]
    assert starting.of(pool, seen(pool, ended)) == starting.Starting()
    handed = {pool.engines[0].name: ended[0]}
    assert starting.of(pool, seen(pool, [], handed_on=handed)) == starting.Starting()


def test_fewer_replicas_than_it_started_with_take_no_other_engine_away():
    pool = of(least=4, replicas=1)
    up = [pod for rank in range(4) for pod in running(pool, rank, start="actor-infer-start-8-0")]
    gone = {pod.rpartition("-")[0] for pod in removed_by(plan(pool, seen(pool, up), NOW))}
    assert f"{OWNER.name}-{pool.engines[0].name}" not in gone
    left = running(pool, 0, start="actor-infer-start-8-0")
    found = plan(pool, seen(pool, left), NOW)
    assert (found.creates, found.removals) == ((), ())


def test_a_rollout_replaces_one_after_the_other_each_in_a_group_of_its_own():
    pool = of(least=4, weights={"gate": "Off"})
    old = [
        dataclasses.replace(pod, revision="old")
        for rank in range(4)
        for pod in running(pool, rank, start="actor-infer-start-8-0", ready=True)
    ]
    going = removed_by(plan(pool, seen(pool, old), NOW))
    assert len({name.rpartition("-")[0] for name in going}) == 1
    left = [pod for pod in old if pod.engine != pool.engines[3].name]
    assert starts(plan(pool, seen(pool, left), NOW)) == {pool.engines[3].name: ""}


def test_a_pool_that_has_no_node_any_more_starts_again_under_another_name():
    """What is on its way out under the old one has its nodes, and would be counted."""
    pool = of()
    leaving = running(pool, 0, start=START, deleting=True)
    assert starting.of(pool, seen(pool, leaving)) == starting.Starting()
    never = waiting(pool, 0, deleting=True)
    assert starting.of(pool, seen(pool, never)).group == "actor-infer-start-4-1"
    assert starting.of(pool, seen(pool, [])).group == START


# --- who waits in another group


@pytest.mark.parametrize(
    ("least", "replicas", "start"),
    [(3, 4, "actor-infer-start-6-1"), (4, 3, "actor-infer-start-6-1"), (None, 4, "")],
    ids=["more", "fewer replicas", "none"],
)
def test_who_waits_for_others_than_are_to_come_is_made_anew(least, replicas, start):
    pool = of(least=least, replicas=replicas)
    pods = [*waiting(pool, 0), *waiting(pool, 1)]
    found = plan(pool, seen(pool, pods), NOW)
    assert sorted(removed_by(found)) == sorted(pod.name for pod in pods)
    assert "scheduling.minEngines" in found.removals[0].reason
    going = [dataclasses.replace(pod, deleting=True) for pod in pods]
    first = pool.engines[0].name
    assert starting.of(pool, seen(pool, going)).group_of(first) == start


def test_an_engine_that_would_take_the_room_of_the_first_ones_makes_way():
    pool = of()
    pods = [*waiting(pool, 0), *waiting(pool, 1), *waiting(pool, 3, start="")]
    found = plan(pool, seen(pool, pods), NOW)
    assert {name.rpartition("-")[0] for name in removed_by(found)} == {
        f"{OWNER.name}-{pool.engines[3].name}"
    }
    assert not found.creates


def test_a_start_that_its_scheduler_has_begun_is_left_alone():
    """Nodes come one by one: what is bound already tells that all are."""
    pool = of()
    pods = [*running(pool, 0, start=START), *waiting(pool, 1)]
    assert not plan(pool, seen(pool, pods), NOW).removals
    left = [*waiting(pool, 1), *running(pool, 2)]
    found = plan(pool, seen(pool, left), NOW)
    assert len(removed_by(found)) == 2, "none of its group has a node: others do"


def test_what_waits_by_an_earlier_spec_is_the_rollouts_business():
    pool = of()
    old = [dataclasses.replace(pod, revision="old") for pod in waiting(pool, 0)]
    for removal in plan(pool, seen(pool, old), NOW).removals:
        assert "minEngines" not in removal.reason


# --- its group


@EACH
def test_the_group_of_a_start_stays_with_its_pods_and_holds_nobody_once_it_has_begun(declared):
    """KAI takes engines away whose group has fewer pods than its minimum, and Volcano counts what
    a group asks for at least against its queue."""
    pool = of(declared)
    waits = seen(pool, [*waiting(pool, 0), *waiting(pool, 1)])
    assert [least_of(body) for body in wanted(pool, waits).values()] == [4]
    begun = seen(pool, running(pool, 0, start=START))
    (body,) = wanted(pool, begun).values()
    assert body["metadata"]["name"] == START
    if declared.name == "PodGroup":  # nobody may change it, and nobody looks at it again
        assert least_of(body) == 4
        assert body["spec"]["disruptionMode"] == {"single": {}}
        return
    assert least_of(body) == 1
    if declared.name != "KAI":
        assert body["spec"]["minResources"] == {"nvidia.com/gpu": "8"}


def test_the_group_of_a_start_that_is_yet_to_come_is_kept():
    """A quota may refuse its pods for long: it would be made and deleted by turns."""
    pool = of()
    (step,) = next(
        iter(actions.group_actions(pool, plan(pool, seen(pool, []), NOW), seen(pool, [])).values())
    )
    assert isinstance(step, actions.CreateChild)
    there = seen(pool, [], {START: dict(step.body)})
    assert START in wanted(pool, there)
    assert actions.group_actions(pool, plan(pool, there, NOW), there) == {}
    over = seen(pool, [*running(pool, 0), *running(pool, 1)], {START: dict(step.body)})
    assert START not in wanted(pool, over)


def test_no_pod_is_made_of_a_group_that_is_somebody_elses():
    pool = of()
    found = plan(pool, seen(pool, []), NOW)
    taken = {(gangs.kind(pool.spec), START)}
    without = gang_groups.without(pool, taken, found)
    assert without == {engine.name for engine in pool.engines[:2]}


@pytest.mark.parametrize(
    "name", ["actor-infer-start-4", "actor-infer-start-x-0", "other-start-4-0", "start-4-0"]
)
def test_no_other_name_is_that_of_a_start(name):
    assert names.start_of(name, OWNER.name) is None
    assert not any(each.is_name(name, OWNER.name) for each in kinds.GANGS)
    assert all(each.is_name(START, OWNER.name) for each in kinds.GANGS)


# --- what is said


@EACH
def test_who_waits_for_the_start_says_for_how_many_at_once(declared):
    pool = of(declared)
    pods = [*waiting(pool, 0), *waiting(pool, 1)]
    found = plan(pool, seen(pool, pods), NOW)
    assert told.waiting(pool, found, None) == (
        conditions.WAITING_FOR_GANG,
        "4 engines waiting until scheduler theirs has room for 2 at once (scheduling.minEngines 2; "
        "2 pods with 8 nvidia.com/gpu each): 0/2 nodes are available",
    )
    assert told.regrouped(pool, found) == ""


def test_what_minEngines_cannot_be_is_refused_in_words():
    (problem,) = refused(scheduling={"minEngines": 2}).errors
    assert problem.field == "spec.scheduling.minEngines"
    assert "such as PodGroup" in problem.message
    assert any(f"expected {texts.NO_GANG}; " in rule["message"] for rule in RULES)
    kueue = f"expected {texts.NOT_OF_KUEUE}; {texts.DO_LEAVE_OUT}"
    assert any(rule["message"] == kueue for rule in RULES)
    for wrong in (0, 13):
        (problem,) = refused(scheduling={"gang": "PodGroup", "minEngines": wrong}).errors
        assert problem.field == "spec.scheduling.minEngines"
        assert "1 to 12, as many engines as the pool can have" in problem.message
    # Fewer replicas come and go; an autoscaler's are no mistake.
    spec = guide_spec(replicas=1, scheduling={"gang": "PodGroup", "minEngines": 3})
    assert a_pool(spec)
    del spec["device_mapping"]
    assert a_pool(spec)
