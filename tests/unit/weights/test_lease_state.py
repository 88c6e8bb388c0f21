"""The weights Lease: each step as a sentence, and what holds over any order of steps."""

import dataclasses
import time
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_operator.api import names
from sglang_operator.weights import lease_state, lost_lease, steps, unslept
from sglang_operator.weights import reset as weights_reset
from sglang_operator.weights.lease_state import GroupsOwner, Phase, Transaction
from sglang_operator.weights.steps import Refusal, RefusedError, Trainer
from sglang_operator.weights.turn import Turn

NOW = 1_800_000_000.0
A, B, C = "aaaaaaaa", "bbbbbbbb", "cccccccc"
BOTH = frozenset({A, B})
MINE = Trainer(holder="trainer-0", transaction="t1")
LATER = Trainer(holder="trainer-0", transaction="t3")
OTHER = Trainer(holder="trainer-1", transaction="t2")


def syncing(
    state: Transaction | None = None, trainer: Trainer = MINE, now: float = NOW, seen: float = NOW
) -> Transaction:
    state = state or Transaction()
    return steps.begin(state, trainer, epoch="e1", version="step-1", now=now, seen=seen)


def committed() -> Transaction:
    return steps.commit(syncing(), MINE, instances=[A, B], now=NOW + 1)


def sleeping(*tags: str, state: Transaction | None = None) -> Transaction:
    state = state or committed()
    return steps.sleep(state, MINE, tags=tags, now=NOW + 2, seen=NOW + 2)


def asleep(*tags: str, state: Transaction | None = None) -> Transaction:
    """The same, and the engines are named: their memory goes."""
    return steps.slept(sleeping(*tags, state=state), MINE, instances=[A, B], now=NOW + 2)


def refusal(call: Any, *arguments: Any, **options: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        call(*arguments, **options)
    return caught.value


def test_a_sync_begins_and_is_committed():
    begun = syncing()
    assert (begun.phase, begun.holder, begun.transitions) == (Phase.SYNCING, "trainer-0", 1)
    done = steps.commit(begun, MINE, instances=[B, A, A], now=NOW + 1, checkpoint="/c/1")
    assert (done.phase, done.holder, done.version) == (Phase.COMMITTED, "", "step-1")
    assert (done.instances, done.intact) == (BOTH, True)
    assert (done.checkpoint, done.committed) == ("/c/1", NOW + 1)


def test_a_second_trainer_is_refused_in_words():
    refused = refusal(syncing, syncing(), OTHER)
    assert refused.reason is Refusal.HELD
    assert str(refused) == (
        "trainer-0 holds the weights of this pool (Syncing since 2027-01-15T08:00:00Z, until "
        "2027-01-15T08:00:30Z unless it renews); wait until it commits or aborts, or run only one "
        "trainer for each pool"
    )


def test_a_holder_is_taken_over_only_after_it_was_seen_not_to_renew():
    """The clock of the holder is never asked: it may be wrong."""
    gone = NOW + lease_state.LEASE_SECONDS + 1
    assert refusal(syncing, syncing(), OTHER, now=gone, seen=gone).reason is Refusal.HELD
    taken = syncing(syncing(), OTHER, now=gone, seen=NOW)
    assert (taken.holder, taken.id, taken.acquired) == ("trainer-1", "t2", gone)
    assert refusal(steps.renew, taken, MINE, now=gone).reason is Refusal.NOT_HELD


def test_renewing_moves_the_time_and_nothing_else():
    renewed = steps.renew(syncing(), MINE, now=NOW + 25)
    assert renewed == dataclasses.replace(syncing(), renewed=NOW + 25)


def test_a_transaction_that_was_aborted_cannot_be_committed():
    over = steps.aborted(syncing(), "trainer-0 went silent")
    assert (over.phase, over.holder, over.intact) == (Phase.ABORTED, "", False)
    late = refusal(steps.commit, over, MINE, instances=[A], now=NOW)
    assert late.reason is Refusal.NOT_HELD
    assert "phase Aborted (trainer-0 went silent)" in str(late)
    assert refusal(steps.abort, over, MINE, message="").reason is Refusal.NOT_HELD


def test_an_abort_by_another_keeps_the_lease_for_as_long_as_its_holder_may_not_know():
    begun = syncing()
    over = steps.ended(begun, "admin", message="it hangs", now=NOW + 5)
    assert (over.phase, over.intact, over.recovering) == (Phase.ABORTED, False, frozenset())
    for refused in (
        refusal(steps.renew, over, MINE, now=NOW),
        refusal(steps.commit, over, MINE, now=NOW, instances=[A]),
        refusal(steps.abort, over, MINE, message=""),
    ):
        assert refused.reason is Refusal.NOT_HELD
    admin = Trainer(holder="admin", transaction=over.id)  # not even in the name of who ended it
    assert refusal(steps.abort, over, admin, message="").reason is Refusal.NOT_HELD
    until = NOW + 5 + begun.duration
    for trainer in (MINE, LATER, OTHER, admin, Trainer(holder="admin", transaction="t9")):
        refused = refusal(syncing, over, trainer, now=until - 1, seen=NOW + 5)
        assert refused.reason is Refusal.HELD
        assert str(refused) == (
            "admin ended what was under way in this pool (it hangs) at 2027-01-15T08:00:05Z, and "
            "whoever was at it may not know yet: nothing new begins before 2027-01-15T08:00:35Z; "
            "try again then, or wait for longer. If its processes have ended for certain: "
            "kubectl sglang weights abort --force --gone"
        )
        assert syncing(over, trainer, now=until + 1, seen=NOW + 5).phase is Phase.SYNCING
    # Once more ends nothing sooner; and where nobody was at it nobody has to be waited for.
    again = steps.ended(over, "another", message="", now=NOW + 6)
    assert (again.holder, again.renewed) == ("admin", NOW + 5)
    assert steps.ended(committed(), "admin", message="", now=NOW).holder == ""


def test_an_abort_by_the_holder_frees_the_lease_at_once():
    over = steps.abort(syncing(), MINE, message="torn")
    assert syncing(over, OTHER, now=NOW, seen=NOW).holder == OTHER.holder


@pytest.mark.parametrize(
    ("phase", "recovering"),
    [
        (Phase.SYNCING, frozenset()),
        (Phase.SLEEPING, frozenset()),
        (Phase.AWAKE, frozenset()),
        (Phase.COMMITTED, {A}),  # an operator's load may be on its way
    ],
)
def test_a_holder_that_was_edited_away_may_still_be_at_it(phase, recovering):
    state = dataclasses.replace(
        syncing(),
        phase=phase,
        holder="",
        recovering=frozenset(recovering),
        released=("kv_cache",) if phase is Phase.SLEEPING else (),
    )
    for trainer in (MINE, OTHER):
        refused = refusal(syncing, state, trainer, now=NOW + 29, seen=NOW)
        assert refused.reason is Refusal.HELD
        assert "names no holder" in str(refused)
    assert syncing(state, OTHER, now=NOW + 31, seen=NOW).holder == OTHER.holder


def test_a_second_sync_of_one_name_is_refused_in_words():
    refused = refusal(syncing, syncing(), LATER)
    assert refused.reason is Refusal.HELD
    assert str(refused) == (
        "trainer-0, which is this trainer's name too, holds the weights of this pool in another "
        "transaction (Syncing since 2027-01-15T08:00:00Z, until 2027-01-15T08:00:30Z unless it "
        "renews); wait until it ends, or if nobody is at it any more: kubectl sglang weights abort "
        "--gone --holder trainer-0"
    )
    asleep = refusal(steps.sleep, syncing(), LATER, tags=["weights"], now=NOW, seen=NOW)
    assert asleep.reason is Refusal.HELD


def test_what_its_holder_put_to_sleep_it_takes_on():
    slept = steps.slept(sleeping("weights"), MINE, instances=["run"], now=NOW)
    slept = steps.rests(slept, MINE)
    taken = syncing(slept, LATER)
    assert (taken.phase, taken.id, taken.released) == (Phase.SYNCING, "t3", ("weights",))
    woken = steps.take_on(slept, LATER, now=NOW, seen=NOW)
    assert (woken.phase, woken.id, woken.released) == (Phase.SLEEPING, "t3", ("weights",))


@pytest.mark.parametrize(
    "over",
    [
        lambda state: steps.slept(state, MINE, instances=[], now=NOW + 3),
        lambda state: unslept.given_up(state),
        lambda state: steps.ended(state, "admin", message="by force", now=NOW + 3),
        lambda state: syncing(state, OTHER, now=NOW + 40, seen=NOW),
    ],
    ids=["it names nobody", "its holder is gone", "it is aborted", "another begins"],
)
def test_nobody_sleeps_of_whom_a_sleep_says_nothing_before_it_is_over(over):
    """Who is taken for asleep is resumed should the Lease be lost: that ends it."""
    about = sleeping("weights", "kv_cache")
    assert about.may_sleep("run") == {"weights", "kv_cache"}
    after = over(about)
    assert (after.released, after.asleep, after.may_sleep("run")) == ((), (), frozenset())
    # Sleepers of before sleep on, on what they had released.
    state = steps.rests(asleep("kv_cache"), MINE)
    again = steps.sleep(state, MINE, tags=["weights"], now=NOW + 2, seen=NOW + 2)
    assert again.may_sleep(A) == {"weights", "kv_cache"}
    after = over(again)
    assert after.released == ("kv_cache",)
    assert (after.may_sleep(A), after.may_sleep("run")) == ({"kv_cache"}, frozenset())
    for late in (about, again):
        with pytest.raises(RefusedError):  # it may go on, and release nothing
            steps.slept(unslept.given_up(late), MINE, instances=["run"], now=NOW + 60)


def test_who_has_told_that_nothing_was_released_names_nobody_any_more():
    """A renewal met a stray 404, told so, and the sleep went on: a wake opened released engines."""
    told = steps.rests(sleeping("weights", "kv_cache"), MINE)
    with pytest.raises(steps.RefusedError, match="this sleep has released nothing"):
        steps.slept(told, MINE, instances=[A], now=NOW + 3)


def test_others_need_not_wait_for_a_sleep_that_was_given_up():
    over = unslept.given_up(sleeping("weights"))
    assert syncing(over, OTHER, now=NOW + 3, seen=NOW + 3).holder == OTHER.holder
    # Who may have released something is waited for.
    over = dataclasses.replace(asleep("weights"), holder="")
    assert refusal(syncing, over, OTHER, now=NOW + 3, seen=NOW + 3).reason is Refusal.HELD


@pytest.mark.parametrize("initial", [False, True])
def test_a_wake_whose_holder_was_edited_away_is_waited_for_though_nothing_was_released(initial):
    """It lets engines go on: a sync that began meanwhile was answered from, half written."""
    over = unslept.given_up(sleeping("weights"))
    version = "" if initial else "v1"
    woken = steps.take_on(dataclasses.replace(over, version=version), MINE, now=NOW, seen=NOW)
    assert woken.at_work
    edited = dataclasses.replace(woken, holder="")
    assert refusal(syncing, edited, OTHER, now=NOW + 3, seen=NOW + 3).reason is Refusal.HELD
    rested = dataclasses.replace(edited, at_work=False)
    assert syncing(rested, OTHER, now=NOW + 3, seen=NOW + 3).holder == OTHER.holder


def test_a_sleep_that_has_released_nothing_leaves_the_commit_as_it_was():
    for over in (
        steps.rests(sleeping("weights", "kv_cache"), MINE),
        steps.slept(sleeping("weights", "kv_cache"), MINE, instances=[], now=NOW + 3),
        steps.take_on(sleeping("weights", "kv_cache"), MINE, now=NOW + 40, seen=NOW),
    ):
        woken = steps.wake(over, MINE, now=NOW + 40)
        assert (woken.phase, woken.instances, woken.intact) == (Phase.COMMITTED, BOTH, True)


def test_what_was_wanted_by_a_sleep_that_came_to_nothing_is_no_wish_of_the_next():
    gone = sleeping("weights", "kv_cache")
    later = steps.sleep(gone, OTHER, tags=["kv_cache"], now=NOW + 40, seen=NOW)
    assert (later.released, later.intact) == (("kv_cache",), True)


def test_a_lease_made_anew_is_told_that_a_sleep_which_named_nobody_has_released_nothing():
    before = steps.rests(steps.slept(sleeping("kv_cache"), MINE, instances=[A], now=NOW), MINE)
    anew = lost_lease.forgotten(
        Transaction(transitions=7),
        steps.Trainer(holder="operator", transaction=""),
        asleep=dict.fromkeys((A, B), frozenset({"weights", "kv_cache"})),
        message="deleted",
        now=NOW,
    )
    told = unslept.unslept(anew, LATER, before, count=7)
    assert told.sleeps(A) == {"kv_cache"}
    assert not told.sleeps(B)
    begun = syncing(anew, OTHER, now=NOW + 60, seen=NOW)
    with pytest.raises(RefusedError):  # by then they may sleep again
        unslept.unslept(begun, LATER, before, count=7)


def edited(state, **spec):
    """This state, in a Lease of which somebody has edited the spec."""
    lease = lease_state.written({}, state)
    lease["spec"] = {k: v for k, v in (lease["spec"] | spec).items() if v is not None}
    return lease_state.read(lease)


LONG = Trainer(holder="trainer-0", transaction="t1", duration=3600)


@pytest.mark.parametrize("said", [None, 0, -5, 1, True, "1", 1.5, 2**31, 2**70, 3601])
@pytest.mark.parametrize(
    "state",
    [
        syncing(trainer=LONG),
        steps.ended(syncing(trainer=LONG), "admin", message="by force", now=NOW),
        dataclasses.replace(syncing(trainer=LONG), holder=""),
        steps.sleep(Transaction(), LONG, tags=["weights"], now=NOW, seen=NOW),
    ],
    ids=["syncs", "was aborted by force", "names no holder", "sleeps"],
)
def test_others_wait_for_what_the_holder_counts_on_whatever_the_lease_is_edited_to(state, said):
    found = edited(state, leaseDurationSeconds=said)
    assert found.duration == 3600
    refused = refusal(syncing, found, OTHER, now=NOW + 3599, seen=NOW)
    assert refused.reason is Refusal.HELD
    told = "leaseDurationSeconds says" in str(refused)
    assert told is (type(said) is int and 0 < said < 2**31)
    assert found == edited(state), "an edit is no sign of its holder"
    assert syncing(found, OTHER, now=NOW + 3601, seen=NOW).holder == OTHER.holder
    # The next write puts it right.
    assert lease_state.written({}, found)["spec"]["leaseDurationSeconds"] == 3600


@pytest.mark.parametrize("time", ["renewTime", "acquireTime"])
@pytest.mark.parametrize("moved", ["2001-01-01T00:00:00.000000Z", "2101-01-01T00:00:00Z", None])
def test_nor_do_its_times_count(time, moved):
    found = edited(syncing(), **{time: moved})
    assert refusal(syncing, found, OTHER, now=NOW + 29, seen=NOW).reason is Refusal.HELD
    assert syncing(found, OTHER, now=NOW + 31, seen=NOW).holder == OTHER.holder


def test_the_duration_of_another_transaction_is_not_that_of_this_one():
    """Clients and operators of earlier releases leave it standing."""
    for annotation in ("t9 3600", "3600", "t1", "t1 -1", "t1 ²", f"t1 {2**31}", "t1 " + "9" * 9999):
        lease = lease_state.written({}, syncing())
        lease["metadata"]["annotations"][names.ANNOTATION_DURATION] = annotation
        assert lease_state.read(lease).duration == 30
    assert names.ANNOTATION_DURATION not in str(lease_state.written({}, committed()))


def test_a_sleep_that_names_nobody_and_rests_has_released_nothing():
    """By a Lease that is lost all would be taken for asleep, and resuming them ends them."""
    rests = steps.rests(sleeping("weights", "kv_cache"), MINE)
    assert (rests.phase, rests.released, rests.at_work) == (Phase.SLEEPING, (), False)
    assert not rests.may_sleep("run")
    deeper = steps.slept(sleeping("kv_cache"), MINE, instances=["run"], now=NOW)
    assert steps.rests(deeper, MINE).sleeps("run") == {"kv_cache"}
    earlier = dataclasses.replace(sleeping("weights"), releases=False)  # trainers of before
    assert steps.rests(earlier, MINE).may_sleep("run") == {"weights"}


@pytest.mark.parametrize("step", [steps.take_on, lambda *of, **at: steps.sleep(*of, tags=(), **at)])
def test_what_another_process_of_it_is_at_work_on_waits_until_that_is_done_or_gone(step):
    working = sleeping("weights")
    end = NOW + lease_state.LEASE_SECONDS
    refused = refusal(step, working, LATER, now=end, seen=NOW)
    assert (refused.reason, refused.state.at_work) == (Refusal.AT_WORK, True)
    assert step(working, LATER, now=end + 1, seen=NOW).id == "t3"
    taken = step(steps.rests(working, MINE), LATER, now=NOW, seen=NOW)
    assert taken.at_work
    for late in (steps.rests, lambda *of: steps.slept(*of, instances=[A], now=NOW)):
        assert refusal(late, taken, MINE).reason is Refusal.NOT_HELD


@pytest.mark.parametrize(
    "step",
    [
        steps.renew,
        steps.works,
        partial(steps.slept, instances=[A]),
        partial(steps.slept, instances=[]),  # all of them sleep already
        steps.wake,
    ],
)
def test_each_step_from_which_a_holder_counts_is_a_renewal_for_others(step):
    asleep = sleeping("kv_cache")
    assert step(asleep, MINE, now=NOW + 9).renewed == NOW + 9 > asleep.renewed


def test_engines_that_nobody_has_written_go_on_as_before_once_they_wake_with_their_weights():
    slept = steps.slept(sleeping("kv_cache", state=Transaction()), MINE, instances=[A, B], now=NOW)
    assert slept.intact and not slept.initial
    resumed = steps.woke(slept, MINE, instances=[A, B], tags=["kv_cache"])
    woken = steps.wake(resumed, MINE, now=NOW)
    assert (woken.phase, woken.holder, woken.initial) == (Phase.AWAKE, "", True)
    assert not woken.held_against("anybody", "t9", NOW, NOW)
    assert steps.wake(sleeping("kv_cache", state=woken), MINE, now=NOW).initial


@pytest.mark.parametrize(
    "state",
    [
        asleep("weights", state=Transaction()),
        sleeping("kv_cache", state=steps.abort(syncing(), MINE, message="torn")),
        sleeping("kv_cache", state=Transaction(version="step-1")),  # somebody took the phase away
        sleeping("kv_cache", state=Transaction(target_version="step-1")),
        # The Lease was lost, and made anew long ago.
        steps.sleep(Transaction(fence=True), MINE, tags=["kv_cache"], now=NOW, seen=NOW - 31),
        # One of them was not seen, and sleeps on.
        steps.slept(sleeping("kv_cache", state=Transaction()), MINE, instances=[A], now=NOW),
    ],
)
def test_engines_whose_weights_are_not_sure_wait_for_a_sync(state):
    woken = steps.wake(state, MINE, now=NOW)
    assert (woken.phase, woken.holder, woken.initial) == (Phase.AWAKE, MINE.holder, False)


def test_work_ends_with_its_transaction():
    for over in (
        committed(),
        steps.abort(syncing(), MINE, message="torn"),
        steps.ended(syncing(), "admin", message="by force", now=NOW),
        steps.wake(sleeping("kv_cache"), MINE, now=NOW),
    ):
        assert not over.at_work
    assert steps.wake(syncing(sleeping("weights"), MINE), MINE, now=NOW).at_work


def test_from_the_first_word_of_a_sleep_every_engine_may_sleep_on_all_that_it_releases():
    """Also those that sleep on less already, until the Lease names who releases it."""
    asleep = steps.rests(
        steps.slept(sleeping("kv_cache"), MINE, instances=[A, B], now=NOW + 2), MINE
    )
    assert asleep.may_sleep(A) == {"kv_cache"}
    assert asleep.may_sleep(C) == set()  # it came up since
    more = sleeping("weights", state=asleep)
    assert [more.may_sleep(run) for run in (A, B, C)] == [{"weights", "kv_cache"}] * 3
    assert more.sleeps(A) == {"kv_cache"}  # if nothing comes of it, no more is resumed
    named = steps.slept(more, MINE, instances=[A, C], now=NOW + 2)
    assert [named.may_sleep(run) for run in (A, B, C)] == [
        {"weights", "kv_cache"},
        {"kv_cache"},
        {"weights", "kv_cache"},
    ]


@pytest.mark.parametrize(
    "after",
    [
        lambda state: steps.rests(state, MINE),
        lambda state: steps.take_on(state, LATER, now=NOW + 60, seen=NOW),
        lambda state: syncing(state, LATER, now=NOW + 60),
        lambda state: steps.ended(state, "admin", message="by force", now=NOW),
        # An earlier version of the client, which leaves the word of another transaction standing.
        lambda state: lease_state.read(
            {
                "metadata": {
                    "annotations": {
                        **lease_state.written({}, state)["metadata"]["annotations"],
                        names.ANNOTATION_TRANSACTION: "t9",
                    }
                }
            }
        ),
    ],
)
def test_a_sleep_that_released_nothing_leaves_the_sleepers_as_they_were(after):
    asleep = steps.slept(sleeping("kv_cache"), MINE, instances=[A], now=NOW + 2)
    over = after(sleeping("weights", state=asleep))
    assert [over.may_sleep(run) for run in (A, C)] == [{"kv_cache"}, set()]


def test_a_sync_is_attached_to_once_its_process_has_left_it():
    begun = syncing()
    assert refusal(steps.attach, begun, LATER, now=NOW, seen=NOW).reason is Refusal.HELD
    left = steps.attach(steps.rests(begun, MINE), LATER, now=NOW, seen=NOW)
    assert (left.id, left.at_work) == ("t3", True)
    gone = NOW + lease_state.LEASE_SECONDS + 1
    assert steps.attach(steps.rests(begun, MINE), LATER, now=gone, seen=NOW).id == "t3"


def test_nobody_ends_a_sync_whose_process_died_at_work():
    """However late the operator aborts it: nobody knows whether all is written."""
    gone = NOW + lease_state.LEASE_SECONDS + 1
    refused = refusal(steps.attach, syncing(), LATER, now=gone, seen=NOW)
    assert refused.reason is Refusal.NOT_HELD
    assert "write all weights again" in str(refused)


def test_an_earlier_transaction_of_the_same_trainer_cannot_commit():
    gone = NOW + lease_state.LEASE_SECONDS + 1
    late = refusal(steps.commit, syncing(syncing(), LATER, now=gone), MINE, instances=[A], now=NOW)
    assert late.reason is Refusal.NOT_HELD


def test_a_commit_must_name_engines():
    refused = refusal(steps.commit, syncing(), MINE, instances=[], now=NOW)
    assert refused.reason is Refusal.NO_INSTANCES


def test_from_the_beginning_of_a_sync_the_committed_weights_are_not_intact():
    begun = syncing(committed())
    assert (begun.version, begun.instances, begun.intact) == ("step-1", BOTH, False)
    aborted = steps.abort(begun, MINE, message="torn at bucket 3")
    assert (aborted.phase, aborted.version, aborted.intact) == (Phase.ABORTED, "step-1", False)
    assert aborted.message == "torn at bucket 3"


def test_wake_opens_the_same_gates_if_weights_were_kept():
    asleep = steps.slept(sleeping("kv_cache"), MINE, instances=[A], now=NOW)
    assert (asleep.phase, asleep.holder, asleep.asleep) == (Phase.SLEEPING, "trainer-0", (A,))
    woken = steps.woke(asleep, MINE, instances=[A], tags=["kv_cache"])
    awake = steps.wake(woken, MINE, now=NOW + 3)
    assert (awake.phase, awake.holder, awake.instances) == (Phase.COMMITTED, "", BOTH)
    assert (awake.released, awake.asleep) == ((), ())


def test_wake_opens_nothing_after_weights_were_released():
    state = asleep("weights", "kv_cache")
    assert not state.intact
    awake = steps.wake(state, MINE, now=NOW + 3)
    assert (awake.phase, awake.holder) == (Phase.AWAKE, "trainer-0")


def test_wake_after_a_sleep_over_torn_weights_opens_nothing():
    torn = steps.abort(syncing(committed()), MINE, message="torn")
    assert steps.wake(sleeping("kv_cache", state=torn), MINE, now=NOW + 3).phase is Phase.AWAKE


def test_who_sleeps_is_known_without_a_look_at_all_that_do():
    """It is asked for each engine: a pass of a pool of 5,000 compared 25 million names."""

    def seconds(count: int) -> float:
        runs = tuple(f"{n:05d}/0" for n in range(count))
        state = Transaction(
            phase=Phase.SLEEPING,
            released=("weights", "kv_cache"),
            asleep=runs,
            woken=frozenset(f"{run}/kv_cache" for run in runs),
        )
        begun = time.thread_time()
        assert all(state.sleeps(run) == {"weights"} for run in runs[-500:])
        assert not state.sleeps("nobody")
        return time.thread_time() - begun

    assert min(seconds(10_000) for _ in range(3)) < 0.1


def test_memory_may_be_resumed_in_parts():
    state = asleep("kv_cache", "weights")
    assert state.released == ("weights", "kv_cache")
    half = steps.wake(state, MINE, tags=["weights"], now=NOW + 3)
    assert (half.phase, half.released) == (Phase.AWAKE, ("kv_cache",))
    kept = steps.wake(sleeping("kv_cache", "cuda_graph"), MINE, tags=["kv_cache"], now=NOW + 3)
    assert (kept.phase, kept.released) == (Phase.SLEEPING, ("cuda_graph",))


def test_a_sync_over_sleeping_engines_cannot_commit_before_they_are_awake():
    begun = syncing(asleep("weights", "kv_cache"))
    refused = refusal(steps.commit, begun, MINE, instances=[A], now=NOW)
    assert refused.reason is Refusal.STILL_ASLEEP
    assert "weights and kv_cache memory is still released" in str(refused)
    woken = steps.wake(begun, MINE, now=NOW + 1)
    assert woken.phase is Phase.SYNCING
    assert steps.commit(woken, MINE, instances=[A], now=NOW).phase is Phase.COMMITTED


def test_no_sleep_during_a_sync():
    refused = refusal(steps.sleep, syncing(), MINE, tags=["weights"], now=NOW, seen=NOW)
    assert refused.reason is Refusal.WRONG_PHASE
    assert str(refused) == (
        "sleep is not possible in phase Syncing; expected Idle or Committed or Aborted or "
        "Sleeping or Awake"
    )


def test_a_sleeping_pool_is_taken_over_with_what_is_released():
    assert refusal(syncing, asleep("weights"), OTHER).reason is Refusal.HELD
    taken = syncing(asleep("weights"), OTHER, now=NOW + 33, seen=NOW + 2)
    assert (taken.phase, taken.released) == (Phase.SYNCING, ("weights",))


def test_a_lease_that_was_made_anew_under_a_sync_is_aborted_too():
    torn = lost_lease.disclaim(Transaction(), MINE, message="torn", now=NOW)
    assert (torn.phase, torn.id, torn.message) == (Phase.ABORTED, "t1", "torn")
    assert not torn.held_against("anybody", "t2", NOW, NOW)
    for since in (syncing(trainer=OTHER), committed(), sleeping("kv_cache")):
        refused = refusal(lost_lease.disclaim, since, LATER, message="torn", now=NOW)
        assert refused.reason is Refusal.NOT_HELD


OPERATOR = Trainer(holder="operator", transaction="")


def stored(state: Transaction) -> Transaction:
    """The state, as it is read of the Lease that it was written into."""
    return lease_state.read(lease_state.written({}, state))


def test_a_lease_that_is_made_anew_is_free_for_nobody_until_who_lost_it_must_know():
    anew = stored(lost_lease.made_anew(OPERATOR, message="it was deleted", now=NOW))
    assert (anew.phase, anew.id, anew.instances) == (Phase.IDLE, "", frozenset())
    last = NOW + lease_state.LEASE_SECONDS
    asleep = partial(steps.sleep, tags=("kv_cache",))
    for step in (syncing, asleep):
        refused = refusal(step, anew, trainer=OTHER, now=last, seen=NOW)
        assert refused.reason is Refusal.HELD
        assert "it was deleted" in str(refused)
        assert "nothing new begins before" in str(refused)
    begun = syncing(anew, OTHER, now=last + 1, seen=NOW)
    assert (begun.phase, begun.holder, begun.fence) == (Phase.SYNCING, OTHER.holder, False)


@pytest.mark.parametrize("edited", [False, True], ids=["", "whose holder was edited away"])
def test_who_lost_it_closes_gates_under_it_and_frees_it_for_nobody(edited):
    anew = lost_lease.made_anew(OPERATOR, message="it was deleted", now=NOW)
    if edited:
        anew = dataclasses.replace(anew, holder="")
    torn = stored(lost_lease.disclaim(anew, MINE, message="torn", now=NOW + 9))
    assert (torn.phase, torn.holder, torn.message) == (Phase.ABORTED, anew.holder, "torn")
    assert torn.held_against(MINE.holder, "t2", NOW, NOW + lease_state.LEASE_SECONDS)
    after = syncing(torn, OTHER, now=NOW + lease_state.LEASE_SECONDS + 1, seen=NOW)
    assert after.phase is Phase.SYNCING


def test_the_others_of_a_shared_sync_have_time_to_learn_that_its_lease_was_deleted():
    torn = stored(lost_lease.disclaim(Transaction(), MINE, message="torn", now=NOW, shared=True))
    assert torn.held_against(OTHER.holder, "t2", NOW, NOW + lease_state.LEASE_SECONDS)
    own = partial(torn.held_against, MINE.holder, "t2", NOW)
    assert not own(NOW, shared=True), "its own job may begin again"
    assert own(NOW + lease_state.LEASE_SECONDS), "and nothing that the others do not join"


@pytest.mark.parametrize(("duration", "told"), [(0.2, 1), (1.4, 2), (30, 30)])
def test_others_never_wait_for_less_than_the_holder_counts_on(duration, told):
    put = lease_state.written({}, Transaction(duration=duration))
    assert put["spec"]["leaseDurationSeconds"] == told


def test_a_state_survives_the_lease():
    full = Transaction(
        phase=Phase.SLEEPING,
        id="t1",
        holder="trainer-0",
        epoch="e1",
        target_version="step-2",
        version="step-1",
        instances=frozenset({A, B}),
        torn=frozenset({C}),
        checkpoint="/c/1",
        intact=True,
        released=("kv_cache",),
        asleep=(A,),
        recovering=frozenset({C}),
        woken=frozenset({f"{A}/kv_cache"}),
        unclear=frozenset({A}),
        shared=True,
        wrote=frozenset({A}),
        found_whole=True,
        fence=True,
        at_work=True,
        releases=True,
        apart=frozenset({A, B}),
        closing=frozenset({B}),
        turn=Turn(frozenset({0, 1})),
        begun=NOW,
        committed=NOW + 0.25,
        message="why",
        acquired=NOW,
        renewed=NOW + 0.5,
        duration=20,
        transitions=4,
        groups=GroupsOwner(
            id="g1", holder="trainer-0", since=NOW, seen=NOW + 0.5, forming=True, left=True
        ),
    )
    told = [field for field in dataclasses.fields(full) if field.compare]
    unset = [f.name for f in told if getattr(full, f.name) == f.default]
    assert not unset, "the state of this test has a value in each field"
    assert lease_state.read(lease_state.written({}, full)) == full


def merged(lease: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """RFC 7386, as the API server merges."""
    found = dict(lease)
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, dict):
            found[key] = merged(found.get(key) or {}, value)
        else:
            found[key] = value
    return found


@pytest.mark.parametrize(
    "after", [Transaction(), committed(), sleeping("weights")], ids=lambda state: state.phase.value
)
def test_a_patch_makes_of_a_lease_what_writing_it_would(after):
    notes = {"a": "b"}
    lease = {"metadata": {"resourceVersion": "7", "annotations": notes}, "spec": {"strategy": "x"}}
    for before in (Transaction(), committed(), sleeping("kv_cache")):
        stood = lease_state.written(lease, before)
        assert merged(stood, lease_state.patch(stood, after)) == lease_state.written(stood, after)


def test_writing_keeps_what_belongs_to_others():
    notes = {"a": "b", names.ANNOTATION_MESSAGE: "old"}
    lease = {
        "kind": "Lease",
        "metadata": {"resourceVersion": "7", "annotations": notes},
        "spec": {"strategy": "x", "holderIdentity": "somebody"},
    }
    put = lease_state.written(lease, Transaction())
    assert put["metadata"] == {"resourceVersion": "7", "annotations": {"a": "b"}}
    assert put["spec"] == {"strategy": "x", "leaseDurationSeconds": 30, "leaseTransitions": 0}


@pytest.mark.parametrize(
    "lease",
    [
        {},
        {"metadata": {"annotations": None}, "spec": None},
        {"metadata": {"annotations": {}}, "spec": {"leaseDurationSeconds": "x", "renewTime": 3}},
    ],
    ids=str,
)
def test_an_empty_or_broken_lease_is_idle(lease):
    assert lease_state.read(lease) == Transaction()


def test_an_unknown_phase_counts_as_aborted():
    lease = {"metadata": {"annotations": {names.ANNOTATION_PHASE: "Singing"}}}
    assert lease_state.read(lease).phase is Phase.ABORTED


class TestRecovery:
    """The operator loads the committed weights into engines that came up later."""

    OPERATOR = Trainer(holder="operator-a", transaction="")
    SECOND = Trainer(holder="operator-b", transaction="")

    def free(self) -> Transaction:
        begun = syncing()
        return steps.commit(begun, MINE, instances=[A], now=NOW, checkpoint="/c/1")

    def loading(self) -> Transaction:
        return steps.recover(self.free(), self.OPERATOR, instances=[B, C], now=NOW, seen=NOW)

    def test_no_sync_and_no_sleep_begins_meanwhile(self):
        loading = self.loading()
        for call in (syncing, lambda *_: steps.sleep(loading, MINE, tags=[], now=NOW, seen=NOW)):
            refused = refusal(call, loading)
            assert refused.reason is Refusal.RECOVERING
            assert "loads version step-1 from /c/1 into 2 of the engines" in str(refused)

    def test_what_was_loaded_is_covered_and_the_last_one_frees_the_lease(self):
        one = steps.recovered(self.loading(), self.OPERATOR, loaded=[B], now=NOW + 5)
        assert (one.holder, one.instances) == ("operator-a", BOTH)
        assert one.recovering == {C}
        both = steps.recovered(one, self.OPERATOR, loaded=[], failed=[C], now=NOW + 6)
        assert (both.holder, both.instances, both.recovering) == (
            "",
            frozenset({A, B}),
            frozenset(),
        )
        assert syncing(both).phase is Phase.SYNCING

    def test_what_was_not_named_before_is_not_covered_after(self):
        alone = steps.recover(self.free(), self.OPERATOR, instances=[B], now=NOW, seen=NOW)
        after = steps.recovered(alone, self.OPERATOR, loaded=[B, C], now=NOW)
        assert after.instances == {A, B}

    def test_it_goes_on_only_while_nobody_took_the_lease(self):
        loading = self.loading()
        taken = syncing(loading, OTHER, now=NOW + 31, seen=NOW)
        assert taken.recovering == frozenset()
        done = steps.commit(taken, OTHER, instances=[A], now=NOW + 40, checkpoint="/c/2")
        other = steps.recover(loading, self.SECOND, instances=[B], now=NOW + 31, seen=NOW)
        for state in (taken, done, other):
            for step in (steps.still_recovering, steps.recovered):
                options = {} if step is steps.still_recovering else {"loaded": [B]}
                refused = refusal(step, state, self.OPERATOR, now=NOW + 41, **options)
                assert refused.reason is Refusal.NOT_HELD

    def test_engines_join_though_a_trainers_mark_was_left_behind(self):
        """A trainer of an earlier version commits without taking it away: no pass came through."""
        left = dataclasses.replace(self.free(), at_work=True)
        loading = steps.recover(left, self.OPERATOR, instances=[B], now=NOW, seen=NOW)
        more = steps.recover(loading, self.OPERATOR, instances=[B, C], now=NOW + 1, seen=NOW)
        assert more.recovering == {B, C}

    def test_only_committed_weights_with_a_checkpoint_are_loaded(self):
        for state in (Transaction(), syncing(), sleeping("kv_cache")):
            refused = refusal(
                steps.recover, state, self.OPERATOR, instances=[A], now=NOW + 99, seen=NOW
            )
            assert refused.reason is Refusal.WRONG_PHASE
        assert (
            refusal(
                steps.recover, committed(), self.OPERATOR, instances=[C], now=NOW, seen=NOW
            ).reason
            is Refusal.NO_INSTANCES
        )

    def test_two_operators_never_load_at_once(self):
        loading = self.loading()
        refused = refusal(
            steps.recover, loading, self.SECOND, instances=[B], now=NOW + 29, seen=NOW
        )
        assert refused.reason is Refusal.RECOVERING

    def test_an_abort_by_force_ends_it(self):
        aborted = steps.aborted(self.loading(), "by hand")
        assert (aborted.recovers, aborted.recovering) == (False, frozenset())


# --- any order of steps

TRAINERS = st.sampled_from([MINE, LATER, OTHER])
TAGS = st.sets(st.sampled_from(lease_state.MEMORY_TAGS))
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("begin", "renew", "commit", "abort", "sleep", "wake", "expire", "pass"),
                *("recover", "recovered", "end"),
            ]
        ),
        TRAINERS,
        TAGS,
        st.floats(0, 40),
    ),
    max_size=25,
)


@given(STEPS)
def test_gates_open_only_over_weights_that_a_commit_named_and_nothing_took_since(taken):
    state, now, seen, whole = Transaction(), NOW, NOW, True  # as the engines were started
    for name, trainer, tags, passed in taken:
        if name == "pass":
            now += passed
            continue
        try:
            after = _step(state, now, seen, name, trainer, tags)
        except RefusedError:
            continue
        state, seen = after, now
        # What the engines hold, told apart from what the module says of it.
        if name in ("begin", "abort", "end") or lease_state.WEIGHTS in state.released:
            whole = False
        elif name == "commit":
            whole = True
        assert state.intact <= whole
        if state.phase is Phase.COMMITTED:
            assert whole and state.version and state.instances and not state.released
            assert state.recovers == bool(state.holder)
        assert lease_state.read(lease_state.written({}, state)).phase is state.phase


def _step(
    state: Transaction, now: float, seen: float, name: str, trainer: Trainer, tags: set[str]
) -> Transaction:
    match name:
        case "begin":
            return syncing(state, trainer, now, seen)
        case "renew":
            return steps.renew(state, trainer, now=now)
        case "commit":
            return steps.commit(state, trainer, now=now, instances=[A, C], checkpoint="/c")
        case "abort":
            return steps.abort(state, trainer, message="")
        case "end":
            return steps.ended(state, trainer.holder, message="", now=now)
        case "sleep":
            about = steps.sleep(state, trainer, now=now, seen=seen, tags=tags)
            return steps.slept(about, trainer, instances=[A], now=now)
        case "wake":
            return steps.wake(state, trainer, now=now, tags=tags)
        case "recover":
            return steps.recover(state, trainer, instances=[B], now=now, seen=seen)
        case "recovered":
            return steps.recovered(state, trainer, loaded=[B], now=now)
    expired = state.phase is Phase.SYNCING and now > state.expires(seen)
    return steps.aborted(state, "expired") if expired else state


def test_who_woke_is_no_sleeper_any_more_until_it_sleeps_again():
    trainer = steps.Trainer(holder="a", transaction="t")
    asleep = Transaction(
        phase=Phase.SLEEPING,
        holder="a",
        id="t",
        released=("weights", "kv_cache"),
        asleep=("i", "j"),
    )
    partly = steps.woke(asleep, trainer, instances=["i"], tags=["weights"])
    assert partly.sleeps("i") == {"kv_cache"}
    assert partly.sleeps("j") == {"weights", "kv_cache"}
    assert partly.sleeps("stranger") == set()
    assert lease_state.read(lease_state.written({}, partly)) == partly
    about = dataclasses.replace(partly, releases=True)
    again = steps.slept(about, trainer, instances=["i"], now=NOW)
    assert again.sleeps("i") == {"weights", "kv_cache"}
    left = steps.wake(partly, trainer, now=1.0, tags=["weights"])
    assert (left.released, left.woken) == (("kv_cache",), frozenset())
    assert left.sleeps("i") == left.sleeps("j") == {"kv_cache"}


def test_who_may_have_woken_stays_on_record_until_nobody_sleeps():
    asleep = steps.slept(sleeping("kv_cache"), MINE, instances=[A, B], now=NOW)
    lost = stored(steps.woke(asleep, MINE, instances=[A], tags=["kv_cache"], unclear=[B]))
    assert lost.unclear == {B}
    assert [lost.sleeps(each) for each in (A, B)] == [frozenset(), {"kv_cache"}]
    begun = syncing(steps.rests(lost, MINE), LATER)
    aborted = stored(steps.abort(begun, LATER, message="the answer was lost"))
    assert aborted.unclear == {B}
    again = steps.woke(lost, MINE, instances=[], tags=[], unclear=[A])
    assert again.unclear == BOTH
    assert steps.wake(lost, MINE, now=NOW, tags=["kv_cache"]).unclear == frozenset()


# --- several processes of one trainer write


def shared(state: Transaction | None = None, trainer: Trainer = MINE) -> Transaction:
    return steps.begin(
        state or Transaction(),
        trainer,
        epoch="e1",
        version="step-1",
        now=NOW,
        seen=NOW,
        shared=True,
    )


def test_a_shared_sync_is_committed_once_each_engine_was_vouched_for():
    begun = shared()
    refused = refusal(steps.commit, begun, MINE, instances=[A, B], wrote=[A], now=NOW)
    assert refused.reason is Refusal.NOT_WRITTEN
    assert f"nobody vouches for ({B})" in str(refused)
    vouched = steps.vouch(begun, MINE, instances=[B])
    done = steps.commit(vouched, MINE, instances=[A, B], wrote=[A], now=NOW)
    assert (done.instances, lease_state.read(lease_state.written({}, done)).instances) == (
        BOTH,
        BOTH,
    )


def test_nothing_is_committed_while_a_process_objects():
    begun = steps.vouch(shared(), MINE, instances=[A])
    against = steps.objection(begun, MINE, message="engine 1: shape mismatch")
    against = steps.vouch(against, MINE, instances=[B])
    refused = refusal(steps.commit, against, MINE, instances=[A, B], now=NOW)
    assert refused.reason is Refusal.NOT_WRITTEN
    assert "engine 1: shape mismatch" in str(refused)
    assert steps.objection(against, MINE, message="another").message == against.message
    assert steps.vouch(against, MINE, instances=[], retracts="another") == against
    good = steps.vouch(against, MINE, instances=[], retracts=against.message)
    assert steps.commit(good, MINE, instances=[A, B], now=NOW).phase is Phase.COMMITTED


@pytest.mark.parametrize("step", [steps.vouch, steps.objection], ids=lambda step: step.__name__)
def test_only_a_process_of_this_very_sync_has_a_say_in_it(step):
    options = {"instances": [A]} if step is steps.vouch else {"message": "no"}
    for who in (OTHER, LATER):
        assert refusal(step, shared(), who, **options).reason is Refusal.NOT_HELD
    over = steps.abort(shared(), MINE, message="lost")
    assert refusal(step, over, MINE, **options).reason is Refusal.NOT_HELD


def test_what_was_vouched_for_is_forgotten_by_the_next_sync():
    done = steps.commit(steps.vouch(shared(), MINE, instances=[A]), MINE, instances=[A], now=NOW)
    again = steps.begin(done, LATER, epoch="e1", version="step-2", now=NOW, seen=NOW, shared=True)
    assert (again.wrote, again.instances) == (frozenset(), frozenset({A}))
    refused = refusal(steps.commit, again, LATER, instances=[A], now=NOW)
    assert refused.reason is Refusal.NOT_WRITTEN


def test_a_commit_that_names_more_than_was_written_covers_only_what_was():
    """Whoever wrote it: the operator opens no other gate."""
    begun = steps.vouch(shared(), MINE, instances=[A])
    done = dataclasses.replace(
        begun, phase=Phase.COMMITTED, holder="", version="step-1", instances=BOTH, intact=True
    )
    assert lease_state.read(lease_state.written({}, done)).instances == {A}


def test_a_client_that_knows_nothing_of_shared_syncs_commits_as_ever():
    """It leaves the annotations of an earlier one standing, which name that transaction."""
    done = steps.commit(steps.vouch(shared(), MINE, instances=[A]), MINE, instances=[A], now=NOW)
    stood = lease_state.written({}, done)["metadata"]["annotations"]
    later = steps.commit(syncing(done, OTHER), OTHER, instances=[A, B], now=NOW)
    lease = lease_state.written({}, later)
    left = {k: stood[k] for k in (names.ANNOTATION_SHARED, names.ANNOTATION_WROTE)}
    lease["metadata"]["annotations"] |= left
    assert lease_state.read(lease).instances == BOTH


def test_what_the_operator_loads_after_a_shared_sync_is_covered_too():
    begun = steps.vouch(shared(), MINE, instances=[A])
    done = steps.commit(begun, MINE, instances=[A], now=NOW, checkpoint="/c/1")
    operator = Trainer(holder="operator", transaction="")
    loading = steps.recover(done, operator, instances=[B], now=NOW, seen=NOW)
    whole = steps.recovered(loading, operator, loaded=[B], now=NOW)
    assert lease_state.read(lease_state.written({}, whole)).instances == BOTH


def test_after_a_shared_sync_that_was_aborted_only_its_own_job_begins_at_once():
    over = steps.abort(shared(), MINE, message="out of memory")
    assert (over.phase, over.holder) == (Phase.ABORTED, "trainer-0")
    refused = refusal(syncing, over, OTHER)
    assert refused.reason is Refusal.HELD
    assert "out of memory" in str(refused)
    assert "may not know yet" in str(refused)
    assert shared(over, LATER).id == "t3"
    gone = NOW + lease_state.LEASE_SECONDS + 1
    assert syncing(over, OTHER, now=gone, seen=NOW).holder == "trainer-1"


@pytest.mark.parametrize(
    "ended",
    [
        lambda: steps.abort(shared(), MINE, message="a worker failed"),
        lambda: lost_lease.disclaim(
            Transaction(), MINE, message="a worker failed", now=NOW, shared=True
        ),
        lambda: steps.withdraw(shared(), MINE, Transaction(), message="a worker failed", now=NOW),
    ],
    ids=["aborted", "of a deleted Lease", "withdrawn"],
)
@pytest.mark.parametrize(
    "step",
    [
        syncing,
        partial(steps.sleep, tags=["weights"]),
        partial(weights_reset.begin, epoch="e1"),
        steps.take_on,
    ],
    ids=["a sync of one process", "a sleep", "a reset", "a wake"],
)
def test_what_the_others_of_a_job_do_not_join_waits_until_they_know_of_its_abort(ended, step):
    """They write on: into released memory, or amid what is written alone."""
    over = stored(ended())
    until = NOW + lease_state.LEASE_SECONDS
    refused = refusal(step, over, trainer=LATER, now=until, seen=NOW)
    assert refused.reason is Refusal.AT_WORK  # which is waited for
    assert str(refused) == (
        "trainer-0 ended its shared sync (a worker failed), and the other processes of its job may "
        "not know yet: what they write would end engines that sleep or are reset, or tear the "
        "weights of a sync that they do not join; nothing but their next shared sync begins before "
        "2027-01-15T08:00:30Z"
    )
    if step is steps.take_on:  # of what is aborted nothing sleeps by a step that could be woken
        wrong = refusal(step, over, trainer=LATER, now=until + 1, seen=NOW)
        assert wrong.reason is Refusal.WRONG_PHASE
    else:
        assert step(over, trainer=LATER, now=until + 1, seen=NOW).id == LATER.transaction
    again = shared(over, LATER)
    assert (again.phase, again.id, again.fence) == (Phase.SYNCING, "t3", False)


def test_who_ends_a_shared_sync_of_others_begins_nothing_by_that():
    over = steps.ended(shared(), OTHER.holder, message="by force", now=NOW)
    assert refusal(syncing, over, OTHER).reason is Refusal.HELD
    assert refusal(syncing, over, LATER).reason is Refusal.HELD
    own = steps.ended(steps.abort(shared(), MINE, message="x"), "c", message="by force", now=NOW)
    assert refusal(syncing, own, OTHER).reason is Refusal.HELD


@pytest.mark.parametrize(
    "over",
    [
        lambda: steps.ended(syncing(), "admin", message="by force", now=NOW),
        lambda: steps.abort(shared(), MINE, message="out of memory"),
        lambda: lost_lease.forgotten(
            Transaction(),
            Trainer(holder="operator", transaction=""),
            asleep={},
            message="",
            now=NOW,
        ),
    ],
)
def test_a_fence_holds_on_when_its_holder_is_edited_away(over):
    """Whoever was at it may write on, whoever's name stands in the Lease."""
    fenced = lease_state.read(lease_state.written({}, over()))
    edited = lease_state.read(lease_state.written({}, dataclasses.replace(fenced, holder="")))
    refused = refusal(steps.begin, edited, OTHER, epoch="e", version="v", now=NOW + 1, seen=NOW)
    assert refused.reason is Refusal.HELD
    again = lease_state.read(
        lease_state.written({}, steps.ended(edited, "admin", message="again", now=NOW))
    )
    assert again.fenced and again.fence
    later = NOW + edited.duration + 1
    begun = steps.begin(edited, OTHER, epoch="e", version="v", now=later, seen=NOW)
    assert not begun.fence
    assert not steps.abort(begun, OTHER, message="its own").vacant


def test_the_fence_of_an_earlier_transaction_is_none():
    """A client that does not know of fences leaves it standing."""
    fenced = steps.ended(syncing(), "admin", message="by force", now=NOW)
    note = lease_state.written({}, fenced)["metadata"]["annotations"][names.ANNOTATION_FENCE]
    lease = lease_state.written({}, steps.abort(syncing(None, OTHER), OTHER, message="torn"))
    lease["metadata"]["annotations"][names.ANNOTATION_FENCE] = note
    assert not lease_state.read(lease).vacant


def test_all_that_woke_is_kept_of_as_many_instances_as_a_pool_may_have():
    run = [f"{i:08x}" for i in range(lease_state.MAX_INSTANCES)]
    slept = steps.slept(sleeping(*lease_state.MEMORY_TAGS), MINE, instances=run, now=NOW)
    woken = steps.woke(slept, MINE, instances=run, tags=lease_state.MEMORY_TAGS)
    found = lease_state.read(lease_state.written({}, woken))
    assert not any(found.sleeps(each) for each in run)


def test_a_sleeper_that_nobody_resumed_is_covered_no_more():
    slept = steps.slept(sleeping("kv_cache"), MINE, instances=[A, B], now=NOW)
    woken = steps.woke(slept, MINE, instances=[A], tags=["kv_cache"])
    awake = steps.wake(woken, MINE, now=NOW + 3)
    assert (awake.phase, awake.instances) == (Phase.COMMITTED, frozenset({A}))
    nobody = steps.wake(slept, MINE, now=NOW + 3)
    assert (nobody.phase, nobody.instances) == (Phase.AWAKE, frozenset())


def test_an_engine_is_torn_from_the_begin_of_a_sync_to_the_commit_that_covers_it():
    step: dict[str, Any] = {"epoch": "e", "version": "v", "now": NOW, "seen": NOW}
    begun = steps.begin(Transaction(), MINE, engines=[A, B, C], **step)
    assert begun.torn == {A, B, C}
    assert not steps.withdraw(begun, MINE, Transaction(), message="", now=NOW).torn
    over = steps.abort(begun, MINE, message="x")
    assert over.torn == {A, B, C}
    later = steps.begin(over, LATER, engines=[A], running=[A, B], **step)
    assert later.torn == {A, B}, "C is gone"
    done = steps.commit(later, LATER, instances=[A], now=NOW)
    assert done.torn == {B}
    assert [done.covers(each) for each in (A, B)] == [True, False]
    # A client that does not know of it leaves it standing.
    older = lease_state.written({}, dataclasses.replace(done, torn=frozenset({A, B})))
    assert lease_state.read(older).torn == {B}


def test_an_engine_is_torn_from_the_release_of_its_weights_and_while_a_checkpoint_is_loaded():
    slept = steps.slept(sleeping("weights", "kv_cache"), MINE, instances=[A], now=NOW)
    assert slept.torn == {A}
    assert not steps.slept(sleeping("kv_cache"), MINE, instances=[A], now=NOW).torn
    done = Transaction(
        phase=Phase.COMMITTED, version="v", instances=frozenset({A}), checkpoint="/c"
    )
    loads = steps.recover(done, OTHER, instances=[B, C], now=NOW, seen=NOW)
    assert loads.torn == {B, C}
    ended = steps.recovered(loads, OTHER, loaded=[B], failed=[C], now=NOW)
    assert (ended.torn, ended.instances) == (frozenset({C}), frozenset({A, B}))


def test_who_is_torn_is_said_in_few_words_of_a_large_pool():
    """All that a Lease says of 4,000 engines of a job that sleeps has to fit into annotations."""
    run = [f"{i:08x}" for i in range(4000)]
    tags = ["weights", "kv_cache"]
    done = Transaction(
        phase=Phase.COMMITTED, id="t", version="v", instances=frozenset(run), wrote=frozenset(run)
    )
    done = dataclasses.replace(done, shared=True, intact=True, groups=None)
    slept = steps.sleep(done, MINE, tags=tags, now=NOW, seen=NOW)
    slept = steps.slept(slept, MINE, instances=run, now=NOW)
    woken = steps.woke(slept, MINE, instances=run, tags=tags)
    assert woken.torn == frozenset(run)
    notes = lease_state.written({}, woken)["metadata"]["annotations"]
    assert notes[names.ANNOTATION_TORN] == "*"
    assert sum(len(key) + len(value) for key, value in notes.items()) < 256 * 1024


@pytest.mark.parametrize("torn", [(), (A,), (A, B), (C,), (A, B, C), (B, C)])
def test_who_is_torn_is_read_as_it_was_written(torn):
    covered = {A, B, *(f"{i:08x}" for i in range(5))}
    for of in (torn, covered | {*torn}, covered - {*torn}, {*torn} - covered):
        state = Transaction(phase=Phase.ABORTED, instances=frozenset(covered), torn=frozenset(of))
        assert stored(state).torn == frozenset(of)


def test_nobody_is_unclear_who_does_not_sleep():
    """As an older client leaves it standing that woke and synced the engine."""
    left = stored(Transaction(phase=Phase.COMMITTED, id="t", asleep=(A,), unclear=frozenset({B})))
    assert not left.unclear


def withdrawn(before: Transaction) -> Transaction:
    """A sync by another trainer over this, which sends nothing."""
    later = NOW + before.duration + 1
    step: dict[str, Any] = {"epoch": "e", "version": "v", "now": later, "seen": NOW}
    begun = steps.begin(before, LATER, engines=[A, B], **step)
    return steps.withdraw(begun, LATER, before, message="nobody confirms", now=later)


def in_vain(state: Transaction) -> Transaction:
    """A sleep that releases nothing, as no gate was closed in time; its trainer rests."""
    begun = steps.sleep(state, MINE, tags=["weights", "kv_cache"], now=NOW, seen=NOW)
    return steps.rests(begun, MINE)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_withdrawn_syncs_of_a_pool_without_a_commit_leave_its_weights_whole(times):
    state = Transaction()
    for _ in range(times):
        state = withdrawn(state)
    assert state.initial and not state.holder and not state.torn


def test_a_sync_withdrawn_after_a_wake_leaves_the_weights_whole_that_engines_started_with():
    woken = steps.wake(in_vain(Transaction()), MINE, now=NOW)
    assert woken.initial and withdrawn(woken).initial
    taken = steps.take_on(woken, MINE, now=NOW, seen=NOW)
    left = steps.rests(taken, MINE)  # a wake that nobody confirmed
    assert left.holder and withdrawn(left).initial


@pytest.mark.parametrize("before", ["no commit", "a commit", "a withdrawn sync"])
@pytest.mark.parametrize("gone", [False, True], ids=["its trainer rests", "its trainer is gone"])
def test_a_sync_withdrawn_after_a_sleep_that_came_to_nothing_can_still_be_woken(before, gone):
    found = {
        "no commit": Transaction,
        "a commit": committed,
        "a withdrawn sync": lambda: withdrawn(Transaction()),
    }[before]()
    slept = in_vain(found)
    state = withdrawn(unslept.given_up(slept) if gone else slept)
    assert (state.phase, state.intact, state.released) == (Phase.SLEEPING, True, ())
    taken = steps.take_on(state, MINE, now=NOW, seen=NOW)
    woken = steps.wake(taken, MINE, now=NOW)
    assert woken.phase is (Phase.COMMITTED if before == "a commit" else Phase.AWAKE)
    assert woken.intact and not woken.holder


def test_a_sync_withdrawn_while_engines_sleep_or_hold_nobody_knows_what_is_aborted():
    awake = steps.wake(asleep("weights"), MINE, now=NOW)
    assert awake.phase is Phase.AWAKE
    sleepers = (asleep("kv_cache"), asleep("weights"), sleeping("weights"))
    for before in (*sleepers, awake, steps.aborted(committed(), "no")):
        assert withdrawn(before).phase is Phase.ABORTED
