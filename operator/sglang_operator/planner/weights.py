"""Which weights the engines hold, as far as it can be known.  The gate itself comes with syncs.

The *epoch* names one exact set of running engines: two operators compute the same, and any
restart changes it (design.md §5).
"""

import hashlib
from collections.abc import Iterable

from sglang_operator.planner.plan import EngineView

EPOCH_DIGITS = 16


def epoch(engines: Iterable[EngineView]) -> str:
    """Digest of the ordered (rank, pod UID, container ID, GPUs); sixteen hexadecimal digits."""
    digest = hashlib.sha256()
    for view in engines:
        pod = view.pod
        instance = (pod.uid, pod.container_id) if pod else ("", "")
        devices = ",".join(map(str, view.engine.devices))
        digest.update(f"{view.engine.rank}|{instance[0]}|{instance[1]}|{devices}\n".encode())
    return digest.hexdigest()[:EPOCH_DIGITS]
