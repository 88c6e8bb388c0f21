"""A trainer whose engine has the same GPU, in a pod: it syncs, and takes the memory in its turn.

Beside those of ``trainer`` its jobs are, by ``by``: sleep and wake (of some ``devices``, or all),
take (so many ``bytes`` of the GPU, written to), give (of what was taken), and compare (with the
weights in ``folder``).  Their answers have the free bytes of the GPU before and after.
"""

import os
import time
from collections.abc import Callable, Mapping
from http.server import HTTPServer
from pathlib import Path
from typing import Any

from sglang_operator.client import Pool, slots
from tests.gpu.inside import checksums
from tests.gpu.inside.trainer import PORT, STAND_IN, Handler, Trainer

CHUNK = 1 << 30  # bytes
MARK = 7  # in each byte that was taken


class Colocated(Trainer):
    """One pool's trainer, with what it has taken."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._taken: list[Any] = []

    def sync(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """One job; raises PoolError, RuntimeError (torch's, of memory that there is not)."""
        work: Callable[[Mapping[str, Any]], dict[str, Any]] | None
        work = getattr(self, f"_{job['by']}", None)
        if work is None:
            return dict(super().sync(job))
        before, begun = free(), time.monotonic()
        told = work(job)
        seconds = round(time.monotonic() - begun, 4)
        return {"seconds": seconds, "free before": before, "free after": free(), **told}

    def _sleep(self, job: Mapping[str, Any]) -> dict[str, Any]:
        self._pool.sleep(devices=job["devices"])
        return {}

    def _wake(self, job: Mapping[str, Any]) -> dict[str, Any]:
        self._pool.wake(devices=job["devices"])
        return {}

    def _take(self, job: Mapping[str, Any]) -> dict[str, Any]:
        sizes = [min(CHUNK, job["bytes"] - at) for at in range(0, job["bytes"], CHUNK)]
        if STAND_IN:
            return {"bytes": 0}
        import torch

        try:
            for size in sizes:
                full = torch.full((size,), MARK, dtype=torch.uint8, device="cuda:0")
                self._taken.append(full)
            torch.cuda.synchronize()
        except BaseException:
            self._release()
            raise
        return {"bytes": sum(sizes)}

    def _give(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Whether all that was written is there still, of how many bytes."""
        kept = [int(each.min()) == MARK == int(each.max()) for each in self._taken]
        held = sum(each.numel() for each in self._taken)
        self._release()
        return {"bytes": held, "intact": all(kept)}

    def _release(self) -> None:
        self._taken.clear()
        if not STAND_IN:
            import torch

            torch.cuda.empty_cache()

    def _compare(self, job: Mapping[str, Any]) -> dict[str, Any]:
        if STAND_IN:
            return {"unequal": []}  # it has no tensors
        tensors = self._sender.load(Path(job["folder"]))
        return checksums.compared(self._pool.engines()[0].url, tensors)


def free() -> int:
    """Bytes of the GPU that nobody has."""
    if STAND_IN:
        return 0
    import torch

    found: int = torch.cuda.mem_get_info(0)[0]
    return found


def main() -> None:
    """Say which GPU it has, then serve until the pod's end."""
    if not STAND_IN:
        import torch

        torch.zeros(1, device="cuda:0")  # the first use of a card takes seconds
    slots.claim_numbers()
    slot = slots.publish(os.environ["POOL"], 0)
    print(f"published {', '.join(slot.gpus)} of {slot.node}", flush=True)
    with Pool(os.environ["POOL"]) as pool:
        Handler.trainer = Colocated(pool)
        HTTPServer(("", PORT), Handler).serve_forever()


if __name__ == "__main__":
    main()
