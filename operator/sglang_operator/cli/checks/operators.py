"""The operators of a cluster as ``doctor`` sees them: who acts, who waits, who interferes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

from sglang_operator.api import names
from sglang_operator.api import texts as operator_texts
from sglang_operator.cli import texts
from sglang_operator.cli.checks import deployed
from sglang_operator.cli.checks.check import Check, Grade, unknown
from sglang_operator.cli.cluster import operator_leases
from sglang_operator.cli.cluster.kubectl import ClusterError
from sglang_operator.kube import leaders
from sglang_operator.view.ages import age
from sglang_operator.view.cluster_view import Leader

NAME = "operator"
_OWN_NAMESPACE = "$(POD_NAMESPACE)"

Facts = Mapping[str, bytes | ClusterError]


@dataclass(frozen=True, kw_only=True)
class Copy:
    """One running pod of an operator.  ``serves``: the namespaces, or all if there are none."""

    name: str
    namespace: str
    lease: tuple[str, str] | None  # namespace and name of that which elects it; None: it acts alone
    serves: frozenset[str]

    @property
    def where(self) -> str:
        return ", ".join(sorted(self.serves)) or operator_texts.ALL_NAMESPACES


@dataclass(frozen=True, kw_only=True)
class Acting:
    """One that writes now.  ``serves`` is None where its pod is not to be seen."""

    told: str
    serves: frozenset[str] | None
    lease: tuple[str, str] | None = None

    def meets(self, other: "Acting") -> bool:
        """Whether both may act for one pool."""
        return leaders.meet(self.serves or frozenset(), other.serves or frozenset())


def check(found: Facts, now: float) -> Iterator[Check]:
    """Whether somebody acts, and nobody beside it."""
    holders = operator_leases.seen(found["leases"], found.get("leases again"), now)
    if isinstance(holders, ClusterError):
        yield unknown(NAME, holders)
        return
    copies = list(_copies(found["operator pods"]))
    there = deployed.deployed(found["deployments"], found["operator pods"])
    acting = list(_acting(operator_leases.leaders(holders), copies))
    if not acting:
        yield _nobody(holders, copies, there)
        return
    what = texts.OPERATOR_LEADS.format(holders=", ".join(each.told for each in acting))
    if there.told:
        what += f" · {there.told}"
    grade, do = (Grade.GOOD, "") if there.ready else (Grade.WARNING, there.do)
    yield Check(name=NAME, grade=grade, what=what, do=do)
    yield from _several(acting)
    yield from _divided(copies)
    yield from _waiting(acting, copies)


def _nobody(holders: Sequence[Leader], copies: Sequence[Copy], there: deployed.Deployed) -> Check:
    """What is known of the operator that should act."""
    what, do = texts.OPERATOR_NOWHERE, texts.DO_INSTALL
    if there.told:
        what, do = texts.OPERATOR_DEPLOYED.format(deployed=there.told), there.do
    if holders:
        last = min(holders, key=lambda holder: holder.silent)
        what = texts.OPERATOR_STOPPED.format(
            holder=last.identity, namespace=last.namespace, name=last.name, age=age(last.silent)
        )
        waits = [c.name for c in copies if c.lease == last.lease and c.name != last.pod]
        if waits:
            what += texts.STANDBY_WAITS.format(names=", ".join(sorted(waits)))
        what += f" · {there.told}" if there.told else ""
        do = there.do if there.told or copies else texts.DO_INSTALL
    return Check(name=NAME, grade=Grade.BAD, what=what, do=do)


def _acting(holders: Sequence[Leader], copies: Sequence[Copy]) -> Iterator[Acting]:
    """The holders of Leases, and who acts without one."""
    for leader in holders:
        own = [c for c in copies if (c.lease, c.name) == (leader.lease, leader.pod)]
        serves = own[0].serves if leader.serves is None and own else leader.serves
        told = f"{leader.identity} in {leader.namespace}"
        yield Acting(told=told, serves=serves, lease=leader.lease)
    for copy in copies:
        if not copy.lease:
            told = texts.WITHOUT_LEASE.format(name=copy.name, namespace=copy.namespace)
            yield Acting(told=told, serves=copy.serves)


def _several(acting: Sequence[Acting]) -> Iterator[Check]:
    """Operators that may write to one pool."""
    meeting = [(one, other) for one, other in combinations(acting, 2) if one.meets(other)]
    if not meeting:
        return
    certain = [p for p in meeting if p[0].serves is not None and p[1].serves is not None]
    told = sorted({each.told for pair in meeting for each in pair})
    text = texts.OPERATORS_MEET if certain else texts.OPERATORS_MAY_MEET
    yield Check(
        name="operators",
        grade=Grade.BAD if certain else Grade.WARNING,
        what=text.format(count=len(told), holders=", ".join(told)),
        do=operator_texts.DO_ONE_OPERATOR,
    )


def _divided(copies: Sequence[Copy]) -> Iterator[Check]:
    """Copies that share a Lease and not their namespaces: of those only the holder's are served."""
    for lease in sorted({copy.lease for copy in copies if copy.lease}):
        sharing = [copy for copy in copies if copy.lease == lease]
        if len({copy.serves for copy in sharing}) > 1:
            yield Check(
                name="operators",
                grade=Grade.BAD,
                what=texts.OPERATORS_SHARE_LEASE.format(namespace=lease[0], copies=_told(sharing)),
                do=operator_texts.DO_ONE_LEASE_EACH,
            )


def _waiting(acting: Sequence[Acting], copies: Sequence[Copy]) -> Iterator[Check]:
    """Copies that wait for who acts by another Lease beside theirs, and are to serve more."""
    led = {each.lease for each in acting}
    for each in acting:
        waits = [c for c in copies if c.lease and c.lease not in led and _is_short(each, c)]
        if waits:
            yield Check(
                name="operators",
                grade=Grade.BAD,
                what=texts.OPERATORS_WAIT.format(holder=each.told, copies=_told(waits)),
                do=operator_texts.DO_ONE_OPERATOR,
            )


def _is_short(acting: Acting, copy: Copy) -> bool:
    """Whether the copy waits for this one, which does not serve all that the copy is to serve."""
    if acting.serves is None or not (acting.lease and copy.lease):
        return False
    beside = acting.lease[0] == copy.lease[0]
    short = not leaders.covers(acting.serves, copy.serves)
    return beside and short and leaders.meet(acting.serves, copy.serves)


def _told(copies: Sequence[Copy]) -> str:
    return ", ".join(
        texts.COPY_SERVES.format(name=copy.name, where=copy.where)
        for copy in sorted(copies, key=lambda copy: copy.name)
    )


# --- pods


def _copies(answer: bytes | ClusterError) -> Iterator[Copy]:
    """The operator's pods that run."""
    for pod in [] if isinstance(answer, ClusterError) else json.loads(answer)["items"]:
        meta, status = pod.get("metadata", {}), pod.get("status", {})
        containers = pod.get("spec", {}).get("containers", [])
        if status.get("phase") == "Running" and containers and "deletionTimestamp" not in meta:
            yield _copy(meta, containers[0])


def _copy(meta: Mapping[str, Any], container: Mapping[str, Any]) -> Copy:
    namespace = str(meta.get("namespace", ""))
    flags = [flag.replace(_OWN_NAMESPACE, namespace) for flag in container.get("args") or ()]
    variables = {each["name"]: str(each.get("value", "")) for each in container.get("env") or ()}
    return Copy(
        name=str(meta.get("name", "")),
        namespace=namespace,
        lease=_lease(namespace, flags, variables),
        serves=frozenset(_values(flags, "--namespace", "-n")),
    )


def _lease(
    namespace: str, flags: Sequence[str], variables: Mapping[str, str]
) -> tuple[str, str] | None:
    """Namespace and name of the Lease by which a copy is elected, as the operator takes them."""
    given = _values(flags, "--lease-namespace")
    if not given and "POD_NAMESPACE" not in variables:
        return None
    named = _values(flags, "--lease-name") or [variables.get("LEASE_NAME") or names.LEASE_NAME]
    return (given or [namespace])[-1], named[-1]


def _values(flags: Sequence[str], *called: str) -> list[str]:
    """What a flag is given, as ``--flag=value`` or as two arguments."""
    found = [flag.partition("=")[2] for flag in flags if flag.partition("=")[0] in called]
    after = [value for flag, value in pairwise(flags) if flag in called]
    return [value for value in (*found, *after) if value]
