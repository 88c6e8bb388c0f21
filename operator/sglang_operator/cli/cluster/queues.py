"""What Kueue says of engines that wait, asked by the rights of whoever looks.

The operator has none in Kueue's API, and pods do not tell.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from sglang_operator.api import conditions, names
from sglang_operator.cli import texts
from sglang_operator.cli.cluster.kubectl import Cluster, ClusterError
from sglang_operator.scheduling.base import Member
from sglang_operator.view.cluster_view import PoolView

MOST_POOLS = 8
_RESERVED = "QuotaReserved"


class _Condition(msgspec.Struct, frozen=True):
    type: str = ""
    status: str = ""
    message: str = ""


class _Status(msgspec.Struct, frozen=True):
    conditions: list[_Condition] = []


class _Workload(msgspec.Struct, frozen=True):
    status: _Status = _Status()


def said(cluster: Cluster, pools: Iterable[PoolView]) -> list[str]:
    """A line for each pool of which engines wait, about the first that does; none that cannot be
    asked for."""
    waiting = dict(list(_waiting(pools))[:MOST_POOLS])
    if not waiting:
        return []
    questions: dict[str, tuple[str, Mapping[str, str]]] = {
        path: (path, {}) for path in waiting.values()
    }
    answers = cluster.gather(questions)
    found = ((told, _message(answers[path])) for told, path in waiting.items())
    return [texts.QUEUE_SAYS.format(engine=told, message=said) for told, said in found if said]


def _waiting(pools: Iterable[PoolView]) -> Iterator[tuple[str, str]]:
    """Pools with an engine that waits, and the path of its Workload."""
    for pool in pools:
        for engine in pool.plan.engines:
            if (pod := engine.queued) is not None:
                group = Member(pool.name, engine.name, pod.attempt).group
                root = f"/apis/{names.KUEUE_API_VERSION}/namespaces/{pool.namespace}/workloads"
                yield f"{pool.name}/{engine.name}", f"{root}/{group}"
                break


def _message(answer: bytes | ClusterError) -> str:
    """Why it has no quota, in Kueue's words; empty if it does not say, or must not be asked."""
    if isinstance(answer, ClusterError):
        return ""
    try:
        workload = msgspec.json.decode(answer, type=_Workload)
    except msgspec.MsgspecError:
        return ""
    for condition in workload.status.conditions:
        if condition.type == _RESERVED and condition.status == conditions.FALSE:
            return condition.message
    return ""
