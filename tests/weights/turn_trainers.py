"""The trainer's side of turns, for the model: what it does in ``client.sleeping`` and ``turns``.

Each is a generator: between two of its steps anything may happen.
"""

from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from typing import Any, Protocol

from sglang_operator.client import left_at_work
from sglang_operator.weights import parts, rules, steps, turn
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.builders import NOW
from tests.weights.turn_things import DiesError, Process, Told

GPUS = 8
UNTOLD = "takes the memory without asking whether an engine may come up"
UNASKED = "takes the memory while engines of an older grouping are on their way out"
UNSETTLED = "takes those for asleep at whom somebody was at work as it died"
PHASE_ALONE = "gives all GPUs back with those of a part"
LEASE_SECONDS = 30.0
_TAGS = ("weights", "kv_cache")
_PATIENCE = 60

Steps = Generator[None, None, None]


class Ground(Protocol):
    """What a trainer sees of the world, and changes."""

    choose: Callable[[int], int]
    defect: str
    now: float
    processes: list[Process]
    registry: Told
    acted: str  # the transaction that the operator has acted upon

    @property
    def said(self) -> Transaction: ...

    def take_step(self, step: Callable[[Transaction], Transaction]) -> Transaction:
        """A step in the Lease; raises DiesError, RefusedError."""

    def let_in(self, runs: Iterable[str | None]) -> None:
        """What a client asks before it has these resume; it raises DiesError."""

    def look(self) -> None:
        """Somebody has come to hold memory."""


class Trainer:
    """Its memory, and what it does next."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._does: Steps | None = None
        self._holder, self._transactions = "trainer", 0
        self.memory: set[int] = set()  # GPUs of which it holds memory
        self.turns = self.kept_waiting = 0

    def goes_on(self) -> None:
        """Its next step, or the next thing that it begins."""
        if self._does is None:
            begins = self._programs()
            self._does = begins[self._ground.choose(len(begins))]()
        try:
            next(self._does)
        except (StopIteration, DiesError, steps.RefusedError):
            self._does = None

    def dies(self) -> None:
        """Its memory is free, whatever the Lease says; the next one takes it over in time."""
        self._does, self.memory = None, set()
        self._transactions += 1
        self._holder = f"trainer-{self._transactions}"
        self._ground.now += LEASE_SECONDS + 1

    def _programs(self) -> Sequence[Callable[[], Steps]]:
        if self.memory:
            back = (self._wake, self._wake, self._wake_part, self._wake_part, self._sync)
            return (*back, *((self._train_on,) * 5))
        sleeps = ((self._sleep,) * 3, (self._sleep_part,) * 2)
        return (*sleeps[0], *sleeps[1], self._wake)

    def _train_on(self) -> Steps:
        yield from (None for _ in range(10 + self._ground.choose(40)))

    def _me(self) -> steps.Trainer:
        self._transactions += 1
        return steps.Trainer(holder=self._holder, transaction=f"t{self._transactions}")

    # --- it takes the memory

    def _sleep(self) -> Steps:
        yield from self._take(None)

    def _sleep_part(self) -> Steps:
        yield from self._take({2 * self._ground.choose(GPUS // 2)})

    def _take(self, devices: set[int] | None) -> Steps:
        """``Sleeper.sleep``: the Lease, the operator's word, the release, and the last look."""
        ground, asks = self._ground, self._ground.defect != UNASKED
        part = self._part(devices)
        if not part().engines:
            return
        if asks:
            yield from self._while(
                lambda: part().going() or part().holders or part().hidden, "they go"
            )
        yield from self._settled(devices)
        me, before = self._me(), ground.said.named
        if any(e.instance in before.unclear for e in part().present):
            raise DiesError("nobody knows whether one has its memory")
        named = [e.instance for e in part().present if e.instance]
        named += [e.name for e in part().engines if e.waits]
        takes = turn.of(devices or ())
        at: dict[str, Any] = {"tags": _TAGS, "now": ground.now, "seen": NOW, "takes": takes}
        if devices is None:
            ground.take_step(lambda s: steps.sleep(s, me, **at))
        elif named:
            ground.take_step(lambda s: parts.sleep(s, me, instances=named, **at))
        else:
            return
        yield from self._until(lambda: ground.acted == me.transaction, me)
        told = {e.instance for e in part().present if e.instance}
        # Whether one sleeps already is known from the Lease alone.
        slept = [p for p in ground.processes if p.pod.instance in told and p.pod.started]
        slept = [p for p in slept if not (p.ended or before.sleeps(p.pod.instance))]
        runs = [p.pod.instance for p in slept if p.pod.instance]
        todo: dict[str, Any] = {"instances": runs, "tags": _TAGS, "now": ground.now}
        ground.take_step(lambda s: parts.slept(s, me, **todo))
        yield
        for process in slept:
            process.releases()
            yield
        ground.take_step(lambda s: steps.rests(s, me))
        out = {*runs, *(run for run in told if before.sleeps(run))}
        if asks:
            yield from self._until(lambda: not part().going(out), me)
            if any(e.up and e.instance not in out for e in part().present):
                raise DiesError("one came up meanwhile")
        if ground.defect != UNTOLD:
            yield from self._until(
                lambda: (
                    all(e.waits or e.instance in out for e in part().engines)
                    and not (asks and (part().holders or part().unlisted_but(out)))
                ),
                me,
            )
        self._own(me)
        self.turns += 1
        self.kept_waiting += any(e.waits for e in part().engines)
        # A part's engines have released all of their GPUs; the trainer takes those that it named.
        self.memory |= {*range(GPUS)} if devices is None else devices
        ground.look()

    def _part(self, devices: set[int] | None) -> Callable[[], Told]:
        return lambda: self._ground.registry.overlapping(devices)

    def _while(self, what: Callable[[], object], why: str) -> Steps:
        """NotReady after a while: nothing was begun."""
        for _ in range(_PATIENCE):
            if not what():
                return
            yield
        raise DiesError(why)

    def _until(self, done: Callable[[], bool], me: steps.Trainer) -> Steps:
        """NotReady after a while: the trainer does not have the memory."""
        for _ in range(_PATIENCE):
            if done():
                return
            yield
            self._own(me)
        said = self._ground.said
        if said.id == me.transaction and said.at_work:
            self._ground.take_step(lambda s: steps.rests(s, me))
        raise DiesError("the operator has not said so")

    def _own(self, me: steps.Trainer) -> None:
        if self._ground.said.id != me.transaction:
            raise DiesError("somebody has begun something else")

    # --- it gives it back

    def _wake(self) -> Steps:
        """The trainer has let go of all of it, before it says so."""
        self.memory = set()
        yield from self._resume(None)

    def _wake_part(self) -> Steps:
        size = 2 + 2 * self._ground.choose(2)
        first = size * self._ground.choose(GPUS // size)
        devices = {*range(first, first + size)}
        self.memory -= devices
        yield from self._make_way(devices)
        yield from self._resume(devices)

    def _make_way(self, devices: set[int]) -> Steps:
        """``turns.make_way``: who sleeps there in another grouping ends, for nobody wakes it."""
        ground = self._ground
        state, every = ground.said, ground.registry
        inside = every.within(devices)
        if state.phase is not Phase.SLEEPING:
            return
        known = {e.name for e in every.engines}
        missing = {d for e in inside.engines if not e.instance for d in e.devices}
        old = [e for e in every.unlisted if e.name not in known and state.sleeps(e.instance)]
        if any(not missing.isdisjoint(e.devices) for e in old):
            self._given_back(devices)
            yield from self._while(
                lambda: not all(e.up for e in ground.registry.within(devices).engines), "they stand"
            )

    def _given_back(self, devices: Iterable[int] | None) -> None:
        if self._ground.defect == PHASE_ALONE and devices is not None:
            devices = range(GPUS)
        me, at = self._me(), {"now": self._ground.now, "seen": NOW - LEASE_SECONDS}
        self._ground.take_step(lambda s: parts.give_back(s, me, devices=devices, **at))

    def _resume(self, devices: set[int] | None) -> Steps:
        ground = self._ground
        if ground.said.phase not in (Phase.SLEEPING, Phase.AWAKE):
            self._given_back(devices)
            return
        me = self._me()
        state = ground.take_step(lambda s: steps.take_on(s, me, now=ground.now, seen=NOW))
        yield from self._until(lambda: ground.acted == me.transaction, me)
        runs = {e.instance for e in ground.registry.within(devices).present}
        ground.let_in(run for run in runs if state.sleeps(run))
        yield from self._each_resumes(state, runs)
        self._own(me)
        if devices is None:
            ground.take_step(lambda s: steps.wake(s, me, now=ground.now))
            return
        gone = {*state.asleep} - {p.pod.instance for p in ground.processes if not p.ended}
        awake = {run for run in runs if run} | gone
        given: Iterable[int] = range(GPUS) if ground.defect == PHASE_ALONE else devices
        of: dict[str, Any] = {"instances": awake, "now": ground.now, "devices": given}
        ground.take_step(lambda s: parts.wake(s, me, **of))

    def _each_resumes(self, state: Transaction, runs: Collection[str | None]) -> Steps:
        """Of these runs all that sleep by this state."""
        for process in self._ground.processes:
            run = process.pod.instance
            if run in runs and state.sleeps(run) and not process.ended:
                process.resumes()
                self._ground.look()
                yield

    def _settled(self, devices: set[int] | None) -> Steps:
        """``left_at_work.settled``: who may be awake, though they are on record as asleep."""
        ground = self._ground
        said = ground.said
        if said.phase is Phase.SYNCING or not rules.unsure(said) or ground.defect == UNSETTLED:
            return
        me, only = self._me(), None
        if devices is not None:
            only = {e.instance for e in self._part(devices)().present}
        at: dict[str, Any] = {"now": ground.now, "seen": NOW - LEASE_SECONDS, "only": only}
        try:
            state = ground.take_step(lambda s: left_at_work.take_over(s, me, **at))
        except left_at_work.SettledError:
            return
        yield from self._until(lambda: ground.acted == me.transaction, me)
        runs = {e.instance for e in self._part(devices)().present}
        ground.let_in(run for run in runs if state.sleeps(run))
        yield from self._each_resumes(state, runs)
        self._own(me)
        ended = {p.pod.instance for p in ground.processes if p.ended}
        awake = [run for run in runs if run and state.sleeps(run) and run not in ended]
        of: dict[str, Any] = {"instances": awake, "tags": _TAGS}
        ground.take_step(lambda s: steps.woke(s, me, **of))
        # One that was awake ends by it, and is not told of any more once that is seen.
        yield from self._until(
            lambda: ended.isdisjoint(e.instance for e in self._part(devices)().present), me
        )
        ground.take_step(lambda s: steps.rests(s, me))

    def _sync(self) -> Steps:
        """It has left the memory, has those started that wait, and wakes whoever sleeps."""
        ground = self._ground
        self.memory = set()
        state = ground.said
        down = any(e.waits or not e.up for e in ground.registry.engines)
        if down and (state.trainers or state.phase is Phase.SLEEPING):
            if state.trainers:
                self._given_back(None)
            yield from (None for _ in range(10))
        me = self._me()
        at: dict[str, Any] = {
            "epoch": "",
            "version": "v",
            "now": ground.now,
            "seen": NOW - LEASE_SECONDS,
        }
        runs = [e.instance for e in ground.registry.engines if e.instance]
        state = ground.take_step(lambda s: steps.begin(s, me, engines=runs, **at))
        yield from self._until(lambda: ground.acted == me.transaction, me)
        ground.let_in(run for run in runs if state.sleeps(run))
        yield from self._each_resumes(state, [p.pod.instance for p in ground.processes])
        self._own(me)
        ground.take_step(lambda s: steps.wake(s, me, now=ground.now))
        yield
        if ground.choose(3) and runs:
            ground.take_step(lambda s: steps.commit(s, me, instances=runs, now=ground.now))
        else:
            ground.take_step(lambda s: steps.abort(s, me, message="no"))
