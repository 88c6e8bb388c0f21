"""What of the registry a trainer blocks on.  Pure data."""

from typing import NamedTuple

from sglang_operator.weights.lease_state import Phase


class TrainerSignal(NamedTuple):
    """The fields of the registry on which a trainer blocks: a change is published at once."""

    # Of the transaction, that was acted upon.  A sleep waits for it; a commit for its gates alone.
    step: tuple[str, Phase] = ("", Phase.IDLE)
    seen: str = ""  # the transaction, acted upon or not: an address may be another pod's before
    forming: tuple[str, int] = ("", 0)  # the same for who forms process groups without one
    epoch: str = ""  # during a sync: whether it is stale
    serves: bool = False  # before memory is released: whether clients may still reach an engine
    complete: bool = False  # at its start: whether all engines are up
    waits: int = 0  # before it takes their memory: engines that wait until it gives that back
    holders: int = 0  # the same: pods that may hold it beside the engines
    taken: int = 0  # before it wakes them: engines whose GPUs another pool has
