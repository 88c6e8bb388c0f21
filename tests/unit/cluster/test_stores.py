"""What the stores keep, what they forget, and whom they wake how urgently."""

import dataclasses
import time
from typing import Any

import msgspec
import pytest

from sglang_operator import clocks
from sglang_operator.api import names
from sglang_operator.cluster import stores
from sglang_operator.cluster.child_store import child_store
from sglang_operator.cluster.node_store import NodeStore
from sglang_operator.cluster.stores import PodStore, PoolKey, PoolStore
from sglang_operator.observed import wire
from sglang_operator.weights import lease_state
from sglang_operator.weights.lease_state import Phase, Transaction

KEY = PoolKey("rl", "actor-infer")


def known(namespace: str, name: str, uid: str) -> bool:
    """Every pool is."""
    return True


class Wakes(list[tuple[PoolKey, bool]]):
    def __call__(self, key: PoolKey, urgent: bool) -> None:
        self.append((key, urgent))


def a_pod(name="p", version=10, owner="pool-uid", kind=names.KIND, **status: Any) -> wire.Pod:
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": "rl",
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
        "labels": {names.LABEL_ENGINE: "g0-1", **names.serving_selector("actor-infer")},
        "ownerReferences": [
            {"kind": kind, "name": "actor-infer", "uid": owner, "controller": True}
        ],
    }
    if status.pop("deleting", False):
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return msgspec.convert({"metadata": metadata, "status": status}, wire.Pod)


def a_deleted_pod(version: int, stamp: str, grace: int, phase: str) -> wire.Pod:
    metadata = msgspec.to_builtins(a_pod(version=version).metadata)
    metadata |= {
        "uid": "uid-p",
        "deletionTimestamp": f"2026-01-01T00:{stamp}Z",
        "deletionGracePeriodSeconds": grace,
    }
    ended = {"exitCode": 137, "finishedAt": "2026-01-01T00:00:17Z"}
    state = {"terminated": ended} if phase == "Failed" else {}
    status = {"phase": phase, "containerStatuses": [{"name": "engine", "state": state}]}
    return msgspec.convert({"metadata": metadata, "status": status}, wire.Pod)


UP = {"conditions": [{"type": "ContainersReady", "status": "True"}], "phase": "Running"}


def test_a_pod_is_found_under_its_owner_whatever_its_labels_say():
    store = PodStore(Wakes())
    store.put(a_pod())
    assert [entry.owner for entry in store.of(KEY)] == ["pool-uid"]


@pytest.mark.parametrize("begun", [True, False])
def test_a_pod_that_was_told_to_go_has_not_failed_whatever_kubelet_writes_at_its_end(begun):
    """Kubelet's own delete moves the timestamp behind the end, as seen on a real node."""
    store = PodStore(Wakes())
    if begun:
        store.put(a_deleted_pod(11, "01:14", 60, "Running"))
    store.put(a_deleted_pod(12, "00:18", 0, "Failed"))
    (entry,) = store.of(KEY)
    assert entry.pod.ended
    assert not entry.pod.failed


def a_member(rank: int, version: int = 10, attempt: int = 0, **status: Any) -> wire.Pod:
    """The pod of one node rank of an engine that is two."""
    pod = a_pod(f"actor-infer-g0-1-{attempt}n{rank}", version, **status)
    notes = {names.ANNOTATION_NODES: "2", names.ANNOTATION_ATTEMPT: str(attempt)}
    metadata = msgspec.structs.replace(pod.metadata, annotations=notes)
    return msgspec.structs.replace(pod, metadata=metadata)


def test_of_what_is_left_of_an_engine_it_is_known_that_another_of_its_pods_was_deleted():
    """Else its end, which is told later than the other is gone, would be a failure of its own."""
    store = PodStore(Wakes())
    for pod in (a_member(0), a_member(1), a_member(1, attempt=1)):
        store.put(pod)
    going = a_member(0, 11, deleting=True)
    store.put(going)
    store.drop(going)
    ended = [{"name": "engine", "state": {"terminated": {"exitCode": 3}}}]
    store.put(a_member(1, 12, phase="Failed", containerStatuses=ended))
    other, left = sorted((entry.pod for entry in store.of(KEY)), key=lambda pod: pod.ended)
    assert left.ended
    assert 0.0 < left.seen.bereft < left.seen.ended
    assert not other.seen.bereft, "it is of another attempt"


def test_what_was_taken_out_of_sight_bereaves_nobody():
    store = PodStore(Wakes())
    store.put(a_member(0))
    store.put(a_member(1))
    store.drop(a_member(0, 11))
    (left,) = store.of(KEY)
    assert not left.pod.seen.bereft, "nobody saw it asked to go"


RUNS = [{"name": "engine", "containerID": "containerd://1", "state": {"running": {}}}]


@pytest.mark.parametrize(
    ("rank", "status", "met"),
    [
        (0, {"phase": "Running", "containerStatuses": RUNS}, True),
        (0, {"phase": "Pending"}, False),
        (1, {"phase": "Running", "containerStatuses": RUNS}, False),
    ],
)
def test_who_may_have_met_a_leader_that_is_gone_remembers_it(rank, status, met):
    """Deleted by force, it is never seen to go: another by its name would not meet the others."""
    store = PodStore(Wakes())
    store.put(a_member(rank, **status))
    store.put(a_member(1 - rank))
    store.put(a_member(1 - rank, attempt=1))
    store.drop(a_member(rank, 11))
    store.put(a_member(1 - rank, 12))
    left, other = sorted((entry.pod for entry in store.of(KEY)), key=lambda pod: pod.attempt)
    assert bool(left.seen.headless) is met
    assert not other.seen.headless, "it is of another attempt"


def a_chosen_member(rank: int, version: int = 10, **status: Any) -> wire.Pod:
    """The same with the labels that it was made with."""
    pod = a_member(rank, version, **status)
    component = names.FOLLOWER if rank else names.ENGINE
    labels = {**pod.metadata.labels, names.LABEL_COMPONENT: component}
    return msgspec.structs.replace(
        pod, metadata=msgspec.structs.replace(pod.metadata, labels=labels)
    )


def test_pods_that_are_one_engine_vanish_as_one_and_those_of_its_next_attempt_once_more():
    """The next may have the same number, where nothing was left to tell it from."""
    store = PodStore(Wakes())
    for count, ranks in ((1, (0, 1)), (2, (1, 0))):
        for rank in ranks:
            store.put(a_chosen_member(rank, 10 * count))
        for rank in ranks:
            store.drop(a_chosen_member(rank, 10 * count + 1))
            assert store.vanished(KEY) == count
    for rank in (0, 1):
        store.put(a_chosen_member(rank, 30))
    store.drop(a_chosen_member(1, 31))
    going = a_chosen_member(0, 32, deleting=True)
    store.put(going)
    store.drop(going)
    assert store.vanished(KEY) == 3
    store.put(a_chosen_member(1, 40))
    store.drop(a_chosen_member(1, 41))
    assert store.vanished(KEY) == 4, "nothing was left of the last one"


def test_engines_of_one_pod_vanish_each_by_itself():
    store = PodStore(Wakes())
    for name in ("actor-infer-g0-0", "actor-infer-g1-0"):
        store.put(a_pod(name))
        store.drop(a_pod(name, 11))
    assert store.vanished(KEY) == 2


def test_a_pod_that_ended_by_itself_has_failed_also_once_it_is_deleted():
    store = PodStore(Wakes())
    ended = a_deleted_pod(11, "00:00", 0, "Failed")
    alive = msgspec.structs.replace(ended.metadata, deletion_timestamp=None)
    store.put(msgspec.structs.replace(ended, metadata=alive))
    store.put(a_deleted_pod(12, "01:18", 60, "Failed"))
    store.put(a_deleted_pod(13, "00:30", 0, "Failed"))
    (entry,) = store.of(KEY)
    assert entry.pod.failed


def test_what_was_read_of_an_end_is_kept_whatever_else_happens_to_the_pod():
    def restarted(version: int, place: str) -> wire.Pod:
        end = {"exitCode": 1, "reason": "Error", "message": "a long text"}
        engine = {"name": "engine", "restartCount": 1, place: {"terminated": end}}
        return a_pod(version=version, containerStatuses=[engine])

    store = PodStore(Wakes())
    store.put(restarted(11, "state"))
    (first,) = next(store.of(KEY)).pod.terminations
    assert not first.is_read
    _ = first.reading
    store.put(restarted(12, "lastState"))
    (kept,) = next(store.of(KEY)).pod.terminations
    assert kept is first, "the container has been started again, and its end is the same"


def test_a_pod_with_our_labels_and_another_owner_is_not_ours():
    store = PodStore(Wakes())
    store.put(a_pod(kind="ReplicaSet"))
    assert len(store) == 0


def test_an_older_version_never_overwrites_a_newer_one():
    store = PodStore(Wakes())
    store.put(a_pod(version=20, **UP))
    store.put(a_pod(version=15))
    assert next(store.of(KEY)).pod.containers_ready


def test_a_pod_behind_a_gate_is_known_by_the_stream_that_tells_of_it_as_it_was_made():
    """Of its create the metadata alone is answered, and nothing happens to it while it waits."""
    store = PodStore(wakes := Wakes())
    store.answered(a_pod())
    gates = [wire.SchedulingGate(name=names.KUEUE_GATE)]
    for _ in range(2):  # the second time it is no news
        wakes.clear()
        store.put(msgspec.structs.replace(a_pod(), spec=wire.PodSpec(scheduling_gates=gates)))
        assert next(store.of(KEY)).pod.scheduling_gates == (names.KUEUE_GATE,)
    assert not wakes


def test_a_late_answer_does_not_bring_a_deleted_pod_back():
    store = PodStore(Wakes())
    store.put(a_pod())
    store.drop(a_pod(version=12))
    store.put(a_pod(version=11))
    assert len(store) == 0


def test_a_pod_that_begins_to_go_is_a_loss_and_so_is_one_that_is_gone():
    store = PodStore(Wakes())
    store.put(a_pod(**UP))
    assert store.lost_at(KEY) == float("-inf")
    store.put(a_pod(version=11, deleting=True, **UP))
    going = store.lost_at(KEY)
    assert going > 0
    store.put(a_pod(version=12, deleting=True))
    assert store.lost_at(KEY) == going
    store.drop(a_pod(version=13))
    assert store.lost_at(KEY) > going
    store.forget_losses(KEY)
    assert store.lost_at(KEY) == float("-inf")


def test_news_without_meaning_wakes_nobody():
    store = PodStore(wakes := Wakes())
    store.put(a_pod(**UP))
    wakes.clear()
    store.put(a_pod(version=11, **UP))
    assert not wakes
    assert next(store.of(KEY)).pod.resource_version == 11


def test_a_pod_that_gets_its_label_back_is_seen_again():
    store = PodStore(Wakes())
    store.put(a_pod())
    store.drop(a_pod(version=12))
    store.put(a_pod(version=13))
    assert len(store) == 1


def test_a_late_answer_does_not_bring_a_deleted_pool_back():
    store = PoolStore(Wakes())
    store.put(a_pool())
    store.drop(a_pool(version=12))
    store.put(a_pool(version=11))
    assert store.get(KEY) is None


def test_an_annotation_that_is_no_number_harms_nobody():
    store = PodStore(Wakes())
    pod = a_pod()
    pod.metadata.annotations[names.ANNOTATION_ATTEMPT] = "9" * 5000
    pod.metadata.annotations[names.ANNOTATION_DEVICES] = "1," * 50_000 + "x"
    store.put(pod)
    assert next(store.of(KEY)).pod.attempt == 0


def test_a_list_takes_away_what_is_not_in_it_but_for_what_is_newer_than_the_list():
    store = PodStore(Wakes())
    store.put(a_pod("old", 10))
    store.put(a_pod("just-created", 30))
    store.replace("", [], 20)
    assert [entry.pod.name for entry in store.of(KEY)] == ["just-created"]


def a_lease(version: int) -> wire.Child:
    owner = {"kind": names.KIND, "name": "actor-infer", "uid": "pool-uid", "controller": True}
    metadata = {
        "name": "actor-infer-weights",
        "namespace": "rl",
        "uid": "uid-lease",
        "resourceVersion": str(version),
        "ownerReferences": [owner],
    }
    return msgspec.convert({"metadata": metadata}, wire.Child)


def saying(version: int, state: Transaction | None = None) -> wire.Child:
    lease = a_lease(version)
    notes = lease_state.written({}, state)["metadata"]["annotations"] if state else {}
    spec = {"leaseTransitions": state.transitions if state else 0}
    metadata = msgspec.structs.replace(lease.metadata, annotations=notes)
    return msgspec.structs.replace(lease, metadata=metadata, spec=spec)


def test_of_a_lease_that_is_lost_twice_before_anybody_looks_the_first_loss_is_told():
    """Who began by what was left of it knew nothing of who had slept."""
    store = child_store("Lease", Wakes(), known)
    slept = Transaction(phase=Phase.SLEEPING, id="a", transitions=9, released=("weights",))
    begun = Transaction(phase=Phase.SYNCING, id="b", transitions=1)
    for version, state in enumerate((slept, None, begun, None), 1):
        store.put(saying(version, state))
    former = store.former(KEY)
    assert former is not None
    assert lease_state.read(former.body).phase is Phase.SLEEPING
    assert store.former(KEY) is None


def test_of_a_pool_that_is_gone_nothing_is_told_to_the_next_of_its_name():
    store = child_store("Lease", Wakes(), known)
    slept = Transaction(phase=Phase.SLEEPING, id="a", released=("weights",))
    store.put(saying(1, slept))
    store.put(saying(2))
    store.forget_losses(KEY)
    assert store.former(KEY) is None


def test_of_a_lease_that_is_put_back_to_as_many_transactions_what_it_said_is_told():
    store = child_store("Lease", Wakes(), known)
    whole = Transaction(phase=Phase.COMMITTED, id="a", transitions=9)
    slept = Transaction(phase=Phase.SLEEPING, id="a", transitions=9, trail=whole.trail.stepped("a"))
    store.put(saying(1, dataclasses.replace(slept, releases=True)))
    store.put(saying(2, dataclasses.replace(slept, trail=slept.trail.stepped("a"))))
    assert store.former(KEY) is None
    store.put(saying(3, whole))
    former = store.former(KEY)
    assert former is not None
    assert lease_state.read(former.body).phase is Phase.SLEEPING


@pytest.mark.parametrize("step", [3600, -3600])
def test_a_wall_clock_that_is_put_right_makes_no_lease_older_or_younger(monkeypatch, step):
    wall, moment = time.time(), clocks.steady()
    store = child_store("Lease", Wakes(), known)
    monkeypatch.setattr(stores, "steady", lambda: moment)
    store.put(a_lease(1))
    monkeypatch.setattr(stores, "steady", lambda: moment + 5)
    monkeypatch.setattr(time, "time", lambda: wall + 5 + step)
    for now in (None, wall + 5 + step):
        ((_, lease),) = store.of(KEY, now)
        assert lease.seen == pytest.approx(wall + step)
    store.put(a_lease(2))  # a renewal
    ((_, lease),) = store.of(KEY)
    assert lease.seen == pytest.approx(wall + 5 + step)


def test_a_list_of_one_namespace_says_nothing_about_another():
    store = PodStore(Wakes())
    store.put(a_pod())
    store.replace("elsewhere", [], 99)
    assert len(store) == 1


@pytest.mark.parametrize(
    ("before", "after", "urgent"),
    [
        pytest.param({}, {"phase": "Running"}, False, id="it starts"),
        pytest.param({}, {"deleting": True}, True, id="it is deleted"),
        pytest.param(UP, {"phase": "Failed"}, True, id="it fails"),
        pytest.param(UP, {"phase": "Running"}, True, id="it no longer answers"),
        pytest.param(
            UP,
            {
                **UP,
                "conditions": [
                    *UP["conditions"],
                    {
                        "type": "DisruptionTarget",
                        "status": "True",
                        "reason": "EvictionByEvictionAPI",
                    },
                ],
            },
            True,
            id="it is evicted",
        ),
    ],
)
def test_bad_news_is_urgent_and_good_news_can_wait(before, after, urgent):
    wakes = Wakes()
    store = PodStore(wakes)
    store.put(a_pod(version=10, **before))
    store.put(a_pod(version=11, **after))
    assert wakes == [(KEY, False), (KEY, urgent)]


def a_pool(version=10, generation=1, uid="pool-uid", **metadata: Any) -> wire.CustomResource:
    meta = {
        "name": "actor-infer",
        "namespace": "rl",
        "uid": uid,
        "resourceVersion": str(version),
        "generation": generation,
        **metadata,
    }
    return msgspec.json.decode(msgspec.json.encode({"metadata": meta}), type=wire.CustomResource)


def test_a_changed_spec_is_urgent_and_a_changed_status_is_not():
    wakes = Wakes()
    store = PoolStore(wakes)
    store.put(a_pool())
    store.put(a_pool(version=11))
    store.put(a_pool(version=12, generation=2))
    other = msgspec.structs.replace(
        a_pool(version=13, generation=2), written=msgspec.Raw(b'{"a":1}')
    )
    store.put(other)  # as after a restore
    assert [urgent for _, urgent in wakes] == [True, False, True, True]


def test_a_pool_created_anew_replaces_the_old_one_and_its_deletion_comes_too_late():
    store = PoolStore(Wakes())
    store.put(a_pool())
    store.put(a_pool(version=20, uid="another"))
    store.drop(a_pool(version=15))
    found = store.get(KEY)
    assert found is not None
    assert found.metadata.uid == "another"


def a_node(ready="True", version=10, taints=()) -> wire.NodeObject:
    return msgspec.convert(
        {
            "metadata": {"name": "n", "resourceVersion": str(version)},
            "spec": {"taints": [{"key": key, "effect": "NoExecute"} for key in taints]},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        },
        wire.NodeObject,
    )


def test_only_what_matters_about_a_node_wakes_its_pools():
    changed: list[str] = []
    store = NodeStore(changed.append)
    store.put(a_node())
    store.put(a_node(version=11))  # a heartbeat
    store.put(a_node("Unknown", version=12))
    store.put(a_node("Unknown", version=13, taints=[wire.OUT_OF_SERVICE]))
    assert len(changed) == 3


def test_a_deleted_node_is_gone_until_it_is_seen_again():
    store = NodeStore(lambda name: None)
    store.replace("", [a_node()], 10)
    store.drop(a_node(version=11))
    assert store.nodes["n"].gone
    store.put(a_node(version=5))  # another node object under the name, with versions of its own
    assert not store.nodes["n"].gone


def test_what_a_list_names_but_cannot_tell_stays_as_it_was():
    """However it came to be unreadable: no engine goes because its pod, its Service or its node
    could not be read."""
    pods, pools = PodStore(Wakes()), PoolStore(Wakes())
    services, nodes = child_store("Service", Wakes(), known), NodeStore(lambda name: None)
    node, service = a_node(), a_service()
    pods.put(a_pod())
    pools.put(a_pool())
    services.put(service)
    nodes.put(node)
    pods.replace("", [], 99, [a_pod(version=12).metadata])
    pools.replace("", [], 99, [a_pool(version=12).metadata])
    services.replace("", [], 99, [service.metadata])
    nodes.replace("", [], 99, [node.metadata])
    assert len(pods) == 1
    assert pools.get(KEY) is not None
    assert len(list(services.of(KEY))) == 1
    assert not nodes.nodes[node.metadata.name].gone


def test_nobody_is_gone_by_a_list_in_which_somebody_could_not_be_named():
    pods = PodStore(Wakes())
    pods.put(a_pod("a"))
    pods.put(a_pod("b"))
    pods.replace("", [a_pod("a")], 99, [wire.Meta()])
    assert len(pods) == 2


def test_one_object_that_makes_a_store_fail_does_not_keep_the_list_from_it(monkeypatch):
    observed = wire.observed_pod

    def failing(pod: wire.Pod, *rest: Any) -> Any:
        if pod.metadata.name == "bad":
            raise RuntimeError("a defect")
        return observed(pod, *rest)

    monkeypatch.setattr(wire, "observed_pod", failing)
    pods = PodStore(Wakes())
    pods.replace("", [a_pod("bad"), a_pod("good")], 99)
    assert [entry.pod.name for entry in pods.of(KEY)] == ["good"]


def test_a_pool_that_turned_unreadable_keeps_what_was_told_of_it_and_wakes():
    wakes = Wakes()
    store = PoolStore(wakes)
    told = {"resolved": {"gate": "Committed"}}
    store.put(msgspec.structs.replace(a_pool(), status=told))
    wakes.clear()
    bad = msgspec.structs.replace(a_pool(version=12), unreadable="it is nested too deep")
    store.put(bad)
    found = store.get(KEY)
    assert found is not None
    assert (found.status, found.unreadable) == (told, bad.unreadable)
    assert wakes == [(KEY, True)]


def a_service() -> wire.Child:
    return wire.Child(metadata=msgspec.structs.replace(a_pod().metadata, name="actor-infer"))


# --- pods that are not where they should be


def relabelled(name: str, *, owned: bool, **labels: str | None) -> wire.Pod:
    """A pod of engine g0-1 with other labels; None takes one away."""
    metadata = msgspec.to_builtins(a_pod(name).metadata)
    metadata["uid"] = "uid-p"
    keys = {
        "pool": names.LABEL_POOL,
        "component": names.LABEL_COMPONENT,
        "engine": names.LABEL_ENGINE,
    }
    changed = {keys[key]: value for key, value in labels.items()}
    metadata["labels"] = {
        key: value for key, value in (metadata["labels"] | changed).items() if value is not None
    }
    made = msgspec.convert({"metadata": metadata}, wire.Pod)
    if owned:
        owners = a_pod(name).metadata.owner_references
        return msgspec.structs.replace(
            made, metadata=msgspec.structs.replace(made.metadata, owner_references=owners)
        )
    bare = msgspec.structs.replace(made.metadata, owner_references=[])
    return msgspec.structs.replace(made, metadata=bare)


@pytest.mark.parametrize("label", ["pool", "component"])
@pytest.mark.parametrize("value", [None, "else"])
def test_a_pod_without_the_labels_that_the_service_selects_by_is_put_aside(label, value):
    store = PodStore(Wakes())
    store.put(relabelled("actor-infer-g0-1-0", owned=True, **{label: value}))
    (entry,) = store.of(KEY)
    assert entry.aside
    assert not store.has("uid-p", "pool-uid")


def test_an_engine_is_known_by_its_pods_name_whatever_its_label_says():
    store = PodStore(Wakes())
    store.put(relabelled("actor-infer-g0-1-0", owned=True, engine="g8-9"))
    (entry,) = store.of(KEY)
    assert (entry.pod.engine, entry.aside) == ("g0-1", False)


@pytest.mark.parametrize(
    ("name", "labels", "stands"),
    [
        pytest.param("actor-infer-g0-1-0", {}, True, id="an engine that lost its owner"),
        pytest.param("actor-infer-g0-1-3", {}, True, id="its fourth pod"),
        pytest.param("actor-infer-g0-1-0", {"component": None}, False, id="in no Service"),
        pytest.param("bystander", {}, False, id="another name"),
        pytest.param("actor-infer-g0-1-x", {}, False, id="almost its name"),
    ],
)
def test_an_orphan_in_an_engines_place_is_seen_and_is_nobodys(name, labels, stands):
    store = PodStore(Wakes())
    store.put(relabelled(name, owned=False, **labels))
    assert [(entry.owner, entry.pod.engine) for entry in store.of(KEY)] == [("", "g0-1")] * stands


@pytest.mark.parametrize(
    "version",
    [
        pytest.param(530, id="revisions begin lower"),
        pytest.param(1_000_900, id="revisions are bumped, as etcd advises"),
        pytest.param(1_003, id="revisions passed the newest before the list"),
    ],
)
def test_after_a_restore_from_a_backup_the_list_is_all_that_is_known(version):
    """Versions begin lower then: every store was blind to all news until the process ended."""
    wakes = Wakes()
    pods, pools, nodes = PodStore(wakes), PoolStore(wakes), NodeStore(lambda name: None)
    children = child_store("Lease", wakes, pools.has)
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    pods.put(a_pod("a", version=1000, **ready))
    pods.put(a_pod("b", version=1001, **ready))
    pods.put(a_pod("c", version=1002))
    pods.drop(a_pod("c", version=1003))
    pools.put(a_pool(version=1000, generation=4))
    children.put(a_lease(1000))
    nodes.replace("", [a_node(version=1000)], 1000)
    for store in (pods, pools, children, nodes) if version < 1000 else ():
        store.restored()
    wakes.clear()
    pods.replace("", [a_pod("a", version=520), a_pod("c", version=521)], version)
    pools.replace("", [a_pool(version=510, generation=3)], version)
    children.replace("", [], version)
    nodes.replace("", [a_node("False", 500)], version)
    found = {entry.pod.name: entry.pod for entry in pods.of(KEY)}
    assert set(found) == {"a", "c"}
    assert (found["a"].ready, found["a"].resource_version) == (False, 520)
    pool = pools.get(KEY)
    assert pool is not None
    assert pool.metadata.generation == 3
    assert list(children.of(KEY)) == []
    assert not any(node.ready for node in nodes.nodes.values())
    assert (KEY, True) in wakes
    pods.put(a_pod("a", version=519, **ready))  # versions count again
    assert not next(entry.pod for entry in pods.of(KEY) if entry.pod.name == "a").ready


def test_a_child_that_a_list_shows_in_an_earlier_state_is_in_that_state():
    """The cluster was restored from a backup; its Lease said that a sync had been committed."""
    wakes = Wakes()
    children = child_store("Lease", wakes, known)
    children.put(a_lease(1000))
    children.replace("", [a_lease(520)], 1_000_900)
    children.put(a_lease(510))  # and versions count again
    ((_, child),) = children.of(KEY)
    assert child.body["metadata"]["resourceVersion"] == "520"


def test_what_is_known_at_a_higher_version_than_a_list_is_newer_than_the_list():
    """Own writes were answered, and an end was seen, while the list was under way."""
    wakes = Wakes()
    pods, pools = PodStore(wakes), PoolStore(wakes)
    pods.put(a_pod("a", version=101))
    pods.drop(a_pod("b", version=101))
    pools.put(a_pool(version=101, generation=2))
    pods.replace("", [a_pod("a", version=50), a_pod("b", version=60)], 100)
    pools.replace("", [a_pool(version=50, generation=1)], 100)
    assert [entry.pod.resource_version for entry in pods.of(KEY)] == [101]
    pool = pools.get(KEY)
    assert pool is not None
    assert pool.metadata.generation == 2


def test_a_list_that_was_under_way_brings_no_pool_back_that_a_read_did_not_find():
    pools = PoolStore(Wakes())
    pools.put(a_pool(version=50))
    pools.gone(KEY, a_pool().metadata.uid)
    pools.replace("", [a_pool(version=50)], 100)
    assert pools.get(KEY) is None
    pools.replace("", [a_pool(version=50)], 1_000_900)  # from a backup
    assert pools.get(KEY) is not None
