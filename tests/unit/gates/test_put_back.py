"""A weights Lease that is put back to an earlier state, as from a backup of the cluster."""

import dataclasses
import json
from typing import Any

import pytest

from sglang_operator.api import names, texts
from sglang_operator.children import trainer_registry
from sglang_operator.gates.decide import GatePlan
from sglang_operator.observed.model import ObservedChild
from sglang_operator.status import stored
from sglang_operator.weights import lost_lease, steps, trail, unslept
from sglang_operator.weights.lease_state import GroupsOwner, Phase, Transaction, read, written
from sglang_operator.weights.trail import Trail
from sglang_operator.weights.turn import TRAINER
from tests.builders import NOW, OWNER, a_lease_saying, a_pool, all_pods, weighed

POOL = a_pool(device_mapping="list(range(0,4))", weights={"gate": "Committed"})
PODS = [dataclasses.replace(pod, container_id=f"c://{pod.name}") for pod in all_pods(POOL)]
RUNS = frozenset(pod.instance for pod in PODS if pod.instance)


def of(count, phase=Phase.COMMITTED, **changes):
    """What a Lease says after so many transactions."""
    state = Transaction(
        phase=phase,
        id=f"t{count}",
        version=f"step-{count}",
        instances=RUNS,
        transitions=count,
        checkpoint=f"/checkpoints/{count}",
        intact=True,
    )
    return dataclasses.replace(state, **changes)


def put_back(state, known, **policy):
    """What is decided about a Lease that says this after it has said what is known."""
    pool = a_pool(device_mapping="list(range(0,4))", weights={"gate": "Committed", **policy})
    return weighed(pool, PODS, children=a_lease_saying(pool, state), said=known)


BEGUN = [phase for phase in Phase if phase is not Phase.IDLE]


@pytest.mark.parametrize("phase", BEGUN)
def test_nobody_vouches_by_an_earlier_state_and_gates_stay_closed_until_the_next_sync(phase):
    plan = put_back(of(5, phase, holder="trainer-a"), of(9))
    assert plan.abort is not None
    assert not plan.gates
    state = plan.abort.state
    assert (state.phase, state.transitions) == (Phase.ABORTED, 9)
    assert state.message == texts.LEASE_PUT_BACK.format(
        lease="actor-infer-weights", then=5, count=9
    )
    assert state.held_against("trainer-a", "t9", NOW, NOW + 29), "who wrote may not know of it"

    after = put_back(dataclasses.replace(state, renewed=NOW), plan.said)
    assert after.abort is None
    assert not any(change.is_open for change in after.gates)
    assert not after.versions


@pytest.mark.parametrize("phase", BEGUN)
def test_so_it_is_however_often_the_operators_own_write_fails(phase):
    """The next pass compared the Lease that was put back with itself, and opened its gates."""
    known, before = of(9, Phase.SLEEPING, released=("weights",)), of(5, phase, holder="trainer-a")
    for _ in range(3):
        plan = put_back(before, known)
        assert plan.abort is not None
        assert not plan.gates
        known = plan.said
    after = put_back(dataclasses.replace(plan.abort.state, renewed=NOW), known)
    assert after.abort is None
    assert after.said == dataclasses.replace(plan.abort.state, renewed=NOW)


def test_no_older_checkpoint_is_read_over_what_an_engine_has():
    """The commit that covered it is not in the backup: it would be taken for one that lacks it."""
    plan = put_back(of(5, instances=frozenset()), of(9), recovery="FromCheckpoint")
    assert plan.recovery is None
    assert not plan.recoveries
    later = put_back(of(5, instances=frozenset()), of(5), recovery="FromCheckpoint")
    assert later.abort is None, "this is how it looks where nothing was put back"


def test_the_groups_of_an_earlier_owner_are_not_its_own_any_more():
    first, second = (GroupsOwner(id=f"g{n}", holder=f"trainer-{n}", seen=NOW) for n in (1, 2))
    plan = put_back(of(5, groups=first), of(9, groups=second))
    assert plan.abort is not None
    found = plan.abort.state.groups
    assert found is not None
    assert found.id not in ("g1", "g2")


def test_who_sleeps_by_an_earlier_state_is_not_woken():
    asleep = {"released": ("kv_cache",), "asleep": tuple(sorted(RUNS))}
    plan = put_back(of(5, Phase.SLEEPING, **asleep), of(9))
    assert plan.abort is not None
    assert not plan.abort.state.released


def test_an_operator_that_began_since_knows_it_by_the_registry():
    before = weighed(POOL, PODS, children=a_lease_saying(POOL, of(9)))
    told = trainer_registry.registry(POOL, before)["data"]
    known = trainer_registry.last_said(told)
    assert put_back(of(5), known).abort is not None
    assert put_back(of(9), known).abort is None


@pytest.mark.parametrize("count", ["1e30", "99999999999999999999", "-5", "true", '"9"', "[]"])
def test_a_count_in_the_registry_that_no_lease_has_is_none(count):
    """Written on, it would be no JSON: the registry of that pool was not written any more."""
    before = weighed(POOL, PODS, children=a_lease_saying(POOL, of(9)))
    told = trainer_registry.registry(POOL, before)["data"]
    document = {**json.loads(told[trainer_registry.ENGINES_KEY])}
    document["weights"]["count"] = "@"
    text = json.dumps(document).replace('"@"', count)
    said = trainer_registry.last_said({trainer_registry.ENGINES_KEY: text})
    assert said is not None
    assert said.transitions == 0
    lost = weighed(POOL, PODS, said=said)
    assert trainer_registry.registry(POOL, lost)["data"]


@pytest.mark.parametrize("phase", BEGUN)
def test_what_goes_on_counts_on(phase):
    assert put_back(of(9, phase, holder="trainer-a", renewed=NOW), of(9)).abort is None
    assert put_back(of(10, phase, holder="trainer-a", renewed=NOW), of(9)).abort is None
    nobody_counts = of(0, phase, holder="trainer-a", renewed=NOW)
    assert put_back(nobody_counts, of(9)).abort is None


def test_a_sync_by_a_lease_that_was_made_anew_is_none_of_before():
    """The one in its place counts on: its first sync would be taken for an earlier one."""
    lost = weighed(POOL, PODS, said=of(9))
    assert lost.restore is not None
    trainer = steps.Trainer(holder="trainer-a", transaction="t")
    later = NOW + 60
    begun = steps.begin(
        lost.restore, trainer, epoch="e", version="step-10", now=later, seen=NOW - 60
    )
    assert put_back(dataclasses.replace(begun, renewed=NOW), lost.said).abort is None


@pytest.mark.parametrize("begun", ["sync", "sleep"])
@pytest.mark.parametrize("count", [0, 8])
def test_who_begins_by_a_lease_that_was_put_back_while_engines_sleep_is_ended(begun, count):
    """It counts as far as before then, and knows of no sleepers; nor may its name go on."""
    asleep = of(9, Phase.SLEEPING, released=("kv_cache",), asleep=("a",), id="t9")
    trainer = steps.Trainer(holder="trainer-b", transaction="t-new")
    before = of(count, Phase.COMMITTED if count else Phase.IDLE, version="step-1")
    if begun == "sync":
        state = steps.begin(before, trainer, epoch="e", version="step-2", now=NOW, seen=0)
    else:
        state = steps.sleep(before, trainer, tags=["kv_cache"], now=NOW, seen=0)
    plan = put_back(state, asleep)
    assert plan.abort is not None
    assert (plan.abort.state.phase, plan.abort.state.id) == (Phase.ABORTED, "")
    assert plan.abort.state.fence


def test_one_that_was_emptied_and_then_aborted_by_force_says_no_less_than_before():
    """Both before anybody looked: it has a phase again, and is nobody's transaction."""
    lease = written({}, of(9, Phase.AWAKE, turn=TRAINER))
    for message in ("one", "and another", "write more"):
        lease = written(lease, dataclasses.replace(read(lease), message=message))
    known = read(lease)
    emptied = read(written({}, steps.ended(Transaction(), "admin", message="by force", now=NOW)))
    assert (emptied.phase, emptied.id) == (Phase.ABORTED, "")
    plan = put_back(emptied, known)
    assert plan.abort is not None
    assert plan.abort.state.turn == TRAINER
    assert put_back(plan.abort.state, plan.said).abort is None, "it is put right once"


def test_what_another_operator_made_anew_is_not_put_back():
    """It knows better who sleeps: whoever is marked."""
    asleep = {"released": ("kv_cache",), "asleep": ("a",)}
    known = of(9, Phase.SLEEPING, **asleep | {"asleep": ("a", "b")})
    made = of(9, Phase.ABORTED, id="", fence=True, holder="operator-2", renewed=NOW, **asleep)
    assert put_back(made, known).abort is None


def test_a_lease_in_which_nobody_counts_is_not_put_back():
    """Somebody writes it by other means than our client."""
    known = of(0, Phase.SLEEPING, id="nap", released=("kv_cache",), asleep=("a",))
    awake = of(0, Phase.AWAKE, id="up", holder="trainer-a", renewed=NOW)
    assert put_back(awake, known).abort is None


# --- by the numbers of its writes


class Written:
    """A Lease as trainers write it, step by step, and what it said after each."""

    def __init__(self) -> None:
        name = names.weights_lease_name(OWNER.name)
        self.body: dict[str, Any] = {"metadata": {"name": name}, "spec": {}}
        self.bodies: list[dict[str, Any]] = []

    @property
    def state(self) -> Transaction:
        return read(self.body)

    @property
    def states(self) -> list[Transaction]:
        return [read(body) for body in self.bodies]

    def take(self, state: Transaction) -> Transaction:
        self.body = written(self.body, state)
        self.body["metadata"]["resourceVersion"] = "7"
        self.bodies.append(self.body)
        return self.state

    def put_back(self, state: Transaction) -> None:
        """To when it said this."""
        known = [(each, each.trail) for each in self.states]
        self.body = self.bodies[known.index((state, state.trail))]

    def sync(self, name: str, *, whole: bool = True) -> Transaction:
        me, before = trainer(name), self.state
        later = NOW + 99
        begun = steps.begin(before, me, epoch="e", version=name, now=later, seen=0)
        self.take(begun)
        if whole:
            return self.take(steps.commit(self.state, me, instances=RUNS, now=later))
        return self.state

    def withdraws(self, name: str) -> Transaction:
        before = self.state
        self.sync(name, whole=False)
        return self.take(
            steps.withdraw(self.state, trainer(name), before, message="no", now=NOW + 99)
        )

    def sleeps_in_vain(self, name: str) -> Transaction:
        me = trainer(name)
        self.take(steps.sleep(self.state, me, tags=["weights"], now=NOW + 99, seen=0))
        return self.take(unslept.given_up(self.state))

    def wakes(self, name: str) -> Transaction:
        me = trainer(name)
        self.take(steps.take_on(self.state, me, now=NOW + 99, seen=0))
        return self.take(steps.wake(self.state, me, now=NOW + 99))

    def decided(self, known: Transaction | None, *, told: bool = False) -> GatePlan:
        """``told``: it is known by the registry alone."""
        child = ObservedChild(uid=names.Uid("l"), owner=OWNER.uid, body=self.body, seen=NOW)
        key = ("Lease", self.body["metadata"]["name"])
        if told and known is not None:
            before = weighed(POOL, PODS, children=a_lease_saying(POOL, known))
            before = dataclasses.replace(before, transaction=known, said=known)
            known = trainer_registry.last_said(trainer_registry.registry(POOL, before)["data"])
        return weighed(POOL, PODS, NOW, children={key: child}, said=known)


def trainer(name: str) -> steps.Trainer:
    return steps.Trainer(holder=f"trainer-{name}", transaction=name)


def in_vain(lease: Written, tries: int) -> None:
    for n in range(tries):
        lease.withdraws(f"d{n}")


def asleep_in_vain(lease: Written, tries: int) -> None:
    for n in range(tries):
        lease.sleeps_in_vain(f"d{n}")
    lease.wakes("d-up")


@pytest.mark.parametrize("told", [False, True], ids=["remembered", "told by the registry"])
@pytest.mark.parametrize("tries", range(1, 5))
@pytest.mark.parametrize("goes_on", [in_vain, asleep_in_vain])
@pytest.mark.parametrize("earlier", [False, True], ids=["the last commit", "one withdrawn since"])
def test_who_gives_back_an_earlier_commit_is_told_from_who_withdraws(goes_on, tries, told, earlier):
    """It counts as far, or farther, by the id of that commit: engines are half of another."""
    lease = Written()
    lease.sync("a")
    whole = lease.withdraws("b") if earlier else lease.state
    torn = lease.sync("c", whole=False)
    assert lease.decided(torn, told=told).abort is None

    lease.put_back(whole)
    goes_on(lease, tries)
    assert lease.state.phase is Phase.COMMITTED
    plan = lease.decided(torn, told=told)
    assert plan.abort is not None
    assert plan.abort.state.phase is Phase.ABORTED
    assert not plan.gates
    assert lease.decided(plan.said, told=told).abort is not None, "nor once its own step failed"

    lease.take(plan.abort.state)
    assert lease.decided(plan.said, told=told).abort is None
    assert lease.decided(torn, told=told).abort is None, "nor by another operator"


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("goes_on", [in_vain, asleep_in_vain])
@pytest.mark.parametrize("tries", [1, 2, trail.MOST_TURNS])
def test_who_withdraws_or_sleeps_in_vain_puts_nothing_back(goes_on, tries, told):
    lease = Written()
    lease.sync("a")
    lease.withdraws("b")
    known = lease.state
    goes_on(lease, tries)
    assert lease.state.phase is Phase.COMMITTED
    for each in (None, known, *lease.states):
        assert lease.decided(each, told=told).abort is None


@pytest.mark.parametrize("told", [False, True], ids=["remembered", "told by the registry"])
def test_a_sleep_that_is_put_back_to_before_it_named_engines_does_not_vouch_for_them(told):
    lease, me = Written(), trainer("nap")
    lease.sync("a")
    about = lease.take(steps.sleep(lease.state, me, tags=["weights"], now=NOW + 99, seen=0))
    slept = lease.take(steps.slept(lease.state, me, instances=RUNS, now=NOW + 99))
    lease.put_back(about)
    lease.take(unslept.given_up(lease.state))
    assert lease.state.intact, "a wake would commit"
    assert lease.decided(about, told=told).abort is None
    lease.put_back(about)
    plan = lease.decided(slept, told=told)
    assert plan.abort is not None
    assert not plan.gates


@pytest.mark.parametrize("told", [False, True], ids=["remembered", "told by the registry"])
@pytest.mark.parametrize("begins", ["sync", "sleep"])
def test_what_was_aborted_by_force_does_not_go_on_once_that_is_put_back(told, begins):
    """Engines were marked again, of memory that nobody released any more: resumed, they end."""
    lease, me = Written(), trainer("b")
    lease.sync("a")
    if begins == "sync":
        begun = lease.sync("b", whole=False)
    else:
        begun = lease.take(steps.sleep(lease.state, me, tags=["weights"], now=NOW + 99, seen=0))
    aborted = lease.take(steps.ended(begun, "admin", message="by force", now=NOW))
    assert lease.decided(begun, told=told).abort is None
    assert lease.decided(aborted, told=told).abort is None

    lease.put_back(begun)
    plan = lease.decided(aborted, told=told)
    assert plan.abort is not None
    assert (plan.abort.state.phase, plan.abort.state.asleep) == (Phase.ABORTED, ())
    assert not plan.gates

    lease.put_back(aborted)
    lease.sync("c", whole=False)
    assert lease.decided(aborted, told=told).abort is None, "who begins next goes on from there"


@pytest.mark.parametrize("told", [False, True], ids=["remembered", "told by the registry"])
def test_a_sleep_that_is_put_back_to_before_one_was_woken_does_not_have_it_resumed(told):
    """Who resumes one that is awake ends it."""
    lease, me, run = Written(), trainer("nap"), min(RUNS)
    lease.sync("a")
    lease.take(steps.sleep(lease.state, me, tags=["weights"], now=NOW + 99, seen=0))
    slept = lease.take(steps.slept(lease.state, me, instances=RUNS, now=NOW + 99))
    woke = lease.take(dataclasses.replace(slept, woken=frozenset({f"{run}/weights"})))
    assert lease.decided(woke, told=told).abort is None
    lease.put_back(slept)
    plan = lease.decided(woke, told=told)
    assert plan.abort is not None
    assert not plan.abort.state.sleeps(run)


@pytest.mark.parametrize("told", [False, True], ids=["remembered", "told by the registry"])
@pytest.mark.parametrize("earlier", [set(), {max(RUNS)}], ids=["the first", "another"])
def test_a_sleep_that_is_put_back_to_before_an_answer_was_lost_does_not_have_it_resumed(
    told, earlier
):
    """Nobody knows whether it has been; the next sync would tell it again.

    Nor of the others: it may have died while it was at work on them.
    """
    lease, me, run = Written(), trainer("nap"), min(RUNS)
    lease.sync("a")
    lease.take(steps.sleep(lease.state, me, tags=["weights"], now=NOW + 99, seen=0))
    lease.take(steps.slept(lease.state, me, instances=RUNS, now=NOW + 99))
    nothing: dict[str, Any] = {"instances": (), "tags": ()}
    slept = lease.take(steps.woke(lease.state, me, **nothing, unclear=earlier))
    lost = lease.take(steps.woke(slept, me, **nothing, unclear={run}))
    assert lease.decided(lost, told=told).abort is None
    lease.put_back(slept)
    plan = lease.decided(lost, told=told)
    assert plan.abort is not None
    assert plan.abort.state.unclear == {*RUNS}


def test_what_was_made_anew_is_not_put_back_to_what_was_lost():
    lease = Written()
    whole = lease.sync("a")
    made = lost_lease.forgotten(whole, trainer("o"), asleep={}, message="lost", now=NOW)
    anew = lease.take(dataclasses.replace(made, id=""))
    assert lease.decided(whole).abort is None
    assert lease.decided(anew).abort is None
    lease.put_back(whole)
    assert lease.decided(anew).abort is not None


def as_before(lease: Written, state: Transaction) -> Transaction:
    """A client that numbers nothing writes: it leaves the note as it is."""
    note = lease.body["metadata"]["annotations"][names.ANNOTATION_TRAIL]
    lease.take(state)
    lease.body["metadata"]["annotations"][names.ANNOTATION_TRAIL] = note
    return lease.state


@pytest.mark.parametrize("told", [False, True])
def test_clients_that_number_nothing_put_nothing_back(told):
    lease, old = Written(), trainer("old")
    lease.sync("a")
    before = lease.sync("b")
    begun = steps.begin(before, old, epoch="e", version="v", now=NOW + 99, seen=0)
    as_before(lease, begun)
    as_before(lease, steps.commit(begun, old, instances=RUNS, now=NOW + 99))
    lease.take(dataclasses.replace(lease.state, renewed=NOW + 100))
    after = lease.sync("c")
    for each in lease.states:
        assert lease.decided(each, told=told).abort is None
    assert after.trail.steps > before.trail.steps
    lease.put_back(lease.states[0])
    assert lease.decided(after, told=told).abort is not None


HOSTILE: tuple[object, ...] = (
    *("", " ", "7", "x", "7 7", "7 7:x", "7 8:00000000", "7 3:00000000,3:00000000"),
    *("-1 0:00000000", "7 0:00000000", "9999999999 1:00000000", "\u0663 1:00000000"),
    *("1 1:00000000" * 999, 7, None, []),
)


@pytest.mark.parametrize("text", HOSTILE)
def test_numbers_that_nobody_of_ours_has_written_tell_nothing(text):
    found = trail.read(text)
    assert not found.turns
    assert found.goes_on(Trail(steps=9, turns=((9, "00000000"),))) is None
    assert trail.read(trail.written(found.stepped("t")), "t").turns


def test_a_note_of_the_largest_number_does_no_harm():
    most = trail.read(f"{2**31 - 1} {2**31 - 1}:{'0' * 8}")
    assert most.turns
    again = trail.read(trail.written(most.stepped("t")), "t")
    assert again.goes_on(most) is None


# --- an operator that is replaced before its own step stands


def ours(plan: GatePlan) -> Transaction:
    """What the operator is about to write."""
    state = plan.abort.state if plan.abort is not None else plan.restore
    assert state is not None
    return state


@pytest.mark.parametrize("lost", [Phase.SYNCING, Phase.ABORTED, Phase.SLEEPING, Phase.AWAKE])
@pytest.mark.parametrize("gate", ["Committed", "Versioned", "Off"])
@pytest.mark.parametrize("becomes", ["deleted", "emptied", "emptied but for groups", "put back"])
def test_the_next_operator_knows_what_was_under_way(gate, lost, becomes):
    """The registry said Idle then: gates stayed open over half of a sync."""
    pool = a_pool(device_mapping="list(range(0,4))", weights={"gate": gate})
    asleep = {"released": ("kv_cache",), "asleep": tuple(sorted(RUNS))}
    under_way = of(9, lost, intact=False, **(asleep if lost is Phase.SLEEPING else {}))
    first = weighed(pool, PODS, children=a_lease_saying(pool, under_way))
    left = {
        "emptied": Transaction(),
        "emptied but for groups": Transaction(groups=GroupsOwner(id="g", holder="h")),
        "put back": of(5),
    }
    children = a_lease_saying(pool, left[becomes]) if becomes in left else {}
    second = weighed(pool, PODS, children=children, said=first.said)
    assert second.abort or second.restore
    told = trainer_registry.registry(pool, second)["data"]
    written_by_it = json.loads(told[trainer_registry.ENGINES_KEY])["weights"]
    assert (written_by_it["transaction"], written_by_it["seen"]) == ("", "")

    third = weighed(pool, PODS, children=children, said=trainer_registry.last_said(told))
    expected, state = map(ours, (second, third))
    assert (state.phase, state.asleep) == (Phase.ABORTED, expected.asleep)
    assert state.transitions == expected.transitions == 9
    status_says = stored.said_of({"weights": {"phase": second.told.phase.value}})
    assert status_says is not None
    assert status_says.phase is lost


def test_one_that_was_made_anew_long_ago_and_is_put_back_is_older_too():
    operator = steps.Trainer(holder="operator", transaction="")
    trainer = steps.Trainer(holder="trainer-a", transaction="t1")
    lease = written({}, lost_lease.made_anew(operator, message="lost", now=NOW))
    anew = read(lease)
    assert not lost_lease.is_put_back(anew, Transaction())
    free = dataclasses.replace(anew, fence=False, holder="")
    slept = read(written(lease, steps.sleep(free, trainer, tags=["weights"], now=NOW, seen=NOW)))
    assert lost_lease.is_put_back(anew, slept)
    assert not lost_lease.is_put_back(anew, anew)
