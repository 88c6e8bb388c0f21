"""Who a job of ROLL is: one name as holder for all workers of a cluster, which no other job has.

What they have in common is the address and port of their rank 0, which ROLL's Cluster gives to each
(MASTER_ADDR, MASTER_PORT), and ROLL's SharedStorage, where the first of them leaves a name that was
drawn.  Two jobs may come to have the same address and port, after each other or on the network of
one host; none draws the name of another.
"""

import logging
import secrets
from typing import Any

_TRAINER = "actor_train"

log = logging.getLogger(__name__)


async def identity(worker: Any) -> str | None:
    """The name, the same for each worker of its cluster; None for one that ROLL did not make."""
    address, port = (getattr(worker, key, None) for key in ("master_addr", "master_port"))
    if not address or not port:
        return None
    cluster = getattr(worker, "cluster_name", None) or "roll"
    name = f"{cluster}_{address}_{port}"
    drawn = await _drawn(worker, f"sglang-operator:{name}")
    return f"{name}_{drawn}" if drawn else name


async def _drawn(worker: Any, key: str) -> str:
    """What the first of them drew; "" without ROLL's storage.

    Where only some reach it, their names differ: they follow nobody, and say so.
    """
    storage = getattr(worker, "shared_storage", None)
    if storage is None:
        return ""
    try:
        await storage.put_if_absent.remote(key, secrets.token_hex(4))
        found = await storage.get.remote(key)
    except Exception as error:
        log.warning("ROLL's SharedStorage: %s: %s", type(error).__name__, error)
        return ""
    return found if isinstance(found, str) else ""


async def has_trainer(worker: Any) -> bool | None:
    """Whether the job has workers of actor_train by now; None where nobody can tell.

    ROLL notes in its storage where rank 0 of each role is, and makes all workers before it
    initialises any.  Its rollout pipelines have no trainer.
    """
    storage = getattr(worker, "shared_storage", None)
    if storage is None:
        return None
    return await storage.get.remote(_TRAINER) is not None
