"""The registry: what a trainer must know to attach to the pool, as one ConfigMap.

It lists pod addresses, which ignore readiness: a trainer reaches an engine to give it weights
before any client may reach it for answers.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from sglang_operator.api import names
from sglang_operator.desired import metadata
from sglang_operator.planner import weights
from sglang_operator.planner.plan import EngineView
from sglang_operator.planner.pool import Pool

ENGINES_KEY = "engines.json"


def registry(pool: Pool, engines: Sequence[EngineView]) -> dict[str, Any]:
    """The ConfigMap with every engine by rank."""
    return metadata.child(
        pool.owner,
        "v1",
        "ConfigMap",
        names.registry_name(pool.owner.name),
        "registry",
        data={ENGINES_KEY: orjson.dumps(document(pool, engines)).decode()},
    )


def document(pool: Pool, engines: Sequence[EngineView]) -> dict[str, Any]:
    """The registry's content.

    ``worldSize`` and ``rankOffset`` follow ROLL's NCCL group: the trainer is rank 0, engine i
    begins at ``1 + i * gpus`` (ROLL roll/distributed/strategy/sglang_strategy.py).
    """
    return {
        "pool": pool.owner.name,
        "namespace": pool.owner.namespace,
        "epoch": weights.epoch(engines),
        "engineVersion": str(pool.version),
        "worldSize": 1 + len(engines) * pool.gpus,
        "generation": dict(pool.sampling),
        "engines": [_engine(pool, view) for view in engines],
    }


def _engine(pool: Pool, view: EngineView) -> dict[str, Any]:
    pod = view.pod
    address = pod.ip if pod else ""
    host = f"[{address}]" if ":" in address else address
    return {
        "rank": view.engine.rank,
        "engine": view.engine.group,
        "devices": list(view.engine.devices),
        "gpus": pool.gpus,
        "rankOffset": 1 + view.engine.rank * pool.gpus,
        "state": view.state.value,
        "pod": pod.name if pod else None,
        "podIP": address or None,
        "url": f"http://{host}:{pool.spec.network.port}" if address else None,
    }
