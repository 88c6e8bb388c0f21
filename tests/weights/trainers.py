"""Trainers of the model, in the order of ``client.sync`` and ``client.memory``."""

from collections.abc import Callable, Generator

from sglang_operator.api import weights_steps
from sglang_operator.api.weights import Phase, Transaction
from tests.weights.ground import GARBAGE, LEASE_SECONDS, TORN, Ground, TrainerDiesError, run_of


class Trainers(Ground):
    """One at a time is active, and dies between any two steps."""

    def train(self) -> None:
        """The trainer's next step, or a trainer that begins something."""
        if self.trainer is None:
            programs = (
                *(self._sync, self._sync, self._sleep, self._wake),
                *(self._generate, self._generate),
            )
            self.trainer = programs[0 if self.fair else self.choose(len(programs))]()
        try:
            next(self.trainer)
        except StopIteration:
            self.trainer = None
        except (TrainerDiesError, weights_steps.RefusedError):
            self.trainer = None

    def kill_trainer(self) -> None:
        """It dies where it is, without a word; a later one has another name."""
        self.trainer = None

    def _trainer(self) -> weights_steps.Trainer:
        self.versions += 1
        return weights_steps.Trainer(
            holder=f"trainer-{self.versions}",
            transaction=f"t{self.versions}",
            duration=float(LEASE_SECONDS),
        )

    def _step(self, step: Callable[[Transaction], Transaction]) -> Transaction:
        if self.lease is None:
            raise TrainerDiesError("there is no Lease")
        after = step(self.said)
        self._put(after)
        return after

    def _seen_since(self) -> float:
        """A trainer that looks for the first time has to wait the whole duration: it renews."""
        return self.said.renewed

    def _sync(self) -> Generator[None, None, None]:
        trainer, registry = self._trainer(), self.registry
        version = f"v{self.versions}"
        if len(registry.engines) < len(self.engines):
            return
        covered = [entry.instance for entry in registry.engines]
        amid = self.defect == "begins amid loads"
        self._step(
            lambda s: weights_steps.begin(
                weights_steps.left_behind(s) if amid and s.recovers else s,
                trainer,
                epoch=registry.epoch,
                version=version,
                now=self.now,
                seen=self._seen_since(),
            )
        )
        yield
        try:
            yield from self._update(trainer, version, covered)
        except TrainerDiesError as error:
            message = str(error)
            if self.said.id == trainer.transaction:  # else it is over already
                self._step(lambda s: weights_steps.abort(s, trainer, message=message))

    def _update(
        self, trainer: weights_steps.Trainer, version: str, covered: list[str]
    ) -> Generator[None, None, None]:
        if self.defect != "does not pause":
            for instance in covered:
                engine = self._find(instance)
                engine.paused = True
                yield
                if self.defect != "does not flush":
                    engine.cached = ""
        self._resume(self.said)
        self._step(lambda s: weights_steps.wake(s, trainer, now=self.now))
        for last in (False, True):
            for instance in covered:
                engine = self._find(instance)
                self._own(trainer)
                engine.holds = version if last else TORN
                engine.writer = "" if last else trainer.transaction
                if self.defect == "does not pause":
                    engine.label = version  # with every bucket, as some trainers do
                yield
        self._step(lambda s: weights_steps.renew(s, trainer, now=self.now))
        for instance in covered:
            engine = self._find(instance)
            engine.label = version
            self._own(trainer)
            self._continue(engine)
            yield
        checkpoint = f"/c/{version}" if self.choose(3) else ""
        self._step(
            lambda s: weights_steps.commit(
                s, trainer, instances=covered, now=self.now, checkpoint=checkpoint
            )
        )

    def _own(self, trainer: weights_steps.Trainer) -> None:
        """The client lets nothing out once its hold may be over, by its own clock."""
        state = self.said
        if state.id != trainer.transaction or self.now > state.renewed + LEASE_SECONDS / 2:
            raise TrainerDiesError("the Lease is lost")

    def _generate(self) -> Generator[None, None, None]:
        """It lets the engines work for a while."""
        yield from (None for _ in range(30))

    def _sleep(self) -> Generator[None, None, None]:
        trainer = self._trainer()
        tags = (("weights", "kv_cache"), ("kv_cache",))[self.choose(2)]
        self._step(
            lambda s: weights_steps.sleep(
                s, trainer, tags=tags, now=self.now, seen=self._seen_since()
            )
        )
        yield
        for _ in range(40):
            acted = self.registry.transaction == trainer.transaction
            if acted and not any(entry.in_service for entry in self.registry.engines):
                break
            yield
        else:
            return  # NotReady: nothing was released
        covered = [entry.instance for entry in self.registry.engines]
        for instance in covered:
            self._find(instance).paused = True
            yield
        self._step(lambda s: weights_steps.slept(s, trainer, instances=covered))
        yield
        for instance in covered:
            engine = self._find(instance)
            engine.released |= set(tags)
            engine.cached = ""
            if "weights" in tags:
                engine.holds = GARBAGE
            yield

    def _wake(self) -> Generator[None, None, None]:
        if self.said.phase not in (Phase.SLEEPING, Phase.AWAKE):
            return  # Unsupported: nothing sleeps
        trainer = self._trainer()
        state = self._step(
            lambda s: weights_steps.sleep(
                s, trainer, tags=(), now=self.now, seen=self._seen_since()
            )
        )
        yield
        self._resume(state)
        yield
        if state.intact:
            for engine in self.engines:
                if run_of(engine) in state.instances:
                    self._continue(engine)
        self._step(lambda s: weights_steps.wake(s, trainer, now=self.now))

    def _resume(self, state: Transaction) -> None:
        for engine in self.engines:
            if run_of(engine) not in state.asleep:
                continue
            if engine.released:
                engine.released = frozenset()
            else:
                self._end(engine)  # SGLang dies of resuming what was never released
