"""What a trainer needs of a pool: where its engines are, and weight syncs as transactions.

``Pool`` blocks, ``AsyncPool`` is the same for asyncio::

    from sglang_operator.client import Pool

    with Pool("actor-infer") as pool:
        pool.wait_ready()
        with pool.sync("step-1") as sync:
            sync.update_weights_from_disk("/checkpoints/step-1")

Inside a pod it uses the ServiceAccount, elsewhere a kubeconfig.  It needs aiohttp and pyyaml, and
imports them when a pool is made.
"""

from typing import TYPE_CHECKING, Any

from sglang_operator.client.errors import (
    ClusterError,
    EngineError,
    Expired,
    Held,
    InvalidArgument,
    NotReady,
    PoolError,
    StaleEpoch,
    Unsupported,
)

if TYPE_CHECKING:
    from sglang_operator.client.blocking import Pool, Sync
    from sglang_operator.client.freed import Freed
    from sglang_operator.client.pool import AsyncPool
    from sglang_operator.client.registry import Engine, NcclPlan, Registry
    from sglang_operator.client.sync import AsyncSync

__all__ = [
    "AsyncPool",
    "AsyncSync",
    "ClusterError",
    "Engine",
    "EngineError",
    "Expired",
    "Freed",
    "Held",
    "InvalidArgument",
    "NcclPlan",
    "NotReady",
    "Pool",
    "PoolError",
    "Registry",
    "StaleEpoch",
    "Sync",
    "Unsupported",
]

_MODULES = {
    "AsyncPool": "pool",
    "AsyncSync": "sync",
    "Engine": "registry",
    "Freed": "freed",
    "NcclPlan": "registry",
    "Pool": "blocking",
    "Registry": "registry",
    "Sync": "blocking",
}


def __getattr__(name: str) -> Any:
    """Import on first use: asyncio and aiohttp take longer than a trainer's tests should."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
