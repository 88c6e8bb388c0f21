"""Trainers of the model, in the order of ``client.sync`` and ``client.sleeping``.

What becomes of the Lease a trainer learns with its next step there: until then it goes on, for as
long as it may count on its last renewal.  Others may end, edit or delete the Lease meanwhile.
"""

from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

from sglang_operator.api.spec import WeightsGate
from sglang_operator.weights import parts, reset, steps, whole
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.weights.ground import (
    GARBAGE,
    LEASE_SECONDS,
    MARGIN,
    TORN,
    Engine,
    Ground,
    TrainerDiesError,
    run_of,
)

FREES = "frees what is aborted by force"
EDITED = "takes who is not named for gone"
UNFENCED = "takes what was aborted by force for free, once its holder is edited away"
SHORTENED = "believes a duration that was edited"
AMID = "begins amid loads"
NAMESAKE = "takes over what another process of its name is at work on"
DIED = "ends the sync of a process that died at work"
GUESSED = "takes who may have resumed its memory for asleep"
UNVOUCHED = "commits for workers that do not vouch"
ANY_RUNS = "lets engines run for a moment whatever they hold"
LOST = "vouches for an engine whose bucket was lost before it was under way"
WRITES = "begins a sync beside a part that sleeps on"
ALL_WHOLE = "lets who gave its weights up in a part run for a moment, as the others are whole"
ENDED = "takes a sync that was ended for one in which everybody has vouched"
WRITES_ON = "writes the next update into a sync in which others have vouched"
OWN_JOB = "begins anything in the job whose shared sync was aborted"


class Trainers(Ground):
    """One at a time is active, and dies between any two steps; others may not know yet."""

    def train(self) -> None:
        """The trainer's next step, or a trainer that begins something; or of one cut off."""
        if self.cut_off and self.choose(4) == 0:  # it is slow, and meets who comes after it
            try:
                next(self.cut_off[0])
            except (StopIteration, TrainerDiesError, steps.RefusedError):
                del self.cut_off[0]
            return
        if self.trainer is None:
            programs = self._programs()
            self.trainer = programs[0 if self.fair else self.choose(len(programs))]()
        try:
            next(self.trainer)
        except StopIteration:
            self.trainer = None
        except (TrainerDiesError, steps.RefusedError):
            self.trainer = None

    def _programs(self) -> tuple[Callable[..., Generator[None, None, Any]], ...]:
        """What may begin now; the first is what comes right where nothing fails any more."""
        left = self.said.phase is Phase.SYNCING and not self.said.at_work
        if left and not self.fair and self.choose(2):
            return (self._attach,)
        if self.roll and not self.fair:
            return (*((self._roll,) * 4), self._sleep, self._wake, self._generate, self._reset)
        return (
            *(self._sync, self._sync, self._sleep, self._wake),
            *(self._generate, self._generate, self._roll, self._reset, self._attach),
        )

    def kill_trainer(self) -> None:
        """It dies where it is, without a word; a later one has another name."""
        self.trainer = None

    def start_twice(self) -> None:
        """Another process of the trainer's name begins, while the first one goes on."""
        if self.trainer is not None and self.said.holder.startswith("trainer-"):
            self.namesake = self.said.holder
            self._cut_off()

    def abort_by_force(self) -> None:
        """``kubectl sglang weights abort --force``, while its trainer goes on."""
        state = self.said
        if self.lease is None or not (state.holder or state.vacant):
            return
        over = steps.ended(state, "admin", message="by force", now=self.now)
        self._put(steps.aborted(state, "by force") if self.defect == FREES else over)
        self._cut_off()

    def edit_holder(self) -> None:
        """Somebody takes the holder's name out of the Lease, while its trainer goes on."""
        if self.lease is not None and self.said.holder:
            gone = steps.aborted(self.said, "nobody is at it")
            left = replace(self.said, holder="", fence=self.said.fence and self.defect != UNFENCED)
            self._put(gone if self.defect == EDITED else left)
            self._cut_off()

    def edit_fence(self) -> None:
        """The same person, after a forced abort that kept others waiting."""
        self.abort_by_force()
        self.edit_holder()

    def edit_duration(self) -> None:
        """Somebody lets the Lease say that it is over at once, while its trainer goes on."""
        if self.lease is not None and self.said.holder:
            self.lease = {**self.lease, "spec": self.lease["spec"] | {"leaseDurationSeconds": 1}}
            if self.defect == SHORTENED:
                self._put(replace(self.said, duration=1.0))
            self.revision += 1
            metadata = self.lease["metadata"] | {"resourceVersion": str(self.revision)}
            self.lease = {**self.lease, "metadata": metadata}
            self._cut_off()

    def _cut_off(self) -> None:
        if self.trainer is not None:
            self.cut_off.append(self.trainer)
            self.trainer = None

    def _trainer(self) -> steps.Trainer:
        self.versions += 1
        name, self.namesake = self.namesake or f"trainer-{self.versions}", ""
        return steps.Trainer(
            holder=name,
            transaction=f"t{self.versions}",
            duration=float(LEASE_SECONDS),
        )

    def _step(self, step: Callable[[Transaction], Transaction]) -> Transaction:
        """A step of the holder, which counts on the Lease from then on."""
        after = self._note(step)
        self.renewed[after.id] = self.now
        self.counted[after.id] = after.transitions
        return after

    def _note(self, step: Callable[[Transaction], Transaction]) -> Transaction:
        """Something is put on record: that renews nothing."""
        if self.lease is None:
            raise TrainerDiesError("there is no Lease")
        after = step(self.said)
        self._put(after)
        return after

    def _found(self, state: Transaction, trainer: steps.Trainer) -> Transaction:
        """The Lease as who takes it over goes by it."""
        if self.defect == OWN_JOB and state.shared and state.holder == trainer.holder:
            return replace(state, holder="", fence=False) if state.fenced else state
        return replace(state, at_work=False) if self.defect == NAMESAKE else state

    def _alone(self, trainer: steps.Trainer) -> None:
        """Nobody of its name went on with what it has requests under way for."""
        if self.said.holder == trainer.holder and self.said.id != trainer.transaction:
            words = f"{trainer.transaction} changes engines under {self.said.id} of its name"
            self.violations.append(words)

    def _announce(self, tags: set[str], instances: list[str]) -> None:
        for engine in self.engines:
            if run_of(engine) in instances:
                engine.announced |= tags

    def _seen_since(self) -> float:
        """As ``WeightsLease`` counts: since the Lease stands there as it does, whatever it says.

        Of a trainer that looks all the while: who looks for the first time waits longer.
        """
        return self.shown_since

    def _reset(self) -> Generator[None, None, None]:
        """``kubectl sglang weights reset``: it writes no weights, and moves no gate by itself."""
        trainer, epoch = self._trainer(), self.registry.epoch
        since = self._seen_since()
        self._step(
            lambda s: reset.begin(
                self._found(s, trainer), trainer, epoch=epoch, now=self.now, seen=since
            )
        )
        yield from (None for _ in range(1 + self.choose(4)))
        self._own(trainer)
        self._note(lambda s: reset.end(s, trainer))

    def _roll(self) -> Generator[None, None, None]:
        """ROLL's workers: each writes into the engine that joined its group, as one sync.

        An engine that came since is in no group, and a worker may get no bucket.
        """
        joined = [entry.instance for entry in self.registry.engines]
        yield from (None for _ in range(self.choose(12)))
        if self.roll and self.choose(6) == 0:
            self.grow()
            self.jobs["begun on a pool that grew"] += 1
        if joined and self.choose(5 if self.roll else 3) == 0:
            joined.pop(self.choose(len(joined)))
            self.jobs["begun with a worker that gets no bucket"] += 1
        committed = yield from self._sync(joined)
        self.jobs["committed" if committed else "ended without a commit"] += 1

    def _sync(self, workers: list[str] | None = None) -> Generator[None, None, bool]:
        """Of one process, or of workers, each with an engine of its own; whether it committed."""
        trainer, registry = self._trainer(), self.registry
        version = f"v{self.versions}"
        if not registry.engines:
            return False
        self._all_clear(self.said)
        covered = [entry.instance for entry in registry.engines]
        amid, before = self.defect == AMID, self.said
        self._step(
            lambda s: steps.begin(
                steps.left_behind(s) if amid and s.recovers else self._found(s, trainer),
                trainer,
                epoch=registry.epoch,
                version=version,
                now=self.now,
                seen=self._seen_since(),
                shared=workers is not None and self.defect != UNVOUCHED,
            )
        )
        if workers is not None:
            self.joined[trainer.holder] = trainer.transaction
        yield
        try:
            yield from self._update(trainer, version, covered, workers, before)
        except TrainerDiesError as error:
            if self._gives_up(trainer, str(error)) and workers is not None and not self.fair:
                writable = [run_of(e) for e in self.engines if _takes_buckets(e)]
                late = [run for run in covered if run in writable]
                self.cut_off.append(self._write_late(trainer, late))
                self.namesake = trainer.holder if self.choose(2) else ""
        return self.said.id == trainer.transaction and self.said.phase is Phase.COMMITTED

    def _gives_up(self, trainer: steps.Trainer, message: str) -> bool:
        """Whether it was not over already."""
        ends = self.said.id == trainer.transaction
        if ends:
            self._note(lambda s: steps.abort(s, trainer, message=message))
        return ends

    def _write_late(
        self, trainer: steps.Trainer, covered: list[str]
    ) -> Generator[None, None, None]:
        """A worker that stood still as its leader aborted sends what it has, until it knows.

        It knows once it joins the next sync of its job: its engine is written anew there.
        ``covered``: the engines that take buckets, as each does before its worker writes.
        """
        yield from (None for _ in range(self.choose(12)))
        if not covered:
            return
        engine = self._find(covered[self.choose(len(covered))])
        self._own(trainer)
        if self.joined[trainer.holder] != trainer.transaction:
            return
        if "weights" in engine.released:
            self.violations.append(f"a late bucket reached sleeping {engine.pod.name}: it is dead")
            self._end(engine)
            return
        engine.holds, engine.writer = TORN, trainer.transaction

    def _attach(self) -> Generator[None, None, None]:
        """Another process of the holder ends its sync, as the first one left it."""
        found, registry = self.said, self.registry
        begun = found.phase is Phase.SYNCING and found.holder.startswith("trainer-")
        if not begun or "weights" in found.released:
            return
        self.namesake = found.holder
        trainer = self._trainer()
        state = self._step(
            lambda s: steps.attach(
                replace(s, at_work=False) if self.defect == DIED else s,
                trainer,
                now=self.now,
                seen=self._seen_since(),
            )
        )
        yield
        try:
            if registry.epoch != state.epoch:
                raise TrainerDiesError("engines restarted since")
            covered = [entry.instance for entry in registry.engines]
            yield from self._finish(trainer, state.target_version, covered)
        except TrainerDiesError as error:
            self._gives_up(trainer, str(error))

    def _update(
        self,
        trainer: steps.Trainer,
        version: str,
        covered: list[str],
        workers: list[str] | None,
        before: Transaction,
    ) -> Generator[None, None, None]:
        if self.defect != "does not pause":
            for instance in covered:
                engine = self._find(instance)
                self._own(trainer)
                self._pause(engine)
                yield
                left = engine.under_way or engine.waiting  # it might be a reason to
                if left and self._holds(instance, before, workers):
                    self._own(trainer)
                    self._continue(engine)
                    self.let_run += 1
                    yield
                    self._own(trainer)
                    engine.paused, engine.under_way = True, 0
                if self.defect != "does not flush":
                    engine.cached = ""
        state = self._step(lambda s: steps.renew(s, trainer, now=self.now))
        if self.defect != WRITES:
            self._resume(trainer, state)
        self._step(lambda s: steps.wake(s, trainer, now=self.now))
        lost = self._loses_a_bucket(workers or [])
        for last in (False, True):
            for instance in [i for i in covered if workers is None or i in workers]:
                engine = self._find(instance)
                self._own(trainer)
                if "weights" in engine.released:
                    told = f"a bucket reached sleeping {engine.pod.name}: it is dead"
                    self.violations.append(told)
                    self._end(engine)
                    return
                arrived = last and instance != lost
                engine.holds = version if arrived else TORN
                engine.writer = "" if arrived else trainer.transaction
                if self.defect == "does not pause":
                    engine.label = version  # with every bucket, as some trainers do
                yield
        if workers is not None and self.defect != UNVOUCHED:
            try:
                yield from self._give_words(trainer, covered, workers, lost)
            except steps.RefusedError:
                if self.defect != ENDED:
                    raise
            yield from self._drain(trainer, covered)
            if workers and self._is_not_told_of_the_end():
                if self.defect != WRITES_ON:
                    raise TrainerDiesError("it is to write on, and others have vouched")
                engine = self._find(workers[0])
                self._own(trainer)
                engine.holds, engine.writer = TORN, trainer.transaction
        if not self.fair and self.choose(4) == 0:
            self._note(lambda s: steps.rests(s, trainer))
            return
        yield from self._finish(trainer, version, covered)

    def _give_words(
        self, trainer: steps.Trainer, covered: list[str], workers: list[str], lost: str
    ) -> Generator[None, None, None]:
        """Each worker gives its word, or objects; its leader waits for that."""
        for instance in workers:
            if instance == lost and self.defect != LOST:
                self._note(partial(steps.objection, trainer=trainer, message="a bucket"))
                continue
            self._note(partial(steps.vouch, trainer=trainer, instances=[instance]))
            yield
        if set(covered) - self.said.wrote:
            raise TrainerDiesError("nobody vouches for some engines")

    def _drain(self, trainer: steps.Trainer, covered: list[str]) -> Generator[None, None, None]:
        """Before the leader asks the Lease again whoever is busy is let run for a moment."""
        for instance in covered if self.roll else ():
            engine = self._find(instance)
            self._own(trainer)
            if engine.under_way or engine.waiting:
                self._continue(engine)
                self.let_run += 1
                yield
                self._own(trainer)
                engine.paused, engine.under_way = True, 0

    def _is_not_told_of_the_end(self) -> bool:
        """Whether the next update begins, and the leader was not told that this one has ended."""
        if not self.roll or self.fair or self.choose(6):
            return False
        self.jobs["not told of the end of an update"] += 1
        return True

    def _loses_a_bucket(self, workers: list[str]) -> str:
        """Whose bucket, one of two, was lost before it was under way; "" for none."""
        if not self.roll or self.fair or not workers or self.choose(6):
            return ""
        self.jobs["lost a bucket before it was under way"] += 1
        return workers[self.choose(len(workers))]

    def _holds(self, instance: str, before: Transaction, workers: list[str] | None) -> bool:
        """Whether who pauses it lets it run for a moment, to be rid of what waits for a grammar."""
        if self.said.sleeps(instance):
            return False  # nothing of it is looked at
        if self.defect == ANY_RUNS or (self.defect == ALL_WHOLE and before.intact):
            return True
        if workers is None or instance in workers[:1]:  # its leader has seen what was before
            return bool(whole.whole([instance], before))
        return whole.still_whole(instance, self.said)

    def _finish(
        self, trainer: steps.Trainer, version: str, covered: list[str]
    ) -> Generator[None, None, None]:
        self._step(lambda s: steps.renew(s, trainer, now=self.now))
        for instance in covered:
            engine = self._find(instance)
            engine.label = version
            self._own(trainer)
            self._continue(engine)
            yield
        checkpoint = f"/c/{version}" if self.choose(3) else ""
        self._step(
            lambda s: steps.commit(
                s, trainer, instances=covered, now=self.now, checkpoint=checkpoint
            )
        )

    def _own(self, trainer: steps.Trainer) -> None:
        """The client lets nothing out once its hold may be over, by its own clock."""
        if self.now > self.renewed[trainer.transaction] + LEASE_SECONDS * MARGIN:
            raise TrainerDiesError("the Lease is lost")

    def _generate(self) -> Generator[None, None, None]:
        """It lets the engines work for a while."""
        yield from (None for _ in range(30))

    def _sleep(self) -> Generator[None, None, None]:
        trainer = self._trainer()
        tags = (("weights", "kv_cache"), ("kv_cache",))[self.choose(2)]
        before = self.said.named
        self._all_clear(before)
        wanted = {*tags} if before.serving else {*before.released, *tags}
        self._step(
            lambda s: steps.sleep(
                self._found(s, trainer), trainer, tags=tags, now=self.now, seen=self._seen_since()
            )
        )
        self._announce(wanted, [run_of(engine) for engine in self.engines])
        yield
        for _ in range(40):
            acted = self.registry.transaction == trainer.transaction
            if acted and not any(entry.in_service for entry in self.registry.engines):
                break
            yield
        else:  # NotReady: nothing was released
            self._note(lambda s: steps.rests(s, trainer))
            return
        covered = [entry.instance for entry in self.registry.engines]
        for instance in covered:
            engine = self._find(instance)
            self._own(trainer)
            self._alone(trainer)
            self._pause(engine)
            yield
        # What came up since all others went to sleep releases what they did.
        todo = {run: wanted - before.sleeps(run) for run in covered}
        todo = {run: released for run, released in todo.items() if released}
        self._step(lambda s: parts.slept(s, trainer, instances=todo, tags=wanted, now=self.now))
        self._announce(wanted, list(todo))
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
        self._note(lambda s: steps.rests(s, trainer))

    def _wake(self) -> Generator[None, None, None]:
        if self.said.phase not in (Phase.SLEEPING, Phase.AWAKE):
            return  # Unsupported: nothing sleeps
        trainer = self._trainer()
        state = self._step(
            lambda s: steps.take_on(
                self._found(s, trainer), trainer, now=self.now, seen=self._seen_since()
            )
        )
        yield
        self._own(trainer)
        self._alone(trainer)
        self._resume(trainer, state)
        yield
        self._own(trainer)
        self._alone(trainer)
        if state.intact:
            self._go_on_with(state, self.engines)
        self._step(lambda s: steps.wake(s, trainer, now=self.now))

    def _go_on_with(self, state: Transaction, engines: list[Engine]) -> None:
        """Those that the commit covers; where a gate opens otherwise, who is whole as well."""
        anybody = self.pool.gate is not WeightsGate.COMMITTED or not state.version
        for engine in engines:
            run = run_of(engine)
            if run in state.instances or (anybody and run not in state.torn):
                self._continue(engine)

    def _all_clear(self, state: Transaction) -> None:
        """Nobody tells an engine anything whose answer was lost: somebody replaces it, some day."""
        unclear = [engine for engine in self.engines if run_of(engine) in state.unclear]
        if not unclear or self.defect == GUESSED:
            return
        if self.fair or self.choose(3) == 0:
            for engine in unclear:
                self._end(engine)
        if not self.fair:
            raise TrainerDiesError("an answer was lost")

    def _lose_resume(
        self, trainer: steps.Trainer, engine: Engine, wanted: frozenset[str]
    ) -> NoReturn:
        """It was told to resume, and may have done it; the answer did not come."""
        engine.asked = True
        if self.choose(2):
            engine.released -= wanted
        count = self.counted[trainer.transaction]
        lost = partial(steps.woke, instances=[], tags=[], unclear=[run_of(engine)], count=count)
        self._note(partial(lost, trainer=trainer))
        if self.said.phase is Phase.SLEEPING:
            self._note(lambda s: steps.rests(s, trainer))
        raise TrainerDiesError("an answer was lost")

    def _resume(
        self, trainer: steps.Trainer, state: Transaction, some: list[Engine] | None = None
    ) -> None:
        """SGLang dies of resuming what was never released.  Who was resumed is put on record.

        That is no fault where a trainer that died had announced it, or did not tell that it is
        back; what nobody announced is.
        """
        self._all_clear(state)
        for engine in list(self.engines if some is None else some):
            wanted = state.sleeps(run_of(engine))
            if wanted and not self.fair and self.choose(3) == 0:
                self._lose_resume(trainer, engine, wanted)
            unreleased = wanted - engine.released
            engine.released -= wanted
            if unreleased and engine.asked:
                self.violations.append(f"{engine.pod.name} is told again to resume: it dies")
            if unreleased - engine.announced:
                tags = " and ".join(sorted(unreleased - engine.announced))
                words = f"{engine.pod.name} is resumed of {tags}, which it never released: it dies"
                self.violations.append(words)
            if unreleased:
                self._end(engine)
            elif wanted:
                count = self.counted[trainer.transaction]
                told = partial(steps.woke, instances=[run_of(engine)], tags=wanted, count=count)
                self._note(partial(told, trainer=trainer))


def _takes_buckets(engine: Engine) -> bool:
    """Whether it is paused, and has the memory of its weights: before, no worker writes into it."""
    return engine.paused and "weights" not in engine.released
