"""Whose turn it is: GPUs by their ids, in the words of the Lease, through the steps of a sleep."""

import dataclasses
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.weights import lease_state, lost_lease, parts, steps, turn
from sglang_operator.weights.lease_state import Phase, Transaction
from sglang_operator.weights.steps import Trainer
from sglang_operator.weights.turn import ENGINES, TRAINER, Turn
from tests.builders import NOW

A = Trainer(holder="a", transaction="t1")
AGAIN = Trainer(holder="a", transaction="t2")
B = Trainer(holder="b", transaction="t3")
TAGS = ("weights", "kv_cache")
COMMITTED = Transaction(
    phase=Phase.COMMITTED, id="t0", version="v0", instances=frozenset("xyz"), intact=True
)


def stored(state):
    """As it is read once it was written."""
    return lease_state.read(lease_state.written({}, state))


def asleep(state=COMMITTED, takes=TRAINER):
    said = steps.sleep(state, A, tags=TAGS, now=NOW, seen=NOW, takes=takes)
    return stored(steps.rests(steps.slept(said, A, instances="xyz", now=NOW), A))


def apart(takes, runs="x"):
    said = parts.sleep(COMMITTED, A, instances=runs, tags=TAGS, now=NOW, seen=NOW, takes=takes)
    slept = parts.slept(said, A, instances=runs, tags=TAGS, now=NOW)
    return stored(steps.rests(slept, A))


@pytest.mark.parametrize(
    ("taken", "words"),
    [
        (ENGINES, "none"),
        (TRAINER, "all"),
        (Turn(frozenset({0, 1, 2, 5})), "0-2,5"),
        (Turn(frozenset({7}), but=True), "all but 7"),
    ],
)
def test_it_is_told_in_words_that_people_can_read(taken, words):
    assert turn.written(taken) == words
    assert turn.read(words) == taken


@pytest.mark.parametrize(
    "words", ["0-", "x", "5-2", "0,,1", "all but", "99999999", "-1", "0-70000"]
)
def test_engines_wait_over_words_that_nobody_understands(words):
    assert turn.read(words) == TRAINER


def test_what_is_taken_and_given_back_is_counted_by_id():
    some = Turn(frozenset({0, 1})).taken(Turn(frozenset({4})))
    assert [some.has([device]) for device in range(5)] == [True, True, False, False, True]
    assert some.has([3, 4]), "one of an engine's GPUs is enough"
    left = TRAINER.given_back([0, 1])
    assert not left.has([0, 1])
    assert left.has([1, 2])
    assert left.taken(Turn(frozenset({1}))) == Turn(frozenset({0}), but=True)
    assert left.given_back(None) == ENGINES
    assert TRAINER.taken(Turn(frozenset({1}))) == TRAINER


def test_a_sleep_gives_the_trainer_all_gpus_and_a_wake_gives_them_back():
    state = asleep()
    assert state.trainers == TRAINER
    taken = steps.take_on(state, AGAIN, now=NOW, seen=NOW)
    after = stored(steps.wake(taken, AGAIN, now=NOW))
    assert (after.phase, after.trainers) == (Phase.AWAKE, ENGINES)


def test_a_wake_of_the_weights_alone_leaves_the_rest_to_the_trainer():
    taken = steps.take_on(asleep(), AGAIN, now=NOW, seen=NOW)
    after = stored(steps.wake(taken, AGAIN, now=NOW, tags=["weights"]))
    assert after.released == ("kv_cache",)
    assert after.trainers == TRAINER


def test_the_sleep_of_a_part_takes_its_gpus_and_what_others_have_stays_theirs():
    state = apart(Turn(frozenset({0, 1})))
    assert state.serving
    assert state.trainers == Turn(frozenset({0, 1}))
    taken = steps.take_on(state, AGAIN, now=NOW, seen=NOW)
    after = stored(parts.wake(taken, AGAIN, instances="x", now=NOW, devices=[0, 1]))
    assert after.phase is Phase.COMMITTED
    assert after.trainers == ENGINES


def test_whoever_ended_asleep_waits_until_its_own_gpus_are_given_back():
    taken = steps.take_on(asleep(), AGAIN, now=NOW, seen=NOW)
    after = stored(parts.wake(taken, AGAIN, instances="xyz", now=NOW, devices=[0, 1]))
    assert not after.asleep
    assert not after.trainers.has([0, 1])
    assert after.trainers.has([2, 3]), "nobody has spoken of these"
    back = stored(parts.give_back(after, AGAIN, devices=[2, 3], now=NOW, seen=NOW))
    assert not back.trainers.has([2, 3])


def test_nobody_gives_back_what_another_holds():
    with pytest.raises(steps.RefusedError):
        parts.give_back(asleep(), B, now=NOW, seen=NOW)
    assert parts.give_back(asleep(), AGAIN, now=NOW, seen=NOW).trainers == ENGINES


def test_a_sync_begins_once_the_trainer_has_left_the_memory():
    begun = steps.begin(asleep(), AGAIN, epoch="", version="v1", now=NOW, seen=NOW)
    assert stored(begun).trainers == ENGINES
    aborted = stored(steps.abort(begun, AGAIN, message="no"))
    assert aborted.trainers == ENGINES, "who failed to write has left it too"


def test_a_sync_that_is_withdrawn_leaves_a_sleeping_part_its_turn():
    before = apart(Turn(frozenset({0})))
    begun = steps.begin(before, AGAIN, epoch="", version="v1", now=NOW, seen=NOW)
    assert begun.trainers == ENGINES
    after = steps.withdraw(begun, AGAIN, before, message="in vain", now=NOW)
    assert stored(after).trainers == Turn(frozenset({0}))


def test_a_sleep_that_others_have_ended_by_force_may_still_have_the_memory():
    ended = steps.ended(asleep(), "b", message="by hand", now=NOW)
    assert stored(ended).trainers == TRAINER


def test_who_knows_of_no_turns_says_by_the_phase_whose_it_is():
    state = asleep(takes=None)
    assert state.turn is None
    assert state.trainers == TRAINER
    lease = lease_state.written({}, asleep(takes=Turn(frozenset({0}))))
    lease["metadata"]["annotations"][names.ANNOTATION_TRANSACTION] = "earlier-release"
    assert lease_state.read(lease).turn is None, "the word of another transaction counts no more"
    assert lease_state.read(lease).trainers == TRAINER
    assert COMMITTED.trainers == ENGINES


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (asleep(), TRAINER),
        (apart(Turn(frozenset({4}))), Turn(frozenset({4}))),
        (asleep(takes=None), TRAINER),
        (dataclasses.replace(COMMITTED, turn=ENGINES), ENGINES),
    ],
)
def test_a_lease_that_is_lost_leaves_the_trainer_what_it_had(said, expected):
    sleepers = dict.fromkeys(said.asleep)
    operator = Trainer(holder="operator", transaction="")
    anew = lost_lease.forgotten(
        Transaction(), operator, asleep=sleepers, message="lost", now=NOW, turn=said.turn
    )
    assert stored(anew).trainers == expected


def test_who_sleeps_by_gates_alone_may_have_a_trainer_on_its_gpus():
    operator = Trainer(holder="operator", transaction="")
    told: dict[str, Any] = {"message": "lost", "now": NOW}
    anew = lost_lease.forgotten(Transaction(), operator, asleep={"x": None}, **told)
    assert stored(anew).trainers == TRAINER
    assert not lost_lease.forgotten(Transaction(), operator, asleep={}, **told).trainers
