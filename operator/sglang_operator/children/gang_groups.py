"""PodGroups: what a gang's scheduler reads of the pods of one try at an engine.

Each is made before its pods, by the stage that makes these (``before_pods``): a scheduler that met
pods without it would start them one by one, or never.  A pod that never had a node is gone at once
when it is deleted, and the next try at its engine has the name of the one before: what the group of
that name says is of the spec of then, and Kubernetes lets nobody change its own.  So it goes, and
is made anew, before there are pods that name it.  It stays as long as one of them is there,
whatever the pool asks for by then, and is made anew if somebody deletes it meanwhile.

The engines with which a pool starts have one for all (``plan.starting``).
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from sglang_operator.api import names
from sglang_operator.api.names import EngineName
from sglang_operator.children import metadata
from sglang_operator.observed.model import Observed, ObservedPod
from sglang_operator.plan import starting
from sglang_operator.plan.decision import CreateEngine
from sglang_operator.plan.plan import Plan
from sglang_operator.pool.resolve import Engine, Owner, Pool
from sglang_operator.scheduling import gangs
from sglang_operator.scheduling.base import Grouped, Member

COMPONENT = "gang"
Json = Mapping[str, Any]


def of_tries(declared: Grouped) -> Callable[[Pool, Observed], Iterator[Json]]:
    """What there is to be of this kind, of any pool."""

    def wanted(pool: Pool, observed: Observed) -> Iterator[Json]:
        return _wanted(declared, pool, observed)

    return wanted


def _wanted(declared: Grouped, pool: Pool, observed: Observed) -> Iterator[Json]:
    own = gangs.kind(pool.spec) == declared.kind
    there = {
        name: child.body
        for (kind, name), child in observed.children.items()
        if kind == declared.kind and child.owner == pool.owner.uid
    }
    if not (own or there):
        return  # as in most pools
    tries: dict[str, tuple[Member, bool]] = {}
    for pod in observed.all_pods:
        member = _of_pod(pool, pod)
        # Of a start engines are replaced one by one: it is made anew as long as one may be.
        begun, current = bool(pod.node), pool.accepts(pod.revision)
        if (known := tries.get(member.group)) is not None:
            begun, current = begun or known[0].begun, current or known[1]
        tries[member.group] = member._replace(begun=begun and bool(member.start)), current
    for name, (member, current) in tries.items():
        if own and current:
            yield _body(declared, pool, member)
        elif name in there:
            # Of an earlier spec: what its scheduler has begun with stands.
            yield _as_it_is(declared, pool.owner, name, there[name])
    for name in (coming(pool, observed) if own else set()) & there.keys() - tries.keys():
        # Its pods are yet to come: the API server refuses them, or nobody has asked.
        yield _as_it_is(declared, pool.owner, name, there[name])


def _of_pod(pool: Pool, pod: ObservedPod) -> Member:
    """As which its gang's scheduler knows it."""
    own = names.start_of(pod.start, pool.owner.name) is not None
    start = pod.start if own else ""
    return Member(pool.owner.name, pod.engine, pod.attempt, pod.nodes, start=start)


def coming(pool: Pool, observed: Observed) -> set[str]:
    """The names of the groups of the tries that are made next."""
    start = starting.of(pool, observed)
    highest = defaultdict[EngineName, int](lambda: -1, observed.taken)
    for pod in observed.all_pods:
        highest[pod.engine] = max(highest[pod.engine], pod.attempt)
    alone = {
        Member(pool.owner.name, engine.name, highest[engine.name] + 1, engine.pods).group
        for engine in pool.running
        if engine.name not in start.engines
    }
    return alone | ({start.group} if start.group else set())


class Before(NamedTuple):
    """A group that there is to be before the pods of these engines: most often of one."""

    engines: tuple[EngineName, ...]
    body: dict[str, Any]
    begun: bool  # some pods of this try are there


def before_pods(pool: Pool, plan: Plan, observed: Observed) -> Iterator[Before]:
    """The groups of the pods that are about to be made."""
    declared = gangs.grouped(pool.spec)
    if declared is None:
        return
    begun = {_of_pod(pool, pod).group for pod in observed.all_pods}
    made = defaultdict[str, list[CreateEngine]](list)
    for create in plan.creates:
        made[_member(pool, create).group].append(create)
    for name, creates in made.items():
        body = _body(declared, pool, _member(pool, creates[0]))
        yield Before(tuple(create.engine.name for create in creates), body, name in begun)


def _member(pool: Pool, create: CreateEngine) -> Member:
    engine, attempt = create.engine, create.attempt
    return Member(pool.owner.name, engine.name, attempt, engine.pods, start=create.start)


def made_of(body: Json) -> str:
    """A hash of what was written as this group's spec; empty if it does not say."""
    annotations = body["metadata"].get("annotations") or {}
    return str(annotations.get(names.ANNOTATION_MADE_OF, ""))


def of_try(pool: Pool, engine: Engine, attempt: int) -> dict[str, Any] | None:
    """The group of this try; None where its scheduler knows pods by none."""
    declared = gangs.grouped(pool.spec)
    if declared is None:
        return None
    return _body(declared, pool, Member(pool.owner.name, engine.name, attempt, engine.pods))


def without(pool: Pool, taken: Collection[tuple[str, str]], plan: Plan) -> set[EngineName]:
    """The engines about to be made whose group is not: somebody else's object has its name."""
    kind = gangs.kind(pool.spec)
    if not kind:
        return set()
    return {
        create.engine.name
        for create in plan.creates
        if (kind, _member(pool, create).group) in taken
    }


def _body(declared: Grouped, pool: Pool, member: Member) -> dict[str, Any]:
    spec = dict(gangs.group(pool.spec, member))
    body = _of(declared, pool.owner, member.group, spec=spec)
    body["metadata"]["annotations"] = {names.ANNOTATION_MADE_OF: _digest(spec)}
    return body


def _digest(spec: Json) -> str:
    text = orjson.dumps(spec, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()[:16]


def _as_it_is(declared: Grouped, owner: Owner, name: str, found: Json) -> dict[str, Any]:
    return _of(declared, owner, name, **({"spec": found["spec"]} if found.get("spec") else {}))


def _of(declared: Grouped, owner: Owner, name: str, **body: Any) -> dict[str, Any]:
    kind = declared.kind.partition(".")[0]
    return metadata.child(owner, declared.api_version, kind, name, COMPONENT, **body)
