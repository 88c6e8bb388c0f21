"""ResourceClaims: the GPUs of each node rank, for engines and their trainer (placement Slot).

Nobody may change what a claim asks for.  One that pods have stays as it is; one that nobody has,
and that asks for something else than it should, goes, and is made anew.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sglang_operator.api import names
from sglang_operator.children import metadata
from sglang_operator.observed.model import Observed, ObservedChild
from sglang_operator.placement.devices import DeviceClaim, WantedClaim
from sglang_operator.plan import seating
from sglang_operator.pool.resolve import Owner, Pool

COMPONENT = "devices"
KIND = "ResourceClaim"
API = "resource.k8s.io/v1"
Json = Mapping[str, Any]


def wanted(pool: Pool, observed: Observed) -> Iterator[Json]:
    """What there is to be, of any pool."""
    placement = pool.placement
    seats = seating.of(pool, observed) if placement.seats and not placement.published else None
    by_name = {claim.name: claim for claim in seats.claims} if seats is not None else {}
    there = {
        name: child
        for (kind, name), child in observed.children.items()
        if kind == KIND and child.owner == pool.owner.uid
    }
    listed = {each.claim_name for each in pool.spec.placement.slot.claims}
    for name in sorted({*by_name, *there}):
        claim, child = by_name.get(name), there.get(name)
        if child is None:
            if claim is not None:
                yield _body(pool.owner, claim)
        elif (claim is None and name in listed) or not _is_ours(pool.owner, name, child):
            yield _left_alone(pool.owner, child)
        elif _stays(claim, child, _seen(pool, observed, name)):
            yield _as_it_is(pool.owner, child)


def _is_ours(owner: Owner, name: str, child: ObservedChild) -> bool:
    """Whether the operator made it, and not somebody else who had the pool own it."""
    if not names.is_claim_name(name, owner.name):
        return False
    annotations = child.body["metadata"].get("annotations") or {}
    return not child.whole or names.ANNOTATION_MADE_OF in annotations


def _seen(pool: Pool, observed: Observed, name: str) -> DeviceClaim | None:
    inventory = observed.inventory
    known = (inventory.claims if inventory is not None else None) or {}
    return known.get((pool.owner.namespace, name))


def _stays(claim: WantedClaim | None, child: ObservedChild, seen: DeviceClaim | None) -> bool:
    """Whether this one is left as it is: it is as it should be, pods have it, or nobody knows."""
    if not child.whole or seen is None:
        return True
    if str(seen.version) != child.body["metadata"].get("resourceVersion"):
        return True  # two streams tell of it, and one is behind
    return seen.used or seen.going or (claim is not None and seen.made_of == claim.made_of)


def _body(owner: Owner, claim: WantedClaim) -> dict[str, Any]:
    body = metadata.child(owner, API, KIND, claim.name, COMPONENT, spec=dict(claim.spec))
    body["metadata"]["annotations"] = {names.ANNOTATION_MADE_OF: claim.made_of}
    return body


def _left_alone(owner: Owner, child: ObservedChild) -> dict[str, Any]:
    """Also what is the operator's to write of its own: whose it is, whoever uses it decides."""
    body = _as_it_is(owner, child)
    body["metadata"]["labels"] = dict(child.body["metadata"].get("labels") or {})
    return body


def _as_it_is(owner: Owner, child: ObservedChild) -> dict[str, Any]:
    name, spec = child.body["metadata"]["name"], child.body.get("spec") or {}
    return metadata.child(owner, API, KIND, name, COMPONENT, spec=spec)
