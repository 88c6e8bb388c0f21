"""Which weights the engines hold, as far as it can be known.  The gate itself comes with syncs.

The *epoch* names one exact set of running engines: two operators compute the same, and any
restart changes it (design.md §5).
"""

import hashlib
from collections.abc import Iterable

from sglang_operator.planner.observed import ObservedPod
from sglang_operator.planner.plan import EngineView

EPOCH_DIGITS = 16
INSTANCE_DIGITS = 8


def epoch(engines: Iterable[EngineView]) -> str:
    """Digest of the ordered (rank, pod UID, container ID, GPUs); sixteen hexadecimal digits."""
    lines = "\n".join(_line(view) for view in engines)
    return hashlib.sha256(lines.encode()).hexdigest()[:EPOCH_DIGITS]


def instance(pod: ObservedPod | None) -> str | None:
    """One life of an engine: eight hexadecimal digits; None while there is no container."""
    if pod is None or not pod.container_id:
        return None
    digest = hashlib.sha256(f"{pod.uid}|{pod.container_id}".encode())
    return digest.hexdigest()[:INSTANCE_DIGITS]


def _line(view: EngineView) -> str:
    pod, engine = view.pod, view.engine
    instance = f"{pod.uid}|{pod.container_id}" if pod else "|"
    return f"{engine.rank}|{instance}|{','.join(map(str, engine.devices))}"
