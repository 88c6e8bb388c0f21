"""Engines of several pods where there is room for some of their pods only."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.observed import groups
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.model import Observed, ObservedPod, Sightings, Termination
from sglang_operator.plan.footing import MOST_PLACE_SECONDS
from sglang_operator.plan.plan import Plan, plan
from sglang_operator.plan.rules import cramped
from tests.builders import NOW, a_failed_start, a_pod, a_pool, guide_spec, planned, removed

SAID = "0/4 nodes are available: 4 Insufficient nvidia.com/gpu."
POOL = a_pool(
    guide_spec(
        num_gpus_per_worker=2,
        num_gpus_per_node=1,
        device_mapping="list(range(0,8))",
        weights={"gate": "Off"},
    )
)
TIMED_OUT = (
    "torch.distributed.DistNetworkError: The client socket has timed out after 600000ms while "
    "trying to connect to (x, 20000)."
)
UP: dict[str, Any] = {"answered": True, "started": True, "ready": True}
LACKS_A_NODE: dict[str, Any] = {
    "containers_ready": False,
    "engine_runs": False,
    "node": "",
    "phase": "Pending",
    "unschedulable": SAID,
}
LONG = NOW - 1000.0  # ago that everything was seen


def waits(rank: int, node_rank: int, *, seen: float = LONG, **changes: Any) -> ObservedPod:
    """A pod for which no node is found."""
    values = {**LACKS_A_NODE, "created": seen, **changes}
    return a_pod(POOL, POOL.engines[rank], node_rank=node_rank, **values)


def holds(rank: int, node_rank: int, *, seen: float = LONG, **changes: Any) -> ObservedPod:
    """A pod that has its node, and waits for the others there."""
    values: dict[str, Any] = {"containers_ready": False, "created": seen, **changes}
    return a_pod(POOL, POOL.engines[rank], node_rank=node_rank, **values)


def half(rank: int, **changes: Any) -> list[ObservedPod]:
    return [waits(rank, 0, **changes), holds(rank, 1, **changes)]


def whole(rank: int) -> list[ObservedPod]:
    return [a_pod(POOL, POOL.engines[rank], node_rank=r, created=LONG, **UP) for r in (0, 1)]


def gone(result: Plan) -> set[str]:
    return {removal.pod.engine for removal in result.removals}


def name(rank: int) -> names.EngineName:
    return POOL.engines[rank].name


def test_of_two_that_block_each_other_the_last_gives_way():
    pods = [*whole(0), *whole(1), *half(2), *half(3)]
    plan = planned(POOL, pods)
    assert removed(plan) == [pod.name for pod in half(3)]
    assert plan.engines[3].state is EngineState.WAITING
    assert not plan.creates


def test_below_the_partition_those_of_an_older_revision_give_way_as_well():
    pods = [*whole(0), *whole(1), *half(2), *half(3)]
    older = [replace(pod, revision="0" * 10) for pod in pods]
    kept = a_pool(
        guide_spec(
            num_gpus_per_worker=2,
            num_gpus_per_node=1,
            device_mapping="list(range(0,8))",
            weights={"gate": "Off"},
            rollout={"partition": 4},
        )
    )
    assert removed(planned(kept, older)) == [pod.name for pod in half(3)]


def test_as_many_give_way_as_others_need_to_become_whole():
    pods = [*half(0), *half(1), *half(2), *half(3)]
    assert gone(planned(POOL, pods)) == {name(2), name(3)}
    assert gone(planned(POOL, pods[:6] + whole(3))) == {name(2)}, "the next waits with what it has"


def test_who_holds_nothing_takes_nothing_from_anybody():
    """A cluster autoscaler sees what is wanted by what waits."""
    pods = [*whole(0), *half(1), waits(2, 0), waits(2, 1), waits(3, 1)]
    assert not planned(POOL, pods).removals
    assert not planned(POOL, [waits(r, n) for r in range(4) for n in (0, 1)]).removals


def test_nobody_gives_way_for_what_would_not_become_whole():
    pool = a_pool(
        guide_spec(num_gpus_per_worker=4, num_gpus_per_node=1, device_mapping="list(range(0,8))")
    )
    pods = []
    for engine in pool.engines:
        for rank in range(4):
            pod = a_pod(pool, engine, node_rank=rank, created=LONG, containers_ready=False)
            lacks = replace(pod, node="", unschedulable=SAID, engine_runs=False)
            pods.append(pod if rank == 1 else lacks)
    assert not planned(pool, pods).removals, "one place is not three"


DRAWN = f"{SAID[:-1]}, 2 node(s) didn't match pod affinity rules."
IN_ONE_RACK = a_pool(
    guide_spec(
        num_gpus_per_worker=2,
        num_gpus_per_node=1,
        device_mapping="list(range(0,8))",
        weights={"gate": "Off"},
        scheduling={"requiredTopology": "rack"},
    )
)


def racked(rank: int, said: str = DRAWN) -> list[ObservedPod]:
    """An engine whose first pod has a node, in a rack without room for the other."""
    engine = IN_ONE_RACK.engines[rank]
    waiting = {**LACKS_A_NODE, "unschedulable": said, "created": LONG}
    return [
        a_pod(IN_ONE_RACK, engine, node_rank=0, **waiting),
        a_pod(IN_ONE_RACK, engine, node_rank=1, containers_ready=False, created=LONG),
    ]


def test_an_engine_alone_in_a_rack_without_room_is_tried_elsewhere():
    plan = planned(IN_ONE_RACK, racked(0))
    assert removed(plan) == [pod.name for pod in racked(0)]
    assert plan.engines[0].state is EngineState.WAITING
    moved = planned(IN_ONE_RACK, racked(0), last_gone=NOW - 10)
    assert not moved.removals
    assert moved.wake_at is not None
    assert moved.wake_at <= NOW - 10 + cramped.GIVE_WAY_SECONDS


def test_it_stays_where_no_other_rack_has_room_or_none_is_asked_for():
    assert not planned(IN_ONE_RACK, racked(0, SAID)).removals
    assert not planned(POOL, [waits(0, 0, unschedulable=DRAWN), holds(0, 1)]).removals


def test_of_several_that_cannot_help_each_other_the_one_that_stood_longest_moves():
    assert gone(planned(IN_ONE_RACK, [*racked(0), *racked(1)])) == {name(1)}, "the first gets room"
    larger = a_pool(
        guide_spec(
            num_gpus_per_worker=4,
            num_gpus_per_node=1,
            device_mapping="list(range(0,8))",
            scheduling={"requiredTopology": "rack"},
        )
    )
    pods = []
    for engine, seen in zip(larger.engines, (LONG - 10, LONG), strict=True):
        for rank in range(4):
            pod = a_pod(larger, engine, node_rank=rank, created=seen, containers_ready=False)
            lacks = replace(pod, node="", unschedulable=DRAWN, engine_runs=False)
            pods.append(pod if rank == 1 else lacks)
    assert gone(planned(larger, pods)) == {larger.engines[0].name}


@pytest.mark.parametrize("moved", ["came", "placed", "left"])
def test_it_is_waited_for_as_long_as_something_moves(moved):
    pods = [*whole(0), *whole(1), *half(2), *half(3)]
    extra: dict[str, Any] = {}
    if moved == "left":
        extra = {"last_gone": NOW - 10}
    elif moved == "placed":
        pods[0] = replace(pods[0], seen=Sightings(first=LONG, placed=NOW - 10))
    else:
        pods[0] = replace(pods[0], seen=Sightings(first=NOW - 10))
    plan = planned(POOL, pods, **extra)
    assert not plan.removals
    assert plan.wake_at == NOW - 10 + cramped.GIVE_WAY_SECONDS


def test_while_one_lacks_room_for_its_other_pods_no_other_is_begun():
    pods = [*whole(0), *half(1)]
    plan = planned(POOL, pods, last_gone=NOW - 20)
    assert not plan.creates
    assert {plan.engines[rank].state for rank in (2, 3)} == {EngineState.WAITING}
    assert plan.wake_at == NOW - 20 + MOST_PLACE_SECONDS
    later = planned(POOL, pods)
    assert {create.engine.name for create in later.creates} == {name(2), name(3)}, (
        "what keeps it waiting may be no matter to others"
    )


def test_engines_are_begun_side_by_side_as_long_as_nobody_lacks_room():
    assert len(planned(POOL, []).creates) == 4
    just = [holds(0, 1, seen=NOW - 5), waits(0, 0, seen=NOW - 5)]
    assert len(planned(POOL, just).creates) == 3, "the scheduler is at it"


def test_who_lacks_quota_for_the_rest_gives_way_too():
    followers = [holds(rank, 1) for rank in range(4)]
    plan = planned(POOL, followers, creates_refused=True)
    assert gone(plan) == {name(2), name(3)}
    assert [(c.engine.name, c.node_ranks) for c in plan.creates] == [
        (name(0), (0,)),
        (name(1), (0,)),
    ]
    alone = planned(POOL, [*whole(0), *whole(1), holds(2, 1)], creates_refused=True)
    assert not alone.removals


def ended_for_want(pod: ObservedPod, **changes: Any) -> ObservedPod:
    end = Termination(exit_code=1, reason="Error", message=TIMED_OUT, finished=NOW, started=LONG)
    seen = pod.seen._replace(ended=NOW)
    values: dict[str, Any] = {
        "phase": "Failed",
        "over": True,
        "engine_runs": False,
        "termination": end,
    }
    values |= {"seen": seen, "ended_at": NOW, "containers_ready_changed": LONG, **changes}
    return replace(pod, **values)


KNOWS: dict[str, Any] = {"failures": 2, "startup_failures": 2, "startup_reason": "CUDAOutOfMemory"}


@pytest.mark.parametrize(
    "leader",
    [[], [waits(0, 0, **KNOWS)], [holds(0, 0, engine_runs=False, phase="Pending", **KNOWS)]],
    ids=["none", "without a node", "that has not run"],
)
def test_who_waits_for_a_leader_in_vain_has_not_failed(leader):
    others = [*whole(1), *whole(2), *whole(3)]
    ended = ended_for_want(holds(0, 1, **KNOWS))
    plan = planned(POOL, [*leader, ended, *others])
    assert not (plan.ended or plan.stalls)
    assert removed(plan) == [pod.name for pod in leader]
    (create,) = plan.creates
    assert (create.attempt, create.node_ranks, create.failures) == (1, (1,), 2)
    assert create.streak is not None
    assert (create.streak.reason, create.streak.count) == ("CUDAOutOfMemory", 2)
    anew = replace(holds(0, 1), attempt=1, name="x", uid=names.Uid("anew"))
    assert removed(planned(POOL, [ended, anew, *others])) == [ended.name]


def test_who_ends_at_once_for_want_of_a_leader_is_not_made_again_at_once():
    ended = ended_for_want(holds(0, 1, seen=NOW - 5))
    others = [*whole(1), *whole(2), *whole(3)]
    plan = planned(POOL, [ended, *others])
    assert not (plan.creates or plan.removals or plan.ended)
    assert plan.wake_at == NOW - 5 + POOL.spec.restart.max_backoff_seconds


def test_who_dies_of_something_else_has_failed_whether_or_not_its_leader_had_run():
    """It would do so again, for as long as the leader has no node."""
    failed = a_failed_start(POOL, POOL.engines[0], node_rank=1)
    plan = planned(POOL, [waits(0, 0), failed, *whole(1), *whole(2), *whole(3)])
    assert list(plan.ended) == [failed]
    assert plan.creates[0].streak is not None


def test_what_waited_in_vain_for_an_engine_that_is_not_wanted_any_more_goes():
    fewer = a_pool(
        guide_spec(
            num_gpus_per_worker=2,
            num_gpus_per_node=1,
            device_mapping="list(range(0,8))",
            weights={"gate": "Off"},
            replicas=3,
        )
    )
    ended = ended_for_want(holds(3, 1))
    assert removed(planned(fewer, [*whole(0), *whole(1), *whole(2), ended])) == [ended.name]


class Cluster:
    """A scheduler that gives nodes to whoever came first, and ranks that wait for each other."""

    def __init__(self, gpus: int) -> None:
        self.gpus = gpus
        self.pods: dict[str, ObservedPod] = {}
        self.recorded: set[names.Uid] = set()
        self.now = NOW
        self.last_gone = 0.0
        self.made = 0

    def step(self) -> Plan:
        observed = Observed(
            pods=tuple(self.pods.values()),
            recorded=frozenset(self.recorded),
            last_gone=self.last_gone,
        )
        result = plan(POOL, observed, self.now)
        self.recorded |= {pod.uid for pod in result.ended}
        for removal in result.removals:
            self.pods.pop(removal.pod.name, None)
            self.last_gone = self.now
        for create in result.creates:
            for rank in create.node_ranks:
                self.made += 1
                pod = a_pod(
                    POOL,
                    create.engine,
                    create.attempt,
                    node_rank=rank,
                    uid=names.Uid(f"uid-{self.made}"),
                    created=self.now,
                    **LACKS_A_NODE,
                )
                self.pods[pod.name] = pod
        self.place()
        self.meet()
        self.now += 10
        return result

    def place(self) -> None:
        for pod in list(self.pods.values()):
            held = sum(bool(each.node) and not each.ended for each in self.pods.values())
            if not pod.node and held < self.gpus:
                self.pods[pod.name] = replace(
                    pod,
                    node=f"gpu-{pod.name}",
                    unschedulable="",
                    engine_runs=True,
                    phase="Running",
                    containers_ready_changed=self.now,
                    seen=pod.seen._replace(placed=self.now),
                )

    def meet(self) -> None:
        for group in groups.of(self.pods.values()):
            if group.placed and not group.ended:
                for pod in group.members:
                    self.pods[pod.name] = replace(pod, containers_ready=True, **UP)
                continue
            for pod in self.late(group.members):
                self.pods[pod.name] = ended_for_want(
                    pod, seen=pod.seen._replace(ended=self.now), ended_at=self.now
                )

    def late(self, members: Sequence[ObservedPod]) -> Iterator[ObservedPod]:
        for pod in members:
            if pod.engine_runs and pod.seen.placed <= self.now - 600 and not pod.ended:
                yield pod


@pytest.mark.parametrize("gpus", [2, 3, 4, 5, 6, 7])
def test_as_many_come_up_as_there_is_room_for(gpus):
    """And the rest waits without being charged for it, until there is a node."""
    cluster = Cluster(gpus)
    for _ in range(60):
        result = cluster.step()
    assert sum(engine.up for engine in result.engines) == gpus // 2
    for _ in range(600):
        result = cluster.step()
        assert not result.stalls
        assert sum(engine.up for engine in result.engines) == gpus // 2
    cluster.gpus = 8
    for _ in range(60):
        result = cluster.step()
    assert all(engine.up for engine in result.engines)
