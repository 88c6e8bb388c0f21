"""PodGroups: what a gang's scheduler reads of the pods of one try at an engine.

Each is made before its pods, by the stage that makes these (``before_pods``): a scheduler that met
pods without it would start them one by one, or never.  It stays as long as one of them is there,
whatever the pool asks for by then, and is made anew if somebody deletes it meanwhile.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from sglang_operator.api import names
from sglang_operator.api.names import EngineName
from sglang_operator.children import metadata
from sglang_operator.observed.model import Observed
from sglang_operator.plan.plan import Plan
from sglang_operator.pool.resolve import Owner, Pool
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
    tries: dict[str, tuple[Member, str]] = {}
    for pod in observed.all_pods:
        member = Member(pool.owner.name, pod.engine, pod.attempt, pod.nodes)
        tries[member.group] = member, pod.revision
    for name, (member, revision) in tries.items():
        if own and pool.accepts(revision):
            yield _body(declared, pool, member)
        elif name in there:
            # Of an earlier spec: what its scheduler has begun with stands.
            yield _as_it_is(declared, pool.owner, name, there[name])
    for name in (coming(pool, observed) if own else set()) & there.keys() - tries.keys():
        # Its pods are yet to come: the API server refuses them, or nobody has asked.
        yield _as_it_is(declared, pool.owner, name, there[name])


def coming(pool: Pool, observed: Observed) -> set[str]:
    """The names of the groups of the tries that are made next."""
    highest = defaultdict[EngineName, int](lambda: -1, observed.taken)
    for pod in observed.all_pods:
        highest[pod.engine] = max(highest[pod.engine], pod.attempt)
    return {
        Member(pool.owner.name, engine.name, highest[engine.name] + 1, engine.pods).group
        for engine in pool.running
    }


def before_pods(pool: Pool, plan: Plan, observed: Observed) -> Iterator[Json]:
    """The groups of the pods that are about to be made, as far as they are not there."""
    declared = gangs.grouped(pool.spec)
    if declared is None:
        return
    for create in plan.creates:
        member = member_of(pool, create.engine.name, create.attempt, create.engine.pods)
        if (declared.kind, member.group) not in observed.children:
            yield _body(declared, pool, member)


def member_of(pool: Pool, engine: EngineName, attempt: int, pods: int) -> Member:
    """The leader of a try, which has what all its pods have in common."""
    return Member(pool.owner.name, engine, attempt, pods)


def without(pool: Pool, taken: Collection[tuple[str, str]], plan: Plan) -> set[EngineName]:
    """The engines about to be made whose group is not: somebody else's object has its name."""
    kind = gangs.kind(pool.spec)
    if not kind:
        return set()
    return {
        create.engine.name
        for create in plan.creates
        if (kind, names.pod_name(pool.owner.name, create.engine.name, create.attempt)) in taken
    }


def _body(declared: Grouped, pool: Pool, member: Member) -> dict[str, Any]:
    spec = dict(gangs.group(pool.spec, member))
    return _of(declared, pool.owner, member.group, spec=spec)


def _as_it_is(declared: Grouped, owner: Owner, name: str, found: Json) -> dict[str, Any]:
    return _of(declared, owner, name, **({"spec": found["spec"]} if found.get("spec") else {}))


def _of(declared: Grouped, owner: Owner, name: str, **body: Any) -> dict[str, Any]:
    kind = declared.kind.partition(".")[0]
    return metadata.child(owner, declared.api_version, kind, name, COMPONENT, **body)
