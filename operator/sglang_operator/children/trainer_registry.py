"""The registry: what a trainer must know to attach to the pool, as one ConfigMap.

It lists pod addresses, which ignore readiness: a trainer reaches an engine to give it weights
before any client may reach it for answers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson

from sglang_operator.api import names
from sglang_operator.ask import engines as questions
from sglang_operator.children import metadata
from sglang_operator.gates.decide import GatePlan
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.pool import registry_size
from sglang_operator.pool.resolve import Pool
from sglang_operator.weights.lease_state import Transaction, of_phase

ENGINES_KEY = "engines.json"
# The same addresses as other trainers take them, by rank.
SLIME_KEY = "slime"  # --rollout-external-engine-addrs host:port host:port
AREAL_KEY = "areal"  # AREAL_LLM_SERVER_ADDRS=host:port,host:port
FORMATS: Mapping[str, Callable[[Sequence[str]], str]] = {SLIME_KEY: " ".join, AREAL_KEY: ",".join}


def registry(pool: Pool, plan: GatePlan) -> dict[str, Any]:
    """The ConfigMap with every engine by rank.

    What other trainers take is left out where it has no room (from some 3,400 engines on): a pool
    whose engines alone have none is refused (pool/registry_size.py).  So it is while an engine
    has no address: these forms know a rank by its place, and one less would move those behind it.
    """
    engines = orjson.dumps(document(pool, plan))
    addresses = [_address(pool, engine) for engine in plan.engines]
    known = addresses if all(addresses) else []
    renderings = {key: form(known) for key, form in FORMATS.items()}
    if len(engines) + sum(map(len, renderings.values())) > registry_size.LIMIT:
        renderings = dict.fromkeys(renderings, "")
    return metadata.child(
        pool.owner,
        "v1",
        "ConfigMap",
        names.registry_name(pool.owner.name),
        "registry",
        data={ENGINES_KEY: engines.decode(), **renderings},
    )


def document(pool: Pool, plan: GatePlan) -> dict[str, Any]:
    """The registry's content.

    ``worldSize`` and ``rankOffset`` follow ROLL's NCCL group: the trainer is rank 0, engine i
    begins at ``1 + i * gpus`` (ROLL roll/distributed/strategy/sglang_strategy.py).

    ``weights.transaction`` is the one that the operator has acted upon: every gate was set as it
    asks.  Empty while that is still to be done.  ``weights.noSync`` says why no trainer may bring
    weights, where that is so: the pool has no gate then, but trainers need none to sync.
    ``weights.released``: the memory that engines may have released, but for what ``weights.woken``
    names by instance and tag.
    """
    current = plan.transaction
    return {
        "pool": pool.owner.name,
        "namespace": pool.owner.namespace,
        "epoch": plan.epoch,
        "engineVersion": str(pool.version),
        "port": pool.spec.network.port,
        "memorySaver": pool.saves_memory,
        "worldSize": 1 + len(plan.engines) * pool.gpus,
        "generation": dict(pool.sampling),
        "weights": {
            "gate": pool.gate.value,
            "lease": names.weights_lease_name(pool.owner.name),
            "phase": (plan.restore or current).phase.value,
            **_released(plan.restore or current, plan.engines),
            "version": current.version,
            "transaction": current.id if plan.settled else "",
            **({"noSync": pool.no_sync} if pool.no_sync else {}),
        },
        "engines": [_engine(pool, engine) for engine in plan.engines],
    }


def _released(current: Transaction, engines: Iterable[EngineStatus]) -> dict[str, list[str]]:
    """What sleeps, told in few words: most often all engines do, on the same memory."""
    if not current.released:
        return {}
    runs = [run for engine in engines if (run := engine.instance)]
    left = ((run, set(current.released) - current.may_sleep(run)) for run in runs)
    woken = [f"{run}/{tag}" for run, tags in left for tag in sorted(tags)]
    return {"released": list(current.released), **({"woken": woken} if woken else {})}


def last_said(data: Mapping[str, str]) -> Transaction | None:
    """What the Lease said when the registry was written, as far as that tells."""
    try:
        told = orjson.loads(data[ENGINES_KEY])
        runs = [engine["instance"] for engine in told["engines"] if engine["instance"]]
        released, woken = (told["weights"].get(key) or [] for key in ("released", "woken"))
        slept = {"released": released, "asleep": runs if released else [], "woken": woken}
        return of_phase(told["weights"]["phase"], **{k: ",".join(v) for k, v in slept.items()})
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _engine(pool: Pool, engine: EngineStatus) -> dict[str, Any]:
    wanted, gate, url = engine.engine, engine.gate, _url(pool, engine)
    is_open = gate is not None and gate.is_open
    return {
        "rank": wanted.rank,
        "engine": wanted.group,
        "devices": list(wanted.devices),
        "gpus": pool.gpus,
        "rankOffset": 1 + wanted.rank * pool.gpus,
        "state": engine.state.value,
        "pod": engine.name or None,
        "podIP": engine.ip or None,
        "url": url,
        "instance": engine.instance,
        "gate": ("Open" if is_open else "Closed") if pool.gated else None,
        "version": gate.version if gate and is_open else None,
    }


def _address(pool: Pool, engine: EngineStatus) -> str:
    """host:port; nothing while the engine has no address."""
    return (_url(pool, engine) or "").removeprefix("http://")


def _url(pool: Pool, engine: EngineStatus) -> str | None:
    """Where the engine answers; None while it has no address."""
    address = engine.ip
    return questions.url(address, pool.spec.network.port) if address else None
