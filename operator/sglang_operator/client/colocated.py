"""Whether ROLL hands weights over on GPUs that trainer and engines share, and what is wrong then.

ROLL does so where the ids of actor_train and actor_infer overlap (is_colocated in its
third_party/megatron/model_update.py and fsdp2/model_update.py at 8eb27cc2): it sends handles of
memory on that GPU.  Only in placement mode Shared an engine is there: then its ids are the
trainer's GPUs, and have to be ROLL's own.  In any other mode engines have GPUs of their own,
whatever their ids, and SGLang ends at once over a handle of another GPU.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from sglang_operator.client import colocated_texts as texts
from sglang_operator.client.registry import Engine, Registry
from sglang_operator.engine import versions
from sglang_operator.roll.device_mapping import apart, describe, parse

_NODE = 8  # GPUs of a node, where ROLL's config does not say
_BUCKETS_SINCE = versions.parse("0.5.2")  # load_format flattened_bucket: not in 0.4.10.post2


def refusal(worker: Any, registry: Registry | None = None) -> str:
    """Why this worker's config cannot be used with this pool, and what to write; "" if it can.

    Without a registry the pool is one whose engines have GPUs of their own.
    """
    config = worker.pipeline_config
    if not is_policy(worker, config):
        return ""
    if registry is not None and registry.gpus_per_node:
        return _misplaced(worker, registry)
    shared = _shared(config)
    if not shared:
        return ""
    train, infer = (_ids(getattr(config, role, None)) for role in ("actor_train", "actor_infer"))
    return texts.COLOCATED.format(
        train=describe(sorted(train)),
        infer=describe(sorted(infer)),
        shared=describe(sorted(shared)),
        mapping=_apart(config),
    )


def hands_over(worker: Any) -> bool:
    """Whether ROLL hands weights to any engine of this worker's cluster as handles of memory."""
    config = worker.pipeline_config
    return is_policy(worker, config) and bool(_shared(config))


def _misplaced(worker: Any, registry: Registry) -> str:
    """What ids of ROLL's and of the pool mean another GPU."""
    per_node = _per_node(worker.pipeline_config)
    if per_node != registry.gpus_per_node:
        return texts.OTHER_NODES.format(given=per_node, found=registry.gpus_per_node)
    rank, own = int(worker.rank), ids_of(worker)
    engine = next((each for each in registry.engines if each.rank == rank), None)
    if engine is not None and own != engine.devices:
        return texts.OTHER_PLACES.format(
            rank=rank,
            given=describe(own),
            found=describe(engine.devices),
            engine=engine.engine,
        )
    if engine is not None and hands_over(worker):
        return _takes_no_buckets(engine)
    return ""


def _takes_no_buckets(engine: Engine) -> str:
    known = versions.parse(engine.engine_version) >= _BUCKETS_SINCE
    return "" if known else texts.NO_BUCKETS.format(version=engine.engine_version)


def ids_of(worker: Any, rank: int | None = None) -> tuple[int, ...]:
    """The GPUs of this worker in ROLL, or of another one of its cluster, in ROLL's order.

    As ROLL's ResourceManager places them: consecutive slices of the role's device_mapping.
    """
    own = worker.pipeline_config.actor_infer.device_mapping
    mapping = parse(own) if isinstance(own, str) else tuple(own)
    each = len(mapping) // max(1, int(worker.world_size))
    first = each * (int(worker.rank) if rank is None else rank)
    return mapping[first : first + each]


def node_rank(worker: Any, rank: int | None = None) -> int:
    """The node on which ROLL runs this worker, or another one of its cluster: its first GPU's."""
    return ids_of(worker, rank)[0] // _per_node(worker.pipeline_config)


def is_policy(worker: Any, config: Any) -> bool:
    """Whether it is one of actor_infer's workers: no other role gets weights from actor_train."""
    own = getattr(worker, "cluster_name", None)
    policy = getattr(getattr(config, "actor_infer", None), "name", None) or "actor_infer"
    return own is None or own == policy


def _shared(config: Any) -> set[int]:
    train, infer = (_ids(getattr(config, role, None)) for role in ("actor_train", "actor_infer"))
    return train & infer


def _apart(config: Any) -> str:
    """A mapping of as many GPUs as actor_infer's, on nodes that no other role has."""
    infer = getattr(config, "actor_infer", None)
    taken = chain.from_iterable(_ids(role) for role in _roles(config) if role is not infer)
    return apart(len(_ids(infer)), taken, _per_node(config))


def _per_node(config: Any) -> int:
    return int(getattr(config, "num_gpus_per_node", None) or _NODE)


def _roles(config: Any) -> Iterator[Any]:
    """Everything in the config that has GPUs."""
    for value in vars(config).values():
        each = value.values() if isinstance(value, dict) else (value,)
        yield from (role for role in each if getattr(role, "device_mapping", None))


def _ids(role: Any) -> set[int]:
    found = getattr(role, "device_mapping", None)
    return set(parse(found) if isinstance(found, str) else found or ())
