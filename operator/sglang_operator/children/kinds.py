"""Every kind of object that pools have beside their pods: one declaration each."""

from collections.abc import Collection, Mapping
from typing import Any

from sglang_operator.api import names
from sglang_operator.children import (
    disruption_budget,
    gang_groups,
    kept,
    resource_claims,
    services,
    slots_map,
    stored_revisions,
    trainer_registry,
    weights_lease,
)
from sglang_operator.children.kind import ChildKind
from sglang_operator.children.last_known import LastKnown
from sglang_operator.gates.decide import GatePlan
from sglang_operator.observed.engines import span
from sglang_operator.observed.model import Observed
from sglang_operator.pool.resolve import Pool
from sglang_operator.scheduling import gangs
from sglang_operator.scheduling.base import Grouped
from sglang_operator.weights import lost_lease

_NOTHING = Observed()

SERVICE = ChildKind(
    kind="Service",
    api_version="v1",
    plural="services",
    desired=lambda pool, weights: services.services(
        pool, spans=span((*weights.engines, *weights.unlisted))
    ),
    kept=kept.kept_services,
    names=(names.service_name, names.engines_service_name),
    pruned=True,
    waits_for_pods=True,
    defaults={
        "publishNotReadyAddresses": (False,),  # else clients reach engines with a closed gate
        "externalIPs": ([],),
        "externalName": ("",),
        "internalTrafficPolicy": ("Cluster",),  # Local: nobody on a node without an engine
        "loadBalancerIP": ("",),
    },
    # kube-proxy, and those in its place, serve none that has one of these.
    barred_labels=("service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"),
)
DISRUPTION_BUDGET = ChildKind(
    kind="PodDisruptionBudget",
    api_version="policy/v1",
    plural="poddisruptionbudgets",
    desired=lambda pool, weights: (disruption_budget.disruption_budget(pool, weights),),
    kept=kept.kept_budget,
    names=(names.disruption_budget_name,),
    waits_for_pods=True,
    defaults={"maxUnavailable": ()},
)
# A trainer waits for the answer to its step.  When a renewal fails to come, the clock wakes the
# pool.  From its creation on the Lease is the trainer's to write, and the operator's by steps of
# its own (gates/lease.py, gates/recovery.py): what it says is never put right as a child's.
LEASE = ChildKind(
    kind="Lease",
    api_version="coordination.k8s.io/v1",
    plural="leases",
    desired=lambda pool, weights: (weights_lease.weights_lease(pool.owner, weights.restore),),
    kept=kept.nothing,  # one in place of a lost one is a step of the gates (``actions``)
    names=(names.weights_lease_name,),
    compared=(),
    urgent=True,
    restless=frozenset({"renewTime"}),
    forgets=lost_lease.forgets,
)
REGISTRY = ChildKind(
    kind="ConfigMap",
    api_version="v1",
    plural="configmaps",
    desired=lambda pool, weights: (
        *slots_map.slots_maps(pool),
        trainer_registry.registry(pool, weights),
    ),
    kept=kept.kept_registry_if_told,
    names=(names.registry_name, names.slots_name),
    compared=("data",),
    retired=("verl",),
    # A registry is a MiB at most; anybody may write another into it, and a refused pool beside it.
    most_bytes=24 * 2**20,
)

# Only "kubectl sglang rollout" reads them.
REVISION = ChildKind(
    kind=stored_revisions.KIND,
    api_version=stored_revisions.API,
    plural="controllerrevisions",
    desired=lambda pool, weights: (),
    history=stored_revisions.revisions,
    kept=kept.nothing,
    is_one=lambda name, pool: bool(names.revision_of(name, pool)),
    compared=("revision",),
    unkept=("data",),
    pruned=True,
    optional=True,
    spare=True,
)

# Engines and trainers of a pool in placement mode Slot have their GPUs by these.
CLAIM = ChildKind(
    kind=resource_claims.KIND,
    api_version=resource_claims.API,
    plural="resourceclaims",
    desired=lambda pool, weights: (),
    history=resource_claims.wanted,
    kept=kept.nothing,
    is_one=names.is_claim_name,
    pruned=True,
    optional=True,
    of_placement=True,
    exact=True,
)

# In the order they are applied: a trainer that finds the registry finds the Lease.
CHILDREN: tuple[ChildKind, ...] = (
    SERVICE,
    DISRUPTION_BUDGET,
    LEASE,
    REGISTRY,
    REVISION,
    CLAIM,
)


def _groups(declared: Grouped) -> ChildKind:
    return ChildKind(
        kind=declared.kind,
        api_version=declared.api_version,
        plural=declared.plural,
        desired=lambda pool, weights: (),
        history=gang_groups.of_tries(declared),
        kept=kept.nothing,
        is_one=names.is_group_name,
        pruned=True,
        optional=True,
        of_gang=declared.name,
        restless=frozenset({"status"}),  # news is its spec alone, not what the scheduler says
    )


# Of these there are those that the operator is started with (``Settings.gangs``): a cluster has
# one such scheduler, if any, and the roles grant no more.
GANGS: tuple[ChildKind, ...] = tuple(map(_groups, gangs.GROUPED))


def of_gangs(names: Collection[str]) -> tuple[ChildKind, ...]:
    """What pools have beside pods for these gangs."""
    return tuple(each for each in GANGS if each.of_gang in names)


POD = "Pod"  # which is none of these, and refused beside them


def single(kind: str) -> str:
    """The kind of one object in a sentence, before its name."""
    return "pod" if kind == POD else kind


def several(kind: str) -> str:
    """The same as the object of a sentence: what was refused, say."""
    return "pods" if kind == POD else f"a {kind}"


def of(kind: str) -> ChildKind:
    """The declaration of this kind."""
    return next(each for each in (*CHILDREN, *GANGS) if each.kind == kind)


def kind_of(body: Mapping[str, Any]) -> str:
    """The kind of an object, by which its declaration is found."""
    found = next((each.kind for each in (*CHILDREN, *GANGS) if each.is_of(body)), "")
    return found or str(body["kind"])


def is_of_gang(kind: str) -> bool:
    """Whether it is what a gang's scheduler knows pods by."""
    return any(each.kind == kind for each in GANGS)


def is_spare(kind: str) -> bool:
    """Whether pools do without objects of this kind; a pod is none of these."""
    return any(each.spare for each in CHILDREN if each.kind == kind)


def children(pool: Pool, weights: GatePlan, observed: Observed = _NOTHING) -> list[dict[str, Any]]:
    """All objects of a pool but its pods, as they should be; none of a kind that is absent."""
    present = [
        kind
        for kind in (*CHILDREN, *(GANGS if gangs.kind(pool.spec) or _has_groups(observed) else ()))
        if kind.kind not in observed.absent_kinds
    ]
    found = [dict(body) for kind in present for body in kind.desired(pool, weights)]
    stored = [kind.history(pool, observed) for kind in present if kind.history is not None]
    return found + [dict(body) for bodies in stored for body in bodies]


def _has_groups(observed: Observed) -> bool:
    """Whether there are any of a gang's: those of an earlier spec stay with their pods."""
    kinds = {each.kind for each in GANGS}
    return any(kind in kinds for kind, _ in observed.children)


def kept_children(known: LastKnown) -> list[dict[str, Any]]:
    """As much as is known of the same objects of a pool whose spec is refused."""
    present = (kind for kind in CHILDREN if kind.kind not in known.observed.absent_kinds)
    return [dict(body) for kind in present for body in kind.kept(known)]


def in_words() -> str:
    """The kinds, for people: a Service, … or ConfigMap."""
    *most, last = (kind.kind for kind in CHILDREN)
    return f"a {', '.join(most)} or {last}"
