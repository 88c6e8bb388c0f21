"""The command ``doctor``: can this cluster run pools?  Each check says what to do about it.

``facts`` asks; ``examine`` judges, and is pure.
"""

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import click
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from sglang_operator import __version__
from sglang_operator.api import names
from sglang_operator.cli import structure, texts
from sglang_operator.cli.checks import (
    addresses,
    claims,
    colocation,
    deployed,
    limits,
    occupancy,
    operators,
)
from sglang_operator.cli.checks.check import Check, Grade, unknown
from sglang_operator.cli.cluster import operator_leases
from sglang_operator.cli.cluster.kubectl import Cluster, ClusterError
from sglang_operator.cli.findings import one_line
from sglang_operator.cli.options import NOT_SO, OK, STRUCTURED, as_mapping, ends, show, where
from sglang_operator.kube import paths
from sglang_operator.view.cluster_view import ClusterView

OLDEST_KUBERNETES = (1, 30)
TESTED_KUBERNETES = (1, 34)
GPU_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu", "habana.ai/gaudi", "huawei.com/Ascend910")

Json = Mapping[str, Any]


Facts = Mapping[str, bytes | ClusterError]


def facts(cluster: Cluster) -> tuple[str, dict[str, bytes | ClusterError]]:
    """The namespace, and everything that is looked at, asked for at once."""
    scope = cluster.scope() or "default"
    questions: dict[str, tuple[str, Mapping[str, str]]] = {
        "version": ("/version", {}),
        "definition": (
            f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{names.CRD_NAME}",
            {},
        ),
        "nodes": (paths.NODES, {}),
        "leases": operator_leases.QUESTION,
        **deployed.QUESTIONS,
        **addresses.QUESTIONS,
        **occupancy.QUESTIONS,
        "namespace": (f"/api/v1/namespaces/{scope}", {}),
        "quotas": (f"/api/v1/namespaces/{scope}/resourcequotas", {}),
        "limits": (f"/api/v1/namespaces/{scope}/limitranges", {}),
        "groups": ("/apis", {}),
        **colocation.questions(scope),
        **claims.QUESTIONS,
    }
    found = cluster.gather(questions)
    again = operator_leases.second_look(cluster, found["leases"], time.time())
    if again is not None:
        found["leases again"] = again
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": scope},
    }
    try:
        found["rules"] = cluster.run(
            "create",
            "--raw",
            "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
            "--filename",
            "-",
            given=json.dumps(review),
        )
    except ClusterError as error:
        found["rules"] = error
    return scope, found


def examine(scope: str, found: Facts, now: float) -> Iterator[Check]:
    """Every check, in the order in which they build on each other."""
    yield _version(found["version"])
    yield _definition(found["definition"])
    yield from operators.check(found, now)
    yield from addresses.check(found)
    pools = occupancy.seen(found, now)
    seen = None if isinstance(pools, ClusterError) else pools
    yield _gpus(found["nodes"], seen, claims.published(found))
    about_pools = occupancy.check(pools)
    if about_pools:
        yield about_pools
    yield _rights(scope, found["rules"])
    yield from _namespace(scope, found["namespace"])
    yield from _quotas(scope, found["quotas"])
    yield from limits.check(scope, found["limits"], seen)
    yield from colocation.check(scope, found, seen)
    yield from claims.check(scope, found, seen)
    yield _monitoring(found["groups"])


def _version(answer: bytes | ClusterError) -> Check:
    name = "Kubernetes"
    if isinstance(answer, ClusterError):
        return Check(name=name, grade=Grade.BAD, what=str(answer), do=texts.DO_REACH)
    version = json.loads(answer)
    digits = (_number(version.get("major")), _number(version.get("minor")))
    told = version.get("gitVersion", "?")
    if digits < OLDEST_KUBERNETES:
        return Check(
            name=name,
            grade=Grade.BAD,
            what=texts.KUBERNETES_OLD.format(
                found=told, oldest=".".join(map(str, OLDEST_KUBERNETES))
            ),
            do=texts.DO_UPGRADE_CLUSTER,
        )
    grade = Grade.GOOD if digits >= TESTED_KUBERNETES else Grade.WARNING
    return Check(
        name=name,
        grade=grade,
        what=told,
        do="" if grade is Grade.GOOD else texts.KUBERNETES_UNTESTED,
    )


def _number(text: object) -> int:
    digits = "".join(char for char in str(text) if char.isdecimal())
    return int(digits[:4]) if digits else 0


def _definition(answer: bytes | ClusterError) -> Check:
    """Whether the definition is there, served, and not older than this program."""
    name = "resource definition"
    if isinstance(answer, ClusterError):
        if answer.why.value == "not found":
            return Check(name=name, grade=Grade.BAD, what=texts.CRD_MISSING, do=texts.DO_INSTALL)
        return unknown(name, answer)
    body = json.loads(answer)
    served = [v for v in body["spec"]["versions"] if v["name"] == names.VERSION and v["served"]]
    if not served:
        return Check(name=name, grade=Grade.BAD, what=texts.CRD_NOT_SERVED, do=texts.DO_INSTALL)
    there = served[0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    ours = json.loads(structure.FILE.read_text())
    lacks = _fields(ours) - _fields(structure.reduced(there))
    missing = sorted(path for path in lacks if path.rpartition(".")[0] not in lacks)
    if missing:
        shown = ", ".join(missing[:4]) + (
            f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        )
        return Check(
            name=name,
            grade=Grade.BAD,
            what=texts.CRD_OLD.format(missing=shown),
            do=texts.DO_UPGRADE_CRD,
        )
    newer = _fields(structure.reduced(there)) - _fields(ours)
    if newer:
        return Check(name=name, grade=Grade.WARNING, what=texts.CRD_NEW, do=texts.DO_UPGRADE_CLI)
    return Check(name=name, grade=Grade.GOOD, what=f"{names.VERSION}, {texts.CRD_CURRENT}")


def _fields(node: Any, at: str = "spec") -> set[str]:
    """The paths of all fields of a reduced schema."""
    found: set[str] = set()
    for key, child in (node.get("properties") or {}).items():
        found |= {f"{at}.{key}"} | _fields(child, f"{at}.{key}")
    return found


def _gpus(
    answer: bytes | ClusterError, pools: ClusterView | None, published: Collection[str] = ()
) -> Check:
    name = "GPUs"
    if isinstance(answer, ClusterError):
        return unknown(name, answer)
    counts: dict[str, dict[str, int]] = {}  # resource → node → GPUs
    nodes, away = 0, set[str]()
    for node in json.loads(answer)["items"]:
        allocatable = node.get("status", {}).get("allocatable", {})
        held = {key: _number(allocatable[key]) for key in allocatable if _is_gpu(key)}
        if not any(held.values()):
            continue
        nodes += 1
        if not _is_usable(node):
            away.add(node["metadata"]["name"])
        for key, count in held.items():
            counts.setdefault(key, {})[node["metadata"]["name"]] = count
    if not nodes and published:
        what = texts.GPUS_PUBLISHED.format(nodes=len(published))
        return Check(name=name, grade=Grade.GOOD, what=what, do=texts.DO_BY_CLAIMS)
    if not nodes:
        return Check(name=name, grade=Grade.BAD, what=texts.GPUS_NONE, do=texts.DO_PLUGIN)
    told = ", ".join(f"{sum(found.values())} {key}" for key, found in sorted(counts.items()))
    what = texts.GPUS_FOUND.format(told=told, nodes=nodes)
    what += texts.GPUS_AWAY.format(away=len(away)) if away else ""
    if names_default() not in counts:
        return Check(name=name, grade=Grade.WARNING, what=what, do=texts.DO_RESOURCE_NAME)
    do = texts.DO_NODES_AWAY if away else ""
    for resource, on in sorted(counts.items()) if pools else ():
        assert pools is not None
        used = occupancy.use(pools, resource)
        free = sum(max(0, on[node] - used.held.get(node, 0)) for node in on.keys() - away)
        what += texts.GPUS_USED.format(resource=resource, free=free, wanted=used.wanted)
        if used.unplaced:
            what += texts.GPUS_LACKING.format(unplaced=used.unplaced)
            do = texts.DO_FEWER_ENGINES
    return Check(name=name, grade=Grade.WARNING if do else Grade.GOOD, what=what, do=do)


def names_default() -> str:
    """The resource that a pool asks for unless it says otherwise."""
    return GPU_RESOURCES[0]


def _is_gpu(resource: str) -> bool:
    return resource in GPU_RESOURCES or resource.endswith(("/gpu", "/dcunum", "/mlu"))


def _is_usable(node: Json) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and not node.get("spec", {}).get("unschedulable", False)


# What somebody who works with pools asks the API server for.
_WANTED = (
    (names.GROUP, names.PLURAL, ("get", "list", "create", "patch", "delete")),
    ("", "pods", ("get", "list")),
    ("", "pods/log", ("get",)),
)


def _rights(scope: str, answer: bytes | ClusterError) -> Check:
    """What the user may do in the namespace."""
    name = "your rights"
    if isinstance(answer, ClusterError):
        return unknown(name, answer)
    rules = json.loads(answer).get("status", {}).get("resourceRules", [])
    missing = [
        f"{verb} {resource}"
        for group, resource, verbs in _WANTED
        for verb in verbs
        if not any(_allows(rule, group, resource, verb) for rule in rules)
    ]
    if missing:
        what = texts.RIGHTS_MISSING.format(namespace=scope, missing=", ".join(missing))
        return Check(name=name, grade=Grade.WARNING, what=what, do=texts.DO_RIGHTS)
    return Check(name=name, grade=Grade.GOOD, what=texts.RIGHTS_GOOD.format(namespace=scope))


def _allows(rule: Json, group: str, resource: str, verb: str) -> bool:
    if rule.get("resourceNames"):
        return False
    return all(
        "*" in rule.get(key, ()) or wanted in rule.get(key, ())
        for key, wanted in (("apiGroups", group), ("resources", resource), ("verbs", verb))
    )


def _namespace(scope: str, answer: bytes | ClusterError) -> Iterator[Check]:
    """Pod Security: which level is enforced, and what engines need under it."""
    name = "Pod Security"
    if isinstance(answer, ClusterError):
        yield unknown(name, answer)
        return
    labels = json.loads(answer)["metadata"].get("labels", {})
    level = labels.get("pod-security.kubernetes.io/enforce", "privileged")
    do = texts.DO_SECURITY.get(level, "")
    yield Check(
        name=name, grade=Grade.GOOD, what=texts.SECURITY.format(namespace=scope, level=level), do=do
    )


def _quotas(scope: str, answer: bytes | ClusterError) -> Iterator[Check]:
    if isinstance(answer, ClusterError):
        return
    for quota in json.loads(answer)["items"]:
        status = quota.get("status", {})
        for key, hard in status.get("hard", {}).items():
            resource = key.removeprefix("requests.")
            if not _is_gpu(resource):
                continue
            used = status.get("used", {}).get(key, "0")
            full = _number(used) >= _number(hard)
            yield Check(
                name="quota",
                grade=Grade.WARNING if full else Grade.GOOD,
                what=texts.QUOTA_GPUS.format(
                    name=quota["metadata"]["name"],
                    namespace=scope,
                    used=used,
                    hard=hard,
                    key=resource,
                ),
                do=texts.DO_QUOTA_FULL if full else "",
            )


def _monitoring(answer: bytes | ClusterError) -> Check:
    name = "monitoring"
    if isinstance(answer, ClusterError):
        return unknown(name, answer)
    groups = {group["name"] for group in json.loads(answer)["groups"]}
    if "monitoring.coreos.com" in groups:
        return Check(name=name, grade=Grade.GOOD, what=texts.MONITORING_THERE)
    return Check(name=name, grade=Grade.GOOD, what=texts.MONITORING_MISSING)


def document(scope: str, checks: list[Check]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "namespace": scope,
        "version": __version__,
        "checks": [check.record() for check in checks],
    }


def render(found: Sequence[Check]) -> RenderableType:
    """For people."""
    signs = {
        Grade.GOOD: ("✔", "green"),
        Grade.WARNING: ("!", "yellow"),
        Grade.BAD: ("✘", "bold red"),
        Grade.UNKNOWN: ("?", "dim"),
    }
    grid = Table.grid(padding=(0, 1))
    for _ in range(3):
        grid.add_column(overflow="fold")
    for check in found:
        sign, style = signs[check.grade]
        grid.add_row(Text(sign, style=style), check.name, one_line(check.what))
        if check.do:
            grid.add_row("", "", Text(f"→ {one_line(check.do)}", style="bold"))
    return grid


# --- the command


@click.command("doctor")
@click.option("-o", "--output", type=STRUCTURED, default="text")
@where
@ends
def command(cluster: Cluster, output: str) -> int:
    """Look at versions, the definition, the operator, GPUs, pools, rights, Pod Security, quotas
    and limits.

    Exit codes: 0 pools can run (that some are not Ready is a warning); 1 something keeps them from
    it; 2 errors.
    """
    scope, found = facts(cluster)
    checks = list(examine(scope, found, time.time()))
    if output == "text":
        show(render(checks))
    else:
        click.echo(as_mapping(document(scope, checks), output))
    bad = any(check.grade is Grade.BAD for check in checks)
    return NOT_SO if bad else OK
