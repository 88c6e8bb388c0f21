"""Faults of the world around the operator: F2, F10, F18 to F23."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from sglang_operator.testing import ApiError, errors, installed
from sglang_operator.testing.faults import Match
from sglang_operator.testing.faults.traffic import WRITES
from tests.collecting import CONTROLLER_MANAGER
from tests.faults.lab import FaultPool, Json, Lab, Result
from tests.faults.points import judged
from tests.faults.watches import judged_restarted

OUTAGE_SECONDS = 6.0
STORM_ENGINES = 90
DELETING = "deletionTimestamp"


def four(pool: FaultPool) -> None:
    pool.create(replicas=4)


# --- F2


def terminated(lab: Lab) -> Iterator[Result]:
    """F2: SIGTERM amid a scale-up: it ends in time, half done, and the next one completes it."""

    def act(lab: Lab, pool: FaultPool) -> list[str]:
        pool.create(num_gpus_per_worker=1, device_mapping="list(range(0,90))")
        lab.wait(lambda: lab.proxy.counts["create pods"] >= 20, "the first creates")
        pid, begun = lab.operator.pid, time.monotonic()
        assert pid
        os.kill(pid, signal.SIGTERM)
        lab.plane.await_end(lab.operator.name, 20)
        took = time.monotonic() - begun
        lab.operator.start()
        problems = lab.settle(pool)
        return [*problems, f"ended after {took:.1f} s"] if took > 12 else problems

    yield judged_restarted(lab, Result(point="SIGTERM amid 90 creates"), None, act)


# --- F10


def foreign_objects(lab: Lab) -> Iterator[Result]:
    """F10: objects of somebody else under names and labels of ours are never touched."""
    labels = {
        "sglang-operator.dev/pool": "pool",
        "sglang-operator.dev/engine": "g0-1",
        "app.kubernetes.io/component": "engine",
        "app.kubernetes.io/managed-by": "sglang-operator",
    }
    for name, marks, conflict in (
        ("pool-g0-1-0", {}, True),
        ("pool-g0-1-0", labels, True),
        ("bystander", labels, False),
    ):
        kind = "our labels" if marks else "no labels"
        result = Result(point=f"foreign pod {name} with {kind}")
        yield judged(lab, result, None, _beside(name, marks, conflict))
    yield judged(lab, Result(point="foreign Service"), None, _foreign_service)


def _beside(
    name: str, labels: dict[str, str], conflict: bool
) -> Callable[[Lab, FaultPool], list[str]]:
    def act(lab: Lab, pool: FaultPool) -> list[str]:
        foreign = _foreign_pod(pool, name, labels)
        lab.monitor.protect(foreign, name)
        four(pool)
        if conflict:
            lab.wait(
                lambda: pool.condition("Stalled").get("reason") == "NameConflict", "a conflict", 10
            )
            lab.wait(lambda: len(pool.uids()) == 3, "the other engines", 10)
            problems = []
        else:
            problems = lab.settle(pool, foreign=1)
        pool.patch(replicas=2)
        time.sleep(1)
        pool.patch(replicas=4)
        pool.delete()

        def collected() -> bool:
            return len(pool.all_pods()) == 1

        lab.wait(collected, "the pool's pods to be collected", 20)
        time.sleep(1)  # a create that was under way may have come after that
        lab.wait(collected, "the pool's last pods to be collected", 20)
        left = [pod["metadata"]["uid"] for pod in pool.all_pods()]
        lab.monitor.release(foreign)
        return problems if left == [foreign] else [*problems, f"{left} are left, not {foreign}"]

    return act


def _foreign_pod(pool: FaultPool, name: str, labels: dict[str, str]) -> str:
    body = {
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]},
    }
    made: Json = pool.plane.api.post(f"/api/v1/namespaces/{pool.namespace}/pods", body)
    return str(made["metadata"]["uid"])


def _foreign_service(lab: Lab, pool: FaultPool) -> list[str]:
    path = f"/api/v1/namespaces/{pool.namespace}/services"
    body = {"metadata": {"name": "pool"}, "spec": {"ports": [{"port": 80}]}}
    before = pool.plane.api.post(path, body)
    four(pool)
    lab.wait(lambda: pool.condition("Stalled").get("reason") == "NameConflict", "a conflict", 10)
    after = pool.plane.api.get(f"{path}/pool")
    pool.plane.api.delete(f"{path}/pool")
    problems = [] if before == after else ["the foreign Service was changed"]
    return problems + lab.settle(pool, 40)


# --- F18


def dying_pods(lab: Lab) -> Iterator[Result]:
    """F18: pods deleted, force-deleted, evicted, failed, and stuck while terminating."""
    for name, strike in WAYS.items():

        def act(
            lab: Lab, pool: FaultPool, strike: Callable[[FaultPool, str], None] = strike
        ) -> list[str]:
            before = pool.uids()
            for victim in ("pool-g0-1-0", "pool-g4-5-0"):
                strike(pool, victim)
            lab.wait(lambda: pool.uids().get("g0-1", before["g0-1"]) != before["g0-1"], "a new pod")
            problems = lab.settle(pool)
            after = pool.uids()
            kept = {e: after.get(e) for e in ("g2-3", "g6-7")}
            if kept != {e: before[e] for e in kept}:
                problems.append("an engine that was well was touched")
            # One cause is told once, with all its engines.
            return problems + remembered(pool, strike, {"pool-g0-1-0", "pool-g4-5-0"})

        yield judged(lab, Result(point=f"pods {name}"), four, act)
    yield judged(lab, Result(point="pod stuck while terminating"), four, _stuck)


def remembered(pool: FaultPool, strike: object, victims: set[str]) -> list[str]:
    """An engine that failed is told of in the status even when its pod is gone."""
    if strike not in (FAILED, SUCCEEDED):
        return []
    told = {entry["pod"] for entry in pool.object()["status"].get("lastFailures", [])}
    return [] if told & victims else ["no failure is remembered"]


def _delete(query: str) -> Callable[[FaultPool, str], None]:
    return lambda pool, name: pool.plane.api.delete(pool.pod_path(name) + query)


def _evict(pool: FaultPool, name: str) -> None:
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": pool.namespace},
    }
    pool.plane.api.post(pool.pod_path(name) + "/eviction", body)


def _fail(code: str) -> Callable[[FaultPool, str], None]:
    body = {"metadata": {"annotations": {"fake.sglang/fail": code}}}
    return lambda pool, name: pool.plane.api.merge(pool.pod_path(name), body)


FAILED, SUCCEEDED = _fail("137"), _fail("0")
WAYS: dict[str, Callable[[FaultPool, str], None]] = {
    "deleted": _delete(""),
    "force-deleted": _delete("?gracePeriodSeconds=0"),
    "evicted": _evict,
    "failed 137": FAILED,
    "succeeded": SUCCEEDED,
}


def _stuck(lab: Lab, pool: FaultPool) -> list[str]:
    path = pool.pod_path("pool-g0-1-0")
    pool.plane.api.merge(path, {"metadata": {"finalizers": ["tests.example/hold"]}})
    pool.plane.api.delete(path)
    lab.wait(lambda: "pool-g0-1-1" in pool.pods(), "a replacement under another name", 10)
    lab.wait(lambda: pool.condition("Ready").get("status") == "True", "Ready beside it", 10)
    pool.plane.api.merge(path, {"metadata": {"finalizers": None}})
    return lab.settle(pool)


# --- F19


def deleted_pools(lab: Lab) -> Iterator[Result]:
    """F19: the pool is deleted amid its scale-up, in each way, and created again."""
    for propagation in ("Background", "Foreground"):
        for seen in (0, 1, 12, 40):

            def act(
                lab: Lab, pool: FaultPool, how: str = propagation, seen: int = seen
            ) -> list[str]:
                many = {"num_gpus_per_worker": 1, "device_mapping": "list(range(0,40))"}
                pool.create(**many)
                lab.wait(lambda: lab.proxy.counts["create pods"] >= seen, "creates")
                pool.delete(how)
                lab.wait(lambda: _created(pool, many), "the name to be free")
                return lab.settle(pool)

            point = f"{propagation.lower()}, after {seen} creates"
            yield judged(lab, Result(point=point), None, act)
    yield judged(lab, Result(point="orphaned, and created again"), four, _orphaned)
    result = Result(point="created again, the garbage collector away")
    yield judged(lab, result, four, _uncollected)


def _created(pool: FaultPool, spec: Json) -> bool:
    try:
        pool.create(**spec)
    except ApiError as error:
        if error.status == 409:
            return False
        raise
    return True


def _orphaned(lab: Lab, pool: FaultPool) -> list[str]:
    uids = pool.uids()
    pool.delete("Orphan")
    lab.wait(lambda: not pool.plane.api.get(pool.path)["items"], "the pool to be gone")
    lab.wait(
        lambda: not any(pod["metadata"].get("ownerReferences") for pod in pool.all_pods()),
        "the pods to be orphans",
    )
    for engine, uid in uids.items():
        lab.monitor.protect(uid, engine)
    four(pool)
    lab.wait(lambda: pool.condition("Stalled").get("reason") == "NameConflict", "a conflict", 10)
    for uid in uids.values():
        lab.monitor.release(uid)
    for pod in pool.all_pods():
        pool.plane.api.delete(pool.pod_path(pod["metadata"]["name"]) + "?gracePeriodSeconds=0")
    # All that the conflict names.
    of = f"namespaces/{pool.namespace}"
    for path in (
        f"/api/v1/{of}/services/pool",
        f"/api/v1/{of}/configmaps/pool-engines",
        f"/apis/policy/v1/{of}/poddisruptionbudgets/pool-engines",
        f"/apis/coordination.k8s.io/v1/{of}/leases/pool-weights",
        f"/apis/apps/v1/{of}/controllerrevisions",
    ):
        pool.plane.api.delete(path)
    return lab.settle(pool, 45)


def _uncollected(lab: Lab, pool: FaultPool) -> list[str]:
    """The pods of the earlier pool are still there, and no concern of the new one."""
    old = set(pool.uids().values())
    lab.plane.stop_component(CONTROLLER_MANAGER)
    try:
        pool.delete()
        lab.wait(lambda: not pool.plane.api.get(pool.path)["items"], "the pool to be gone")
        four(pool)
        lab.wait(lambda: len(pool.uids()) == 4, "four pods of its own", 15)
        left = {p["metadata"]["uid"] for p in pool.all_pods() if not p["metadata"].get(DELETING)}
        problems = [] if old <= left else ["pods of the earlier pool were touched"]
    finally:
        lab.plane.start_component(CONTROLLER_MANAGER)
    return problems + lab.settle(pool, 60)


# --- F20


def flapping(lab: Lab) -> Iterator[Result]:
    """F20: the spec changes ten times a second; a bad one is reverted."""
    for name, specs in (
        ("replicas", [{"replicas": n} for n in (1, 4, 0, 3)]),
        ("mapping", [{"device_mapping": f"list(range({a},{a + 8}))"} for a in (0, 4, 2, 8)]),
        ("suspend", [{"suspend": True}, {"suspend": False}]),
        ("bad mapping, reverted", [{"device_mapping": m} for m in ("[0, 0]", "list(range(0,8))")]),
    ):

        def act(lab: Lab, pool: FaultPool, specs: list[Json] = specs) -> list[str]:
            for number in range(int(OUTAGE_SECONDS * 10)):
                pool.patch(**specs[number % len(specs)])
                time.sleep(0.1)
            pool.patch(**specs[-1])
            return lab.settle(pool)

        yield judged(lab, Result(point=name), four, act)


# --- F21


def rights(lab: Lab) -> Iterator[Result]:
    """F21: a verb is taken from the role for a while; a namespace goes."""
    for verb, resource in (
        ("create", "pods"),
        ("delete", "pods"),
        ("watch", "pods"),
        ("list", "pods"),
        ("watch", "sglanginferences"),
        ("patch", "sglanginferences/status"),
        ("create", "configmaps"),
    ):

        def act(lab: Lab, pool: FaultPool, verb: str = verb, resource: str = resource) -> list[str]:
            with _Without(lab, verb, resource):
                for stream in lab.proxy.live(Match()):
                    stream.cut()
                pool.patch(device_mapping="list(range(4,12))")
                time.sleep(OUTAGE_SECONDS)
            return lab.settle(pool, 45)

        yield judged(lab, Result(point=f"no {verb} on {resource}"), four, act)
    yield judged(lab, Result(point="namespace terminating"), four, _terminating)


class _Without:
    """The operator's role without one verb on one resource."""

    def __init__(self, lab: Lab, verb: str, resource: str) -> None:
        self._api = lab.plane.api
        self._path = f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{installed.ACCOUNT}"
        self._rules = self._api.get(self._path)["rules"]
        self._verb, self._resource = verb, resource

    def __enter__(self) -> None:
        reduced = []
        for rule in self._rules:
            for resource in rule["resources"]:
                verbs = [
                    verb
                    for verb in rule["verbs"]
                    if (verb, resource) != (self._verb, self._resource)
                ]
                if verbs:
                    reduced.append({**rule, "resources": [resource], "verbs": verbs})
        self._api.merge(self._path, {"rules": reduced})

    def __exit__(self, *_: object) -> None:
        self._api.merge(self._path, {"rules": self._rules})


def _terminating(lab: Lab, pool: FaultPool) -> list[str]:
    path = f"/api/v1/namespaces/{pool.namespace}"
    pool.plane.api.post(
        f"{path}/configmaps",
        {"metadata": {"name": "holds-the-namespace", "finalizers": ["tests.example/hold"]}},
    )
    pool.plane.api.delete(path)
    lab.wait(lambda: not pool.all_pods(), "the pods to go", 40)
    lab.proxy.reset_counters()
    time.sleep(OUTAGE_SECONDS)
    tried = lab.writes()
    body = {"metadata": {"finalizers": None}}
    pool.plane.api.merge(f"{path}/configmaps/holds-the-namespace", body)
    lab.wait(lambda: not pool.plane.api.exists(path), "the namespace to go", 30)
    return [f"{tried} writes into a dying namespace in 6 s"] if tried > 12 else []


# --- F22


def outages(lab: Lab) -> Iterator[Result]:
    """F22: etcd and the API server go and come back, amid a change."""
    for component in ("kube-apiserver", "etcd"):

        def act(lab: Lab, pool: FaultPool, component: str = component) -> list[str]:
            lab.plane.stop_component(component)
            time.sleep(OUTAGE_SECONDS)
            lab.plane.start_component(component)
            lab.wait(lambda: _deleted(pool, "pool-g0-1-0"), "the API server", 30)
            pool.patch(device_mapping="list(range(0,12))", replicas=6)
            problems = lab.settle(pool, 60)
            lab.proxy.reset_counters()
            time.sleep(3)
            writes = lab.writes()
            return [*problems, f"{writes} writes at rest"] if writes else problems

        yield judged(lab, Result(point=f"{component} away for 6 s"), four, act)


def _deleted(pool: FaultPool, name: str) -> bool:
    try:
        pool.plane.api.delete(pool.pod_path(name), missing_ok=True)
    except (OSError, errors.KitError):
        return False
    return True


# --- F23


def storm(lab: Lab) -> Iterator[Result]:
    """F23: every pod of a large pool turns NotReady at once, and back."""

    def setup(pool: FaultPool) -> None:
        pool.create(num_gpus_per_worker=1, device_mapping=f"list(range(0,{STORM_ENGINES}))")

    def act(lab: Lab, pool: FaultPool) -> list[str]:
        names = list(pool.pods())
        begun = time.monotonic()
        for value in ("False", "True"):
            with ThreadPoolExecutor(4) as threads:
                list(threads.map(lambda name, v=value: _set_ready(pool, name, v), names))
        problems = lab.settle(pool)
        took = time.monotonic() - begun
        statuses = lab.proxy.counts["patch sglanginferences/status"]
        pods = sum(n for kind, n in lab.proxy.counts.items() if kind.endswith(" pods"))
        if statuses > took + 2:
            problems.append(f"{statuses} status writes in {took:.1f} s")
        touched = [k for k in lab.proxy.counts if k.split()[0] in WRITES and k.endswith(" pods")]
        return [*problems, f"pods were written: {touched} {pods}"] if touched else problems

    point = f"{STORM_ENGINES} pods NotReady and back"
    yield judged(lab, Result(point=point), setup, act)


def _set_ready(pool: FaultPool, name: str, value: str) -> None:
    conditions = [{"type": kind, "status": value} for kind in ("ContainersReady", "Ready")]
    pool.plane.api.call(
        "PATCH",
        pool.pod_path(name) + "/status",
        {"status": {"conditions": conditions}},
        content_type="application/strategic-merge-patch+json",
    )
