"""A weights Lease that is put back to an earlier state, as from a backup of the cluster."""

import dataclasses
import json

import pytest

from sglang_operator.api import texts
from sglang_operator.children import trainer_registry
from sglang_operator.weights import steps
from sglang_operator.weights.lease_state import GroupsOwner, Phase, Transaction
from tests.builders import NOW, a_lease_saying, a_pool, all_pods, weighed

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
