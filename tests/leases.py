"""The Lease of a pool's weights as a trainer writes it, by a merge patch."""

import time
from typing import Any

from sglang_operator.api import names
from sglang_operator.weights.times import micro_time


def held(holder: str | None, seconds: int, **notes: str | None) -> dict[str, Any]:
    """The patch of one that is renewed now and lasts so long.

    ``notes`` are its annotations, by the end of their names (``target_version``).
    """
    annotations = {
        f"{names.GROUP}/weights-{key.replace('_', '-')}": value for key, value in notes.items()
    }
    spec = {
        "holderIdentity": holder,
        "leaseDurationSeconds": seconds,
        "renewTime": micro_time(time.time()),
    }
    return {"metadata": {"annotations": annotations}, "spec": spec}
