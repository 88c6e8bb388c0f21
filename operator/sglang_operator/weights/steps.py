"""The steps of a sync, of sleep and of wake: old state in, new state out, or a refusal in words.

``instances`` and ``version`` tell what the last commit covered: a load of its checkpoint adds an
engine, and one that is not woken, or gives up its weights by itself, is taken out; whether
those weights are still whole is ``intact``, which a commit sets, and a sleep before anybody has
written at all; a sync that begins or weights memory that is released takes it away at once.  So no
later step (a wake after a torn sync) can open a gate over weights that were written over.  Engines
that a sync began over, or that released their weights, and that no commit has covered since, are
``torn``: an edit of the pool may leave them out of the commits that follow, and bring them back.

Each step is written back by compare and swap on the resource version that was read.
"""

import dataclasses
from collections.abc import Iterable

from sglang_operator.api import texts
from sglang_operator.weights import lease_state, rules, whole
from sglang_operator.weights.lease_state import MEMORY_TAGS, WEIGHTS, Phase, Transaction
from sglang_operator.weights.rules import Refusal as Refusal
from sglang_operator.weights.rules import RefusedError as RefusedError
from sglang_operator.weights.rules import Trainer as Trainer
from sglang_operator.weights.turn import ENGINES, Turn


def begin(
    state: Transaction,
    trainer: Trainer,
    *,
    epoch: str,
    version: str,
    now: float,
    seen: float,
    engines: Iterable[str] = (),
    running: Iterable[str] | None = None,
    shared: bool = False,
) -> Transaction:
    """A sync to ``version`` begins over the engines of ``epoch``: the instances ``engines``.

    ``running``: all instances that there are, where that is known; of others nothing is kept.

    From any phase, unless another transaction holds the Lease.  ``seen``: since when the caller has
    seen the Lease in this state, by its own clock; ``now``: the same clock.  Released memory stays
    on record: it has to be resumed before weights are written into it.  ``shared``: other processes
    of the trainer write too, and each vouches for its engines (``vouch``) before the commit.

    Raises :class:`RefusedError`.
    """
    covered = frozenset(engines)
    return dataclasses.replace(
        rules.taken(state, trainer, now, seen, shared=shared),
        phase=Phase.SYNCING,
        epoch=epoch,
        target_version=version,
        torn=(state.torn if running is None else state.torn & {*running}) | covered,
        intact=False,
        shared=shared,
        found_whole=shared and whole.all_whole(covered, state),
        wrote=frozenset(),
        turn=state.turn and ENGINES,
        begun=now,
    )


def withdraw(
    state: Transaction, trainer: Trainer, before: Transaction, *, message: str, now: float
) -> Transaction:
    """The sync ends before anything was sent to an engine: what counted ``before`` counts on.

    What others have put on record meanwhile stays.  Aborted where more than whole weights stood
    there: a pool that sleeps, a load, what somebody had begun, or that nobody knows what they hold;
    or where other processes share the sync, which may have sent something.  Raises
    :class:`RefusedError`.
    """
    rules.own(state, trainer)
    rules.in_phase(state, "withdraw", Phase.SYNCING)
    first = before.phase is Phase.IDLE and not (before.version or before.target_version)
    # A sleep that came to nothing, and who has woken engines: their weights are as before it.
    awake = before.phase in (Phase.SLEEPING, Phase.AWAKE) and before.intact
    part = before.serving and not (before.releases or before.at_work)  # the others serve on
    slept = not part and (before.released or (before.holder and not awake))
    amid = before.fence or before.recovering or slept
    if state.shared or amid or not (first or awake or before.phase is Phase.COMMITTED):
        return abort(state, trainer, message=message)
    return dataclasses.replace(
        state,
        # A Lease that says nothing any more would be taken for one that was emptied.
        phase=Phase.AWAKE if first else before.phase,
        id=before.id or state.id,
        holder=before.holder if part else "",
        duration=before.duration,
        epoch=before.epoch,
        torn=before.torn,
        target_version=before.target_version,
        intact=before.intact or first,
        shared=before.shared,
        wrote=before.wrote,
        found_whole=False,
        begun=before.begun,
        message=before.message,
        renewed=now,
        at_work=False,
        releases=before.releases,
        turn=before.turn,
    )


def renew(state: Transaction, trainer: Trainer, *, now: float) -> Transaction:
    """The holder is alive.  Raises :class:`RefusedError` if it is the holder no more."""
    rules.own(state, trainer)
    return dataclasses.replace(state, renewed=now)


def works(state: Transaction, trainer: Trainer, *, now: float) -> Transaction:
    """The same, and it is about to change engines: no other process of its name goes on with it.

    What it sends may arrive after what another has sent since: a release of memory after it was
    resumed, a pause after the engines were let go on.  Raises :class:`RefusedError`.
    """
    return dataclasses.replace(renew(state, trainer, now=now), at_work=True)


def rests(state: Transaction, trainer: Trainer) -> Transaction:
    """Nothing that it sent is under way: others of its name may go on with what this says.

    Who was about to put engines to sleep, and has named none, has released nothing: that would be
    remembered of all of them should this Lease be lost.  Raises :class:`RefusedError`.
    """
    rules.own(state, trainer)
    return dataclasses.replace(state.named if state.releases else state, at_work=False)


def attach(state: Transaction, trainer: Trainer, *, now: float, seen: float) -> Transaction:
    """The holder's sync, which it has left, goes on in this transaction.

    Two that end one sync must not both count as its trainer: the slower would write to engines
    that the next trainer has paused.  Raises :class:`RefusedError`, also while another process is
    at work in it, and where that one is gone: nobody knows any more what it has written.
    """
    rules.own(state, dataclasses.replace(trainer, transaction=state.id))
    rules.in_phase(state, "attach", Phase.SYNCING)
    if state.at_work:
        rules.free(state, trainer, now, seen)
        raise rules.refused(Refusal.NOT_HELD, state, texts.WEIGHTS_NOT_LEFT, holder=state.holder)
    return dataclasses.replace(
        state,
        id=trainer.transaction,
        renewed=now,
        transitions=state.transitions + 1,
        found_whole=False,  # who has left it may have written into any engine
        at_work=True,
    )


def take_on(state: Transaction, trainer: Trainer, *, now: float, seen: float) -> Transaction:
    """What sleeps is to be woken in this transaction, whoever put it to sleep.

    Raises :class:`RefusedError`, also while another process of its name is at work.
    """
    taken = rules.taken(state, trainer, now, seen)
    rules.in_phase(state, "wake", Phase.SLEEPING, Phase.AWAKE)
    return taken


def joins(state: Transaction, trainer: Trainer, *, now: float) -> Transaction:
    """A process of the holder takes part in its shared sync: it is renewed by that.

    Others wait as long from then on as after any renewal.  Raises :class:`RefusedError` unless this
    very sync goes on.
    """
    rules.own(state, trainer)
    rules.in_phase(state, "to take part", Phase.SYNCING)
    return dataclasses.replace(state, renewed=now)


def vouch(
    state: Transaction, trainer: Trainer, *, instances: Iterable[str], retracts: str = ""
) -> Transaction:
    """A process of the holder has written all that it had to into these instances.

    ``retracts``: what it has objected before, and has made good.  Raises :class:`RefusedError`
    unless this very sync goes on.
    """
    rules.own(state, trainer)
    rules.in_phase(state, "to vouch for engines", Phase.SYNCING)
    message = "" if state.message == retracts else state.message
    return dataclasses.replace(state, wrote=state.wrote | frozenset(instances), message=message)


def objection(state: Transaction, trainer: Trainer, *, message: str) -> Transaction:
    """A process of the holder could not write what it had to: there is no commit over that.

    The first one stays.  Raises :class:`RefusedError` unless this very sync goes on.
    """
    rules.own(state, trainer)
    rules.in_phase(state, "to object to the commit", Phase.SYNCING)
    return dataclasses.replace(state, message=state.message or message)


def commit(
    state: Transaction,
    trainer: Trainer,
    *,
    instances: Iterable[str],
    wrote: Iterable[str] = (),
    now: float,
    checkpoint: str = "",
) -> Transaction:
    """These instances hold the target version whole: their gates may open.

    ``wrote``: those that the caller itself vouches for, where the sync is shared.

    Raises :class:`RefusedError` unless the trainer syncs in this very transaction, all memory is
    resumed, and in a shared sync every instance was vouched for and nobody objects.
    """
    rules.own(state, trainer)
    rules.in_phase(state, "commit", Phase.SYNCING)
    if state.released:
        raise rules.refused(
            Refusal.STILL_ASLEEP, state, texts.WEIGHTS_ASLEEP, released=" and ".join(state.released)
        )
    covered = frozenset(instances)
    if not covered:
        raise rules.refused(Refusal.NO_INSTANCES, state, texts.WEIGHTS_NO_INSTANCES)
    vouched = state.wrote | frozenset(wrote)
    if state.shared:
        rules.all_written(state, covered - vouched)
    return dataclasses.replace(
        state,
        phase=Phase.COMMITTED,
        wrote=vouched if state.shared else frozenset(),
        found_whole=False,
        holder="",
        version=state.target_version,
        instances=covered,
        torn=state.torn - covered,
        checkpoint=checkpoint,
        intact=True,
        committed=now,
        message="",
        at_work=False,
        apart=frozenset(),
    )


def abort(state: Transaction, trainer: Trainer, *, message: str) -> Transaction:
    """The sync failed: all gates close.  Raises :class:`RefusedError` if it is over already.

    The other processes of a shared one write on until they learn of it: for as long as that may
    take nothing begins but a shared sync of this trainer, which they have to join.
    """
    rules.own(state, trainer)
    over = aborted(state, message)
    if not state.shared:
        return over
    return dataclasses.replace(over, holder=state.holder, shared=True, fence=True)


def aborted(state: Transaction, message: str, *, unsure: bool = False) -> Transaction:
    """What an abort leaves, by the holder or once it has not renewed for the whole duration.

    ``unsure``: not by the holder, who may have been waking those on record as asleep.
    """
    return dataclasses.replace(
        state.named,
        phase=Phase.ABORTED,
        holder="",
        intact=False,
        message=message,
        recovering=frozenset(),
        shared=False,
        wrote=frozenset(),
        found_whole=False,
        fence=False,
        at_work=unsure and state.at_work and bool(state.asleep),
        apart=frozenset(),
    )


def ended(state: Transaction, by: str, *, message: str, now: float) -> Transaction:
    """What an abort by another than the holder leaves.

    The holder writes on until it learns of it, which takes less than the rest of its duration: for
    so long nobody begins anything, not even who aborted it, whose name stands as the holder.
    """
    over = aborted(state, message, unsure=True)
    if state.fenced or not (state.holder or state.vacant):
        # Nobody, or it holds on as it was.
        return dataclasses.replace(over, holder=state.holder, fence=state.fenced)
    return dataclasses.replace(over, holder=by, acquired=now, renewed=now, fence=True)


def sleep(
    state: Transaction,
    trainer: Trainer,
    *,
    tags: Iterable[str],
    now: float,
    seen: float,
    takes: Turn | None = None,
) -> Transaction:
    """Gates are to close, because the memory of these tags will be released.

    Not during a sync.  What is released already stays so.  ``takes``: the GPUs that the trainer
    takes, where engines are on its own.  Raises :class:`RefusedError`.
    """
    taken = rules.taken(state, trainer, now, seen)
    rules.in_phase(taken, "sleep", *(phase for phase in Phase if phase is not Phase.SYNCING))
    tags = set(tags)
    released = lease_state.in_order({*taken.released, *tags})
    # Whoever sleeps has not released these yet: that is said with ``slept``.
    kept = {f"{instance}/{tag}" for instance in taken.asleep for tag in tags - {*taken.released}}
    written = state.version or state.target_version or state.fence
    whole = state.intact or (state.phase is Phase.IDLE and not written)
    return dataclasses.replace(
        taken,
        phase=Phase.SLEEPING,
        released=released,
        woken=taken.woken | kept,
        intact=whole,  # until it names engines
        releases=True,
        apart=frozenset(),
        turn=None if takes is None else state.trainers.taken(takes),
    )


def slept(
    state: Transaction, trainer: Trainer, *, instances: Iterable[str], now: float
) -> Transaction:
    """The memory of these instances is about to be released, of no others; its holder is alive.

    Where none is, nothing is released but what others slept on.  Raises :class:`RefusedError`.
    """
    rules.own(state, trainer)
    rules.in_phase(state, "sleep", Phase.SLEEPING)
    again = frozenset(instances)
    gone = again if WEIGHTS in state.released else frozenset[str]()
    if not again:
        return dataclasses.replace(state.named, renewed=now)
    # A renewal that failed may have told that nothing was released; then that counts.
    if not state.releases:
        words, given_up = texts.WEIGHTS_NOT_HELD, texts.SLEEP_GIVEN_UP
        of = trainer.transaction
        raise rules.refused(Refusal.NOT_HELD, state, words, transaction=of, by=given_up)
    return dataclasses.replace(
        state,
        intact=state.intact and not gone,
        torn=state.torn | gone,
        asleep=tuple(sorted({*state.asleep, *again})),
        woken=frozenset(each for each in state.woken if each.split("/")[0] not in again),
        releases=False,
        closing=frozenset(),
        renewed=now,
    )


def woke(
    state: Transaction,
    trainer: Trainer,
    *,
    instances: Iterable[str],
    tags: Iterable[str],
    count: int = -1,
    unclear: Iterable[str] = (),
) -> Transaction:
    """These instances have resumed the memory of these tags, and others could not.

    ``unclear``: those that were told to release or to resume memory, and whose answer was lost:
    told so again they end if they have done it, and served without if they have not.

    Resuming what was never released kills an engine: whoever tries again leaves them out.  It is
    so whoever holds the Lease by now, unless another transaction may have put them to sleep again.
    ``count``: the transactions that the Lease had counted with this one.  One that stands in its
    place since, and by which nobody has begun anything, may take them for asleep: it is told too.
    Raises :class:`RefusedError`.
    """
    anew = state.fence and state.transitions <= count
    if state.id != trainer.transaction and not anew:
        rules.own(state, trainer)
    resumed = {f"{instance}/{tag}" for instance in instances for tag in tags}
    missed = state.unclear | frozenset(unclear)
    return dataclasses.replace(state, woken=state.woken | resumed, unclear=missed)


def wake(
    state: Transaction, trainer: Trainer, *, now: float, tags: Iterable[str] = MEMORY_TAGS
) -> Transaction:
    """The memory of these tags is resumed.

    With nothing released any more: committed again if the committed weights are intact, so that
    the same gates open; awake and as before where none were ever committed; else awake, and a sync
    has to follow.  During a sync the phase stays.  A sleeper that was not resumed (``woke``), as it
    was not seen just then, is covered no more.

    Raises :class:`RefusedError`.
    """
    rules.own(state, trainer)
    rules.in_phase(state, "wake", Phase.SLEEPING, Phase.AWAKE, Phase.SYNCING)
    tags = frozenset(tags)
    left = lease_state.in_order(set(state.released) - tags)
    missed = frozenset(run for run in state.asleep if state.sleeps(run) & tags)
    lost = state.instances <= missed if state.instances else bool(missed)
    woken = dataclasses.replace(
        state,
        released=left,
        instances=state.instances - missed,
        intact=state.intact and not lost,
        asleep=state.asleep if left else (),
        unclear=state.unclear if left else frozenset(),
        woken=frozenset(each for each in state.woken if each.split("/")[-1] in left),
        apart=state.apart if left or state.phase is Phase.SYNCING else frozenset(),
        renewed=now,
        turn=state.turn if left else state.turn and ENGINES,
        at_work=state.phase is Phase.SYNCING,
    )
    return woken if state.phase is Phase.SYNCING else after_wake(woken)


def after_wake(state: Transaction) -> Transaction:
    """The phase of a pool of which some memory was resumed, outside of a sync; see ``wake``.

    Engines that a sleep of a part has closed, and nobody has woken, keep it asleep.
    """
    if not state.intact:
        phase = Phase.SLEEPING if WEIGHTS in state.released else Phase.AWAKE
        return dataclasses.replace(state, phase=phase, apart=frozenset())
    if state.released or state.apart:
        return dataclasses.replace(state, phase=Phase.SLEEPING)
    phase = Phase.COMMITTED if state.version else Phase.AWAKE
    return dataclasses.replace(state, phase=phase, holder="")


# --- the operator's own: engines that came up after a commit catch up from its checkpoint


def recover(
    state: Transaction, operator: Trainer, *, instances: Iterable[str], now: float, seen: float
) -> Transaction:
    """The committed weights are about to be loaded into these instances, and into no others.

    From here on nobody else begins anything, unless the operator does not renew.  It stands in the
    Lease before the first request leaves.  ``operator``: a holder that no other process has; the
    transaction stays that of the commit.  Raises :class:`RefusedError`.
    """
    rules.free(state, operator, now, seen)
    rules.in_phase(state, "a load of the checkpoint", Phase.COMMITTED)
    wanted = frozenset(instances)
    if not wanted or not state.checkpoint:
        raise rules.refused(Refusal.NO_INSTANCES, state, texts.WEIGHTS_NOTHING_TO_LOAD)
    goes_on = state.holder == operator.holder
    return dataclasses.replace(
        state,
        holder=operator.holder,
        duration=operator.duration,
        recovering=wanted,
        torn=state.torn | wanted,
        acquired=state.acquired if goes_on else now,
        renewed=now,
        at_work=False,  # a trainer's mark, which one of an earlier version leaves behind
    )


def recovered(
    state: Transaction,
    operator: Trainer,
    *,
    loaded: Iterable[str],
    failed: Iterable[str] = (),
    now: float,
) -> Transaction:
    """These loads ended.  What was loaded is covered like the rest; the last one frees the Lease.

    Raises :class:`RefusedError` if the operator is not the holder any more: then others may have
    written meanwhile, and what was loaded opens nothing.
    """
    rules.loads(state, operator)
    whole = state.recovering & frozenset(loaded)
    left = state.recovering - whole - frozenset(failed)
    return dataclasses.replace(
        state,
        holder=state.holder if left else "",
        instances=state.instances | whole,
        torn=state.torn - whole,
        wrote=state.wrote | whole if state.shared else state.wrote,
        recovering=left,
        renewed=now,
    )


def still_recovering(state: Transaction, operator: Trainer, *, now: float) -> Transaction:
    """The loads go on.  Raises :class:`RefusedError` if the operator is the holder no more."""
    rules.loads(state, operator)
    return dataclasses.replace(state, renewed=now)


def left_behind(state: Transaction) -> Transaction:
    """The Lease without the loads of an operator that is gone: nobody is in the way any more."""
    return dataclasses.replace(state, holder="", recovering=frozenset())
