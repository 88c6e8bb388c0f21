"""The command ``doctor``: can this cluster run pools?  Each check says what to do about it.

``facts`` asks; ``examine`` judges, and is pure.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sglang_operator import __version__
from sglang_operator.api import names, texts
from sglang_operator.cli import leading, structure
from sglang_operator.cli.kubectl import Cluster, ClusterError
from sglang_operator.cluster import paths

OLDEST_KUBERNETES = (1, 30)
TESTED_KUBERNETES = (1, 34)
GPU_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu", "habana.ai/gaudi", "huawei.com/Ascend910")

Json = Mapping[str, Any]


class Grade(Enum):
    """How a check came out."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"
    UNKNOWN = "unknown"  # it could not be looked at


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check."""

    name: str
    grade: Grade
    what: str
    do: str = ""

    def record(self) -> dict[str, str]:
        return {"name": self.name, "grade": self.grade.value, "what": self.what, "do": self.do}


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
        "leases": leading.QUESTION,
        "deployments": (
            "/apis/apps/v1/deployments",
            {"labelSelector": f"{names.LABEL_NAME}=sglang-operator"},
        ),
        "namespace": (f"/api/v1/namespaces/{scope}", {}),
        "quotas": (f"/api/v1/namespaces/{scope}/resourcequotas", {}),
        "groups": ("/apis", {}),
    }
    found = cluster.gather(questions)
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
    yield _operator(found, now)
    yield _gpus(found["nodes"])
    yield _rights(scope, found["rules"])
    yield from _namespace(scope, found["namespace"])
    yield from _quotas(scope, found["quotas"])
    yield _monitoring(found["groups"])


def _unknown(name: str, error: ClusterError) -> Check:
    return Check(
        name=name, grade=Grade.UNKNOWN, what=texts.DOCTOR_UNKNOWN.format(detail=error.detail)
    )


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
        return _unknown(name, answer)
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


def _operator(found: Facts, now: float) -> Check:
    """Whether somebody holds the Lease and renews it."""
    name = "operator"
    leases = found["leases"]
    if isinstance(leases, ClusterError):
        return _unknown(name, leases)
    holders = leading.leaders(leases, now)
    deployed = _deployed(found["deployments"])
    if not holders:
        where = (
            texts.OPERATOR_DEPLOYED.format(deployed=deployed)
            if deployed
            else texts.OPERATOR_NOWHERE
        )
        do = texts.DO_OPERATOR_LOGS if deployed else texts.DO_INSTALL
        return Check(name=name, grade=Grade.BAD, what=where, do=do)
    namespaces = ", ".join(holder.namespace for holder in holders)
    what = texts.OPERATOR_LEADS.format(holder=holders[0].identity, namespaces=namespaces)
    if deployed:
        what += f" · {deployed}"
    return Check(name=name, grade=Grade.GOOD, what=what)


def _deployed(answer: bytes | ClusterError) -> str:
    if isinstance(answer, ClusterError):
        return ""
    told = []
    for item in json.loads(answer)["items"]:
        image = item["spec"]["template"]["spec"]["containers"][0]["image"]
        ready = item.get("status", {}).get("readyReplicas", 0)
        told.append(f"{image} {ready}/{item['spec'].get('replicas', 1)} ready")
    return "; ".join(told)


def _gpus(answer: bytes | ClusterError) -> Check:
    name = "GPUs"
    if isinstance(answer, ClusterError):
        return _unknown(name, answer)
    counts: dict[str, int] = {}
    nodes, away = 0, 0
    for node in json.loads(answer)["items"]:
        allocatable = node.get("status", {}).get("allocatable", {})
        held = {key: _number(allocatable[key]) for key in allocatable if _is_gpu(key)}
        if not any(held.values()):
            continue
        nodes += 1
        away += not _is_usable(node)
        for key, count in held.items():
            counts[key] = counts.get(key, 0) + count
    if not nodes:
        return Check(name=name, grade=Grade.BAD, what=texts.GPUS_NONE, do=texts.DO_PLUGIN)
    told = ", ".join(f"{count} {key}" for key, count in sorted(counts.items()))
    what = texts.GPUS_FOUND.format(told=told, nodes=nodes, away=away)
    if names_default() not in counts:
        return Check(name=name, grade=Grade.WARNING, what=what, do=texts.DO_RESOURCE_NAME)
    grade = Grade.WARNING if away else Grade.GOOD
    return Check(name=name, grade=grade, what=what, do=texts.DO_NODES_AWAY if away else "")


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
        return _unknown(name, answer)
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
        yield _unknown(name, answer)
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
        return _unknown(name, answer)
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
