"""Parts of a pool that sleep, in the model, and what an earlier release makes of them.

In the order of ``client.sleeping``.  An operator or a trainer of an earlier release does not know
of ``Transaction.apart``: it reads a Lease without it, and leaves it standing where it writes.
"""

from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from typing import Any

from sglang_operator.api import names
from sglang_operator.gates.decide import GateChange
from sglang_operator.weights import lease_state, parts, steps
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.weights.ground import GARBAGE, Engine, run_of
from tests.weights.trainers import ALL_WHOLE, WRITES, Trainers

OPENS = "opens the gates of who sleeps in a part"
CLOSES = "closes every gate where a part sleeps"
VOUCHES = "has the commit vouch for what a part gave up"
BY_ID = "wakes whoever is at an id, asleep by the Lease or not"
FORGETS = "keeps on record who has ended asleep"

# Each has to be found, like those of ``model``.
CONTROLS = tuple(
    (defect, "Committed") for defect in (OPENS, CLOSES, VOUCHES, BY_ID, WRITES, FORGETS, ALL_WHOLE)
)
_KNOWN = (names.ANNOTATION_APART, names.ANNOTATION_CLOSING)


def earlier(lease: dict[str, Any] | None) -> dict[str, Any] | None:
    """A Lease as a release reads it that does not know of parts."""
    if lease is None:
        return None
    metadata = lease.get("metadata", {})
    notes = {k: v for k, v in metadata.get("annotations", {}).items() if k not in _KNOWN}
    return {**lease, "metadata": {**metadata, "annotations": notes}}


def left_standing(before: dict[str, Any] | None, after: dict[str, Any]) -> dict[str, Any]:
    """What such a release writes: what it does not know of stays as it was."""
    notes = (before or {}).get("metadata", {}).get("annotations", {})
    metadata = after["metadata"]
    kept = {k: v for k, v in notes.items() if k in _KNOWN}
    own = {k: v for k, v in metadata["annotations"].items() if k not in _KNOWN}
    return {**after, "metadata": {**metadata, "annotations": own | kept}}


class Parts(Trainers):
    """``parts``: trainers put parts to sleep; ``mixed``: others are of an earlier release.

    ``labelled``: a trainer has sent weights before, and a version only: the Lease says nothing.
    """

    def __init__(self, choose: Callable[[int], int], **options: Any) -> None:
        self.labelled = options.pop("labelled", False)
        self.parts = options.pop("parts", False) or options.get("mixed", False)
        self.mixed = options.pop("mixed", False)
        self.slept_apart = 0
        self._reads_as_before = False
        super().__init__(choose, **options)
        for engine in self.engines if self.labelled else ():
            engine.holds = engine.label = "v0"

    def _programs(self) -> tuple[Callable[..., Generator[None, None, Any]], ...]:
        found = super()._programs()
        if not self.parts or self.fair:
            return found
        said = self.said
        sleeps = said.phase in (Phase.SLEEPING, Phase.AWAKE)
        if sleeps and said.holder.startswith("trainer-") and not said.at_work and self.choose(3):
            self.namesake = said.holder  # it goes on with what it put to sleep
        if self.labelled and not (said.version or said.target_version) and self.choose(8):
            return (self._sleep_part, *((self._wake_part,) if sleeps else ()))
        more = (self._wake_part,) * 6 if sleeps else (self._sleep_part,) * 6
        every = (*found, *more, self._sleep_part, self._sleep_part, self._sync_in_vain)
        if self.mixed and self.choose(2):
            return tuple(partial(self._as_before, program) for program in found)
        return every

    # --- an earlier release

    def _as_before(
        self, program: Callable[..., Generator[None, None, Any]]
    ) -> Generator[None, None, None]:
        inner = program()
        while True:
            self._reads_as_before = True
            try:
                next(inner)
            except StopIteration:
                return
            finally:
                self._reads_as_before = False
            yield

    @property
    def said(self) -> Transaction:
        found = super().said
        return self._without_parts(found) if self._reads_as_before else found

    def _without_parts(self, state: Transaction) -> Transaction:
        return replace(state, apart=frozenset(), closing=frozenset())

    def _put(self, state: Transaction) -> None:
        if not self._reads_as_before:
            super()._put(state)
            return
        before, self.lease = self.lease, earlier(self.lease)
        super()._put(state)
        assert self.lease is not None
        self.lease = self.backups[-1] = left_standing(before, self.lease)

    # --- what a trainer does

    def _some(self) -> list[int]:
        """The ranks of some engines; now and then those that are apart already."""
        ranks = [rank for rank in range(len(self.engines)) if self.choose(2)]
        return ranks or [self.choose(len(self.engines))]

    def _sleep_part(self) -> Generator[None, None, None]:
        entries, ranks = self.registry.engines, self._some()
        ranks = [rank for rank in ranks if rank < len(entries)]
        if not ranks:
            return
        trainer = self._trainer()
        tags = {"kv_cache"} | ({"weights"} if self.choose(2) else set())
        before = self.said.named
        self._all_clear(before)
        runs = [entries[rank].instance for rank in ranks]
        self._step(
            lambda s: parts.sleep(
                self._found(s, trainer),
                trainer,
                instances=runs,
                tags=tags,
                now=self.now,
                seen=self._seen_since(),
            )
        )
        apart = self.said.serving
        self._announce_all()
        yield
        for _ in range(40):
            acted = self.registry.transaction == trainer.transaction
            told = enumerate(self.registry.engines)
            waits = [each for rank, each in told if rank in ranks or not apart]
            if acted and not any(each.in_service for each in waits):
                break
            yield
        else:  # NotReady: nothing was released
            self._note(lambda s: steps.rests(s, trainer))
            return
        covered = [self.registry.engines[rank].instance for rank in ranks]
        for instance in covered:
            engine = self._find(instance)
            self._own(trainer)
            self._alone(trainer)
            self._pause(engine)
            yield
        todo = {run: tags - before.sleeps(run) for run in covered}
        todo = {run: released for run, released in todo.items() if released}
        self._step(
            lambda s: self._vouched(
                s, parts.slept(s, trainer, instances=todo, tags=tags, now=self.now)
            )
        )
        self._announce_all()
        yield
        for instance, released in todo.items():
            engine = self._find(instance)
            self._own(trainer)
            self._alone(trainer)
            engine.released |= released
            engine.cached = ""
            if "weights" in released:
                engine.holds = GARBAGE
            yield
        self.slept_apart += apart
        self._note(lambda s: steps.rests(s, trainer))

    def _sync_in_vain(self) -> Generator[None, None, None]:
        """A sync that is withdrawn before anything was sent: no operator has told of it, say."""
        trainer, before = self._trainer(), self.said
        runs = [run_of(engine) for engine in self.engines]
        self._step(
            lambda s: steps.begin(
                self._found(s, trainer),
                trainer,
                epoch=self.registry.epoch,
                version=f"v{self.versions}",
                engines=runs,
                now=self.now,
                seen=self._seen_since(),
            )
        )
        yield from (None for _ in range(1 + self.choose(20)))
        told: dict[str, Any] = {"message": "in vain", "now": self.now}
        self._note(lambda s: steps.withdraw(s, trainer, before, **told))

    def _wake_part(self) -> Generator[None, None, None]:
        if self.said.phase not in (Phase.SLEEPING, Phase.AWAKE):
            return
        trainer, ranks = self._trainer(), self._some()
        state = self._step(
            lambda s: steps.take_on(
                self._found(s, trainer), trainer, now=self.now, seen=self._seen_since()
            )
        )
        yield
        self._own(trainer)
        self._alone(trainer)
        engines = [self.engines[rank] for rank in ranks if rank < len(self.engines)]
        self._resume(trainer, self._by_id(state, engines), engines)
        yield
        self._own(trainer)
        self._alone(trainer)
        after = self._woken(state, engines)
        if state.intact:
            self._go_on_with(state, engines)
        self._note(lambda s: parts.wake(s, trainer, instances=after, now=self.now))
        self.renewed[trainer.transaction] = self.now
        said = self.said
        left = [run_of(e) for e in self.engines if run_of(e) in {*said.asleep, *said.apart}]
        if said.phase is Phase.SLEEPING and said.intact and state.apart and not left:
            self.violations.append("nobody sleeps any more, and the Lease says Sleeping")

    def _woken(self, state: Transaction, engines: list[Engine]) -> list[str]:
        """The instances that are awake after it: also those of which nothing is left."""
        there = {run_of(engine) for engine in self.engines}
        gone = {*state.asleep, *state.apart} - there
        return [*map(run_of, engines), *(gone if self.defect != FORGETS else ())]

    def _announce_all(self) -> None:
        """As the Lease says it, to whoever reads it."""
        for engine in self.engines:
            engine.announced |= self._may_sleep(run_of(engine))

    def _may_sleep(self, run: str) -> frozenset[str]:
        """Also an operator of an earlier release, for which all are about to sleep."""
        said = self.said
        before = self._without_parts(said).may_sleep(run) if self.mixed else frozenset[str]()
        return said.may_sleep(run) | before

    # --- controls

    def _vouched(self, before: Transaction, after: Transaction) -> Transaction:
        """What a part has given up is taken out of what the commit covers."""
        if self.defect != VOUCHES:
            return after
        return replace(after, instances=before.instances, torn=before.torn)

    def _by_id(self, state: Transaction, engines: list[Engine]) -> Transaction:
        """Who is to be woken is asked by the instance that sleeps."""
        if self.defect != BY_ID or not state.released:
            return state
        return replace(state, asleep=tuple(map(run_of, engines)), woken=frozenset())

    # --- what an operator does, that has just seen the Lease as it is

    def _look_at_change(self, change: GateChange) -> None:
        """None closes over who serves on while others sleep, and none opens over who sleeps."""
        said = self.said
        for engine in self.engines:
            if engine.pod.uid != change.pod.uid:
                continue
            run = run_of(engine)
            serves = said.serving and run in said.instances and run not in said.apart
            if serves and not change.is_open:
                self.violations.append(f"the gate of {engine.pod.name}, which serves on, closes")
            if engine.released and change.is_open:
                self.violations.append(f"the gate of {engine.pod.name}, which sleeps, opens")

    def _seen_by(self, lease: dict[str, Any] | None) -> dict[str, Any] | None:
        """The Lease as an operator reads it that is wrong about parts."""
        state = super().said
        if lease is None or not state.serving:
            return lease
        if self.defect == CLOSES:
            return earlier(lease)
        if self.defect == OPENS and not state.releases:
            awake: dict[str, Any] = {"apart": frozenset(), "asleep": (), "released": ()}
            awake |= {"phase": Phase.COMMITTED, "releases": False, "closing": frozenset()}
            return lease_state.written(lease, replace(state, **awake))
        return lease
