"""How an engine stands by its pods: one, or several that live and die together."""

import dataclasses
from typing import Any

import pytest

from sglang_operator.ask import engines, events
from sglang_operator.children import trainer_registry
from sglang_operator.client import registry as client_registry
from sglang_operator.diagnosis import causes
from sglang_operator.gates import decide
from sglang_operator.gates.decide import GatePlan
from sglang_operator.observed import groups
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.groups import Group
from sglang_operator.observed.health import Health
from sglang_operator.observed.model import Gate, ObservedPod, Termination
from sglang_operator.plan.plan import Plan
from sglang_operator.pool.resolve import Pool
from sglang_operator.status import compute, failures, holdups
from sglang_operator.weights.lease_state import Transaction
from tests.builders import NOW, a_pod, a_pool, guide_spec, planned, weighed

POOL = a_pool(device_mapping="[0,1]")
ENGINE = POOL.engines[0]
OF_TWO = dataclasses.replace(ENGINE, pods=2)
UP, STARTING, PENDING = Health.UP, Health.STARTING, Health.PENDING
CUDA = "torch.OutOfMemoryError: CUDA error: out of memory"


def member(rank: int, **changes: Any) -> ObservedPod:
    """The pod of this node rank, on a node of its own."""
    values = {
        "name": f"engine-{rank}",
        "uid": f"uid-{rank}",
        "node": f"node-{rank}",
        "ip": f"10.0.0.{rank + 1}",
        "container_id": f"containerd://{rank}",
        "node_rank": rank,
        "nodes": 2,
        **changes,
    }
    return a_pod(POOL, ENGINE, **values)


def pair(
    *healths: Health, leader: dict[str, Any] | None = None, follower: dict[str, Any] | None = None
) -> EngineStatus:
    """An engine of two members, these being their health."""
    members = (member(0, **leader or {}), member(1, **follower or {}))
    return EngineStatus.of(OF_TWO, members, healths or (UP, UP))


def single(**changes: Any) -> EngineStatus:
    return planned(POOL, [member(0, nodes=1, **changes)]).engines[0]


@pytest.mark.parametrize(
    ("healths", "state"),
    [
        ((UP, UP), EngineState.UP),
        ((UP, STARTING), EngineState.STARTING),
        ((STARTING, UP), EngineState.STARTING),
        ((UP, PENDING), EngineState.PENDING),
        ((STARTING, PENDING), EngineState.PENDING),
        ((UP, Health.DYING), EngineState.WAITING),
        ((Health.LOST, UP), EngineState.LOST),
        ((Health.LOST, Health.DYING), EngineState.LOST),
        ((UP, Health.ENDED), EngineState.STARTING),
    ],
)
def test_an_engine_is_up_once_all_of_its_members_are(healths, state):
    engine = pair(*healths)
    assert engine.state is state
    assert engine.up is (state is EngineState.UP)


def test_an_engine_that_lacks_a_member_is_being_created():
    engine = EngineStatus.of(OF_TWO, (member(0),), (UP,))
    assert engine.state is EngineState.CREATING
    assert engine.exists
    assert not (engine.created or engine.updated or engine.up or engine.placed or engine.answers)
    assert engine.instance is None


def test_the_leader_alone_decides_whether_clients_reach_it():
    assert pair(leader={"ready": True}).in_service
    assert not pair(follower={"ready": True}).in_service
    opened = Gate(is_open=True, version="v1")
    assert pair(leader={"gate": opened}).reachable
    assert not pair(follower={"gate": opened}).reachable
    assert pair(leader={"gate": opened}).gate == opened


def test_an_engine_with_a_member_that_goes_or_ended_is_reached_by_nobody():
    opened = {"gate": Gate(is_open=True, version="v1")}
    assert not pair(leader=opened, follower={"deleting": True}).reachable
    ended = pair(leader=opened, follower={"over": True})
    assert ended.ended
    assert not ended.reachable
    assert not pair(follower={"deleting": True}).answers


def test_it_is_placed_once_all_of_its_members_are():
    assert pair().placed
    half = pair(UP, PENDING, follower={"node": ""})
    assert not half.placed
    assert half.nodes == ("node-0",)
    assert pair().nodes == ("node-0", "node-1")
    assert pair(follower={"node": "node-0"}).nodes == ("node-0",)
    assert pair().node == "node-0"


def test_its_gpus_are_shared_by_the_nodes_of_its_members():
    untold: dict[str, Any] = {"devices": ()}
    own = {**untold, "node": "node-0"}
    assert pair(leader=untold, follower=untold).held("", 16) == {"node-0": 8, "node-1": 8}
    assert pair(leader=untold, follower=own).held("", 16) == {"node-0": 16}
    half = pair(UP, PENDING, leader=untold, follower={**untold, "node": ""})
    assert half.held("", 16) == {"node-0": 8}
    assert half.gpus("", 16) == 16
    assert single(devices=()).held("", 2) == {"node-0": 2}


def test_it_has_the_gpus_that_its_pods_ask_for_whatever_the_spec_does_by_now():
    resource = "nvidia.com/gpu"
    asks: dict[str, Any] = {"devices": (), "limits": (("rdma/ib", 1), (resource, 4))}
    engine = pair(leader=asks, follower=asks)
    assert engine.held(resource, 32) == {"node-0": 4, "node-1": 4}
    assert engine.gpus(resource, 32) == 8
    mapped = pair(leader={"devices": (0, 1)}, follower={"devices": (2, 3)})
    assert mapped.held(resource, 32) == {"node-0": 2, "node-1": 2}
    none = EngineStatus(engine=OF_TWO, state=EngineState.CREATING)
    assert none.gpus(resource, 32) == 32


def test_it_is_named_and_reached_by_its_leader():
    engine = pair()
    assert (engine.pod_name, engine.uid, engine.ip) == ("engine-0", "uid-0", "10.0.0.1")
    assert engine.leader == engine.members[0]
    assert (engine.rank, engine.name, engine.devices) == (0, ENGINE.name, ENGINE.devices)


def test_a_restart_of_any_member_begins_another_life_of_the_engine():
    engine = pair()
    again = pair(follower={"container_id": "containerd://again"})
    other = pair(leader={"container_id": "containerd://again"})
    lives = {engine.instance, again.instance, other.instance}
    assert len(lives) == 3
    assert all(life and len(life) == 8 for life in lives)
    assert len({decide.epoch([each]) for each in (engine, again, other)}) == 3
    assert pair(follower={"container_id": ""}).instance is None


def test_an_engine_of_one_pod_has_the_life_of_that_pod():
    pod = member(0)
    engine = single()
    assert engine.instance == pod.instance
    assert engine.lives == f"{pod.uid}|{pod.container_id}"


def test_an_engine_without_a_pod_has_nothing():
    engine = planned(POOL, []).engines[0]
    assert engine.state is EngineState.CREATING
    assert (engine.leader, engine.instance, engine.uid, engine.gate) == (None, None, None, None)
    assert (engine.pod_name, engine.ip, engine.node, engine.why) == ("", "", "", "")
    assert (engine.attempt, engine.failures, engine.nodes, engine.lives) == (-1, 0, (), "|")
    assert not (engine.exists or engine.reachable or engine.ended or engine.restarting)
    assert not (engine.placed or engine.answers or engine.outdated or engine.ready)


def an_end(finished: float, message: str = CUDA) -> Termination:
    return Termination(
        exit_code=1, reason="Error", message=message, finished=finished, started=finished - 60
    )


def test_the_ends_of_all_members_are_told_the_first_one_first():
    first, later = an_end(NOW - 20), an_end(NOW - 10, "NCCL error: remote process exited")
    engine = pair(
        STARTING,
        STARTING,
        leader={"last_termination": later},
        follower={"last_termination": first},
    )
    assert [(pod.name, end) for pod, end in engine.ends] == [
        ("engine-1", first),
        ("engine-0", later),
    ]
    assert engine.restarting
    assert not dataclasses.replace(engine, state=EngineState.UP).restarting
    found = failures.seen(POOL, Plan(engines=(engine,), at=NOW))
    assert [each.pod for each in found] == ["engine-1", "engine-0"]
    assert found[0].reason == "CUDAOutOfMemory"


WAITS = {"containers_ready": False, "container_id": "", "engine_runs": False}
NO_IMAGE = {**WAITS, "waiting_reason": "ErrImagePull", "waiting_message": "not found"}


def test_what_keeps_any_member_keeps_the_engine():
    engine = pair(UP, STARTING, follower=NO_IMAGE)
    assert [pod.name for pod in engine.unready] == ["engine-1"]
    assert engine.why == "not found"
    held = causes.of_waiting(engine, causes.context(POOL), NOW)
    assert held is not None
    assert held[0].name == "engine-1"
    plan = Plan(engines=(engine,), at=NOW)
    assert holdups.waiting(POOL, plan, ()) is not None
    assert [each.pod for each in failures.seen(POOL, plan)] == ["engine-1"]


def test_an_engine_is_in_the_part_of_its_way_of_the_member_that_is_the_least_far():
    loading = {**WAITS, "engine_runs": True, "container_id": "containerd://0"}
    image = {**WAITS, "waiting_reason": "ContainerCreating", "has_sandbox": True}
    both = pair(STARTING, STARTING, leader=loading, follower=image)
    alone = single(**image)
    told = [holdups.phases(Plan(engines=(each,))) for each in (both, alone)]
    assert told[0] == told[1]
    assert told[0].startswith("1 ")


def test_a_member_without_a_place_is_told_by_the_scheduler():
    said = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    engine = pair(UP, PENDING, follower={**WAITS, "node": "", "unschedulable": said})
    assert engine.unschedulable == said
    assert engine.lacks("nvidia.com/gpu")
    plan = Plan(engines=(engine,), at=NOW)
    assert events.lacks_room(plan)
    told = holdups.pending(POOL, plan, ())
    assert told is not None
    assert said in told[1]


def test_only_the_nodes_that_are_lost_are_named():
    engine = pair(UP, Health.LOST)
    assert engine.lost_nodes == ("node-1",)
    told = holdups.lost(POOL, Plan(engines=(engine,)), ())
    assert told is not None
    assert "node-1" in told[1]
    assert "node-0" not in told[1]


def test_each_member_that_is_slow_to_be_created_is_asked_about():
    slow = {**WAITS, "waiting_reason": "ContainerCreating", "created": NOW - 100}
    plan = Plan(engines=(pair(STARTING, STARTING, leader=slow, follower=slow),), at=NOW)
    assert [pod.name for pod in events.slow_to_create(plan, NOW)] == ["engine-0", "engine-1"]


def test_an_engine_of_two_pods_is_one_engine_in_status_registry_and_questions():
    opened = {"ready": True, "gate": Gate(is_open=True, version="v1")}
    engine = pair(leader=opened)
    plan = Plan(engines=(engine,), at=NOW)
    assert compute.EngineCounts.of(plan) == compute.EngineCounts(
        desired=1, up=1, in_service=1, created=1, updated=1
    )
    weighed = GatePlan(engines=plan.engines, transaction=Transaction())
    assert weighed.synced == 1
    assert weighed.versions == {ENGINE.name: "v1"}
    entry = trainer_registry.document(POOL, weighed)["engines"][0]
    assert (entry["pod"], entry["podIP"], entry["instance"], entry["gate"]) == (
        "engine-0",
        "10.0.0.1",
        engine.instance,
        "Open",
    )
    asked = engines.questions(POOL, plan.engines)
    assert {(each.instance, each.url) for each in asked} == {
        (engine.instance, "http://10.0.0.1:30000")
    }
    assert len(list(plan.pods)) == 2


def test_engines_that_are_not_up_are_down_whatever_keeps_them():
    up, starting, half = pair(), pair(UP, STARTING), EngineStatus.of(OF_TWO, (member(0),), (UP,))
    none = EngineStatus(engine=OF_TWO, state=EngineState.BACKOFF)
    plan = Plan(engines=(up, starting, half, none))
    assert plan.down == (starting, half, none)
    assert plan.coming == 3


# --- an edit of the number of pods that an engine is

NODE = {"num_gpus_per_worker": 8, "device_mapping": "list(range(0,16))"}
COUNTED = {"device_mapping": None, "replicas": 2}
REGROUPED = [
    pytest.param({**NODE, "num_gpus_per_node": 8}, {**NODE, "num_gpus_per_node": 4}, id="1-to-2"),
    pytest.param({**NODE, "num_gpus_per_node": 4}, {**NODE, "num_gpus_per_node": 8}, id="2-to-1"),
    pytest.param({**NODE, "num_gpus_per_node": 4}, {**NODE, "num_gpus_per_node": 2}, id="2-to-4"),
    pytest.param(
        {**COUNTED, "num_gpus_per_worker": 8}, {**COUNTED, "num_gpus_per_worker": 16}, id="r0-grows"
    ),
    pytest.param(
        {**COUNTED, "num_gpus_per_worker": 16},
        {**COUNTED, "num_gpus_per_worker": 8},
        id="r0-shrinks",
    ),
]


def regrouped(before: dict[str, Any], after: dict[str, Any], **common: Any) -> tuple[Pool, Pool]:
    """The pool before an edit of how many pods an engine is, and after it: names stay the same."""
    common = {"weights": {"gate": "Committed"}, "rollout": {"paused": True}, **common}
    raws = [
        {key: value for key, value in guide_spec(**common, **edit).items() if value is not None}
        for edit in (before, after)
    ]
    old, new = (a_pool(raw) for raw in raws)
    assert [e.name for e in old.running] == [e.name for e in new.running]
    assert old.nodes != new.nodes
    return old, new


def served(pool: Pool) -> list[ObservedPod]:
    """Its pods while clients reach every engine."""
    gate = Gate(is_open=True, version="v1")
    common = {"answered": True, "started": True, "ready": True}
    return [
        a_pod(
            pool,
            engine,
            node_rank=rank,
            container_id=f"containerd://{engine.name}-{rank}",
            gate=None if rank else gate,
            **common,
        )
        for engine in pool.running
        for rank in range(engine.pods)
    ]


@pytest.mark.parametrize(("before", "after"), REGROUPED)
def test_engines_run_on_when_the_spec_asks_for_another_number_of_pods(before, after):
    """Each was started in as many as it has: a trainer that syncs, or wakes them, misses none."""
    old, new = regrouped(before, after)
    pods = served(old)
    was, now = (weighed(pool, pods) for pool in (old, new))
    assert now.engines
    for engine in now.engines:
        assert engine.state is EngineState.IN_SERVICE
        assert engine.created and engine.placed and engine.reachable and engine.outdated
        assert not engine.updated
    assert [e.instance for e in now.engines] == [e.instance for e in was.engines]
    assert now.synced == len(now.engines)
    assert now.epoch == was.epoch


@pytest.mark.parametrize(("before", "after"), REGROUPED)
def test_the_status_counts_them_as_up_meanwhile(before, after):
    old, new = regrouped(before, after)
    pods = served(old)
    status = compute.compute(
        new,
        planned(new, pods),
        weighed(new, pods),
        ignored=(),
        troubles=(),
        previous={},
        now=NOW,
    )
    assert status["readySummary"] == "2/2"
    counts = status["engines"]
    assert (counts["created"], counts["up"], counts["inService"]) == (2, 2, 2)


@pytest.mark.parametrize(("before", "after"), REGROUPED)
def test_a_sync_can_begin_while_such_an_edit_is_rolled_out(before, after):
    """Else the rollout waits for a sync, and the sync for the rollout."""
    old, new = regrouped(before, after, rollout={"maxUnavailable": 1})
    (first, second) = new.running
    kept = [pod for pod in served(old) if pod.engine == first.name]
    fresh = [
        a_pod(new, second, 1, node_rank=rank, container_id=f"containerd://{rank}", answered=True)
        for rank in range(second.pods)
    ]
    gates = weighed(new, [*kept, *fresh])
    told = client_registry.parse(trainer_registry.registry(new, gates))
    told.require_for_sync()
    assert {engine.runs for engine in told.engines} == {True}


def test_an_engine_of_two_pods_that_lacks_one_is_half_there_though_the_spec_asks_for_one():
    half = groups.status(dataclasses.replace(ENGINE, pods=1), Group((member(0),)), (UP,))
    assert half.state is EngineState.CREATING
    assert not (half.created or half.up or half.placed or half.reachable)
    assert half.instance is None
