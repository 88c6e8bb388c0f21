"""The operators of a cluster as ``doctor`` sees them: who acts, who waits, who interferes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

from sglang_operator.api import texts
from sglang_operator.cli import deployed, leading
from sglang_operator.cli.checks import Check, Grade, unknown
from sglang_operator.cli.kubectl import ClusterError
from sglang_operator.picture.ages import age
from sglang_operator.picture.scene import Leader

NAME = "operator"
_OWN_NAMESPACE = "$(POD_NAMESPACE)"

Facts = Mapping[str, bytes | ClusterError]


@dataclass(frozen=True, kw_only=True)
class Copy:
    """One running pod of an operator.  ``serves``: the namespaces, or all if there are none."""

    name: str
    namespace: str
    lease: str  # the namespace of the Lease by which it is elected; empty: it acts alone
    serves: frozenset[str]

    @property
    def where(self) -> str:
        return ", ".join(sorted(self.serves)) or texts.ALL_NAMESPACES


@dataclass(frozen=True, kw_only=True)
class Acting:
    """One that writes now.  ``serves`` is None where its pod is not to be seen."""

    told: str
    serves: frozenset[str] | None

    def meets(self, other: "Acting") -> bool:
        """Whether both may act for one pool."""
        if not self.serves or not other.serves:
            return True
        return bool(self.serves & other.serves)


def check(found: Facts, now: float) -> Iterator[Check]:
    """Whether somebody acts, and nobody beside it."""
    holders = leading.seen(found["leases"], found.get("leases again"), now)
    if isinstance(holders, ClusterError):
        yield unknown(NAME, holders)
        return
    copies = list(_copies(found["operator pods"]))
    there = deployed.deployed(found["deployments"], found["operator pods"])
    leaders = leading.leaders(holders)
    acting = list(_acting(leaders, copies))
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


def _nobody(holders: Sequence[Leader], copies: Sequence[Copy], there: deployed.Deployed) -> Check:
    """What is known of the operator that should act."""
    what, do = texts.OPERATOR_NOWHERE, texts.DO_INSTALL
    if there.told:
        what, do = texts.OPERATOR_DEPLOYED.format(deployed=there.told), there.do
    if holders:
        last = min(holders, key=lambda holder: holder.silent)
        what = texts.OPERATOR_STOPPED.format(
            holder=last.identity, namespace=last.namespace, age=age(last.silent)
        )
        waits = [c.name for c in copies if c.lease == last.namespace and c.name != last.pod]
        if waits:
            what += texts.STANDBY_WAITS.format(names=", ".join(sorted(waits)))
        what += f" · {there.told}" if there.told else ""
        do = there.do if there.told or copies else texts.DO_INSTALL
    return Check(name=NAME, grade=Grade.BAD, what=what, do=do)


def _acting(leaders: Sequence[Leader], copies: Sequence[Copy]) -> Iterator[Acting]:
    """The holders of Leases, and who acts without one."""
    for leader in leaders:
        own = [c for c in copies if (c.lease, c.name) == (leader.namespace, leader.pod)]
        serves = own[0].serves if own else None
        yield Acting(told=f"{leader.identity} in {leader.namespace}", serves=serves)
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
        do=texts.DO_ONE_OPERATOR,
    )


def _divided(copies: Sequence[Copy]) -> Iterator[Check]:
    """Copies that share a Lease and not their namespaces: of those only the holder's are served."""
    for lease in sorted({copy.lease for copy in copies if copy.lease}):
        sharing = [copy for copy in copies if copy.lease == lease]
        if len({copy.serves for copy in sharing}) > 1:
            told = ", ".join(
                texts.COPY_SERVES.format(name=copy.name, where=copy.where)
                for copy in sorted(sharing, key=lambda copy: copy.name)
            )
            yield Check(
                name="operators",
                grade=Grade.BAD,
                what=texts.OPERATORS_SHARE_LEASE.format(namespace=lease, copies=told),
                do=texts.DO_ONE_LEASE_EACH,
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
    told = {variable["name"] for variable in container.get("env") or ()}
    elected = namespace if "POD_NAMESPACE" in told else ""
    given = _values(flags, "--lease-namespace")
    return Copy(
        name=str(meta.get("name", "")),
        namespace=namespace,
        lease=given[-1] if given else elected,
        serves=frozenset(_values(flags, "--namespace", "-n")),
    )


def _values(flags: Sequence[str], *names: str) -> list[str]:
    """What a flag is given, as ``--flag=value`` or as two arguments."""
    found = [flag.partition("=")[2] for flag in flags if flag.partition("=")[0] in names]
    after = [value for flag, value in pairwise(flags) if flag in names]
    return [value for value in (*found, *after) if value]
