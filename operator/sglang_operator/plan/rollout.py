"""Which engines may be taken away now for the sake of a newer pool.  No memory: only counts.

Two kinds of change take a running engine away by our own decision.  A new *revision* replaces the
pod of an engine by another; a new *grouping* of the GPUs (``num_gpus_per_worker``, a shifted
mapping) replaces engines by others that need the same GPUs.  Both share one budget,
``maxUnavailable``, counted in what serves: by our own decision no fewer GPUs answer clients than
those of all engines of the new pool but so many; only a first step that is larger by itself (old
engines hold the GPU ids of a new one) is taken all the same, while nothing else is on its way.
What serves nobody costs nothing, and goes.

An engine that misses a probe at this moment serves nobody either, and yet it stands in: it goes
before those that serve, but no more of its like than ``maxUnavailable`` beside what is away.

A new engine of a gated pool serves nobody before the next sync, and a sync is of all engines that
are wanted: it cannot begin while some of them have to wait for GPUs of old ones.  Two waits on
each other never end, so then, and only then, an engine behind its closed gate counts as one that
stands in: old ones go on to make way at the pace of ``maxUnavailable``, as in a pool without
gates, each step after the one before came up.  The other way out, a sync of the part that is up,
is none: trainers form one group of all ranks, and a commit vouches for the engines of one epoch.
What can wait for the sync, an engine of an older revision, still does.

A new engine beside an old one is synced in its place (``plan/heirs``).  Where it holds what another
waits for, without which there is no sync, it goes again: it serves nobody.

In the middle of a trainer's step (``turns.amid_a_step``) none goes that serves; new ones come up
beside them.  But so many go as fewer are wanted: as the step's own engines are more than enough.

What a commit covers is about to serve: until its gate is seen to be open it counts like an engine
that misses a probe.

Ids say which engine replaces which; they are no places.  Where the nodes are known, engines are
chosen so that one node gets room for the next; where the scheduler finds none all the same, more
of the old ones go, from one node, or it is said why none may (``plan/places``).

An engine keeps its name when only its size changes, or how many pods it is.  Old ones are counted
with the GPUs and pods that they have, and one that is replaced by another of its name but not of
its shape makes way like any other: it leaves no place in which that one is sure to fit.
"""

from collections.abc import Set

from sglang_operator.api.names import EngineName
from sglang_operator.plan import places
from sglang_operator.plan.budget import Budget
from sglang_operator.plan.rollout_state import Going, RolloutState, Waiting, Waits

# So many engines without room are looked at for a node that could get it: one is enough to go on.
MOST_TRIES = 4


def going(state: RolloutState) -> Going:
    """The engines that a change may take away now within ``maxUnavailable``."""
    change = _Change(state)
    change.remove_unneeded()
    if not state.paused:
        change.remove_idle()
        if state.held is None and state.amid:
            if not state.failing:
                change.surge()  # nobody goes for it yet
        elif state.held is None and not state.failing:
            if state.stuck:
                change.make_room()
            elif not change.new_first:
                change.clear()
            if not change.surge():
                if change.new_first and not state.stuck:
                    change.clear()  # without room, those of another shape make way as ever
                change.replace_outdated()
        elif state.held is None:
            change.try_in_place()
            change.make_room_to_try()
        if state.doubted:
            change.keep_but_one()
    return Going(
        obsolete=change.gone & state.obsolete.keys(),
        outdated=change.gone & state.outdated.keys(),
        waiting=change.waiting(),
        replaced=change.gone - change.aside,
        surging=frozenset(change.surging - change.gone),
        cramped=change.cramped,
        retreating=frozenset(change.retreating()),
    )


class _Change(Budget):
    """What one pass decides: ``gone`` go, and those of ``surging`` get another beside them."""

    def __init__(self, state: RolloutState) -> None:
        super().__init__(state)
        self.surging: set[EngineName] = set()
        self.cramped = False
        self.lacks_room: Waiting | None = None
        turn = 1 if state.lowest_first else -1
        self.turns = {engine.name: turn * engine.rank for engine in state.wanted}
        self.spared = bool(state.held or state.paused or state.failing or state.doubted)

    # --- the rules, in order

    def remove_unneeded(self) -> None:
        """Engines whose GPUs no wanted engine needs: all that are more than the pool needs.

        Where the mapping moved, they serve on until the engines that take their place do: for what
        serves alone, and so many are left as stand in for engines that are still to make way.
        Where room has to be found by the node, which of them go is decided with it.
        """
        surplus, kept = self._surplus(), self.lent + self._standing_in()
        spared = self.spared or self.state.amid
        for name, old in sorted(
            ((name, self.state.obsolete[name]) for name in self.aside),
            key=lambda found: (found[1].devices, found[0]),
            reverse=True,
        ):
            by_room = self.reshaped or (self.state.stuck and not self._fits_in(old))
            if old.lives and (spared or by_room) and old.gpus > surplus:
                continue
            if self._affords({name}, kept):
                surplus -= old.gpus if old.lives else 0
                self._take({name})

    def _standing_in(self) -> int:
        """GPUs that serve and are to be left for the largest step by which old engines make way."""
        return max((self._cost(self._blockers(e)) for e in self.state.wanted), default=0)

    def _surplus(self) -> int:
        """GPUs of living engines beyond what the pool needs, whichever engines have them.

        Amid a step those count that it began with: what came up since came in place of others.
        """
        state = self.state
        if state.amid:
            olds = [old for old in state.obsolete.values() if old.serves or old.falters]
        else:
            olds = [old for old in state.obsolete.values() if old.lives]
        alive = state.in_step if state.amid else state.alive
        return sum(old.gpus for old in olds) + alive - len(state.wanted) * state.gpus

    def remove_idle(self) -> None:
        """What serves nobody stands in for nobody, unless it only misses a probe.

        While it is held, or the revision that comes fails at its start, none goes that lives.
        """
        if self.state.held in (Waits.FOR_ADMISSION, Waits.FOR_SEATS):
            return
        for name, old in {**self.state.obsolete, **self.state.outdated}.items():
            if not (old.serves or old.falters or (self.spared and old.lives)):
                self._take({name})

    def clear(self) -> None:
        """Let old engines make way for those that need their GPUs, as the budget allows.

        If nothing is on its way and the first step is larger than the budget, it is taken all the
        same where others hold its GPU ids: otherwise overlapping chains ([0,1],[2,3] →
        [1,2],[3,4]) would never move.
        """
        rooms, tries = self._rooms(), MOST_TRIES
        moving = self._in_progress()
        steps = [(e, found) for e in self.state.wanted if (found := self._in_the_way(e))]
        fits = {e.name: rooms is None or rooms.fits_after(self._olds(b)) for e, b in steps}
        near = self._nearest_room(rooms)
        for engine, _ in sorted(
            steps,
            key=lambda b: (
                not fits[b[0].name],
                b[0].name not in self.state.cramped,
                near.isdisjoint(b[1]),
                self._cost(b[1]),
                b[0].rank,
            ),
        ):
            leaving = self._in_the_way(engine)
            reshaped = not self.reshaped.isdisjoint(leaving)
            fit = rooms is None or rooms.fits_after(self._olds(leaving))
            if rooms is not None and not fit and tries:
                tries -= 1
                leaving |= self._others_there(rooms, leaving)
            elif reshaped and (not fit or (rooms is None and moving and self._grows(leaving))):
                continue  # see first where one of them comes to stand
            # A sync covers those of an older revision where they are.
            kept = self.lent if leaving <= self.reshaped else 0
            if self._affords(leaving, kept) or (fit and not moving and not reshaped):
                self._take(leaving)
                moving = True
                self.lacks_room = None
                if rooms is not None:
                    rooms.leave(self._olds(leaving))
                    rooms.come()
            elif not moving and (reshaped or not fit):
                self._say_no_room(engine.name, leaving, kept)
            if self.spare + self.growth <= 0 and moving:
                return

    def make_room(self) -> None:
        """The scheduler finds no place: old engines of one node go until one has room."""
        state = self.state
        if self.gone:
            return  # see first what that brings
        found = self._for_stuck()
        if found is None and not state.free_known:
            self.clear()  # there may be more on nodes than was guessed
            found = self._cheapest() if not self.gone else None
        if found is None:
            return  # no old engine stands where one would fit: it waits like any pod
        if self._affords(found):
            self._take(found)
            self._make_more_room(self._at_most(), found)
        elif not self._in_progress():
            self._say_no_room(state.stuck[0], found)

    def _make_more_room(self, free: places.Free, found: Set[EngineName]) -> None:
        """Also for the others that find no place, one for each, while the budget lasts."""
        if self.need.pods > 1:
            return  # see first which of them the scheduler completes
        rooms = places.Rooms(free, self.need)
        for _ in self.state.stuck[1:]:
            rooms.leave(self._olds(found))
            rooms.come()
            more = places.room(self.need, self._movable(), rooms.free)
            if more is None or not self._affords(more):
                return
            self._take(more)
            found = more

    def surge(self) -> bool:
        """New engines come first, where there is room, and those that they replace serve on.

        False where there is none, and nothing is on its way for which there was: then engines are
        replaced in place.  One that found no room stays, and gets that of the one it replaces.
        """
        state = self.state
        if not self.new_first:
            return False
        rooms = self._rooms()
        if rooms is not None:
            for _ in state.homeless:
                rooms.come()
        count = state.max_surge - len(state.beside)
        for name in sorted(state.outdated.keys() - self.gone - state.beside, key=self._turn):
            if count <= len(self.surging) or (state.doubted and self.surging):
                break
            full = rooms is not None and not rooms.fits_after(())
            if full or state.stuck or state.cramped or state.refused or state.queued:
                self.cramped = True
                break
            self.surging.add(name)
            if rooms is not None:
                rooms.come()
        on_the_way = bool(self.surging or state.beside - state.cramped)
        self.cramped = (self.cramped or bool(state.cramped)) and not on_the_way
        return not self.cramped

    def try_in_place(self) -> None:
        """One that failed beside another finds no room to be tried again: it gets that of the one
        it replaces, if all serve.  Else nobody would ever know whether it starts."""
        state = self.state
        others = state.beside > state.cramped or len(state.serving) < len(self.turns)
        if not state.cramped or others:
            return
        self.cramped = True
        name = min(state.cramped & state.outdated.keys(), key=self._turn, default=None)
        if name is not None and self._affords({name}):
            self._take({name})

    def make_room_to_try(self) -> None:
        """Where those that failed find no place now, one gets that of an old one, if no other is
        being tried."""
        state = self.state
        idle = {*self.come, *state.closed, *state.stuck, *state.missing, *state.outdated}
        if self.gone or not state.stuck or any(e.name not in idle for e in state.wanted):
            return
        found = self._for_stuck() or (not state.free_known and self._cheapest())
        left = sorted(state.outdated.keys() - self.reshaped, key=self._turn)
        if self._affords(way := found or frozenset(left[:1])):
            self._take(way)
        else:
            self._say_no_room(state.stuck[0], way)

    def replace_outdated(self) -> None:
        """Engines of an older revision: those that falter first, and in their order.

        A sync covers them where they are, so that they go for what serves alone.
        """
        self.spare -= self.lent
        self.beyond -= self.lent
        self.lent = 0
        left = self.state.outdated.keys() - self.gone - self.reshaped
        for name in sorted(left, key=lambda n: (n not in self.state.cramped, *self._turn(n))):
            if not self._affords({name}):
                return
            self._take({name})

    def _turn(self, name: EngineName) -> tuple[bool, int]:
        """Whose turn it is among the outdated ones: those that falter come first."""
        return not self.state.outdated[name].falters, self.turns[name]

    def keep_but_one(self) -> None:
        """Of all that could make way no more goes than one new engine needs, and nothing while one
        can be made: what becomes of that one is to be seen first."""
        state = self.state
        could, self.gone = self.gone - self.aside, self.gone & self.aside
        free = (e for e in state.wanted if e.name in state.missing and not self._blockers(e))
        if next(free, None) is not None:
            return
        ways = [frozenset({name}) for name in could & state.outdated.keys()]
        ways += [b for e in state.wanted if (b := frozenset(self._blockers(e))) and b <= could]
        olds = {**state.outdated, **state.obsolete}

        def harm(way: Set[EngineName]) -> tuple[int, int, int, int, list[EngineName]]:
            lives = sum(olds[name].lives for name in way)
            turn = min(self.turns.get(name, 0) for name in way)
            return self._cost(way), lives, len(way), turn, sorted(way)

        self.gone |= min(ways, key=harm, default=frozenset())

    def retreating(self) -> Set[EngineName]:
        """From beside whom a new engine goes again: it holds what one that is missing waits for.

        One of several pods that has a part of them, or one that waits for a sync, which is of all
        engines and cannot begin.
        """
        state = self.state
        if self.gone:
            return frozenset()
        if state.stuck and state.torn:
            return state.torn
        waits = state.stuck or state.queued or (state.refused and state.missing)
        if not (waits and state.awaiting) or state.held is not None or state.paused:
            return frozenset()
        return {max(state.awaiting, key=lambda name: (self.turns[name], name))}

    # --- what comes of it

    def waiting(self) -> Waiting | None:
        """What the rest of the change waits for, if not simply for engines to start."""
        left = (self.state.outdated.keys() | self.state.obsolete.keys()) - self.gone
        if self.state.paused:
            # Else the engines of before do what those of now would: nothing waits.
            kept = set(self.holder.values()) - self.gone
            if self.state.stuck:
                kept |= self._movable().keys() | self.state.awaiting
            return Waiting(what=Waits.FOR_RESUME) if kept else None
        if not left:
            return None
        if self.state.held is not None:
            return Waiting(what=self.state.held)
        if self.lacks_room is not None:
            return self.lacks_room
        if self.unsyncable and not self.state.fetching:
            # More go as soon as those that are on their way are up, and serving ones between steps.
            return self._for_window()
        if left <= self.aside and self._on_the_way(self.come | self.state.closed):
            return None
        if self._goes_on():
            return None
        if lacking := len(self.state.closed) + len(self.state.awaiting):
            return Waiting(what=Waits.FOR_WEIGHTS, engines=lacking)
        return self._for_window()

    def _for_window(self) -> Waiting | None:
        """That the rest waits for the end of a step, and for nothing else."""
        if not self.state.amid or self._goes_on() or self._in_progress():
            return None
        return Waiting(what=Waits.FOR_WINDOW)

    def _goes_on(self) -> bool:
        """Whether something comes or goes already, or may not for what has failed."""
        return bool(self._comes_first() or self.gone or self.state.failing or self.retreating())

    def _comes_first(self) -> bool:
        """Whether a new engine is on its way up beside an old one."""
        state = self.state
        return bool(self.surging or state.beside - state.cramped - state.arrived)

    # --- where there is room

    def _others_there(self, rooms: places.Rooms, leaving: Set[EngineName]) -> Set[EngineName]:
        """Who goes beside these so that one node gets room; nobody, where none can have it.

        Rather those for whom no others come, who would need room as well.
        """
        after = places.Rooms(rooms.free, self.need, rooms.waiting)
        after.leave(self._olds(leaving))
        movable = self._movable(leaving)
        for_good = {name: old for name, old in movable.items() if name in self.state.obsolete}
        found = places.room(self.need, for_good, after.free)
        if found is not None and self._affords(leaving | found):
            return found
        return places.room(self.need, movable, after.free) or found or frozenset()

    def _for_stuck(self) -> Set[EngineName] | None:
        """Whose places the first one that finds none may have; None: nobody's."""
        need = places.Need(gpus=self.need.gpus, pods=self.state.short)
        return places.room(need, self._movable(), self._at_most())

    def _at_most(self) -> places.Free:
        """What nodes may have: the scheduler says that none has enough."""
        most = self.need.gpus - 1
        return {node: min(count, most) for node, count in self.state.free.items()}

    def _cheapest(self) -> Set[EngineName] | None:
        """One old engine: nobody knows where another would find room."""
        ways = [frozenset({name}) for name in self._movable()]
        return min(ways, key=lambda way: (self._cost(way), sorted(way)), default=None)

    def _nearest_room(self, rooms: places.Rooms | None) -> Set[EngineName]:
        """Who stands where room for one more engine costs the least."""
        if rooms is None or not self.reshaped:
            return frozenset()
        return places.room(self.need, self._movable(), rooms.free) or frozenset()

    def _rooms(self) -> places.Rooms | None:
        """What is free on each node once those that have a way to go have gone and come."""
        state = self.state
        if not state.free_known:
            return None
        rooms = places.Rooms(state.free, self.need)
        rooms.leave(self._olds(self.gone))
        placed = (state.serving | state.placed) - (self.reshaped & self.gone)
        for engine in state.wanted:
            if engine.name not in placed and not self._blockers(engine):
                rooms.come()
        return rooms

    def _say_no_room(self, name: EngineName, leaving: Set[EngineName], kept: int = 0) -> None:
        """Of the steps that are too large the least is told."""
        more = -(-self._short(leaving, kept) // self.state.gpus)
        needed = min(len(self.state.wanted), self.state.max_unavailable + more)
        if self.lacks_room is None or needed < self.lacks_room.needed:
            said = self.state.lacking
            self.lacks_room = Waiting(what=Waits.FOR_ROOM, engine=name, needed=needed, lacking=said)
