"""What a cluster needs for engines on a trainer's GPUs, as ``doctor`` sees it.

Asked of every cluster, told only where a pool of the namespace is such a one.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sglang_operator.api import names
from sglang_operator.cli import texts
from sglang_operator.cli.checks.check import Check, Grade
from sglang_operator.cli.cluster.kubectl import ClusterError
from sglang_operator.pool.resolve import Pool
from sglang_operator.view.cluster_view import ClusterView

NAME = "shared GPUs"
_PRIVILEGED = "privileged"
# By which NVIDIA's runtime is told not to believe a pod that names its GPUs, and that of the
# GPU operator's own policy.
_VARIABLE = "ACCEPT_NVIDIA_VISIBLE_DEVICES_ENVVAR_WHEN_UNPRIVILEGED"

Json = Mapping[str, Any]
Facts = Mapping[str, bytes | ClusterError]


def questions(scope: str) -> dict[str, tuple[str, Mapping[str, str]]]:
    """What is to be asked, for this namespace."""
    return {
        "runtime classes": ("/apis/node.k8s.io/v1/runtimeclasses", {}),
        "cluster policies": ("/apis/nvidia.com/v1/clusterpolicies", {}),
        "trainers": (
            f"/api/v1/namespaces/{scope}/pods",
            {"labelSelector": names.LABEL_TRAINER},
        ),
    }


def check(scope: str, found: Facts, pools: ClusterView | None) -> Iterator[Check]:
    """What keeps engines of the namespace's pools from their trainer's GPUs."""
    seen = (pool.resolved for pool in pools.pools) if pools is not None else ()
    own = [
        pool
        for pool in seen
        if isinstance(pool, Pool) and pool.placement.published and pool.owner.namespace == scope
    ]
    if not own:
        return
    told = [*_runtime(own, found), *_folder(own, scope, found), *_trainers(own, found)]
    yield from told
    if not told:
        pools_of = ", ".join(sorted(pool.owner.name for pool in own))
        yield Check(name=NAME, grade=Grade.GOOD, what=texts.SHARED_GOOD.format(pools=pools_of))


def _runtime(pools: list[Pool], found: Facts) -> Iterator[Check]:
    """Whether a runtime gives them what NVIDIA_VISIBLE_DEVICES names."""
    if (classes := _items(found.get("runtime classes"))) is not None:
        known = {item["metadata"]["name"] for item in classes}
        for pool in pools:
            named = pool.parts.spec.get("runtimeClassName")
            if named is not None and named not in known:
                what = texts.SHARED_NO_CLASS.format(pool=pool.owner.name, name=named)
                do = texts.DO_RUNTIME_CLASS.format(known=", ".join(sorted(known)) or "none")
                yield Check(name=NAME, grade=Grade.BAD, what=what, do=do)
    for item in _items(found.get("cluster policies")) or ():
        toolkit = (item.get("spec") or {}).get("toolkit") or {}
        for variable in toolkit.get("env") or ():
            if variable.get("name") == _VARIABLE and variable.get("value") == "false":
                what = texts.SHARED_REFUSED.format(
                    policy=item["metadata"]["name"], variable=_VARIABLE
                )
                yield Check(name=NAME, grade=Grade.BAD, what=what, do=texts.DO_ACCEPT_VARIABLE)


def _folder(pools: list[Pool], scope: str, found: Facts) -> Iterator[Check]:
    """Whether they may mount what they have in common with their trainer, and write there."""
    hosted = [pool for pool in pools if "hostPath" in (pool.parts.shm or {})]
    answer = found["namespace"]
    if not hosted or isinstance(answer, ClusterError):
        return
    which = ", ".join(sorted(pool.owner.name for pool in hosted))
    labels = json.loads(answer)["metadata"].get("labels") or {}
    level = labels.get("pod-security.kubernetes.io/enforce", _PRIVILEGED)
    if level != _PRIVILEGED:
        what = texts.SHARED_FORBIDDEN.format(namespace=scope, level=level, pools=which)
        yield Check(name=NAME, grade=Grade.BAD, what=what, do=texts.DO_CLAIM)
    users = [pool for pool in hosted if pool.spec.security.run_as_user]
    if users:
        told = ", ".join(sorted(pool.owner.name for pool in users))
        what = texts.SHARED_FOLDER.format(pools=told)
        yield Check(name=NAME, grade=Grade.WARNING, what=what, do=texts.DO_FOLDER)


def _trainers(pools: list[Pool], found: Facts) -> Iterator[Check]:
    """Whether there is a trainer that they can follow."""
    followers = sorted(pool.owner.name for pool in pools if pool.awaits_slots)
    there = _items(found.get("trainers"))
    if followers and there == []:
        what = texts.SHARED_NO_TRAINER.format(label=names.LABEL_TRAINER, pools=", ".join(followers))
        yield Check(name=NAME, grade=Grade.WARNING, what=what, do=texts.DO_TRAINER)


def _items(answer: bytes | ClusterError | None) -> list[Json] | None:
    """The objects of a list; None where it could not be read."""
    if answer is None or isinstance(answer, ClusterError):
        return None
    return list(json.loads(answer).get("items") or ())
