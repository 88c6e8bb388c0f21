"""Ids for a policy's engines that its trainer does not have, with which ROLL's side starts.

What is told and what ``convert --disjoint`` writes is found here, as the client names it when it
refuses shared ids (``client.colocated``).
"""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import chain

from sglang_operator.api import errors
from sglang_operator.cli.findings import Finding
from sglang_operator.cli.pipeline import roles
from sglang_operator.cli.pipeline.references import Resolver
from sglang_operator.cli.pipeline.roles import Role
from sglang_operator.cli.yaml_tree.nodes import YamlNode
from sglang_operator.roll import device_mapping

OPTION = "--disjoint"
# Who hands weights to whom.  ROLL takes the students for the actors (_handle_opd_mapping).
TRAINER_OF = {"actor_infer": "actor_train", "student_infer": "student_train"}
_NODE = 8  # GPUs of a node, where ROLL's file does not say


def trainer_of(role: Role) -> str | None:
    """The role that hands weights to this one; None: none does, and its ids do not matter."""
    return TRAINER_OF.get(role.name)


def mapping(role: Role, found: Sequence[Role], per_node: YamlNode | None) -> str | None:
    """The device_mapping to write for a role: as many ids, on nodes that no other role of
    ``found`` has.  None where it shares none with its trainer.

    ``per_node`` is the pipeline's num_gpus_per_node, if it has one.
    """
    if not any(other.name == trainer_of(role) for other, _ in roles.overlaps(role, list(found))):
        return None
    said = per_node.value if per_node is not None and isinstance(per_node.value, int) else _NODE
    taken = chain.from_iterable(each.devices for each in found if each.path != role.path)
    return device_mapping.apart(len(role.devices), taken, max(said, 1))


def unclear(
    role: Role, root: YamlNode, found: Sequence[Role], *, environment: bool
) -> Iterator[Finding]:
    """Why nothing can be said of other roles' ids: where a mapping of theirs is not understood."""
    if trainer_of(role) is None:
        return
    for other in found:
        if other.path != role.path:
            yield from _unclear(other, Resolver(root, environment=environment))


def _unclear(role: Role, resolver: Resolver) -> Iterator[Finding]:
    node = resolver.at(*role.path, "device_mapping")
    if node is None or node.value is None:
        return  # it runs on CPUs
    problems = {finding.problem: finding.mark for finding in resolver.findings}
    if not problems:
        try:
            device_mapping.parse(node.value)
        except errors.InvalidError as error:
            field = f"{role.name}.device_mapping"
            told = (dataclasses.replace(problem, field=field) for problem in error.problems)
            problems = dict.fromkeys(told, node.mark)
    for problem, mark in problems.items():
        yield Finding(mark=mark, problem=problem, subject=role.name)
