"""A policy's engines on the GPUs that it has in common with its trainer, as ROLL means such ids.

That is asked for (``convert --shared``), and not what ``convert`` does by itself: such a pool is
ready only beside a trainer whose pods are set up for it, and whoever runs the cluster has to allow
a mode in which nobody counts the GPUs (how-to/colocate.md).
"""

from collections.abc import Iterator

from sglang_operator.api import names
from sglang_operator.api.spec import PlacementMode
from sglang_operator.cli.pipeline import disjoint
from sglang_operator.cli.pipeline.roles import Role
from sglang_operator.cli.yaml_tree import nodes
from sglang_operator.cli.yaml_tree.nodes import Mark, YamlNode

OPTION = "--shared"
_PAGE = "how-to/colocate.md"


def placement(mark: Mark) -> YamlNode:
    """What an object says of it."""
    return nodes.of({"mode": PlacementMode.SHARED.value}, mark, OPTION)


def notes(role: Role, pool: str, *, joins: bool) -> Iterator[str]:
    """What else there is to do, for an object that has it (``joins``), or is told that it need not.

    ``joins``: the role shares ids with its trainer.
    """
    trainer = disjoint.trainer_of(role)
    if joins:
        yield (
            f"{role.name} joins {trainer} on its GPUs, by the same ids (placement.mode "
            f"{PlacementMode.SHARED.value}). The trainer's pods need the label "
            f"{names.LABEL_TRAINER}, NODE_NAME, POD_NAME and POD_UID from their own fields, the "
            f"pool's folder at /dev/shm, and an account that may patch the ConfigMap "
            f"{names.slots_name(pool)}; ROLL's file needs our worker_cls, which says which GPUs "
            f"they have: {_PAGE}"
        )
        return
    why = (
        f"it shares no id with {trainer}"
        if trainer
        else "no trainer hands it weights, so that its engines get GPUs of their own"
    )
    yield f"{OPTION} changes nothing of {role.name}: {why}"
