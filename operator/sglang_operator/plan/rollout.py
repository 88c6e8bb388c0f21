"""Which engines may be taken away now for the sake of a newer pool.  No memory: only counts.

Two kinds of change take a running engine away by our own decision.  A new *revision* replaces
the pod of an engine by another; a new *grouping* of the GPUs (``num_gpus_per_worker``, a shifted
mapping) replaces engines by others that need the same GPUs.  Both share one budget,
``maxUnavailable``, counted in what serves: by our own decision no fewer GPUs answer clients than
those of all engines of the new pool but so many.  What serves nobody costs nothing, and goes.

An engine that misses a probe at this moment serves nobody either, and yet it stands in: it goes
before those that serve, but no more of its like than ``maxUnavailable`` beside what is away.

A new engine of a gated pool serves nobody before the next sync, and a sync is of all engines that
are wanted: it cannot begin while some of them have to wait for GPUs of old ones.  Two waits on
each other never end, so then, and only then, an engine behind its closed gate counts as one that
stands in: old ones go on to make way at the pace of ``maxUnavailable``, as in a pool without
gates, each step after the one before came up.  The other way out, a sync of the part that is up,
is none: trainers form one group of all ranks, and a commit vouches for the engines of one epoch.
What can wait for the sync, an engine of an older revision, still does.

Ids say which engine replaces which; they are no places.  Where the nodes are known, engines are
chosen so that one node gets room for the next; where the scheduler finds none all the same, more
of the old ones go, from one node, or it is said why none may (``plan/places``).
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import Enum

from sglang_operator.api.names import EngineName
from sglang_operator.plan import places
from sglang_operator.plan.places import Old
from sglang_operator.pool.resolve import Engine

# So many engines without room are looked at for a node that could get it: one is enough to go on.
MOST_TRIES = 4


class Waits(Enum):
    """What a change that could go on waits for."""

    FOR_SYNC = "ForSync"  # a trainer writes weights to these engines
    FOR_WAKE = "ForWake"  # a trainer has their memory
    FOR_WEIGHTS = "ForWeights"  # replaced engines are up and hold no weights yet
    FOR_ROOM = "ForRoom"  # no node gets room for an engine by what may go
    FOR_RESUME = "ForResume"  # it is paused, and engines cannot be before old ones go
    FOR_ADMISSION = "ForAdmission"  # the API server would refuse the replacement


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """Why a change does not go on, and the numbers to say it with."""

    what: Waits
    engines: int = 0  # that are up with a closed gate
    engine: EngineName | None = None  # the engine that finds no room
    needed: int = 0  # the maxUnavailable with which it would go on
    lacking: str = ""  # the scheduler's words, where it is not GPUs that nodes lack


@dataclass(frozen=True, kw_only=True)
class RolloutState:
    """Where the engines of a pool stand before a change by our own decision."""

    wanted: Sequence[Engine]
    gpus: int  # of one wanted engine
    pods: int = 1  # that it runs in, of as many GPUs each
    short: int = 1  # places that the first of the ``stuck`` lacks
    max_unavailable: int
    serving: Set[EngineName]  # wanted engines that clients reach, whichever revision they run
    alive: int = 0  # wanted engines that run and have answered, whichever revision they run
    closed: Set[EngineName] = frozenset()  # of the present revision, up, and without weights
    # Wanted ones of any revision that stay, are up, and get weights from a sync alone.
    unsynced: Set[EngineName] = frozenset()
    fetching: bool = False  # whether others get theirs without one
    # Engines that are not wanted and have a pod, and wanted ones of an older revision.
    obsolete: Mapping[EngineName, Old] = field(default_factory=dict)
    outdated: Mapping[EngineName, Old] = field(default_factory=dict)
    missing: Set[EngineName] = frozenset()  # wanted ones without a pod
    placed: Set[EngineName] = frozenset()  # wanted ones whose pod has a node
    stuck: Sequence[EngineName] = ()  # wanted ones whose pod waits in vain for a place
    lacking: str = ""  # what the scheduler says of them, where it is not GPUs that nodes lack
    free: places.Free = field(default_factory=dict)  # at most, on each node
    free_known: bool = False  # by the nodes; else it is a guess about those that have our pods
    paused: bool = False
    failing: bool = False  # the present revision fails at its start: none that runs goes for it
    held: Waits | None = None  # running engines are left alone for now
    doubted: bool = False  # whether the API server takes a pod of the present revision


@dataclass(frozen=True, kw_only=True)
class Going:
    """Which engines a change takes away now, and what it waits for with the others."""

    obsolete: Set[EngineName]
    outdated: Set[EngineName]
    waiting: Waiting | None
    replaced: Set[EngineName] = frozenset()  # those whose GPUs others need


def going(state: RolloutState) -> Going:
    """The engines that a change may take away now within ``maxUnavailable``."""
    change = _Change(state)
    change.remove_unneeded()
    if not state.paused:
        change.remove_idle()
        if state.held is None and not state.failing:
            change.make_room() if state.stuck else change.clear()
            change.replace_outdated()
        if state.doubted:
            change.keep_but_one()
    return Going(
        obsolete=change.gone & state.obsolete.keys(),
        outdated=change.gone & state.outdated.keys(),
        waiting=change.waiting(),
        replaced=change.gone - change.aside,
    )


class _Change:
    """What one pass decides: ``gone`` go, and ``spare`` GPUs of the budget are left.

    ``beyond`` is what would be left if every old engine that falters served.
    """

    def __init__(self, state: RolloutState) -> None:
        self.state = state
        self.gone: set[EngineName] = set()
        self.lacks_room: Waiting | None = None
        self.need = places.Need(gpus=state.gpus // state.pods, pods=state.pods)
        least = (len(state.wanted) - state.max_unavailable) * state.gpus
        serving = len(state.serving) * state.gpus
        serving += sum(old.gpus for old in state.obsolete.values() if old.serves)
        olds = {**state.outdated, **state.obsolete}
        self.spared = state.held is not None or state.failing or state.doubted
        needed = {device for engine in state.wanted for device in engine.devices}
        self.aside = {n for n, old in state.obsolete.items() if needed.isdisjoint(old.devices)}
        self.holder = {
            device: name
            for name, old in state.obsolete.items()
            if name not in self.aside
            for device in old.devices
        }
        self.unsyncable = bool(self.holder) or bool(state.stuck and self._movable())
        self.come = state.serving
        self.lent = 0  # GPUs of engines that count although no client reaches them
        if self.unsyncable:
            self.come |= state.unsynced
            self.lent = len(state.unsynced) * state.gpus
        self.spare = serving + self.lent - max(0, least)
        self.beyond = self.spare + sum(old.gpus for old in olds.values() if old.falters)

    # --- the rules, in order

    def remove_unneeded(self) -> None:
        """Engines whose GPUs no wanted engine needs: all that are more than the pool needs.

        Where the mapping moved, they serve on until the engines that take their place do: for what
        serves alone, and so many are left as stand in for engines that are still to make way.
        """
        surplus, kept = self._surplus(), self.lent + self._standing_in()
        for name, old in sorted(
            ((name, self.state.obsolete[name]) for name in self.aside),
            key=lambda found: (found[1].devices, found[0]),
            reverse=True,
        ):
            if old.lives and self.spared and old.gpus > surplus:
                continue
            if self._affords({name}, kept):
                surplus -= old.gpus if old.lives else 0
                self._take({name})

    def _standing_in(self) -> int:
        """GPUs that serve and are to be left for the largest step by which old engines make way."""
        return max((self._cost(self._blockers(e)) for e in self.state.wanted), default=0)

    def _surplus(self) -> int:
        """GPUs of living engines beyond what the pool needs, whichever engines have them."""
        state = self.state
        olds = [old for old in state.obsolete.values() if old.lives]
        kept = state.alive * state.gpus
        return sum(old.gpus for old in olds) + kept - len(state.wanted) * state.gpus

    def remove_idle(self) -> None:
        """What serves nobody stands in for nobody, unless it only misses a probe.

        While it is held, or the revision that comes fails at its start, none goes that lives.
        """
        if self.state.held is Waits.FOR_ADMISSION:
            return
        for name, old in {**self.state.obsolete, **self.state.outdated}.items():
            if not (old.serves or old.falters or (self.spared and old.lives)):
                self._take({name})

    def clear(self) -> None:
        """Let old engines make way for those that need their GPUs, as the budget allows.

        If nothing is on its way and the first step is larger than the budget, it is taken all the
        same: otherwise overlapping chains ([0,1],[2,3] → [1,2],[3,4]) would never move.
        """
        rooms, tries = self._rooms(), MOST_TRIES
        moving = self._in_progress()
        blocked = [(e, found) for e in self.state.wanted if (found := self._blockers(e))]
        fits = {e.name: rooms is None or rooms.fits_after(self._olds(b)) for e, b in blocked}
        for engine, _ in sorted(
            blocked, key=lambda b: (not fits[b[0].name], self._cost(b[1]), b[0].rank)
        ):
            leaving = self._blockers(engine)
            fit = rooms is None or rooms.fits_after(self._olds(leaving))
            if rooms is not None and not fit and tries:
                tries -= 1
                leaving |= self._others_there(rooms, leaving)
            cost = self._cost(leaving)
            if self._affords(leaving) or (fit and not moving):
                self._take(leaving)
                moving = True
                if rooms is not None:
                    rooms.leave(self._olds(leaving))
                    rooms.come()
            elif not fit and not moving and self.lacks_room is None:
                self._say_no_room(engine.name, cost)
            if self.spare <= 0 and moving:
                return

    def make_room(self) -> None:
        """The scheduler finds no place: old engines of one node go until one has room."""
        state = self.state
        if self.gone:
            return  # see first what that brings
        most = self.need.gpus - 1  # the scheduler says that no node has enough
        at_most = {node: min(count, most) for node, count in state.free.items()}
        need = places.Need(gpus=self.need.gpus, pods=state.short)
        found = places.room(need, self._movable(), at_most)
        if found is None:
            return  # no old engine stands where one would fit: it waits like any pod
        cost = self._cost(found)
        if self._affords(found):
            self._take(found)
        elif not self._in_progress():
            self._say_no_room(state.stuck[0], cost)

    def replace_outdated(self) -> None:
        """Engines of an older revision: those that falter first, and from the top.

        A sync covers them where they are, so that they go for what serves alone.
        """
        self.spare -= self.lent
        self.beyond -= self.lent
        self.lent = 0
        ranks = {engine.name: engine.rank for engine in self.state.wanted}
        olds = self.state.outdated
        left = olds.keys() - self.gone
        for name in sorted(left, key=lambda n: (not olds[n].falters, -ranks[n])):
            if not self._affords({name}):
                return
            self._take({name})

    def keep_but_one(self) -> None:
        """Of all that could make way no more goes than one new engine needs, and nothing while one
        can be made: what becomes of that one is to be seen first."""
        state = self.state
        kept = {g for g in self.aside if g in self.gone}
        could, self.gone = self.gone - kept, kept
        free = (e for e in state.wanted if e.name in state.missing and not self._blockers(e))
        if next(free, None) is not None:
            return
        ways = [frozenset({name}) for name in could & state.outdated.keys()]
        ways += [b for e in state.wanted if (b := frozenset(self._blockers(e))) and b <= could]
        olds = {**state.outdated, **state.obsolete}

        def harm(way: Set[EngineName]) -> tuple[int, int, int, list[EngineName]]:
            lives = sum(olds[name].lives for name in way)
            return self._cost(way), lives, len(way), sorted(way)

        self.gone |= min(ways, key=harm, default=frozenset())

    # --- what comes of it

    def waiting(self) -> Waiting | None:
        """What the rest of the change waits for, if not simply for engines to start."""
        left = (self.state.outdated.keys() | self.state.obsolete.keys()) - self.gone
        if self.state.paused:
            # Else the engines of before do what those of now would: nothing waits.
            kept = set(self.holder.values()) - self.gone
            return Waiting(what=Waits.FOR_RESUME) if kept else None
        if not left:
            return None
        if self.state.held is not None:
            return Waiting(what=self.state.held)
        if self.lacks_room is not None:
            return self.lacks_room
        if self.unsyncable and not self.state.fetching:
            return None  # more go as soon as those that are on their way are up
        if left <= self.aside and self._on_the_way(self.come | self.state.closed):
            return None
        if self.state.closed and not self.gone and not self.state.failing:
            return Waiting(what=Waits.FOR_WEIGHTS, engines=len(self.state.closed))
        return None

    # --- how they count

    def _cost(self, names: Iterable[EngineName]) -> int:
        """GPUs that serve now and would not if these went."""
        total = 0
        for name in set(names) - self.gone:
            old = self.state.obsolete.get(name)
            if old is not None:
                total += old.gpus if old.serves else 0
            elif name in self.state.serving:
                total += self.state.gpus
        return total

    def _faltering(self, names: Iterable[EngineName]) -> int:
        """GPUs of those among them that miss a probe at this moment."""
        olds = (self._old(name) for name in set(names) - self.gone)
        return sum(old.gpus for old in olds if old is not None and old.falters)

    def _old(self, name: EngineName) -> Old | None:
        return self.state.obsolete.get(name) or self.state.outdated.get(name)

    def _affords(self, names: Set[EngineName], kept: int = 0) -> bool:
        """Whether these may go by the budget but for ``kept`` GPUs of it; what neither serves nor
        falters always may."""
        cost, faltering = self._cost(names), self._faltering(names)
        if cost > max(0, self.spare - kept):
            return False
        return not faltering or cost + faltering <= self.beyond - kept

    def _take(self, names: Set[EngineName]) -> None:
        cost = self._cost(names)
        self.beyond -= cost + self._faltering(names)
        self.spare -= cost
        self.gone |= names

    def _blockers(self, engine: Engine) -> Set[EngineName]:
        found = {self.holder[device] for device in engine.devices if device in self.holder}
        return found - self.gone

    def _in_progress(self) -> bool:
        """Whether an engine is on its way already: it has its GPUs and does not serve yet."""
        return self._on_the_way(self.come)

    def _on_the_way(self, come: Set[EngineName]) -> bool:
        """Whether an engine has its GPUs, or is to get them, and is none of these yet."""
        away = come | set(self.state.stuck)
        return any(
            engine.name not in away and not self._blockers(engine) for engine in self.state.wanted
        )

    def _others_there(self, rooms: places.Rooms, leaving: Set[EngineName]) -> Set[EngineName]:
        """Who goes beside these so that one node gets room; nobody, where none can have it."""
        after = places.Rooms(rooms.free, self.need, rooms.waiting)
        after.leave(self._olds(leaving))
        movable = self._movable(leaving)
        return places.room(self.need, movable, after.free) or frozenset()

    def _olds(self, names: Set[EngineName]) -> list[Old]:
        return [self.state.obsolete[n] for n in sorted(names) if n in self.state.obsolete]

    def _movable(self, but: Set[EngineName] = frozenset()) -> Mapping[EngineName, Old]:
        """The old engines whose going leaves more room than what replaces them takes."""
        smaller = {g: o for g, o in self.state.outdated.items() if o.gpus < self.state.gpus}
        every = {**smaller, **self.state.obsolete}
        return {name: every[name] for name in every.keys() - self.gone - but}

    def _rooms(self) -> places.Rooms | None:
        """What is free on each node once those that have a way to go have gone and come."""
        state = self.state
        if not state.free_known:
            return None
        rooms = places.Rooms(state.free, self.need)
        rooms.leave(self._olds(self.gone))
        placed = state.serving | state.placed
        for engine in state.wanted:
            if engine.name not in placed and not self._blockers(engine):
                rooms.come()
        return rooms

    def _say_no_room(self, name: EngineName, cost: int) -> None:
        more = -(-(cost - self.spare) // self.state.gpus)
        needed = min(len(self.state.wanted), self.state.max_unavailable + more)
        said = self.state.lacking
        self.lacks_room = Waiting(what=Waits.FOR_ROOM, engine=name, needed=needed, lacking=said)
