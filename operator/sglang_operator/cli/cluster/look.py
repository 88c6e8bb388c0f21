"""From a cluster to a view of it: pools, their pods and the nodes, asked for at once."""

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from sglang_operator.api import names
from sglang_operator.cli import texts
from sglang_operator.cli.cluster import operator_leases
from sglang_operator.cli.cluster.kubectl import Cluster, ClusterError, Why
from sglang_operator.kube import decoding, paths, salvage
from sglang_operator.observed import wire
from sglang_operator.status import stored
from sglang_operator.view.cluster_view import ClusterView, Leader, NodeView, cluster_view

T = TypeVar("T")

_OWN = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"


_UNDECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)
_pools = decoding.Decoder(wire.CustomResource)


class _List(msgspec.Struct, frozen=True):
    items: list[msgspec.Raw] | None = None


def look(
    cluster: Cluster,
    pools: Sequence[str] = (),
    *,
    nodes: bool = True,
    operator: bool = False,
    again: bool = False,
) -> ClusterView:
    """The view of these pools, or of all in the namespace; ``operator``: and who acts for them.

    ``again``: who seems to have stopped is looked at twice, some seconds apart.

    Raises :class:`ClusterError`, also for a pool that is not there.
    """
    scope = cluster.scope()
    selector = _OWN
    if len(pools) == 1:
        selector = names.pods_text(pools[0])
    questions: dict[str, tuple[str, Mapping[str, str]]] = {
        "pools": (paths.pools(scope), {}),
        "pods": (paths.pods(scope), {"labelSelector": selector}),
    }
    if nodes:
        questions["nodes"] = (paths.NODES, {})
    if operator:
        questions["leases"] = operator_leases.QUESTION
    answers = cluster.gather(questions)
    records = items(_known(answers["pools"]), wire.CustomResource)
    if pools:
        records = [record for record in records if record.metadata.name in pools]
        missing = sorted({*pools} - {record.metadata.name for record in records})
        if missing:
            raise ClusterError(
                "kubectl get sgi",
                texts.NO_SUCH_POOL.format(name=missing[0], namespace=scope or "any namespace"),
                Why.NOT_FOUND,
            )
    notes: list[str] = []
    found_nodes = None
    if nodes:
        answer = answers["nodes"]
        if isinstance(answer, ClusterError):
            notes.append(texts.NODES_UNREADABLE.format(detail=answer.detail))
        else:
            found_nodes = items(answer, NodeView)
    holders = _holders(cluster, answers["leases"], again) if operator else None
    if isinstance(holders, ClusterError):
        notes.append(texts.LEASES_UNREADABLE.format(detail=holders.detail))
        holders = None
    return cluster_view(
        records,
        items(_or_raise(answers["pods"]), wire.Pod),
        found_nodes,
        now=time.time(),
        notes=notes,
        holders=holders,
    )


def _holders(
    cluster: Cluster, answer: bytes | ClusterError, again: bool
) -> tuple[Leader, ...] | ClusterError:
    second = operator_leases.second_look(cluster, answer, time.time()) if again else None
    return operator_leases.seen(answer, second, time.time())


def _or_raise(answer: bytes | ClusterError) -> bytes:
    if isinstance(answer, ClusterError):
        raise answer
    return answer


def _known(answer: bytes | ClusterError) -> bytes:
    """The answer; that there is no such collection means that the definition is missing."""
    if isinstance(answer, ClusterError) and answer.why is Why.NOT_FOUND:
        detail = f"{texts.CRD_MISSING}; {texts.DO_DOCTOR}"
        raise ClusterError("kubectl get sgi", detail, Why.OTHER)
    return _or_raise(answer)


def items(text: bytes, kind: type[T]) -> list[T]:
    """The objects of a list; one that is not as it should be does not hide the others.

    A pool that cannot be read is shown with what is told of it: its status says the rest.
    """
    found: list[T] = []
    plain = msgspec.json.Decoder(kind)
    for item in _each(text):
        with contextlib.suppress(decoding.UnreadError, *_UNDECODABLE):
            if kind is wire.CustomResource:
                record = _pools.object(bytes(item))
                known = stored.understood(record.status)
                found.append(msgspec.structs.replace(record, status=known))  # type: ignore[arg-type]
            else:
                found.append(plain.decode(item))
    return found


def _each(text: bytes) -> Iterable[bytes | msgspec.Raw]:
    try:
        return msgspec.json.decode(text, type=_List).items or ()
    except RecursionError:
        whole = salvage.member(text, b"items") or b"[]"
        return [whole[start:end] for start, end in salvage.elements(whole, 0)]
