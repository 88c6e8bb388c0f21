"""Which engines a call by GPU ids means: those that sleep and wake alone, while the others serve.

As ROLL has it (shrink_workers and expand_workers of scheduler/router.py at 8eb27cc2): each that
has any of the ids sleeps, and each that has none but these wakes.  The ids are those of
``device_mapping``; of those that no engine has nothing is said, as a trainer may have more GPUs.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from sglang_operator.client import beside, texts
from sglang_operator.client.errors import InvalidArgument, NotReady, Unsupported
from sglang_operator.client.registry import GATE_OFF, IN_SERVICE, Engine, Registry
from sglang_operator.weights import parts
from sglang_operator.weights.lease_state import Phase, Transaction

Part = Callable[[Registry], Registry]


def whole(registry: Registry) -> Registry:
    """All engines, and those beside them."""
    return registry


def overlapping(devices: Collection[int]) -> Part:
    """The engines that have any of these.  Raises InvalidArgument, NotReady, Unsupported."""

    def part(registry: Registry) -> Registry:
        found = _of(registry, devices, (e for e in registry.engines if {*e.devices} & {*devices}))
        known = {engine.engine for engine in registry.engines}
        stay = [e for e in registry.unlisted if not e.leaving and e.engine not in known]
        if stay:
            raise NotReady(texts.PART_BESIDE.format(engines=beside.named(stay)))
        leaving = tuple(engine for engine in registry.unlisted if engine.leaving)
        others = tuple(engine for engine in found.others if not engine.leaving)
        holders = (h for h in registry.holders if not h.devices or {*h.devices} & {*devices})
        return replace(
            found,
            unlisted=(*found.unlisted, *leaving),
            others=others,
            holders=tuple(holders),
        )

    return part


def within(devices: Collection[int]) -> Part:
    """The engines all of whose GPUs are among these, and those of their names beside them.

    Raises as ``overlapping``.
    """

    def part(registry: Registry) -> Registry:
        inside = (e for e in registry.engines if e.devices and {*e.devices} <= {*devices})
        return _of(registry, devices, inside)

    return part


def _of(registry: Registry, devices: Collection[int], engines: Iterable[Engine]) -> Registry:
    if not registry.weights.parts:
        raise Unsupported(texts.PARTS_UNKNOWN)
    if not registry.engines:
        raise NotReady(texts.NO_ENGINES)  # of ids nobody knows before there are some
    if not (found := tuple(engines)):
        there = sorted(device for engine in registry.engines for device in engine.devices)
        shown = f"{there[0]} to {there[-1]}" if there else "none"
        ids = ", ".join(map(str, sorted(devices)[:16]))
        raise InvalidArgument(texts.PART_NOWHERE.format(devices=ids, there=shown))
    return _with_own(registry.of(found))


def _with_own(part: Registry) -> Registry:
    """Of a rollout's two of one engine both are of its part: its name says which GPU ids are its.

    Others that run beside the pool's are of none.
    """
    names = {engine.engine for engine in part.engines}
    own = tuple(e for e in part.unlisted if not e.leaving and e.engine in names)
    others = (e for e in part.unlisted if e not in own)
    return replace(part, unlisted=own, others=(*part.others, *others))


def named(registry: Registry) -> list[str]:
    """The instances of a part that is to sleep.  Raises NotReady where there is none.

    An engine that waits for its trainer has none: it is named itself, so that the Lease tells of a
    part also where nothing of it is left to sleep, and stays its trainer's.
    """
    found = [engine.instance for engine in registry.present if engine.instance]
    found += [engine.engine for engine in registry.engines if engine.waits]
    if not found:
        raise NotReady(texts.PART_WITHOUT_A_RUN.format(engines=beside.named(registry.engines)))
    return found


def lets_serve(registry: Registry, state: Transaction, tags: Iterable[str]) -> None:
    """Raises Unsupported where the sleep of a part would take the others from clients too."""
    as_started = state.phase is Phase.IDLE or state.initial or state.serving
    if parts.others_serve(state, tags) or not as_started:
        return
    reached, off = registry.others, registry.weights.gate == GATE_OFF
    others = [e for e in reached if (off and not state.sleeps(e.instance)) or e.state == IN_SERVICE]
    if others:
        raise Unsupported(texts.PART_NOT_COMMITTED.format(engines=beside.named(others)))


def asleep(registry: Registry, state: Transaction) -> Transaction:
    """The state with the sleepers of this part alone, and those of which no engine tells."""
    others = {engine.instance for engine in registry.others}
    return replace(state, asleep=tuple(run for run in state.asleep if run not in others))


def awake(registry: Registry, state: Transaction) -> set[str]:
    """The instances that a wake of this part is about: its own, and those that have ended.

    Of a rollout's two of one engine both are its own, whoever is the heir; and so is one on its
    way out, which keeps no gate closed that it is behind for ever.
    """
    engines = {engine.engine for engine in registry.engines}
    leaving = (e for e in (*registry.unlisted, *registry.others) if e.leaving)
    every = (*registry.present, *(e for e in leaving if e.engine in engines))
    own = engines | {engine.instance for engine in every if engine.instance}
    running = registry.running
    gone = set() if running is None else {*state.asleep, *state.apart} - {*running}
    return own | gone
