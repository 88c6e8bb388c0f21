"""A part of a pool sleeps, by the GPUs that a trainer wants, and the other engines serve on.

The phase is Sleeping, as where all sleep, and the Lease names the engines ``apart``: theirs
are the gates that close.  Who does not know of that, because it is of an earlier release, reads a
pool that sleeps: it closes the other gates too, wakes, and syncs, as it always did, and opens none.
A name counts in its own transaction alone, so that what such a one begins is no sleep of a part.
An engine that has no instance, as it ended amid its trainer's turn, is named by its own name.

What a part gives up is lost to it alone: its engines are torn, and covered no more, while the
commit still vouches for the others.  Awake again they are behind it, and closed: they load its
checkpoint, or wait for the next sync.  A sync wakes whoever sleeps, as ROLL has it, and so it
begins once the trainer has given the memory back.
"""

import dataclasses
from collections.abc import Iterable

from sglang_operator.api import texts
from sglang_operator.weights import lease_state, rules, steps
from sglang_operator.weights.lease_state import WEIGHTS, Phase, Transaction
from sglang_operator.weights.turn import Turn


def sleep(
    state: Transaction,
    trainer: rules.Trainer,
    *,
    instances: Iterable[str],
    tags: Iterable[str],
    now: float,
    seen: float,
    takes: Turn | None = None,
) -> Transaction:
    """The gates of these alone are to close, because their memory of these tags will be released.

    Where the others have nothing to serve from, or sleep, all is as ``steps.sleep`` has it, but
    that the others keep their memory.  Raises :class:`RefusedError`.
    """
    named, tags = frozenset(instances), frozenset(tags)
    if not named:
        raise rules.refused(rules.Refusal.NO_INSTANCES, state, texts.PART_WITHOUT_ENGINES)
    after = steps.sleep(state, trainer, tags=tags, now=now, seen=seen, takes=takes)
    if not others_serve(state, tags):
        return after
    return dataclasses.replace(after, apart=state.apart | named, closing=named)


def others_serve(state: Transaction, tags: Iterable[str]) -> bool:
    """Whether engines may serve on while others release these, and who they are is told after it.

    Weights that nobody has committed are told of by nothing: what gave them up would, once awake,
    look like the rest.  So it is too while another part sleeps, which kept its own.
    """
    if state.serving or (state.phase is Phase.COMMITTED and state.intact):
        return bool(state.version) or WEIGHTS not in tags
    written = state.version or state.target_version
    initial = state.initial or (state.phase is Phase.IDLE and state.untouched and not written)
    return initial and WEIGHTS not in tags


def slept(
    state: Transaction,
    trainer: rules.Trainer,
    *,
    instances: Iterable[str],
    tags: Iterable[str],
    now: float,
) -> Transaction:
    """These instances are about to release their memory of these tags, and no others.

    One that came up in the place of one that was named is among them: its gate has never opened.
    Raises :class:`RefusedError`.
    """
    again, tags = frozenset(instances), frozenset(tags)
    after = steps.slept(state, trainer, instances=again, now=now)
    if not again:
        return after
    kept = frozenset(
        f"{run}/{tag}" for run in again for tag in {*state.released} - tags - state.sleeps(run)
    )
    gone = again if WEIGHTS in tags else frozenset[str]()
    told = dataclasses.replace(after, woken=after.woken | kept, torn=state.torn | gone)
    if not state.apart:  # what others released before is not given up by these
        return dataclasses.replace(told, intact=state.intact and not gone)
    return dataclasses.replace(
        told,
        intact=state.intact,
        instances=state.instances - gone,
        apart=state.apart | again,
    )


def wake(
    state: Transaction,
    trainer: rules.Trainer,
    *,
    instances: Iterable[str],
    now: float,
    tags: Iterable[str] = lease_state.MEMORY_TAGS,
    devices: Iterable[int] = (),
) -> Transaction:
    """These instances have resumed their memory of these tags, or are gone; the others sleep on.

    With all of it the GPUs of these ``devices`` are the engines' again, whoever is on them.

    Whoever of them has all of its memory goes by the commit again, also where all slept before.
    Once nobody sleeps it is as after ``steps.wake``.  Raises :class:`RefusedError`.
    """
    rules.own(state, trainer)
    rules.in_phase(state, "wake", Phase.SLEEPING, Phase.AWAKE)
    named, tags = frozenset(instances), frozenset(tags)
    resumed = frozenset(f"{run}/{tag}" for run in named for tag in tags)
    missed = frozenset(run for run in named if state.sleeps(run) & tags)
    told = dataclasses.replace(state, woken=state.woken | resumed)
    asleep = tuple(run for run in state.asleep if told.sleeps(run))
    left = frozenset[str]().union(*map(told.sleeps, asleep))
    awake = named - {*asleep}
    turn = state.turn.given_back(devices) if state.turn and awake == named else state.turn
    closed = state.apart or state.instances | {*state.asleep}
    lost = missed >= state.instances if state.instances else bool(missed) and not state.apart
    return steps.after_wake(
        dataclasses.replace(
            told,
            released=lease_state.in_order(left),
            asleep=asleep,
            instances=state.instances - missed,
            intact=state.intact and not lost,
            unclear=state.unclear & {*asleep},
            woken=frozenset(
                each
                for each in told.woken
                if each.split("/")[0] in asleep and each.split("/")[-1] in left
            ),
            apart=closed - awake,
            renewed=now,
            at_work=False,
            turn=turn,
        )
    )


def give_back(
    state: Transaction,
    trainer: rules.Trainer,
    *,
    devices: Iterable[int] | None = None,
    now: float,
    seen: float,
) -> Transaction:
    """The trainer has let go of these GPUs, or of all: engines that have waited for that are made.

    What sleeps there sleeps on.  Nothing else is begun by it.  Raises :class:`RefusedError` while
    somebody else holds the Lease.
    """
    rules.free(state, trainer, now, seen)
    return dataclasses.replace(state, turn=state.trainers.given_back(devices))
