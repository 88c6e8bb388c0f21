"""Who holds an operator's Lease: which process acts for pools, if any."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sglang_operator.api import names
from sglang_operator.cli import texts
from sglang_operator.cli.cluster.kubectl import Cluster, ClusterError
from sglang_operator.kube import leaders as election
from sglang_operator.view.ages import age
from sglang_operator.view.cluster_view import ClusterView, Leader
from sglang_operator.weights import times

# Of all namespaces and by any name, for each may be an operator's; neither nodes' nor pools' own.
QUESTION = (
    "/apis/coordination.k8s.io/v1/leases",
    {
        "fieldSelector": "metadata.namespace!=kube-node-lease",
        "labelSelector": names.NO_POOLS_OWN,
    },
)
TERM_SECONDS = 15.0  # where a Lease does not say its own
# Longer than a holder lets pass between two renewals.
SECOND_LOOK_SECONDS = 3.0

Answer = bytes | ClusterError


def holders(answer: bytes, now: float) -> tuple[Leader, ...]:
    """Those whose names stand in a Lease of an operator, by namespace and the Lease's name."""
    found = []
    for lease in json.loads(answer)["items"]:
        spec = lease.get("spec") or {}
        if spec.get("holderIdentity") and _is_operators(lease["metadata"]):
            found.append(_holder(lease["metadata"], spec, now))
    return tuple(sorted(found, key=lambda leader: leader.lease))


def _is_operators(meta: Mapping[str, Any]) -> bool:
    """Whether it says what its holder serves; one of an earlier version has that name only."""
    named = meta.get("name", names.LEASE_NAME) == names.LEASE_NAME
    return named or names.ANNOTATION_SERVES in (meta.get("annotations") or {})


def _holder(meta: Mapping[str, Any], spec: Mapping[str, object], now: float) -> Leader:
    renewed = spec.get("renewTime")
    term = spec.get("leaseDurationSeconds")
    serves = (meta.get("annotations") or {}).get(names.ANNOTATION_SERVES)
    return Leader(
        namespace=meta["namespace"],
        name=meta.get("name", names.LEASE_NAME),
        identity=str(spec["holderIdentity"]),
        serves=None if serves is None else election.namespaces(serves),
        silent=now - times.seconds(renewed),
        term=float(term) if isinstance(term, int) and term > 0 else TERM_SECONDS,
        renewed=str(renewed),
    )


def leaders(found: tuple[Leader, ...]) -> tuple[Leader, ...]:
    """Those of them who act: they renewed within their term."""
    return tuple(holder for holder in found if not holder.stopped)


def seen(first: Answer, second: Answer | None, now: float) -> tuple[Leader, ...] | ClusterError:
    """The holders by one look or two: who renewed between them acts, whatever clocks say."""
    if isinstance(first, ClusterError):
        return first
    found = holders(first, now)
    if second is None or isinstance(second, ClusterError):
        return found
    before = {holder.lease: holder.renewed for holder in found}
    return tuple(_twice(holder, before) for holder in holders(second, now))


def _twice(holder: Leader, before: Mapping[tuple[str, str], str]) -> Leader:
    if before.get(holder.lease, holder.renewed) != holder.renewed:
        return replace(holder, silent=0.0)
    if _ahead(holder):
        return replace(holder, silent=max(holder.term, holder.silent))
    return holder


def _ahead(holder: Leader) -> bool:
    """Whether it renewed, by this machine's clock, in the future: that clock tells nothing."""
    return holder.silent < -SECOND_LOOK_SECONDS


def second_look(
    cluster: Cluster, first: Answer, now: float, sleep: Callable[[float], None] = time.sleep
) -> Answer | None:
    """Look again where somebody seems to have stopped, or clocks differ."""
    if isinstance(first, ClusterError):
        return None
    if not any(holder.stopped or _ahead(holder) for holder in holders(first, now)):
        return None
    sleep(SECOND_LOOK_SECONDS)
    return cluster.gather({"leases": QUESTION})["leases"]


def nobody_acts(cluster_view: ClusterView) -> str:
    """That no operator acts, and since when."""
    if not cluster_view.holders:
        return texts.NO_LEADER
    last = min(cluster_view.holders, key=lambda holder: holder.silent)
    return texts.LEADER_STOPPED.format(
        holder=last.identity, namespace=last.namespace, name=last.name, age=age(last.silent)
    )
