"""How engines stand to the weights of their pool: asleep, behind the commit, or neither.  Pure."""

from collections.abc import Iterable, Sequence

from sglang_operator.gates.holders import Occupied
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.weights.lease_state import Phase, Transaction


def asleep(engines: Iterable[EngineStatus], current: Transaction) -> Sequence[EngineStatus]:
    """Those whose memory is released, or about to be."""
    sleeps = current.phase is Phase.SLEEPING
    return [e for e in engines if sleeps and e.instance and current.may_sleep(e.instance)]


def apart(engines: Iterable[EngineStatus], current: Transaction) -> Sequence[EngineStatus]:
    """Those that a trainer has put to sleep while the others serve, until it lets them serve."""
    return [engine for engine in engines if engine.instance in current.apart]


def behind(engines: Iterable[EngineStatus], current: Transaction) -> Sequence[EngineStatus]:
    """Those that run and have their memory, and not the weights that were committed last.

    They came up after the commit, or gave their weights up: they load its checkpoint, or wait for
    the next sync, which brings them to all.
    """
    up = (engine for engine in engines if engine.up and engine.instance)
    found = ((engine, current.of(engine.instance)) for engine in up)
    return [
        engine
        for engine, told in found
        if told.phase is Phase.COMMITTED and told.version and engine.instance not in told.instances
    ]


def waiting(
    engines: Iterable[EngineStatus],
    current: Transaction,
    occupied: Occupied | None,
) -> Sequence[EngineStatus]:
    """Those that are not there, and are not made before the trainer gives their GPUs back.

    None of them while it is not known what is there (``occupied``): who takes their memory goes by
    it.
    """
    if occupied is None or not (turn := current.trainers):
        return ()
    return [each for each in engines if turn.has(each.devices) and not occupied.has(each)]
