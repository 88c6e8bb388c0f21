"""One operator's loads of checkpoints, as ``fleet.poller`` has them, for the model."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from sglang_operator.controller.asking import SENDING_SECONDS
from sglang_operator.gates.recovery import Recover
from sglang_operator.observed.model import Loading
from sglang_operator.sending import DELIVERY_SECONDS

RETRY_SECONDS = 2.0


@dataclass(eq=False)
class Message:
    """What an operator sends to one run of an engine."""

    load: "Load"
    sent: float
    resumes: bool = False  # a paused engine is to go on
    begun: bool = False

    @property
    def instance(self) -> str:
        return self.load.instance

    @property
    def version(self) -> str:
        return self.load.loading.version

    def answered(self, *, failed: bool, now: float) -> None:
        """The engine is done with it; the operator learns of it, if it still listens."""
        load = self.load
        if load.under_way is not self:
            return
        load.under_way = None
        if failed:
            load.fail(now)
        elif self.resumes:
            load.loading = replace(load.loading, done=True)
        else:
            load.read = True


@dataclass(eq=False)
class Load:
    """Read the checkpoint, then go on: two requests."""

    instance: str
    loading: Loading
    read: bool = False
    under_way: Message | None = None
    doubt: float | None = None  # since when nobody knows what became of the last request

    @property
    def ended(self) -> bool:
        return bool(self.loading.done or self.loading.error)

    def fail(self, now: float) -> None:
        again = now + RETRY_SECONDS
        self.loading = replace(self.loading, error="it failed", again=again)


@dataclass
class Loads:
    """All loads of one operator, and since when its last step stands in the Lease."""

    stepped_at: float = float("-inf")
    _loads: dict[str, Load] = field(default_factory=dict)
    _permitted: frozenset[tuple[str, str]] = frozenset()  # instance and commit

    def loading(self, instance: str) -> Loading | None:
        load = self._loads.get(instance)
        return load.loading if load is not None else None

    def permit(self, wanted: Iterable[Recover], now: float, *, fenced: bool = True) -> None:
        """A pass allows these loads and begins those that are not under way."""
        wanted = list(wanted)
        self._permitted = frozenset((w.instance, w.commit) for w in wanted)
        for instance, load in list(self._loads.items()):
            gone = (instance, load.loading.commit) not in self._permitted
            if fenced and gone and not load.ended:
                del self._loads[instance]
            elif load.doubt is not None and now >= load.doubt + DELIVERY_SECONDS:
                load.doubt = load.under_way = None
                load.fail(now)
        for one in wanted:
            known = self._loads.get(one.instance)
            if known is not None:
                same = known.loading.commit == one.commit
                if not known.ended or (same and known.loading.done):
                    continue
                if same and now < known.loading.again:
                    continue
            loading = Loading(path=one.checkpoint, version=one.version, commit=one.commit)
            self._loads[one.instance] = Load(one.instance, loading)

    def send(
        self, choose: Callable[[int], int], now: float, *, fenced: bool = True
    ) -> Message | None:
        """The next request of one of them; it fails if it may not leave any more."""
        ready = [
            load
            for load in self._loads.values()
            if not load.ended and load.under_way is None and load.doubt is None
        ]
        if not ready:
            return None
        load = ready[choose(len(ready))]
        permitted = (load.instance, load.loading.commit) in self._permitted
        if fenced and not (permitted and now < self.stepped_at + SENDING_SECONDS):
            load.fail(now)
            return None
        load.under_way = Message(load, now, resumes=load.read)
        return load.under_way

    def lose_answer(self, choose: Callable[[int], int], now: float) -> None:
        """The operator never hears of one of its requests."""
        waiting = [load for load in self._loads.values() if load.under_way is not None]
        if waiting:
            load = waiting[choose(len(waiting))]
            load.under_way, load.doubt = None, now
