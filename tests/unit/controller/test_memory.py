"""What the loop remembers of refusals, and how it lets go of them."""

import dataclasses
import time
from typing import Any

import msgspec
import pytest

from sglang_operator.api import conditions, names
from sglang_operator.children import trainer_registry
from sglang_operator.clocks import steady
from sglang_operator.cluster.outcome import Outcome
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller.memory import (
    LATEST_REVISIONS,
    MANY_COMING,
    NEW_SECONDS,
    Failures,
    Memory,
)
from sglang_operator.controller.requeue import Requeue
from sglang_operator.kube.errors import (
    ApiError,
    ApiUnreachableError,
)
from sglang_operator.observed import wire
from sglang_operator.observed.model import ObservedChild
from sglang_operator.weights.lease_state import Phase, Transaction
from tests import builders
from tests.builders import NOW

QUOTA = ApiError(403, "Forbidden", "exceeded quota: gpus, requested: nvidia.com/gpu=2", None)
DENIED = ApiError(403, "Forbidden", "violates PodSecurity", None)


def a_memory() -> Memory:
    return Memory(uid=names.Uid("pool"))


def test_a_quota_is_told_and_asked_again_ever_more_rarely():
    memory, waits = a_memory(), []
    for _ in range(9):
        memory.learn(Outcome(quota=QUOTA), pods=2, now=NOW)
        waits.append(memory.blocked_until - NOW)
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert [trouble.reason for trouble in memory.troubles()] == [conditions.QUOTA_EXCEEDED]
    assert not memory.troubles()[0].stalled


def test_a_pod_that_went_away_makes_room_to_ask_at_once():
    memory = a_memory()
    memory.learn(Outcome(quota=QUOTA), pods=2, now=NOW)
    memory.forget_expired(2, NOW + 1)
    assert memory.blocked_until > NOW + 1
    memory.forget_expired(1, NOW + 1)
    assert memory.blocked_until == 0


def test_what_comes_due_while_a_pass_goes_on_is_asked_again_at_once():
    """The pass has told of it as refused, and nothing else wakes the pool."""
    memory, now = a_memory(), steady()
    memory.blocked_until = now - 1
    for decided, wanted in ((now - 2, 0.0), (now, None)):
        requeue = Requeue()
        memory.try_again(requeue, decided)
        assert requeue.delay() == wanted


def test_success_clears_what_was_refused():
    memory = a_memory()
    memory.learn(Outcome(quota=QUOTA), pods=2, now=NOW)
    memory.learn(Outcome(created=1), pods=2, now=NOW + 5)
    assert memory.troubles() == []
    assert memory.blocked_until == 0


def test_a_rejected_pod_needs_a_human():
    memory = a_memory()
    memory.learn(Outcome(rejected=[("Pod", "actor-infer-g0-1-0", DENIED)]), pods=0, now=NOW)
    trouble = memory.troubles()[0]
    assert trouble.stalled
    assert "actor-infer-g0-1-0: violates PodSecurity" in trouble.message


def test_a_foreign_object_is_told_until_it_is_tried_again():
    memory = a_memory()
    memory.learn(Outcome(conflicts=[("Pod", "p")]), pods=0, now=NOW)
    assert [trouble.reason for trouble in memory.troubles()] == [conditions.NAME_CONFLICT]
    memory.forget_expired(0, NOW + 29)
    assert memory.conflicts
    memory.forget_expired(0, NOW + 31)
    assert not memory.conflicts


def test_what_only_a_human_can_help_comes_first():
    memory = a_memory()
    memory.learn(Outcome(quota=QUOTA, conflicts=[("Pod", "p")]), pods=0, now=NOW)
    assert [trouble.stalled for trouble in memory.troubles()] == [True, False]


@pytest.mark.parametrize("error", [ApiUnreachableError("refused"), ApiError(500, "", "boom", None)])
def test_an_outage_is_waited_for_ever_longer_and_told_only_if_it_lasts(error):
    memory = a_memory()
    waits = [memory.acting.failed(error) for _ in range(3)]
    assert waits == [0.2, 0.4, 0.8]
    assert memory.troubles() == []
    memory.acting.failed(error)
    assert [trouble.reason for trouble in memory.troubles()] == [conditions.API_ERROR]
    memory.acting.succeeded()
    assert memory.troubles() == []


def test_waits_are_bounded():
    failures = Failures()
    assert max(failures.failed(ApiUnreachableError("x")) for _ in range(50)) == 8.0


@pytest.mark.parametrize(
    ("age", "coming", "creating", "seconds"),
    [
        (0, MANY_COMING + 1, False, NEW_SECONDS),  # a large pool comes up
        (10, 4096, False, NEW_SECONDS - 10),
        (10, 0, True, NEW_SECONDS - 10),  # its pods are still being made
        (10, MANY_COMING, False, 0),  # few are left
        (0, 12, False, 0),  # a small pool never waits
        (NEW_SECONDS, 4096, True, 0),  # nor does anything for longer than this
    ],
)
def test_what_selects_pods_waits_for_a_new_pools_many_engines(age, coming, creating, seconds):
    memory = a_memory()
    memory.known_since = time.monotonic() - age
    waits = memory.waits_for_pods(coming, creating=creating)
    assert waits == pytest.approx(seconds, abs=0.5)


# --- names that are taken


def test_all_taken_names_are_told_at_once_with_the_command_that_clears_them():
    memory = a_memory()
    memory.learn(Outcome(conflicts=[("Pod", "pool-g0-1-0")]), pods=0, now=NOW)
    (trouble,) = memory.troubles(
        [("Service", "pool"), ("ConfigMap", "pool-engines"), ("Pod", "pool-g2-3-0")],
        PoolKey("rl", "pool"),
    )
    assert trouble.stalled
    assert trouble.message == (
        "ConfigMap pool-engines, Pod pool-g0-1-0, Pod pool-g2-3-0 and Service pool exist and do "
        "not belong to this pool; they are left as they are: delete them (kubectl delete -n rl "
        "configmap/pool-engines pod/pool-g0-1-0 pod/pool-g2-3-0 service/pool), or give the pool "
        "another name"
    )


def test_very_many_taken_names_are_cleared_by_their_label():
    pods = [("Pod", f"pool-g{i}-0") for i in range(500)]
    (trouble,) = a_memory().troubles([*pods, ("Service", "pool")], PoolKey("rl", "pool"))
    assert len(trouble.message) < 1000
    assert "and 485 more exist" in trouble.message
    command = "kubectl delete -n rl pod,service -l sglang-operator.dev/pool=pool"
    assert command in trouble.message


def test_a_pod_that_was_put_aside_keeps_its_name():
    memory = a_memory()
    memory.learn(Outcome(aside={names.EngineName("g0-1"): 0}), pods=3, now=NOW)
    assert memory.aside == {"g0-1": 0}
    assert not memory.troubles()


class TestWhatEnginesWereStartedWith:
    """The spec says what engines get; those of before have what it said then."""

    def pools(self, *images):
        whole: dict[str, Any] = {
            "device_mapping": "list(range(0,8))",
            "weights": {"gate": "Off"},
        }
        return [builders.a_pool(**whole, image=f"lmsysorg/sglang:v{image}") for image in images]

    def registry(self, pool, pods, known):
        plan = builders.weighed(pool, pods, revisions=known)
        body = trainer_registry.registry(pool, plan)
        child = ObservedChild(uid=names.Uid("u"), owner=pool.owner.uid, body=body)
        return {("ConfigMap", names.registry_name(pool.owner.name)): child}

    def test_the_spec_of_before_is_remembered_while_pods_have_its_revision(self):
        old, new = self.pools("0.5.5.post3", "0.5.7")
        memory = Memory(uid=old.owner.uid)
        pods = [builders.a_pod(old, engine) for engine in old.running]
        assert memory.known_revisions({}, "actor-infer") == {}
        memory.note_revisions(old, pods)
        memory.note_revisions(new, pods)
        known = memory.known_revisions({}, "actor-infer")
        assert known == {old.revision: old.facts, new.revision: new.facts}

    def test_another_process_reads_it_from_the_registry(self):
        old, new = self.pools("0.5.5.post3", "0.5.7")
        pods = [builders.a_pod(old, engine, ready=True) for engine in old.running]
        there = self.registry(new, pods, {old.revision: old.facts})
        known = Memory(uid=old.owner.uid).known_revisions(there, "actor-infer")
        assert known[old.revision] == old.facts
        assert Memory(uid=names.Uid("another")).known_revisions(there, "actor-infer") == {}

    def test_what_no_pod_has_is_forgotten_but_for_the_latest(self):
        every = self.pools(*(f"0.5.{minor}" for minor in range(2, 15)))
        memory = Memory(uid=every[0].owner.uid)
        kept = [builders.a_pod(every[0], every[0].running[0])]
        for pool in every:
            memory.note_revisions(pool, kept)
        known = memory.known_revisions({}, "actor-infer")
        latest = every[-LATEST_REVISIONS - 1 :]
        assert list(known) == [pool.revision for pool in (every[0], *latest)]


@pytest.mark.parametrize("remembered", [True, False])
def test_a_lease_that_was_put_back_before_it_was_lost_says_less_than_is_known(remembered):
    """The operator's own step was yet to stand there: gates stayed open over half of a sync."""
    pool = builders.a_pool()
    torn = Transaction(phase=Phase.SYNCING, id="c", version="step-1", transitions=11)
    plan = builders.weighed(pool, [], children=builders.a_lease_saying(pool, torn))
    body = trainer_registry.registry(pool, plan)
    child = ObservedChild(uid=names.Uid("u"), owner=pool.owner.uid, body=body)
    told = {("ConfigMap", names.registry_name(pool.owner.name)): child}
    metadata = {"name": pool.owner.name, "namespace": pool.owner.namespace, "uid": pool.owner.uid}
    record = msgspec.convert({"metadata": metadata}, wire.CustomResource)
    memory = Memory(uid=pool.owner.uid)
    memory.said = torn if remembered else None
    whole = Transaction(phase=Phase.COMMITTED, id="a", version="step-1", transitions=10)
    (former,) = builders.a_lease_saying(pool, whole).values()
    said = memory.last_said(told, record, former)
    assert said is not None
    assert (said.phase, said.transitions) == (Phase.SYNCING, 11)
    later = dataclasses.replace(whole, id="d", transitions=12, trail=said.trail)
    (former,) = builders.a_lease_saying(pool, later).values()
    assert memory.last_said(told, record, former) == later
