"""Who holds the operator's Lease: which process acts for pools, if any."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from sglang_operator.api import names, texts, weights
from sglang_operator.cli.kubectl import Cluster, ClusterError
from sglang_operator.picture.ages import age
from sglang_operator.picture.scene import Leader, Scene

# Of all namespaces, for any of them may be the operator's.
QUESTION = (
    "/apis/coordination.k8s.io/v1/leases",
    {"fieldSelector": f"metadata.name={names.LEASE_NAME}"},
)
TERM_SECONDS = 15.0  # where a Lease does not say its own
# Longer than a holder lets pass between two renewals.
SECOND_LOOK_SECONDS = 3.0

Answer = bytes | ClusterError


def holders(answer: bytes, now: float) -> tuple[Leader, ...]:
    """Those whose names stand in a Lease of the operator, by namespace."""
    found = []
    for lease in json.loads(answer)["items"]:
        spec = lease.get("spec") or {}
        if spec.get("holderIdentity"):
            found.append(_holder(lease["metadata"]["namespace"], spec, now))
    return tuple(sorted(found, key=lambda leader: leader.namespace))


def _holder(namespace: str, spec: Mapping[str, object], now: float) -> Leader:
    renewed = spec.get("renewTime")
    term = spec.get("leaseDurationSeconds")
    return Leader(
        namespace=namespace,
        identity=str(spec["holderIdentity"]),
        silent=now - weights.seconds(renewed),
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
    before = {holder.namespace: holder.renewed for holder in found}
    return tuple(_twice(holder, before) for holder in holders(second, now))


def _twice(holder: Leader, before: Mapping[str, str]) -> Leader:
    if before.get(holder.namespace, holder.renewed) != holder.renewed:
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


def nobody_acts(scene: Scene) -> str:
    """That no operator acts, and since when."""
    if not scene.holders:
        return texts.NO_LEADER
    last = min(scene.holders, key=lambda holder: holder.silent)
    return texts.LEADER_STOPPED.format(
        holder=last.identity, namespace=last.namespace, age=age(last.silent)
    )
