"""In which domains of the cluster an engine's pods may be, by the scheduler's own means.

A domain is all nodes that have one value of a label, such as a rack.  Pods of an engine are kept
together by affinity to each other; engines are kept apart by a spread of them.  Kueue chooses
domains by itself (``kueue``), and knows how much room they have; the scheduler sees one pod at a
time, so that an engine's first pod decides for all.

- That one is the pod which is made first (``Member.is_first``), whose domain the others have to be
  in.  It has the same term as they, by which its own node needs the label: where no pod fits a
  term, a pod that fits its own may come (Kubernetes' InterPodAffinity).
- Terms name one *try* at the engine.  That of the next try, or of a new revision beside the old
  one, is another group: nobody is drawn to where pods are that end.
- Only first pods are spread and counted.  If others were, the second pod of an engine would have to
  be away from the first.  They are counted by revision, as Deployments have it: else a rollout
  spreads new engines around old ones, and leaves them uneven.
- Domains of which no node takes pods (taints) do not count: nobody waits for a rack that is lost.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sglang_operator.api import errors, names, syntax
from sglang_operator.api.problems import Problem
from sglang_operator.api.spec import Gang, PoolSpec, Spread
from sglang_operator.scheduling import texts
from sglang_operator.scheduling.base import Member

FIELD = "spec.scheduling"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
SPREAD = "topologySpreadConstraints"
_MOST_SKEW = 4096  # as many engines as a pool may have
_IS_FIRST = {names.LABEL_FIRST: "true"}
# What the scheduler says of nodes (pkg/scheduler/framework/plugins).
_SAID_OF_SPREAD = "pod topology spread constraints"
_SAID_OF_AFFINITY = "match pod affinity rules"
_WEIGHT = 100  # the most: to be together weighs more than what nodes have


def keys(parsed: PoolSpec) -> Iterator[Problem]:
    """What is wrong with the domains of one engine, whoever reads them."""
    chosen = parsed.scheduling
    for field, value in (
        ("requiredTopology", chosen.required_topology),
        ("preferredTopology", chosen.preferred_topology),
    ):
        if value and not syntax.is_label_key(value):
            yield syntax.wrong(f"{FIELD}.{field}", value, syntax.LABEL_KEY)
    if chosen.required_topology and chosen.preferred_topology:
        yield syntax.wrong(
            f"{FIELD}.preferredTopology",
            chosen.preferred_topology,
            texts.ONE_TOPOLOGY,
            texts.DO_ONE_TOPOLOGY,
        )


def problems(parsed: PoolSpec) -> Iterator[Problem]:
    """Why no scheduler can place pods so."""
    yield from keys(parsed)
    if (spread := parsed.scheduling.spread) is not None:
        yield from _of_spread(parsed, spread)
    if parsed.scheduling.required_topology and _given(parsed, "affinity", "podAffinity", REQUIRED):
        yield errors.POD_TEMPLATE(
            f"spec.podTemplate.spec.affinity.podAffinity.{REQUIRED}",
            found="required affinity to pods",
            expected=texts.ONE_AFFINITY,
            advice=texts.DO_ONE_AFFINITY,
        )


def labels(parsed: PoolSpec, member: Member) -> Mapping[str, str]:
    """By what terms and spreads find this pod."""
    if not _asks(parsed):
        return {}
    found = _of(member)
    if member.is_first:
        found |= _IS_FIRST
    return found


def constraints(parsed: PoolSpec, member: Member) -> Mapping[str, Any]:
    """What this pod has of ``affinity`` and ``topologySpreadConstraints`` beside the user's."""
    chosen, found = parsed.scheduling, dict[str, Any]()
    if chosen.required_topology:
        term = _term({**_of(member), **_IS_FIRST}, chosen.required_topology)
        found["affinity"] = {"podAffinity": {REQUIRED: [term]}}
    elif chosen.preferred_topology:
        # To all that are there: where the first one's domain is full, the rest are together too.
        term = _term(_of(member), chosen.preferred_topology)
        weighed = {"weight": _WEIGHT, "podAffinityTerm": term}
        found["affinity"] = {"podAffinity": {PREFERRED: [weighed]}}
    if chosen.spread is not None and member.is_first:
        found[SPREAD] = [_constraint(chosen.spread, member)]
    return found


class First(NamedTuple):
    """The pod of an engine that has its node and decides where the others may be."""

    pod: str
    node: str
    lacking: int  # of the others


def advice(parsed: PoolSpec, said: str, first: First | None) -> Iterator[str]:
    """What helps where the scheduler says this of nodes, and it is by what is asked for here.

    ``first`` is None where no pod of the engine has a node.
    """
    chosen = parsed.scheduling
    if chosen.gang is not Gang.NONE:
        return
    if chosen.spread is not None and _SAID_OF_SPREAD in said:
        yield texts.DO_SPREAD_LESS.format(key=chosen.spread.topology_key)
    if not is_drawn(parsed, said):
        return
    key = chosen.required_topology
    if first is None:
        yield texts.DO_LABEL_NODES.format(key=key)
        return
    yield texts.DO_MAKE_ROOM_IN_DOMAIN.format(
        key=key, pod=first.pod, node=first.node, count=first.lacking
    )


def is_drawn(parsed: PoolSpec, said: str) -> bool:
    """Whether by what the scheduler says nodes would do, were they where the first pod is.

    It names affinity only of nodes that have everything else.
    """
    chosen = parsed.scheduling
    asked = chosen.gang is Gang.NONE and bool(chosen.required_topology)
    return asked and _SAID_OF_AFFINITY in said


def _asks(parsed: PoolSpec) -> bool:
    chosen = parsed.scheduling
    return bool(chosen.required_topology or chosen.preferred_topology or chosen.spread)


def _of(member: Member) -> dict[str, str]:
    return {names.LABEL_GROUP: member.group}


def _term(selected: Mapping[str, str], key: str) -> dict[str, Any]:
    return {"labelSelector": {"matchLabels": dict(selected)}, "topologyKey": key}


def _constraint(spread: Spread, member: Member) -> dict[str, Any]:
    firsts = {names.LABEL_POOL: member.pool, **_IS_FIRST}
    # More than one revision may be in force where memory is being tuned.
    revision = {"key": names.LABEL_REVISION, "operator": "In", "values": list(member.revisions)}
    return {
        "topologyKey": spread.topology_key,
        "maxSkew": spread.max_skew,
        "whenUnsatisfiable": spread.when_unsatisfiable.value,
        "labelSelector": {"matchLabels": firsts, "matchExpressions": [revision]},
        "nodeTaintsPolicy": "Honor",
    }


def _of_spread(parsed: PoolSpec, spread: Spread) -> Iterator[Problem]:
    where = f"{FIELD}.spread"
    if not syntax.is_label_key(spread.topology_key):
        yield syntax.wrong(f"{where}.topologyKey", spread.topology_key, syntax.LABEL_KEY)
    if not 1 <= spread.max_skew <= _MOST_SKEW:
        yield errors.FIELD_RANGE(
            f"{where}.maxSkew",
            found=spread.max_skew,
            expected=f"1 to {_MOST_SKEW}",
            advice="correct it",
        )
    for index, item in enumerate(_given(parsed, SPREAD)):
        same = isinstance(item, Mapping) and (
            item.get("topologyKey") == spread.topology_key
            and item.get("whenUnsatisfiable") == spread.when_unsatisfiable.value
        )
        if same:
            yield errors.POD_TEMPLATE(
                f"spec.podTemplate.spec.{SPREAD}[{index}]",
                found=spread.topology_key,
                expected=texts.ONE_SPREAD.format(when=spread.when_unsatisfiable.value),
                advice=texts.DO_ONE_SPREAD,
            )


def _given(parsed: PoolSpec, *path: str) -> list[Any]:
    """A list that podTemplate has there, whose form nobody has looked at yet."""
    found: Any = parsed.pod_template.get("spec")
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, list) else []
