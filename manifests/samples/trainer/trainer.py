"""The smallest trainer loop: wait for the pool, train a step, sync the weights, again.

Where this has a comment, a real trainer trains, and broadcasts instead of writing to a disk
(sync.nccl_plan, sync.update_weights_from_distributed).
"""

import os

from sglang_operator.client import Pool, StaleEpoch

POOL = os.environ.get("POOL", "actor-infer")
STEPS = int(os.environ.get("STEPS", "1"))
CHECKPOINT = os.environ.get("CHECKPOINT", "/checkpoints/step-{step}")
TRIES = 5
READY_SECONDS = 1800


def sync(pool: Pool, version: str, path: str) -> None:
    """Give every engine these weights; again with the engines that are left, if one restarts."""
    for left in reversed(range(TRIES)):
        registry = pool.wait_ready(READY_SECONDS)
        print(f"{len(registry.engines)} engines are up, epoch {registry.epoch}", flush=True)
        try:
            pool.update_from_disk(path, version)
            return
        except StaleEpoch as error:
            print(error, flush=True)
            if not left:
                raise


def main() -> None:
    with Pool(POOL) as pool:
        for step in range(1, STEPS + 1):
            # Train, and write the new weights to this path.
            version = f"step-{step}"
            sync(pool, version, CHECKPOINT.format(step=step))
            pool.wait_synced(version, timeout=60)
            print(f"{version} is committed, and every gate is open", flush=True)


if __name__ == "__main__":
    main()
