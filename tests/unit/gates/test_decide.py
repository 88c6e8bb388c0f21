"""Which gates open and close, for every phase of a transaction, told one rule at a time."""

import dataclasses
import json

import pytest

from sglang_operator.api import names, texts
from sglang_operator.gates import decide
from sglang_operator.observed import wire
from sglang_operator.observed.model import EngineReport, Gate
from sglang_operator.weights import groups as weights_groups
from sglang_operator.weights import lease_state
from sglang_operator.weights.lease_state import (
    LEASE_SECONDS,
    SLEEP_TAGS,
    GroupsOwner,
    Phase,
    Transaction,
)
from tests.builders import (
    NOW,
    OPERATOR,
    a_lease,
    a_lease_saying,
    a_pod,
    a_pool,
    all_pods,
    weighed,
)

OPEN = Gate(is_open=True, version="step-1", reason=decide.COMMITTED)
CLOSED = Gate(is_open=False, version="", reason="Sleeping")
NOTHING = decide.TrainerSignal()


def asleep(*tags):
    """The gate of a pod that says of which memory it sleeps."""
    return Gate(is_open=False, reason="Sleeping", released=frozenset(tags))


def running(pool, **changes):
    """One pod for each engine, each with a container of its own."""
    return [
        dataclasses.replace(pod, container_id=f"containerd://{pod.name}")
        for pod in all_pods(pool, **changes)
    ]


def run_of(pod):
    run = pod.instance
    assert run is not None
    return run


def instances(pods):
    return ",".join(run_of(pod) for pod in pods)


def committed(pool, pods, version="step-1", **more):
    of = {"phase": "Committed", "transaction": "t1", **more}
    return a_lease(pool, version=version, instances=instances(pods), **of)


def moved(plan):
    return {(gate.pod.name, gate.is_open, gate.reason, gate.message) for gate in plan.gates}


def test_a_commit_opens_exactly_the_engines_that_it_covered():
    pool = a_pool(device_mapping="list(range(0,6))")
    pods = running(pool)
    plan = weighed(pool, pods, children=committed(pool, pods[:2]))
    assert moved(plan) == {(pod.name, True, decide.COMMITTED, "step-1") for pod in pods[:2]}
    assert not plan.settled


def test_a_commit_opens_no_engine_that_was_not_written_where_the_lease_tells():
    pool = a_pool(device_mapping="list(range(0,6))")
    pods = running(pool)
    lease = committed(pool, pods, shared="t1", wrote=instances(pods[:2]))
    plan = weighed(pool, pods, children=lease)
    assert moved(plan) == {(pod.name, True, decide.COMMITTED, "step-1") for pod in pods[:2]}
    assert plan.covered == 2


def test_a_gate_that_is_open_at_the_committed_version_is_not_written_again():
    pool = a_pool()
    pods = running(pool, gate=OPEN)
    plan = weighed(pool, pods, children=committed(pool, pods))
    assert plan.gates == ()
    assert plan.settled
    assert (plan.synced, plan.skew) == (12, 0)


def test_the_next_commit_writes_its_version_on_every_open_gate():
    pool = a_pool()
    pods = running(pool, gate=OPEN)
    plan = weighed(pool, pods, children=committed(pool, pods, version="step-2"))
    assert {gate.message for gate in plan.gates} == {"step-2"}
    assert len(plan.gates) == 12


def test_an_open_engine_that_a_later_commit_did_not_cover_is_closed():
    pool = a_pool(device_mapping="list(range(0,4))")
    pods = running(pool, gate=OPEN)
    plan = weighed(pool, pods, children=committed(pool, pods[:1], version="step-2"))
    assert (pods[1].name, False, decide.NOT_COVERED) in {m[:3] for m in moved(plan)}


def test_a_new_container_under_an_old_pod_is_not_the_instance_that_was_covered():
    pool = a_pool(device_mapping="[0, 1]")
    (pod,) = running(pool)
    lease = committed(pool, [pod])
    again = dataclasses.replace(pod, container_id="containerd://another", gate=OPEN)
    assert moved(weighed(pool, [again], children=lease)) == {
        (pod.name, False, decide.NOT_COVERED, texts.GATE_NOT_COVERED.format(version="step-1"))
    }


def test_a_replacement_stays_closed_and_the_others_stay_open():
    pool = a_pool(device_mapping="list(range(0,4))")
    pods = running(pool, gate=OPEN)
    lease = committed(pool, pods)
    fresh = a_pod(pool, pool.engines[0], 1, container_id="containerd://fresh")
    plan = weighed(pool, [fresh, pods[1]], children=lease)
    assert plan.gates == ()
    assert plan.synced == 1


@pytest.mark.parametrize("gate", ["Committed", "Versioned"])
def test_a_container_that_runs_again_amid_a_sync_is_closed_and_the_others_stay_open(gate):
    pool = a_pool(weights={"gate": gate})
    pods = running(pool, gate=OPEN)
    again = dataclasses.replace(pods[3], container_id="containerd://again")
    lease = committed(pool, pods, phase="Syncing", holder="trainer")
    reports = {run_of(again): EngineReport(instance=run_of(again), weight_version="unsynced")}
    plan = weighed(pool, [*pods[:3], again, *pods[4:]], children=lease, reports=reports)
    assert {change[:3] for change in moved(plan)} == {(again.name, False, decide.NOT_COVERED)}


def test_what_has_caught_up_with_the_commit_by_itself_stays_open_amid_a_sync():
    pool = a_pool()
    pods = running(pool, gate=OPEN)
    lease = committed(pool, pods[1:], phase="Syncing", holder="trainer")
    by_itself = Gate(is_open=True, version="step-1", reason=decide.RECOVERED)
    first = dataclasses.replace(pods[0], gate=by_itself)
    assert weighed(pool, [first, *pods[1:]], children=lease).gates == ()


def test_nothing_moves_while_a_trainer_writes():
    pool = a_pool()
    pods = [*running(pool, gate=OPEN)[:6], *running(pool)[6:]]
    lease = a_lease(pool, phase="Syncing", holder="trainer", version="step-1")
    plan = weighed(pool, pods, now=NOW + 29, children=lease)
    assert plan.gates == ()
    assert plan.abort is None
    assert plan.due == NOW + 30


@pytest.mark.parametrize("phase", ["Aborted", "Sleeping", "Awake", "a phase of the future"])
def test_in_these_phases_every_open_gate_closes_also_those_of_pods_that_are_leaving(phase):
    pool = a_pool(device_mapping="list(range(0,4))")
    pods = running(pool, gate=OPEN)
    pods[0] = dataclasses.replace(pods[0], deleting=True)
    plan = weighed(pool, pods, children=a_lease(pool, phase=phase, instances=instances(pods)))
    assert {(gate.pod.name, gate.is_open) for gate in plan.gates} == {
        (pod.name, False) for pod in pods
    }


def test_gates_that_were_never_set_are_closed_without_a_write():
    pool = a_pool()
    for phase in ("Aborted", "Awake", "Committed"):
        assert weighed(pool, running(pool), children=a_lease(pool, phase=phase)).gates == (), phase


def test_that_an_engine_sleeps_is_remembered_by_its_pod_also_where_it_was_closed_before():
    pool = a_pool(device_mapping="list(range(0,4))")
    never, aborted = running(pool)
    aborted = dataclasses.replace(aborted, gate=Gate(is_open=False, reason="Aborted"))
    lease = a_lease(pool, phase="Sleeping", released="weights,kv_cache")
    plan = weighed(pool, [never, aborted], children=lease)
    assert {(gate.pod.name, gate.is_open, gate.reason) for gate in plan.gates} == {
        (pod.name, False, "Sleeping") for pod in (never, aborted)
    }
    marked = [dataclasses.replace(pod, gate=asleep(*SLEEP_TAGS)) for pod in (never, aborted)]
    assert weighed(pool, marked, children=lease).gates == ()
    # And the Lease that is made in place of a lost one has the next sync wake them.
    restored = weighed(pool, marked).restore
    assert restored is not None
    assert set(restored.asleep) == {pod.instance for pod in marked}
    assert restored.released == SLEEP_TAGS


@pytest.mark.parametrize(
    ("phase", "reason"),
    [
        ("Awake", "Awake"),
        ("Syncing", "Awake"),
        ("Aborted", "Aborted"),
        ("Committed", decide.NOT_COVERED),
    ],
)
def test_who_woke_is_remembered_as_a_sleeper_no_more(phase, reason):
    """Also where an earlier operator left the mark; else a lost Lease has the awake resumed."""
    pool = a_pool(device_mapping="list(range(0,4))")
    pods = running(pool, gate=CLOSED)
    lease = a_lease(pool, phase=phase, holder="trainer", version="step-1")
    plan = weighed(pool, pods, children=lease)
    assert {m[:3] for m in moved(plan)} == {(pod.name, False, reason) for pod in pods}
    after = [dataclasses.replace(pod, gate=Gate(is_open=False, reason=reason)) for pod in pods]
    assert weighed(pool, after, children=lease).gates == ()  # it is written once
    restored = weighed(pool, after).restore
    assert restored is not None
    assert (restored.asleep, restored.released) == ((), ())


@pytest.mark.parametrize("phase", ["Sleeping", "Syncing", "Aborted"])
def test_a_mark_names_what_is_released_by_the_lease_and_ends_with_the_last_of_it(phase):
    pool = a_pool(device_mapping="list(range(0,6))")
    _sleeper, half, woke = pods = running(pool, gate=asleep(*SLEEP_TAGS))
    lease = a_lease(
        pool,
        phase=phase,
        holder="trainer",
        released="weights,kv_cache",
        asleep=instances(pods),
        woken=f"{half.instance}/weights,{woke.instance}/weights,{woke.instance}/kv_cache",
    )
    plan = weighed(pool, pods, children=lease)
    assert {(g.pod.name, lease_state.marked(g.message)) for g in plan.gates} == {
        (half.name, frozenset({"kv_cache"})),
        (woke.name, None),
    }
    assert not any(gate.is_open for gate in plan.gates)


def test_an_engine_that_sleeps_on_one_memory_is_woken_of_that_alone_if_the_lease_is_lost():
    pool = a_pool(device_mapping="list(range(0,8))")
    pods = running(pool)
    of_all, of_cache, of_graphs, before = (
        dataclasses.replace(pod, gate=gate)
        for pod, gate in zip(
            pods,
            (asleep(*SLEEP_TAGS), asleep("kv_cache"), asleep("cuda_graph"), CLOSED),
            strict=True,
        )
    )
    restored = weighed(pool, [of_all, of_cache, of_graphs, before]).restore
    assert restored is not None
    assert [
        sorted(restored.sleeps(pod.instance)) for pod in (of_all, of_cache, of_graphs, before)
    ] == [["kv_cache", "weights"], ["kv_cache"], ["cuda_graph"], ["kv_cache", "weights"]]


def test_what_a_sleep_is_about_to_release_is_marked_before_the_operator_answers_its_trainer():
    """Of sleepers too, and of who came up since: the Lease may be lost right after the release."""
    pool = a_pool(device_mapping="list(range(0,4))")
    sleeper, fresh = running(pool)
    sleeper = dataclasses.replace(sleeper, gate=asleep("kv_cache"))
    slept = {
        "phase": "Sleeping",
        "holder": "trainer",
        "transaction": "t2",
        "released": "weights,kv_cache",
        "asleep": instances([sleeper]),
        "woken": f"{sleeper.instance}/weights",
    }
    about = a_lease(pool, **slept, releases="t2")
    plan = weighed(pool, [sleeper, fresh], children=about)
    assert {(g.pod.name, lease_state.marked(g.message)) for g in plan.gates} == {
        (pod.name, frozenset(SLEEP_TAGS)) for pod in (sleeper, fresh)
    }
    assert not plan.settled
    marked = [dataclasses.replace(pod, gate=asleep(*SLEEP_TAGS)) for pod in (sleeper, fresh)]
    assert weighed(pool, marked, children=about).settled
    restored = weighed(pool, marked).restore
    assert restored is not None
    assert [restored.sleeps(pod.instance) for pod in marked] == [set(SLEEP_TAGS)] * 2
    # It came to nothing: each is as it was.
    gates = weighed(pool, marked, children=a_lease(pool, **slept)).gates
    assert [lease_state.marked(gate.message) for gate in gates] == [{"kv_cache"}, None]
    # Nobody waited for a mark of one that came later still: it is awake.
    said = Transaction(phase=Phase.SLEEPING, id="t2", released=SLEEP_TAGS)
    restored = weighed(pool, [marked[0], fresh], said=said).restore
    assert restored is not None
    assert restored.asleep == (sleeper.instance,)


@pytest.mark.parametrize("releases", [{}, {"releases": "t2"}], ids=["named", "about to be more"])
def test_whom_the_lease_has_named_is_woken_though_a_mark_was_taken_off_late(releases):
    """Decided before it was named, and landed over a mark that was the same again.

    The next commit opened the gate over an engine that slept.
    """
    pool = a_pool(device_mapping="list(range(0,6))")
    late, fewer, fresh = pods = running(pool)
    awake = Gate(is_open=False, reason="Awake")
    gates = (awake, asleep("kv_cache"), awake)
    pods = [dataclasses.replace(pod, gate=g) for pod, g in zip(pods, gates, strict=True)]
    (lease,) = a_lease(
        pool,
        phase="Sleeping",
        holder="trainer",
        transaction="t2",
        released="weights,kv_cache",
        asleep=instances([late, fewer]),
        woken=f"{late.instance}/weights",
        **releases,
    ).values()
    restored = weighed(pool, pods, said=lease_state.read(lease.body)).restore
    assert restored is not None
    assert restored.sleeps(late.instance) == {"kv_cache"}
    assert restored.sleeps(fewer.instance) == set(SLEEP_TAGS)
    assert restored.sleeps(fresh.instance) == set()


@pytest.mark.parametrize("releases", [{}, {"asleep": "anybody", "releases": "t2"}])
def test_a_sleep_of_engines_without_a_gate_is_woken_if_the_lease_is_lost_before_it_names_them(
    releases,
):
    pool = a_pool(device_mapping="list(range(0,4))", weights={"gate": "Off"})
    pods = running(pool)
    (lease,) = a_lease(
        pool,
        phase="Sleeping",
        holder="trainer",
        transaction="t2",
        released="weights,kv_cache",
        **releases,
    ).values()
    restored = weighed(pool, pods, said=lease_state.read(lease.body)).restore
    assert restored is not None
    assert [restored.sleeps(pod.instance) for pod in pods] == [set(SLEEP_TAGS)] * 2


def test_a_sleep_whose_trainer_is_gone_before_it_named_anybody_is_over():
    """Should the Lease be lost later, its engines are not taken for asleep: they are awake."""
    pool = a_pool(device_mapping="list(range(0,4))")
    marked = running(pool, gate=asleep(*SLEEP_TAGS))
    about = a_lease(
        pool,
        phase="Sleeping",
        holder="trainer",
        transaction="t2",
        released="weights,kv_cache",
        releases="t2",
    )
    (lease,) = about.values()
    plan = weighed(pool, marked, children=about, now=lease.seen + 29)
    assert plan.abort is None
    assert plan.due == lease.seen + 30
    plan = weighed(pool, marked, children=about, now=lease.seen + 30)
    assert plan.abort is not None
    over = plan.abort.state
    assert (over.phase, over.holder, over.released) == (Phase.SLEEPING, "", ())
    # Marks go, and a Lease that is lost from here on has nobody resumed.
    gates = weighed(pool, marked, children=a_lease_saying(pool, over)).gates
    assert [gate.reason for gate in gates] == ["Awake"] * 2
    restored = weighed(pool, marked, said=over).restore
    assert restored is not None
    assert restored.asleep == ()
    # What came up once engines were named is awake, too.
    nobody = dataclasses.replace(over, holder="trainer")
    assert not weighed(pool, running(pool), children=a_lease_saying(pool, nobody)).gates


@pytest.mark.parametrize("tags", [("kv_cache",), ("cuda_graph", "weights"), ("a_new_one",)])
def test_what_a_gate_says_of_a_sleep_is_read_again(tags):
    pool = a_pool(device_mapping="list(range(0,4))")
    lease = a_lease(pool, phase="Sleeping", released=",".join(tags))
    (first, *_) = weighed(pool, running(pool, gate=OPEN), children=lease).gates
    condition = wire.PodCondition(
        type=names.CONDITION_WEIGHTS_SYNCED,
        status="False",
        reason=first.reason,
        message=first.message,
    )
    assert wire._gate(condition) == asleep(*tags)


def test_what_operators_before_said_of_a_sleep_names_no_memory_and_is_put_right():
    said = "the trainer released this engine's memory; a request would end it"
    assert lease_state.marked(said) is None
    pool = a_pool(device_mapping="list(range(0,4))")
    lease = a_lease(pool, phase="Sleeping", released="kv_cache")
    plan = weighed(pool, running(pool, gate=CLOSED), children=lease)
    assert {lease_state.marked(gate.message) for gate in plan.gates} == {frozenset({"kv_cache"})}


def test_an_engine_that_came_up_while_the_others_sleep_is_remembered_as_awake():
    pool = a_pool(device_mapping="list(range(0,4))")
    sleeper, fresh = running(pool)
    sleeper = dataclasses.replace(sleeper, gate=asleep(*SLEEP_TAGS))
    lease = a_lease(
        pool, phase="Sleeping", released="weights,kv_cache", asleep=instances([sleeper])
    )
    assert weighed(pool, [sleeper, fresh], children=lease).gates == ()
    restored = weighed(pool, [sleeper, fresh]).restore
    assert restored is not None
    assert restored.asleep == (sleeper.instance,)
    early = dataclasses.replace(fresh, gate=CLOSED)  # it was up before the Lease named anybody
    plan = weighed(pool, [sleeper, early], children=lease)
    assert {m[:3] for m in moved(plan)} == {(early.name, False, "Awake")}


def test_a_sleep_that_has_released_nothing_yet_keeps_every_mark_until_the_lease_says_more():
    pool = a_pool(device_mapping="list(range(0,4))")
    pods = running(pool, gate=asleep(*SLEEP_TAGS))
    for phase in ("Sleeping", "Syncing", "Aborted"):
        lease = a_lease(pool, phase=phase, holder="trainer", released="weights,kv_cache")
        assert weighed(pool, pods, children=lease).gates == (), phase


def test_a_sync_that_is_not_renewed_is_aborted_first_and_closes_gates_once_that_stands():
    pool = a_pool()
    pods = running(pool, gate=OPEN)
    lease = a_lease(pool, phase="Syncing", holder="trainer-0", duration="10")
    plan = weighed(pool, pods, now=NOW + 10, children=lease)
    assert plan.gates == ()
    assert plan.abort is not None
    assert (plan.abort.uid, plan.abort.resource_version) == ("uid-lease", "7")
    assert plan.abort.state.phase is Phase.ABORTED
    assert plan.abort.state.message == texts.SYNC_EXPIRED.format(holder="trainer-0", seconds=10)


def test_who_did_not_renew_for_the_whole_duration_is_waited_for_no_more():
    pool = a_pool()
    lease = a_lease(pool, phase="Syncing", holder="trainer-0", duration="10")
    plan = weighed(pool, [], now=NOW + 10, children=lease)
    assert plan.abort is not None
    assert plan.abort.state.holder == ""


def test_a_sync_without_a_holder_is_aborted_at_once_and_its_trainer_has_time_to_notice():
    pool = a_pool()
    plan = weighed(pool, [], children=a_lease(pool, phase="Syncing", duration="60"))
    assert plan.abort is not None
    after = plan.abort.state
    assert (after.phase, after.holder, after.message) == (
        Phase.ABORTED,
        OPERATOR,
        texts.SYNC_VACANT,
    )
    assert after.held_against("trainer", "t", NOW, NOW + 59)
    assert not after.held_against("trainer", "t", NOW, NOW + 61)


def test_the_holders_clock_is_not_believed():
    pool = a_pool()
    lease = a_lease(pool, seen=NOW - 5, phase="Syncing", holder="trainer")
    (child,) = lease.values()
    child.body["spec"]["renewTime"] = "1999-01-01T00:00:00.000000Z"
    assert weighed(pool, [], children=lease).abort is None


def test_a_sleeper_that_is_gone_sleeps_on():
    pool = a_pool()
    lease = a_lease(pool, phase="Sleeping", holder="gone")
    plan = weighed(pool, running(pool), now=NOW + 1e6, children=lease)
    assert plan.abort is None
    assert plan.due is None


def test_a_pool_without_a_gate_moves_none_and_still_ends_lost_transactions():
    pool = a_pool(weights={"gate": "Off"})
    pods = running(pool)
    assert weighed(pool, pods, children=a_lease(pool, phase="Aborted")).gates == ()
    assert weighed(pool, pods, children=a_lease(pool, phase="Syncing")).abort is not None


def test_the_lease_of_an_earlier_pool_of_this_name_says_nothing():
    pool = a_pool()
    pods = running(pool)
    lease = {
        key: dataclasses.replace(child, owner=names.Uid("earlier"))
        for key, child in committed(pool, pods).items()
    }
    plan = weighed(pool, pods, children=lease)
    assert plan.gates == ()
    assert plan.transaction.phase is Phase.IDLE


def counts(pool, pods, phase, **lease):
    """What clients reach, and what holds committed weights."""
    told = {"version": "step-1", "instances": instances(pods), "holder": "trainer"}
    plan = weighed(pool, pods, children=a_lease(pool, phase=phase, **told, **lease))
    return plan.synced, plan.holding


def test_a_sync_changes_neither_what_clients_reach_nor_what_holds_weights():
    pool = a_pool()
    for intact in ("", "true"):
        assert counts(pool, running(pool, gate=OPEN), "Syncing", intact=intact) == (12, 12)
        assert counts(pool, running(pool, gate=OPEN), "Committed", intact=intact) == (12, 12)


@pytest.mark.parametrize("gate", [OPEN, CLOSED])
def test_engines_asleep_with_their_weights_hold_them_and_nobody_reaches_them(gate):
    """A gate that is about to close counts as closed."""
    pool = a_pool()
    for tags in ("kv_cache", "kv_cache,cuda_graph"):
        found = counts(pool, running(pool, gate=gate), "Sleeping", intact="true", released=tags)
        assert found == (0, 12)


@pytest.mark.parametrize("phase", ["Sleeping", "Awake"])
def test_engines_that_gave_up_their_weights_hold_none(phase):
    pool = a_pool()
    assert counts(pool, running(pool, gate=CLOSED), phase) == (0, 0)


def test_an_engine_on_its_way_out_is_reached_by_nobody():
    pool = a_pool()
    pods = running(pool, gate=OPEN)
    pods[0] = dataclasses.replace(pods[0], deleting=True)
    assert counts(pool, pods, "Committed", intact="true")[0] == 11


def test_after_an_abort_nobody_vouches_for_any_engine():
    pool = a_pool()
    pods = running(pool, gate=OPEN)
    lease = a_lease(pool, phase="Aborted", version="step-1", instances=instances(pods))
    assert weighed(pool, pods, children=lease).synced == 0


def test_versions_beside_the_committed_one_are_counted_as_skew():
    pool = a_pool()
    pods = running(pool, gate=OPEN)
    lease = a_lease(pool, phase="Syncing", holder="t", version="step-2", instances="")
    assert weighed(pool, pods, children=lease).skew == 12


class TestTrainerSignal:
    """What a trainer waits to read is told at once, and nothing else is."""

    def of(self, phase, pods, before=NOTHING, **lease):
        pool = a_pool(device_mapping="list(range(0,4))")
        children = a_lease(pool, phase=phase, transaction="t", holder="trainer", **lease)
        return weighed(pool, pods or running(pool), children=children).awaited(before)

    def test_begin_and_commit_are_two_steps_of_one_transaction(self):
        begun = self.of("Syncing", None)
        assert begun.step == ("t", Phase.SYNCING)
        pods = running(a_pool(device_mapping="list(range(0,4))"), gate=OPEN)
        ended = self.of("Committed", pods, begun, version="step-1", instances=instances(pods))
        assert ended.step == ("t", Phase.COMMITTED)

    def test_a_step_that_is_not_acted_upon_is_not_told(self):
        pods = running(a_pool(device_mapping="list(range(0,4))"), gate=OPEN)
        told = self.of("Aborted", pods)
        assert told.step == NOTHING.step
        assert told.seen == "t", "that the engines are told as they are now is known by it"

    def test_a_claim_of_process_groups_is_awaited_while_they_are_formed_alone(self):
        """Whoever sets them up in a sync waits for its transaction."""
        said = {"id": "a1", "holder": "job", "claims": 3}
        forming = self.of("Idle", None, groups=json.dumps({**said, "forming": True}))
        assert forming.forming == ("a1", 3)
        taken = json.dumps({**said, "id": "b1", "claims": 1})
        assert self.of("Idle", None, forming, groups=taken) == forming

    def test_a_restart_is_awaited_during_a_sync_alone(self):
        pods = running(a_pool(device_mapping="list(range(0,4))"))
        again = [pods[0], dataclasses.replace(pods[1], container_id="containerd://again")]
        before = self.of("Syncing", pods)
        assert self.of("Syncing", again, before).epoch != before.epoch
        idle = self.of("Idle", pods)
        assert self.of("Idle", again, idle) == idle

    def test_who_waits_for_the_pool_is_told_when_its_last_engine_is_up(self):
        """It came up a moment after something else was told, and was told a second later."""
        pods = running(a_pool(device_mapping="list(range(0,4))"))
        coming = [pods[0], dataclasses.replace(pods[1], containers_ready=False)]
        before = self.of("Idle", coming)
        assert not before.complete
        assert self.of("Idle", pods, before).complete

    def test_who_is_about_to_sleep_is_told_when_the_last_engine_leaves_service(self):
        pods = running(a_pool(device_mapping="list(range(0,4))"), gate=CLOSED, ready=True)
        before = self.of("Sleeping", pods)
        assert before.serves
        left = [dataclasses.replace(pod, ready=False) for pod in pods]
        assert not self.of("Sleeping", left, before).serves


class TestVersioned:
    def pool(self):
        return a_pool(weights={"gate": "Versioned"}, device_mapping="list(range(0,4))")

    def reports(self, pods, *versions):
        found = zip(pods, versions, strict=True)
        return {
            run_of(pod): EngineReport(instance=run_of(pod), weight_version=version)
            for pod, version in found
        }

    def test_the_gate_opens_when_an_engine_names_a_version_of_its_trainer(self):
        pool = self.pool()
        pods = running(pool)
        plan = weighed(pool, pods, reports=self.reports(pods, "unsynced", "7"))
        assert moved(plan) == {(pods[1].name, True, decide.VERSIONED, "7")}

    def test_an_engine_that_is_back_at_its_first_version_is_closed(self):
        pool = self.pool()
        pods = running(pool, gate=OPEN)
        plan = weighed(pool, pods, reports=self.reports(pods, "default", "step-1"))
        assert {m[:3] for m in moved(plan)} == {(pods[0].name, False, decide.INITIAL_WEIGHTS)}

    def test_an_engine_that_was_not_asked_stays_as_it_is(self):
        pool = self.pool()
        assert weighed(pool, running(pool, gate=OPEN)).gates == ()

    def test_sleep_closes_whatever_version_an_engine_names(self):
        pool = self.pool()
        pods = running(pool, gate=OPEN)
        lease = a_lease(pool, phase="Sleeping")
        plan = weighed(pool, pods, children=lease, reports=self.reports(pods, "7", "7"))
        assert {gate.is_open for gate in plan.gates} == {False}

    def test_after_a_sleep_before_any_commit_gates_open_again_by_what_engines_name(self):
        pool = self.pool()
        pods = running(pool, gate=asleep("kv_cache"))
        lease = a_lease(pool, phase="Awake", transaction="t1", intact="true")
        reports = self.reports(pods, "7", "default")
        plan = weighed(pool, pods, children=lease, reports=reports)
        assert {m[:3] for m in moved(plan)} == {
            (pods[0].name, True, decide.VERSIONED),
            (pods[1].name, False, decide.INITIAL_WEIGHTS),  # it sleeps no more
        }
        lease = a_lease(pool, phase="Awake", transaction="t1")
        assert not any(
            g.is_open for g in weighed(pool, pods, children=lease, reports=reports).gates
        )

    @pytest.mark.parametrize("closed", ["Aborted", "Awake", "LeaseForgotten", "NotCovered"])
    def test_what_a_commit_left_torn_does_not_open_by_its_old_label(self, closed):
        pool = self.pool()
        pods = running(pool, gate=Gate(is_open=False, version="", reason=closed))
        lease = committed(pool, pods[:1], version="step-3")
        plan = weighed(pool, pods, children=lease, reports=self.reports(pods, "step-1", "step-1"))
        assert [m[:2] for m in moved(plan)] == [(pods[0].name, True)]

    def test_what_sleeps_on_through_a_commit_does_not_open_by_its_old_label(self):
        pool = self.pool()
        pods = running(pool, gate=asleep("weights", "kv_cache"))
        lease = committed(pool, pods[:1], version="step-2")
        plan = weighed(pool, pods, children=lease, reports=self.reports(pods, "step-1", "step-1"))
        assert {m[:3] for m in moved(plan)} == {
            (pods[0].name, True, decide.COMMITTED),
            (pods[1].name, False, decide.NOT_COVERED),
        }


class TestALeaseThatHasForgotten:
    """Deleted, emptied or made anew, maybe amid a sync: the pods remember that there was one."""

    def pool(self, **weights_of):
        return a_pool(device_mapping="list(range(0,4))", **weights_of)

    @pytest.mark.parametrize("gate", [OPEN, CLOSED])
    def test_one_that_is_gone_is_made_anew_as_aborted_and_is_held_for_a_while(self, gate):
        pool = self.pool()
        plan = weighed(pool, running(pool, gate=gate))
        assert plan.gates == ()  # it may only be out of sight: then it is found when it is made
        assert not plan.settled
        assert plan.restore is not None
        assert (plan.restore.phase, plan.restore.holder) == (Phase.ABORTED, OPERATOR)
        assert plan.restore.held_against("trainer", "t", NOW, NOW + LEASE_SECONDS - 1)
        assert plan.restore.message == texts.LEASE_FORGOTTEN.format(lease="actor-infer-weights")

    def test_a_pool_whose_gates_were_never_set_gets_an_empty_one(self):
        pool = self.pool()
        assert weighed(pool, running(pool)).restore is None

    def test_one_that_was_emptied_is_aborted_first_and_closes_gates_once_that_stands(self):
        pool = self.pool()
        pods = running(pool, gate=OPEN)
        plan = weighed(pool, pods, children=a_lease(pool, holder="trainer"))
        assert plan.gates == ()
        assert plan.abort is not None
        assert (plan.abort.uid, plan.abort.resource_version) == ("uid-lease", "7")
        after = weighed(pool, pods, children=a_lease_saying(pool, plan.abort.state))
        assert {(gate.is_open, gate.reason) for gate in after.gates} == {(False, "Aborted")}

    def test_one_that_lost_its_owner_or_is_anothers_vouches_for_nobody(self):
        pool = self.pool()
        pods = running(pool, gate=OPEN)
        lease = {
            key: dataclasses.replace(child, owner=None)
            for key, child in committed(pool, pods).items()
        }
        plan = weighed(pool, pods, children=lease)
        assert {(gate.is_open, gate.reason) for gate in plan.gates} == {(False, decide.FORGOTTEN)}
        assert plan.restore is None
        assert plan.abort is None

    def test_a_sleeper_that_names_its_version_is_not_opened(self):
        """It would be: versioned gates need no Lease, but for those that sleep."""
        pool = self.pool(weights={"gate": "Versioned"})
        pods = running(pool, gate=asleep("kv_cache"))
        reports = {
            pod.instance: EngineReport(instance=pod.instance, weight_version="7") for pod in pods
        }
        plan = weighed(pool, pods, reports=reports)
        assert plan.gates == ()
        assert plan.restore is not None
        assert {tuple(plan.restore.sleeps(pod.instance)) for pod in pods} == {("kv_cache",)}

    def test_who_woke_before_it_was_lost_does_not_sleep_though_its_mark_still_says_so(self):
        """To resume it once more would end it."""
        pool = self.pool()
        pods = running(pool, gate=asleep("kv_cache"))
        woke = Transaction(
            phase=Phase.COMMITTED,
            id="t9",
            version="step-1",
            instances=frozenset(pod.instance for pod in pods),
            intact=True,
        )
        restored = weighed(pool, pods, said=woke).restore
        assert restored is not None
        assert restored.asleep == ()

    def test_who_came_since_others_went_to_sleep_does_not_though_it_was_marked_with_them(self):
        pool = self.pool()
        sleeper, _ = pods = running(pool, gate=asleep("kv_cache"))
        slept = Transaction(
            phase=Phase.SLEEPING,
            id="t9",
            holder="trainer",
            released=("kv_cache",),
            asleep=(sleeper.instance,),
        )
        restored = weighed(pool, pods, said=slept).restore
        assert restored is not None
        assert (restored.asleep, restored.released) == ((sleeper.instance,), ("kv_cache",))

    def test_marks_are_believed_where_the_lease_was_lost_before_this_operator_began(self):
        """What was published of it may be older than they are."""
        pool = self.pool()
        pods = running(pool, gate=asleep("kv_cache"))
        published = lease_state.of_phase("Committed")
        restored = weighed(pool, pods, said=published).restore
        assert restored is not None
        assert set(restored.asleep) == {pod.instance for pod in pods}

    @pytest.mark.parametrize("gate", ["Versioned", "Off"])
    def test_gates_that_never_needed_one_stay(self, gate):
        pool = self.pool(weights={"gate": gate})
        pods = running(pool, gate=OPEN)
        for children in ({}, a_lease(pool)):
            plan = weighed(pool, pods, children=children)
            assert (plan.gates, plan.restore, plan.abort) == ((), None, None)

    LOST = pytest.mark.parametrize("emptied", [False, True], ids=["deleted", "emptied"])

    def after(self, gate, said, *, emptied=False, pods=None):
        """What is written in place of a Lease that said this, and the plan."""
        pool = self.pool(weights={"gate": gate})
        pods = running(pool) if pods is None else pods
        children = a_lease(pool) if emptied else {}
        plan = weighed(pool, pods, children=children, said=said)
        state = plan.abort.state if emptied and plan.abort else plan.restore
        return state, plan

    @LOST
    @pytest.mark.parametrize("phase", [Phase.SYNCING, Phase.ABORTED, Phase.SLEEPING, Phase.AWAKE])
    @pytest.mark.parametrize("gate", ["Committed", "Versioned", "Off"])
    def test_one_that_is_lost_amid_something_is_aborted_and_held_whatever_the_gate(
        self, gate, phase, emptied
    ):
        pods = running(self.pool(), gate=OPEN if gate == "Versioned" else None)
        said = Transaction(phase=phase, id="t", holder="trainer", renewed=NOW)
        state, plan = self.after(gate, said, emptied=emptied, pods=pods)
        assert (state.phase, state.holder) == (Phase.ABORTED, OPERATOR)
        assert state.held_against("trainer", "t", NOW, NOW + LEASE_SECONDS - 1)
        assert not plan.settled
        assert plan.gates == ()  # they close by what stands in it then
        assert plan.said == said, "until it says something again"

    @LOST
    @pytest.mark.parametrize("gate", ["Committed", "Versioned", "Off"])
    def test_that_engines_are_in_groups_is_said_again_though_nobody_has_them(self, gate, emptied):
        owner = GroupsOwner(id="t-1", holder="trainer", since=NOW - 9, seen=NOW)
        said = Transaction(phase=Phase.COMMITTED, id="t", version="step-1", groups=owner)
        pods = running(self.pool(weights={"gate": gate}), gate=None if gate == "Off" else OPEN)
        state, _ = self.after(gate, said, emptied=emptied, pods=pods)
        assert state.groups == dataclasses.replace(owner, id=weights_groups.LOST)

    def test_groups_that_are_set_up_before_anything_begins_are_remembered(self):
        pool = self.pool()
        owner = GroupsOwner(id="t-1", holder="trainer", since=NOW, seen=NOW)
        first = a_lease_saying(pool, Transaction(groups=owner))
        said = weighed(pool, running(pool), children=first, said=Transaction()).said
        assert said is not None and said.groups == owner

    @LOST
    @pytest.mark.parametrize("gate", ["Versioned", "Off"])
    def test_gates_with_no_reason_to_close_stay_and_nobody_begins_for_a_while(self, gate, emptied):
        pool = self.pool(weights={"gate": gate})
        pods = running(pool, gate=OPEN if gate == "Versioned" else None)
        said = Transaction(phase=Phase.COMMITTED, id="t", version="step-1", intact=True)
        state, plan = self.after(gate, said, emptied=emptied, pods=pods)
        assert (state.phase, state.holder, plan.gates) == (Phase.IDLE, OPERATOR, ())
        assert state.message == texts.LEASE_ANEW.format(lease="actor-infer-weights")
        assert state.held_against("trainer", "t", NOW, NOW + LEASE_SECONDS - 1)
        lease = a_lease_saying(pool, state)
        after = weighed(pool, pods, children=lease, reports=TestVersioned().reports(pods, "7", "7"))
        assert after.settled or {gate.is_open for gate in after.gates} == {True}
        assert after.said == state
        assert weighed(pool, pods, children=lease, said=said).abort is None, "it is written once"

    def test_a_pool_that_nobody_has_synced_is_held_too_if_its_lease_is_deleted(self):
        """A trainer may have begun, and nobody had seen that yet."""
        for gate in ("Committed", "Versioned", "Off"):
            state, _ = self.after(gate, Transaction())
            assert (state.phase, state.holder) == (Phase.IDLE, OPERATOR)
            state, _ = self.after(gate, Transaction(), emptied=True)
            assert state is None

    @LOST
    @pytest.mark.parametrize("reason", ["Aborted", "Awake", decide.FORGOTTEN])
    @pytest.mark.parametrize("gate", ["Committed", "Versioned"])
    def test_where_nothing_else_tells_what_it_said_a_gate_that_was_closed_does(
        self, gate, reason, emptied
    ):
        pods = running(self.pool(), gate=Gate(is_open=False, reason=reason))
        state, plan = self.after(gate, None, emptied=emptied, pods=pods)
        assert (state.phase, state.holder) == (Phase.ABORTED, OPERATOR)
        assert plan.gates == ()

    @LOST
    def test_of_a_lease_that_told_of_a_commit_an_older_gate_tells_nothing(self, emptied):
        pods = running(self.pool(), gate=OPEN)
        pods[0] = dataclasses.replace(pods[0], gate=Gate(is_open=False, reason="Aborted"))
        said = Transaction(phase=Phase.COMMITTED, id="t", version="step-1", intact=True)
        state, _ = self.after("Versioned", said, emptied=emptied, pods=pods)
        assert state.phase is Phase.IDLE

    def test_a_lease_is_made_empty_where_there_was_none_and_where_no_engine_runs(self):
        for gate in ("Committed", "Versioned", "Off"):
            assert self.after(gate, None)[0] is None
            pods = all_pods(self.pool(weights={"gate": gate}), phase="Pending")
            said = Transaction(phase=Phase.SYNCING, id="t", holder="trainer")
            assert self.after(gate, said, pods=pods)[0] is None

    @LOST
    @pytest.mark.parametrize("seen", [True, False])
    @pytest.mark.parametrize("gate", ["Committed", "Versioned", "Off"])
    def test_engines_of_which_kubelet_tells_no_container_may_be_written_to(
        self, gate, seen, emptied
    ):
        pods = running(self.pool()) if seen else all_pods(self.pool())
        pods = [dataclasses.replace(pod, container_id="") for pod in pods]
        said = Transaction(phase=Phase.SYNCING, id="t", holder="trainer", duration=600)
        state, _ = self.after(gate, said, emptied=emptied, pods=pods)
        assert (state.phase, state.holder) == (Phase.ABORTED, OPERATOR)

    @LOST
    def test_nor_are_they_awake_by_that(self, emptied):
        asleep = Gate(is_open=False, reason="Sleeping", released=frozenset({"kv_cache"}))
        pods = running(self.pool(), gate=asleep)
        unseen = [dataclasses.replace(pod, container_id="") for pod in pods]
        state, _ = self.after("Committed", None, emptied=emptied, pods=unseen)
        assert set(state.asleep) == {pod.instance for pod in pods}

    @LOST
    @pytest.mark.parametrize("gate", ["Committed", "Versioned", "Off"])
    def test_what_was_made_anew_and_is_lost_again_is_held_again(self, gate, emptied):
        said = Transaction(phase=Phase.SYNCING, id="t", holder="trainer", duration=600)
        for _ in range(3):
            said, _ = self.after(gate, said, emptied=emptied)
            assert (said.phase, said.holder) == (Phase.ABORTED, OPERATOR)
        quiet, _ = self.after(gate, Transaction())
        assert self.after(gate, quiet, emptied=emptied)[0] == quiet

    def test_it_is_held_for_as_long_as_the_one_who_lost_it_counts_on_it(self):
        said = Transaction(phase=Phase.SYNCING, id="t", holder="trainer", duration=600)
        for gate in ("Committed", "Versioned", "Off"):
            state, _ = self.after(gate, said)
            assert state.held_against("b", "t2", NOW, NOW + 599)

    def test_engines_without_a_gate_sleep_as_it_was_said_last(self):
        pods = running(self.pool(weights={"gate": "Off"}))
        said = Transaction(
            phase=Phase.SLEEPING,
            released=("weights", "kv_cache"),
            asleep=(run_of(pods[0]), "ffffffff"),
            woken=frozenset({f"{run_of(pods[0])}/weights"}),
        )
        state, _ = self.after("Off", said, pods=pods)
        assert [set(state.sleeps(run_of(pod))) for pod in pods] == [{"kv_cache"}, set()]

    def test_somebody_elses_lease_closes_versioned_gates_amid_a_sync_and_no_others(self):
        pool = self.pool(weights={"gate": "Versioned"})
        pods = running(pool, gate=OPEN)
        lease = {k: dataclasses.replace(c, owner=None) for k, c in a_lease(pool).items()}
        for phase, closed in ((Phase.SYNCING, {False}), (Phase.COMMITTED, set())):
            plan = weighed(pool, pods, children=lease, said=Transaction(phase=phase))
            assert {gate.is_open for gate in plan.gates} == closed
            assert (plan.restore, plan.abort) == (None, None)
            assert plan.said == Transaction(phase=phase)


def test_any_restart_changes_the_epoch_and_nothing_else_does():
    pool = a_pool()
    pods = running(pool)
    before = weighed(pool, pods).epoch
    assert weighed(pool, [dataclasses.replace(p, gate=OPEN, ready=True) for p in pods]).epoch == (
        before
    )
    pods[3] = dataclasses.replace(pods[3], container_id="containerd://again")
    assert weighed(pool, pods).epoch != before
