"""What it costs clients that engines go, and what ``maxUnavailable`` leaves of that.  Only counts.

Counted are GPUs of engines that serve, those of an older shape with the GPUs that they have.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Set

from sglang_operator.api.names import EngineName
from sglang_operator.plan import places
from sglang_operator.plan.places import Old
from sglang_operator.plan.rollout_state import RolloutState
from sglang_operator.pool.resolve import Engine


class Budget:
    """Those that are ``gone`` go, and ``spare`` GPUs of the budget are left.

    ``beyond`` is what would be left if every old engine that falters served.
    """

    def __init__(self, state: RolloutState) -> None:
        self.state = state
        self.gone: set[EngineName] = set()
        self.need = places.Need(gpus=state.gpus // state.pods, pods=state.pods)
        least = (len(state.wanted) - state.max_unavailable) * state.gpus
        serving = self._size(state.serving)
        serving += sum(old.gpus for old in state.obsolete.values() if old.serves)
        olds = {**state.outdated, **state.obsolete}
        # Outdated ones in whose places those that replace them may not fit.
        self.reshaped = {name for name, old in state.outdated.items() if not self._fits_in(old)}
        needed = {device for engine in state.wanted for device in engine.devices}
        self.aside = {n for n, old in state.obsolete.items() if needed.isdisjoint(old.devices)}
        self.holder = {
            device: name
            for name, old in state.obsolete.items()
            if name not in self.aside
            for device in old.devices
        }
        # By GPU ids whoever makes way stands where the new ones are to be.
        self.new_first = bool(state.max_surge) and not self.holder
        self.unsyncable = bool(self.holder) or bool(state.stuck and self._movable())
        self.come = state.serving
        self.lent = 0  # GPUs of engines that count although no client reaches them
        if self.unsyncable:
            self.come |= state.unsynced
            self.lent = self._size(state.unsynced)
        self.spare = serving + self.lent - max(0, least)
        # By so many GPUs engines that are still of an older shape are smaller than the new pool.
        has = self._size(engine.name for engine in state.wanted)
        has += sum(old.gpus for old in state.obsolete.values() if old.lives)
        self.growth = max(0, len(state.wanted) * state.gpus - has)
        self.beyond = self.spare + sum(old.gpus for old in olds.values() if old.falters)

    def _cost(self, names: Iterable[EngineName]) -> int:
        """GPUs that serve now and would not if these went."""
        total = 0
        for name in set(names) - self.gone:
            old = self.state.obsolete.get(name)
            if old is not None:
                total += old.gpus if old.serves else 0
            elif name in self.state.serving:
                total += self._size({name})
        return total

    def _size(self, names: Iterable[EngineName]) -> int:
        """GPUs of the groups that stand for these wanted engines."""
        return sum(self.state.sizes.get(name, self.state.gpus) for name in names)

    def _fits_in(self, old: Old) -> bool:
        """Whether a new engine is of this shape."""
        return (old.gpus, old.pods) == (self.state.gpus, self.state.pods)

    def _grows(self, names: Iterable[EngineName]) -> bool:
        """Whether the places that these leave are too few, or too small, for a new engine."""
        held: Counter[str] = Counter()
        for old in self._olds(set(names)):
            held.update(old.held)
        return sum(count // self.need.gpus for count in held.values()) < self.need.pods

    def _faltering(self, names: Iterable[EngineName]) -> int:
        """GPUs of those among them that miss a probe at this moment."""
        olds = (self._old(name) for name in set(names) - self.gone)
        return sum(old.gpus for old in olds if old is not None and old.falters)

    def _old(self, name: EngineName) -> Old | None:
        return self.state.obsolete.get(name) or self.state.outdated.get(name)

    def _affords(self, names: Set[EngineName], kept: int = 0) -> bool:
        """Whether these may go by the budget but for ``kept`` GPUs of it; what neither serves nor
        falters always may."""
        return self._cost(names) == self._faltering(names) == 0 or self._short(names, kept) <= 0

    def _short(self, names: Set[EngineName], kept: int) -> int:
        """How many GPUs more would have to serve for these to go."""
        cost, faltering = self._cost(names), self._faltering(names)
        short = cost + kept - self.spare if cost else 0
        if faltering:
            short = max(short, cost + faltering + kept - self.beyond)
        # What a pool never had serves nobody less: engines that grow go for others of their name.
        return short - self.growth if self._gain(names) >= 0 else short

    def _gain(self, names: Set[EngineName]) -> int:
        """GPUs that those have which come for these, beyond what these have that serve."""
        come = sum(name in self.state.outdated for name in names - self.gone)
        return come * self.state.gpus - self._cost(names) - self._faltering(names)

    def _take(self, names: Set[EngineName]) -> None:
        cost = self._cost(names)
        self.growth = max(0, self.growth - max(0, self._gain(names)))
        self.beyond -= cost + self._faltering(names)
        self.spare -= cost
        self.gone |= names

    def _blockers(self, engine: Engine) -> Set[EngineName]:
        found = {self.holder[device] for device in engine.devices if device in self.holder}
        return found - self.gone

    def _in_the_way(self, engine: Engine) -> Set[EngineName]:
        """Who has to go before this engine can be: those with its GPUs, or its name."""
        found, name = self._blockers(engine), engine.name
        return found | {name} if name in self.reshaped and name not in self.gone else found

    def _in_progress(self) -> bool:
        """Whether an engine is on its way already: it has its GPUs and does not serve yet."""
        return self._on_the_way(self.come)

    def _on_the_way(self, come: Set[EngineName]) -> bool:
        """Whether an engine has its GPUs, or is to get them, and is none of these yet."""
        away = come | set(self.state.stuck)
        return any(
            engine.name not in away and not self._blockers(engine) for engine in self.state.wanted
        )

    def _olds(self, names: Set[EngineName]) -> list[Old]:
        """Those of them that leave their places to whoever fits in."""
        known = self.state.obsolete
        leave = (name for name in sorted(names) if name in known or name in self.reshaped)
        return [known.get(name) or self.state.outdated[name] for name in leave]

    def _movable(self, but: Set[EngineName] = frozenset()) -> Mapping[EngineName, Old]:
        """The old engines whose places are not kept for what replaces them."""
        every = {**{n: self.state.outdated[n] for n in self.reshaped}, **self.state.obsolete}
        return {name: every[name] for name in every.keys() - self.gone - but}
