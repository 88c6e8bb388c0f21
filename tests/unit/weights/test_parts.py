"""A part of a pool sleeps and wakes: what the Lease says of it, and of those that serve on."""

import dataclasses
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sglang_operator.api import names
from sglang_operator.weights import lease_state, parts, steps, unslept
from sglang_operator.weights.lease_state import Phase, Transaction
from sglang_operator.weights.steps import Refusal, RefusedError, Trainer

NOW = 1_800_000_000.0
A, B, C, D = "aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd"
MINE = Trainer(holder="trainer-0", transaction="t1")
LATER = Trainer(holder="trainer-0", transaction="t3")
OPERATOR = Trainer(holder="operator-0", transaction="")
BOTH = ("weights", "kv_cache")
AT: dict[str, Any] = {"now": NOW, "seen": NOW}


def of(*words: str) -> frozenset[str]:
    return frozenset(words)


def stored(state: Transaction) -> Transaction:
    return lease_state.read(lease_state.written({}, state))


def committed(*instances: str) -> Transaction:
    begun = steps.begin(Transaction(), MINE, epoch="e", version="v1", **AT)
    return steps.commit(begun, MINE, instances=instances or (A, B, C), now=NOW, checkpoint="/c")


def sleeping(*runs: str, tags: Any = BOTH, state: Transaction | None = None) -> Transaction:
    """A part is about to sleep."""
    return stored(parts.sleep(state or committed(), MINE, instances=runs, tags=tags, **AT))


def asleep(*runs: str, tags: Any = BOTH, state: Transaction | None = None) -> Transaction:
    """The same, and its engines are named."""
    said = sleeping(*runs, tags=tags, state=state)
    return stored(steps.rests(parts.slept(said, MINE, instances=runs, tags=tags, now=NOW), MINE))


def resumed(state: Transaction, *runs: str) -> Transaction:
    """A part has its memory back."""
    tags = lease_state.MEMORY_TAGS
    woken = steps.woke(state, MINE, instances=runs, tags=tags)
    return stored(parts.wake(woken, MINE, instances=runs, now=NOW))


def test_those_that_are_not_named_go_by_the_commit_from_the_first_word_of_the_sleep():
    said = sleeping(A)
    assert (said.phase, said.apart, said.releases) == (Phase.SLEEPING, of(A), True)
    assert [said.may_sleep(run) for run in (A, B, D)] == [{*BOTH}, set(), set()]
    assert [said.of(run).phase for run in (A, B)] == [Phase.SLEEPING, Phase.COMMITTED]
    assert said.of(B).covers(B) and not said.of(B).released
    assert not said.of(D).covers(D), "it came up since"


def test_what_a_part_gave_up_no_commit_vouches_for_and_the_others_keep_theirs():
    said = asleep(A)
    assert (said.instances, said.torn, said.asleep, said.intact) == (of(B, C), of(A), (A,), True)
    woken = resumed(said, A)
    assert (woken.phase, woken.holder) == (Phase.COMMITTED, "")
    assert (woken.instances, woken.torn, woken.apart) == (of(B, C), of(A), frozenset())
    assert woken.checkpoint == "/c", "from which it catches up"


def test_a_part_that_kept_its_weights_goes_on_by_the_same_commit():
    woken = resumed(asleep(A, tags=["kv_cache"]), A)
    assert (woken.phase, woken.instances) == (Phase.COMMITTED, of(A, B, C))
    assert not woken.torn


def test_a_second_part_sleeps_beside_the_first_on_what_it_was_asked_for_alone():
    first = asleep(A)
    about = sleeping(B, tags=["kv_cache"], state=first)
    assert about.may_sleep(A) == {*BOTH}
    assert about.closing == {B}
    both = asleep(B, tags=["kv_cache"], state=first)
    assert [both.sleeps(run) for run in (A, B, C)] == [{*BOTH}, {"kv_cache"}, set()]
    assert (both.instances, both.torn, both.apart) == (of(B, C), of(A), of(A, B))
    assert both.of(C).phase is Phase.COMMITTED


def test_one_that_sleeps_already_is_not_about_to_sleep_on_what_another_part_releases():
    about = sleeping(B, state=asleep(A, tags=["kv_cache"]))
    assert [about.may_sleep(run) for run in (A, B)] == [{"kv_cache"}, {*BOTH}]


def test_an_overlapping_sleep_has_who_sleeps_release_the_rest():
    more = asleep(A, B, tags=BOTH, state=asleep(A, tags=["kv_cache"]))
    assert [more.sleeps(run) for run in (A, B)] == [{*BOTH}, {*BOTH}]
    assert (more.instances, more.torn) == (of(C), of(A, B))


def test_of_two_parts_the_first_to_wake_serves_while_the_other_sleeps():
    both = asleep(A, B, tags=["kv_cache"])
    one = resumed(both, A)
    assert (one.phase, one.asleep, one.apart) == (Phase.SLEEPING, (B,), of(B))
    assert one.of(A).phase is Phase.COMMITTED
    assert one.holder == "trainer-0", "it has the memory of the other"
    assert resumed(one, B).phase is Phase.COMMITTED


def test_a_part_of_a_pool_that_sleeps_as_a_whole_wakes_alone():
    whole = steps.sleep(committed(), MINE, tags=["kv_cache"], **AT)
    whole = steps.slept(whole, MINE, instances=[A, B, C], now=NOW)
    one = resumed(whole, A)
    assert (one.apart, one.asleep) == (of(B, C), (B, C))
    assert [one.of(run).phase for run in (A, B)] == [Phase.COMMITTED, Phase.SLEEPING]


def test_a_part_of_a_pool_that_gave_up_its_weights_wakes_to_no_commit():
    whole = steps.sleep(committed(), MINE, tags=BOTH, **AT)
    whole = steps.slept(whole, MINE, instances=[A, B, C], now=NOW)
    one = resumed(whole, A)
    assert (one.phase, one.asleep, one.serving) == (Phase.SLEEPING, (B, C), False)
    assert resumed(one, B, C).phase is Phase.AWAKE


def test_a_sleep_of_all_closes_who_served_on():
    said = stored(steps.sleep(asleep(A), MINE, tags=BOTH, **AT))
    assert not said.apart
    assert [said.of(run).phase for run in (A, B)] == [Phase.SLEEPING] * 2
    said = steps.slept(said, MINE, instances=[B, C], now=NOW)
    assert steps.wake(said, MINE, now=NOW, tags=BOTH).phase is Phase.AWAKE


def test_a_sleep_of_all_on_less_gives_up_no_weights_but_those_of_the_part():
    said = stored(steps.sleep(asleep(A), MINE, tags=["kv_cache"], **AT))
    said = parts.slept(said, MINE, instances=[B, C], tags=["kv_cache"], now=NOW)
    assert [said.sleeps(run) for run in (A, B, C)] == [{*BOTH}, {"kv_cache"}, {"kv_cache"}]
    assert (said.instances, said.torn, said.intact) == (of(B, C), of(A), True)
    said = steps.woke(stored(said), MINE, instances=[A, B, C], tags=BOTH)
    after = steps.wake(said, MINE, now=NOW, tags=BOTH)
    assert (after.phase, after.instances, after.torn) == (Phase.COMMITTED, of(B, C), of(A))


def test_who_wakes_all_has_the_rest_go_on():
    said = asleep(A)
    said = steps.woke(said, MINE, instances=[A], tags=BOTH)
    woken = steps.wake(said, MINE, now=NOW, tags=BOTH)
    assert (woken.phase, woken.instances, woken.apart) == (Phase.COMMITTED, of(B, C), frozenset())


def test_one_that_ended_asleep_keeps_nobody_waiting():
    said = asleep(A, B, tags=["kv_cache"])
    woken = steps.woke(said, MINE, instances=[B], tags=BOTH)
    over = parts.wake(woken, MINE, instances=[A, B], now=NOW)  # A is gone
    assert (over.phase, over.instances) == (Phase.COMMITTED, of(B, C))


def test_one_that_came_in_the_place_of_a_named_one_sleeps_with_the_part():
    said = parts.slept(sleeping(A), MINE, instances=[D], tags=BOTH, now=NOW)
    assert said.asleep == (D,)
    assert said.apart == {A, D}
    assert D in said.torn


def test_a_sync_wakes_whoever_sleeps_and_tells_of_them_until_its_commit():
    begun = stored(steps.begin(asleep(A), LATER, epoch="e", version="v2", **AT))
    assert (begun.phase, begun.apart, begun.sleeps(A)) == (Phase.SYNCING, of(A), of(*BOTH))
    assert begun.of(B) is begun, "all are written"
    with pytest.raises(RefusedError) as refused:
        steps.commit(begun, LATER, instances=[B], now=NOW)
    assert refused.value.reason is Refusal.STILL_ASLEEP
    woken = steps.wake(
        steps.woke(begun, LATER, instances=[A], tags=BOTH), LATER, now=NOW, tags=BOTH
    )
    assert (woken.apart, woken.asleep) == (of(A), ())
    assert not steps.commit(woken, LATER, instances=[A, B, C], now=NOW).apart
    assert not steps.abort(woken, LATER, message="x").apart


def part_awake(state: Transaction) -> Transaction:
    """The whole pool has slept on what is no weights, and a part of it is awake."""
    whole = steps.sleep(state, MINE, tags=["kv_cache"], **AT)
    return resumed(steps.slept(whole, MINE, instances=[A, B, C], now=NOW), B, C)


@pytest.mark.parametrize(
    ("state", "tags", "serve"),
    [
        (committed(), BOTH, True),
        (Transaction(), ["kv_cache"], True),
        (Transaction(), BOTH, False),
        (dataclasses.replace(committed(), phase=Phase.ABORTED, intact=False), BOTH, False),
        (dataclasses.replace(committed(), phase=Phase.AWAKE, intact=False), ["kv_cache"], False),
        (Transaction(fence=True, holder=MINE.holder, id="t0"), ["kv_cache"], False),
        (asleep(A), BOTH, True),
        (asleep(A, tags=["kv_cache"], state=Transaction()), ["kv_cache"], True),
        (asleep(A, tags=["kv_cache"], state=Transaction()), BOTH, False),
        (part_awake(committed()), BOTH, True),
        (part_awake(Transaction()), ["kv_cache"], True),
        (part_awake(Transaction()), BOTH, False),
    ],
    ids=[
        "committed",
        "initial",
        "initial weights",
        "aborted",
        "awake",
        "made anew",
        "beside a part",
        "initial beside a part",
        "initial weights beside a part",
        "beside the rest of a pool",
        "initial beside the rest of a pool",
        "initial weights beside the rest of a pool",
    ],
)
def test_others_serve_on_where_it_is_known_what_from(state, tags, serve):
    assert parts.others_serve(state, tags) is serve


def test_one_whose_weights_are_gone_has_not_those_that_it_started_with():
    """Whoever let it happen: a client of an earlier release, say."""
    said = Transaction(phase=Phase.AWAKE, intact=True, torn=of(A))
    assert [said.of(run).initial for run in (A, B)] == [False, True]
    assert said.of(A).memory_lost
    beside = dataclasses.replace(asleep(C, tags=["kv_cache"], state=Transaction()), torn=of(A))
    assert [beside.of(run).initial for run in (A, B)] == [False, True]
    assert beside.of(C) is beside


def test_where_nobody_serves_the_others_keep_their_memory_behind_their_gates():
    over = dataclasses.replace(committed(), phase=Phase.ABORTED, intact=False)
    said = asleep(A, state=over)
    assert (said.phase, said.apart, said.asleep) == (Phase.SLEEPING, frozenset(), (A,))
    assert said.of(B) is said
    assert resumed(said, A).phase is Phase.AWAKE


def test_no_part_sleeps_amid_a_load_of_the_checkpoint_and_nothing_is_loaded_while_one_sleeps():
    """Also not once the trainer is gone: the part is to be woken first, by anybody."""
    loads: dict[str, Any] = {"operator": OPERATOR, "instances": [D]}
    with pytest.raises(RefusedError) as refused:
        sleeping(A, state=steps.recover(committed(), **loads, **AT))
    assert refused.value.reason is Refusal.RECOVERING
    later = NOW + MINE.duration + 1
    for now, why in ((NOW, Refusal.HELD), (later, Refusal.WRONG_PHASE)):
        with pytest.raises(RefusedError) as refused:
            steps.recover(asleep(A), **loads, now=now, seen=NOW)
        assert refused.value.reason is why
    woken = resumed(asleep(A), A)
    both = steps.recover(woken, OPERATOR, instances=[A, D], now=later, seen=NOW)
    done = steps.recovered(both, OPERATOR, loaded=[A, D], now=later)
    assert (done.instances, done.torn) == (of(A, B, C, D), frozenset())


def test_a_sleep_of_nobody_is_refused():
    with pytest.raises(RefusedError) as refused:
        parts.sleep(committed(), MINE, instances=(), tags=BOTH, **AT)
    assert str(refused.value) == (
        "the sleep of a part names no engine; expected the instances that are to sleep"
    )


def test_a_part_whose_trainer_is_gone_before_it_named_anybody_stays_closed():
    """Its engines may be paused: a request would wait for who lets them go on."""
    over = stored(unslept.given_up(sleeping(A)))
    assert not over.may_sleep(A)
    assert [over.of(run).phase for run in (A, B)] == [Phase.SLEEPING, Phase.COMMITTED]
    taken = steps.take_on(over, MINE, now=NOW, seen=NOW)
    assert resumed(taken, A).phase is Phase.COMMITTED


def test_an_abort_by_force_closes_all_and_remembers_who_sleeps():
    over = stored(steps.ended(asleep(A), "admin", message="by force", now=NOW))
    assert (over.phase, over.apart) == (Phase.ABORTED, frozenset())
    assert (over.sleeps(A), over.sleeps(B)) == (of(*BOTH), of())


def test_a_sync_that_sent_nothing_leaves_the_part_asleep_and_the_others_in_service():
    said = asleep(A)
    begun = steps.begin(said, LATER, epoch="e", version="v2", engines=[A, B, C], **AT)
    over = stored(steps.withdraw(begun, LATER, said, message="nobody told of it", now=NOW))
    assert over == dataclasses.replace(said, transitions=over.transitions, trail=over.trail)
    assert [over.of(run).phase for run in (A, B)] == [Phase.SLEEPING, Phase.COMMITTED]
    assert resumed(steps.take_on(over, MINE, **AT), A).phase is Phase.COMMITTED


def test_a_shared_sync_that_sent_nothing_ends_the_sleep_of_the_part():
    """Another process of the job may have sent something."""
    said = asleep(A)
    begun = steps.begin(said, LATER, epoch="e", version="v2", shared=True, **AT)
    over = steps.withdraw(begun, LATER, said, message="x", now=NOW)
    assert (over.phase, over.apart, over.asleep) == (Phase.ABORTED, frozenset(), (A,))


def test_a_sync_over_a_part_that_was_about_to_sleep_ends_that_sleep():
    said = sleeping(A)
    begun = steps.begin(said, LATER, epoch="e", version="v2", now=NOW + 60, seen=NOW)
    over = steps.withdraw(begun, LATER, said, message="x", now=NOW)
    assert (over.phase, over.apart) == (Phase.ABORTED, frozenset())


def test_what_names_a_part_counts_in_its_own_transaction_alone():
    """A client of an earlier release leaves it standing, and puts all to sleep."""
    notes = lease_state.written({}, sleeping(A))["metadata"]["annotations"]
    assert lease_state.read({"metadata": {"annotations": notes}}).apart == {A}
    later = notes | {names.ANNOTATION_TRANSACTION: "t9", names.ANNOTATION_RELEASES: "t9"}
    said = lease_state.read({"metadata": {"annotations": later}})
    assert not said.apart
    assert [bool(said.may_sleep(run)) for run in (A, B)] == [True, True]
    over = lease_state.read({"metadata": {"annotations": notes | {names.ANNOTATION_PHASE: ""}}})
    assert not over.apart


@pytest.mark.parametrize("state", [asleep(A), sleeping(A), resumed(asleep(A, B), A), asleep(A, B)])
def test_a_release_that_knows_of_no_parts_opens_no_sleepers_gate(state):
    notes = lease_state.written({}, state)["metadata"]["annotations"]
    for each in (names.ANNOTATION_APART, names.ANNOTATION_CLOSING):
        notes.pop(each, None)
    before = lease_state.read({"metadata": {"annotations": notes}})
    assert before.phase is Phase.SLEEPING
    for run in (A, B, C):
        assert before.may_sleep(run) >= state.may_sleep(run)


def test_all_of_a_part_of_a_large_pool_fits_into_a_lease():
    runs = [f"{i:08x}" for i in range(4000)]
    said = asleep(*runs, state=committed(*runs))
    said = steps.woke(said, MINE, instances=runs, tags=BOTH)
    notes = lease_state.written({}, said)["metadata"]["annotations"]
    assert notes[names.ANNOTATION_APART] == "t1:*"
    assert sum(len(key) + len(value) for key, value in notes.items()) < 256 * 1024


RUNS = frozenset({A, B, C})
SOME = st.sets(st.sampled_from([A, B, C]), min_size=1)
TAGS = st.sampled_from([BOTH, ("kv_cache",)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("sleep"), SOME, TAGS),
        st.tuples(st.just("wake"), SOME, TAGS),
        st.tuples(st.sampled_from(["sleep all", "wake all", "give up", "sync"]), SOME, TAGS),
    ),
    max_size=8,
)


@pytest.mark.parametrize("first", [committed(), Transaction()], ids=["committed", "initial"])
@example([("sleep", {A}, ("kv_cache",)), ("sleep", {B}, BOTH), ("wake", {A, B}, BOTH)])
@example([("sleep all", {A}, ("kv_cache",)), ("wake", {B, C}, BOTH), ("sleep", {B}, BOTH)])
@given(STEPS)
def test_in_any_order_the_lease_says_of_each_engine_what_it_has(first, taken):
    """Who goes by a commit that covers it, or by what all started with, is whole and awake.

    And who sleeps is named.
    """
    state, whole, released = first, set(RUNS), {run: set[str]() for run in RUNS}
    for name, some, tags in taken:
        before = state
        runs = RUNS if "all" in name else some
        try:
            match name:
                case "sleep":
                    state = asleep(*some, tags=tags, state=state)
                case "sleep all":
                    state = steps.sleep(state, MINE, tags=tags, **AT)
                    state = steps.slept(state, MINE, instances=RUNS, now=NOW)
                case "give up":
                    about = parts.sleep(state, MINE, instances=some, tags=tags, **AT)
                    state = unslept.given_up(about)
                    continue
                case "wake" | "wake all":
                    state = steps.take_on(state, MINE, **AT)
                    state = steps.woke(state, MINE, instances=runs, tags=tags)
                    part = {} if "all" in name else {"instances": some}
                    state = (parts if part else steps).wake(state, MINE, now=NOW, tags=tags, **part)
                case "sync":
                    state = steps.begin(state, MINE, epoch="e", version="v2", **AT)
                    state = steps.woke(state, MINE, instances=RUNS, tags=BOTH)
                    state = steps.wake(state, MINE, now=NOW, tags=BOTH)
                    state = steps.commit(state, MINE, instances=RUNS, now=NOW)
        except RefusedError:
            continue
        finally:
            state = stored(state)
        asked = {*before.released, *tags} if name == "sleep all" else {*tags}
        for run in runs if name != "sync" else ():
            released[run] = released[run] | asked if "sleep" in name else released[run] - asked
        if "sleep" in name and "weights" in asked:
            whole -= runs
        if name == "sync":
            whole, released = set(RUNS), {run: set[str]() for run in RUNS}
        for run in RUNS:
            assert state.sleeps(run) == released[run]
            found = state.of(run)
            if found.initial or (found.phase is Phase.COMMITTED and run in found.instances):
                assert run in whole
                assert not released[run]
