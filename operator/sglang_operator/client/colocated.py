"""Whether ROLL would hand weights over on GPUs that trainer and engines share.

ROLL does so where the ids of actor_train and actor_infer overlap (is_colocated in its
third_party/megatron/model_update.py and fsdp2/model_update.py at 8eb27cc2): it sends handles of
memory on that GPU.  A pool's engines have GPUs of their own, whatever their ids, and SGLang ends at
once over a handle of another GPU.  In placement mode Shared they are on the trainer's, but nothing
keeps an engine that starts again from taking its memory while the trainer has it: so ROLL, which
counts on that, is refused there too.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from sglang_operator.client import texts
from sglang_operator.roll.device_mapping import apart, describe, parse

_NODE = 8  # GPUs of a node, where ROLL's config does not say


def refusal(worker: Any) -> str:
    """Why this worker's config cannot be used with a pool, and what to write; "" if it can."""
    config = worker.pipeline_config
    train, infer = (_ids(getattr(config, role, None)) for role in ("actor_train", "actor_infer"))
    shared = train & infer
    if not shared or not is_policy(worker, config):
        return ""
    return texts.ROLL_COLOCATED.format(
        train=describe(sorted(train)),
        infer=describe(sorted(infer)),
        shared=describe(sorted(shared)),
        mapping=_apart(config),
    )


def handed_over(worker: Any) -> str:
    """Why no bucket may come as a handle of GPU memory."""
    return refusal(worker) or texts.ROLL_HANDLES


def is_policy(worker: Any, config: Any) -> bool:
    """Whether it is one of actor_infer's workers: no other role gets weights from actor_train."""
    own = getattr(worker, "cluster_name", None)
    policy = getattr(getattr(config, "actor_infer", None), "name", None) or "actor_infer"
    return own is None or own == policy


def _apart(config: Any) -> str:
    """A mapping of as many GPUs as actor_infer's, on nodes that no other role has."""
    infer = getattr(config, "actor_infer", None)
    taken = chain.from_iterable(_ids(role) for role in _roles(config) if role is not infer)
    return apart(len(_ids(infer)), taken, getattr(config, "num_gpus_per_node", None) or _NODE)


def _roles(config: Any) -> Iterator[Any]:
    """Everything in the config that has GPUs."""
    for value in vars(config).values():
        each = value.values() if isinstance(value, dict) else (value,)
        yield from (role for role in each if getattr(role, "device_mapping", None))


def _ids(role: Any) -> set[int]:
    found = getattr(role, "device_mapping", None)
    return set(parse(found) if isinstance(found, str) else found or ())
