"""Gangs whose scheduler reads a PodGroup: what it says, when it is there, what is told of it."""

import asyncio
import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sglang_operator import actions
from sglang_operator.api import conditions, names
from sglang_operator.backoff import Backoff
from sglang_operator.children import engine_pod, kinds
from sglang_operator.children.kind import ChildKind
from sglang_operator.controller import memory
from sglang_operator.kube import informer, keeping, paths
from sglang_operator.kube.errors import ApiError
from sglang_operator.observed import wire
from sglang_operator.observed.model import Observed, ObservedChild, ObservedPod
from sglang_operator.observed.moment import Moment
from sglang_operator.plan.plan import plan
from sglang_operator.pool.resolve import Pool
from sglang_operator.scheduling import gangs, texts
from sglang_operator.scheduling.base import Grouped, Member
from sglang_operator.scheduling.pod_groups import PodGroups
from sglang_operator.status import gangs as told
from tests import structural
from tests.builders import NOW, OWNER, a_pod, a_pool, created, guide_spec, refused, weighed
from tests.unit.controller import fake_api
from tests.unit.controller.passes import KEY

DATA = Path(__file__).parents[2] / "data"
# As they stood at volcano-sh/volcano ed72c7c8, NVIDIA/KAI-Scheduler 72de64fc (of its notices those
# of the scheduler's own code) and kubernetes-sigs/scheduler-plugins 903da7df, unchanged.
DEFINITIONS = {
    "Volcano": "volcano",
    "KAI": "kai-scheduler",
    "Coscheduling": "scheduler-plugins",
}
NEEDED: Mapping[str, dict[str, str]] = {
    "KAI": {"queueName": "gpus"}
}  # of the other fields, by gang
EACH = pytest.mark.parametrize("declared", gangs.GROUPED, ids=lambda each: each.name)
# Those of projects of their own; Kubernetes' own is judged by its API server, in
# tests/integration/test_gangs.py, as all are.
DEFINED = pytest.mark.parametrize(
    "declared",
    [each for each in gangs.GROUPED if each.name in DEFINITIONS],
    ids=lambda each: each.name,
)
CRD = structural.definition()


def test_the_definition_of_each_gang_of_a_project_of_its_own_is_there():
    assert {each.name for each in gangs.GROUPED} == {*DEFINITIONS, "PodGroup"}


def scheduling(declared: Grouped, **more: str) -> dict[str, str]:
    return {"gang": declared.name, **NEEDED.get(declared.name, {}), **more}


def single(declared: Grouped, **more: str) -> Pool:
    return a_pool(scheduling=scheduling(declared, **more))


def spanning(declared: Grouped, **more: str) -> Pool:
    """Two engines of two nodes, eight GPUs on each."""
    of_two = guide_spec(num_gpus_per_worker=16, device_mapping="list(range(0,32))")
    return a_pool({**of_two, "scheduling": scheduling(declared, **more)})


def kind(declared: Grouped) -> ChildKind:
    return kinds.of(declared.kind)


def seen(
    pool: Pool, pods: list[ObservedPod], groups: Mapping[str, Any] | None = None, **more: Any
) -> Observed:
    """The pool's pods and what there is of its PodGroups, by name."""
    owned = {
        (gangs.kind(pool.spec), name): ObservedChild(
            uid=names.Uid(f"uid-{name}"), owner=OWNER.uid, body=body
        )
        for name, body in (groups or {}).items()
    }
    return Observed(pods=tuple(pods), children=owned, **more)


def bodies(pool: Pool, observed: Observed) -> dict[str, Any]:
    """The PodGroups that there are to be, by name."""
    found = kinds.children(pool, weighed(pool, list(observed.pods)), observed)
    return {b["metadata"]["name"]: b for b in found if b["kind"] == "PodGroup"}


def before(pool: Pool, observed: Observed) -> list[dict[str, Any]]:
    """Those that are made before the pods of a plan."""
    found = actions.group_actions(pool, plan(pool, observed, NOW), observed).values()
    steps = (each for batch in found for each in batch)
    return [dict(each.body) for each in steps if isinstance(each, actions.CreateChild)]


def least(body: Mapping[str, Any]) -> int:
    """How many pods of a group start at once, or none."""
    spec = body["spec"]
    return int(spec.get("minMember") or spec["schedulingPolicy"]["gang"]["minCount"])


# --- what is written


@DEFINED
def test_the_group_is_one_that_the_projects_own_definition_takes(declared):
    definition = structural.definition(DATA / DEFINITIONS[declared.name] / "podgroups.yaml")
    fields = {"queueName": "gpus"} if "queueName" in _reads(declared) else {}
    for pool in (single(declared), spanning(declared, priorityClassName="high", **fields)):
        made = before(pool, seen(pool, []))
        assert made
        for body in made:
            assert structural.wrong(definition, body) == []
            assert body["spec"]["minMember"] == pool.nodes
            if declared.name != "KAI":
                assert body["spec"]["minResources"] == {"nvidia.com/gpu": str(pool.gpus)}
    spec = definition["spec"]
    assert spec["names"]["plural"] == declared.plural
    assert f"{spec['names']['plural']}.{spec['group']}" == declared.groups


def _reads(declared: Grouped) -> frozenset[str]:
    return adapter_of(declared).reads


def adapter_of(declared: Grouped) -> PodGroups:
    found = next(each for each in gangs.CHOSEN.values() if each.grouped is declared)
    assert isinstance(found, PodGroups)
    return found


def of(name: str) -> Grouped:
    return next(each for each in gangs.GROUPED if each.name == name)


@DEFINED
def test_what_a_definition_lacks_is_found(declared):
    definition = structural.definition(DATA / DEFINITIONS[declared.name] / "podgroups.yaml")
    pool = single(declared)
    body = before(pool, seen(pool, []))[0]
    changes: list[dict[str, Any]] = [
        {"minMembers": 1},
        {"minMember": "1"},
        {"minResources": {"gpu": []}},
    ]
    for wrong in changes:
        spec = {**body["spec"], **wrong}
        assert structural.wrong(definition, {**body, "spec": spec})


@EACH
def test_each_try_at_an_engine_is_a_group_and_all_its_pods_name_it(declared):
    """Pods of the last try that are on their way out would be counted for the next one."""
    pool = spanning(declared)
    engine, template = pool.engines[0], engine_pod.template(pool)
    adapter = adapter_of(declared)
    groups = set()
    for attempt in (0, 1):
        member = Member(OWNER.name, engine.name, attempt, 2)
        for rank in (0, 1):
            pod = engine_pod.pod(pool, template, engine, attempt, node_rank=rank)
            written = {**pod["metadata"]["labels"], **pod["metadata"]["annotations"]}
            in_spec = pod["spec"].get("schedulingGroup", {}).get("podGroupName")
            named = written.get(adapter.label or adapter.annotation, in_spec)
            assert named == member.group == f"{OWNER.name}-{engine.name}-{attempt}"
            assert pod["spec"].get("schedulerName", "") == adapter.scheduler
            groups.add(named)
    assert len(groups) == 2
    another = single(declared, schedulerName="mine")
    assert engine_pod.template(another)["spec"]["schedulerName"] == "mine"


@EACH
def test_a_group_is_the_pools_child(declared):
    pool = single(declared)
    body = before(pool, seen(pool, []))[0]
    (owner,) = body["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == (OWNER.uid, True)
    assert body["metadata"]["labels"][names.LABEL_POOL] == OWNER.name
    assert kinds.kind_of(body) == declared.kind
    assert kind(declared).is_name(body["metadata"]["name"], OWNER.name)
    name = body["metadata"]["name"]
    assert paths.child(declared.kind, "rl", name) == (
        f"/apis/{declared.api_version}/namespaces/rl/podgroups/{name}"
    )


@pytest.mark.parametrize(
    "name", ["actor-infer", "actor-infer-x-0", "actor-infer-g0", "other-g0-1-0"]
)
def test_no_other_name_is_that_of_a_group(name):
    assert not any(each.is_name(name, "actor-infer") for each in kinds.GANGS)


# --- what may be said


@EACH
@pytest.mark.parametrize(
    "field",
    ["queueName", "workloadPriorityClassName", "requiredTopology", "preferredTopology"],
)
def test_a_field_that_this_gang_does_not_read_is_refused_in_words(declared, field):
    if field in _reads(declared):
        assert single(declared, **{field: "gpus"})
        (problem,) = refused(scheduling=scheduling(declared, **{field: "A_Queue"})).errors
    else:
        (problem,) = refused(scheduling=scheduling(declared, **{field: "gpus"})).errors
        assert f"nothing with scheduling.gang: {declared.name}, which does not read it" in str(
            problem
        )
    assert problem.field == f"spec.scheduling.{field}"


@EACH
def test_a_group_of_ones_own_in_podTemplate_is_refused(declared):
    if declared.name == "PodGroup":  # it is no label, but a field of the pod's spec
        template = {"spec": {"schedulingGroup": {"podGroupName": "mine"}}}
        assert refused(scheduling=scheduling(declared), podTemplate=template).errors
        return
    adapter = adapter_of(declared)
    where, key = ("labels", adapter.label) if adapter.label else ("annotations", adapter.annotation)
    template = {"metadata": {where: {key: "mine"}}}
    (problem,) = refused(scheduling=scheduling(declared), podTemplate=template).errors
    assert problem.field == f"spec.podTemplate.metadata.{where}.{key}"


def test_a_queue_of_ones_own_in_podTemplate_is_refused():
    """It would win over the queue of the group, and its pods wait in another than that says."""
    template = {"metadata": {"labels": {names.LABEL_KAI_QUEUE: "other"}}}
    (problem,) = refused(scheduling=scheduling(of("KAI")), podTemplate=template).errors
    assert problem.field == f"spec.podTemplate.metadata.labels.{names.LABEL_KAI_QUEUE}"
    assert texts.DO_SAY_IN_SCHEDULING in str(problem)


def test_the_definition_knows_the_same_gangs():
    section = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert section["properties"]["scheduling"]["properties"]["gang"]["enum"] == [
        each.value for each in type(a_pool().spec.scheduling.gang)
    ]


def test_the_definition_refuses_the_same_fields_in_the_same_words():
    section = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    rules = section["properties"]["scheduling"]["x-kubernetes-validations"]
    queues = "".join(each["message"] for each in rules if each.get("fieldPath") == ".queueName")
    for declared in gangs.GROUPED:
        told = texts.NOT_OF_GANG.format(gang=declared.name)
        assert (told in queues) is ("queueName" not in _reads(declared))
    assert any("with this scheduling.gang, which does not read them" in r["message"] for r in rules)


def test_a_queue_of_volcanos_is_no_reason_to_restart_anybody():
    declared = of("Volcano")
    pool, other = single(declared, queueName="a"), single(declared, queueName="b")
    assert pool.revision == other.revision != a_pool().revision
    name = next(iter(bodies(pool, seen(pool, [a_pod(pool, pool.engines[0])]))))
    found = bodies(other, seen(other, [a_pod(other, other.engines[0])]))
    assert found[name]["spec"]["queue"] == "b"


# --- when it is there


@EACH
def test_groups_stay_with_their_pods_and_go_after_the_last(declared):
    pool = spanning(declared)
    engine = pool.engines[0]
    leader, follower = (a_pod(pool, engine, node_rank=rank) for rank in (0, 1))
    group = Member(OWNER.name, engine.name, 0, 2).group
    there = {group: {"spec": {"minMember": 2}, "metadata": {}}}
    assert group in bodies(pool, seen(pool, [follower], there))  # its leader is gone
    follows = a_pod(pool, engine, attempt=1)
    assert group not in bodies(pool, seen(pool, [follows], there))
    dropped = actions.child_actions(
        pool, [*bodies(pool, seen(pool, [follows], there)).values()], seen(pool, [follows], there)
    )
    assert [type(a).__name__ for a in dropped if a.name == group] == ["DeleteChild"]
    # Somebody deletes it: its scheduler would start the pods that are yet to come one by one.
    assert least(bodies(pool, seen(pool, [leader, follower]))[group]) == 2


@EACH
def test_what_was_begun_under_an_earlier_spec_stands(declared):
    """A group that says less by now would let one of two pods start alone."""
    pool = spanning(declared)
    old = dataclasses.replace(
        a_pod(pool, pool.engines[0], node="", phase="Pending"), revision="old"
    )
    group = Member(OWNER.name, old.engine, 0).group
    there = {group: {"spec": {"minMember": 4, "more": 1}, "metadata": {}}}
    assert bodies(pool, seen(pool, [old], there))[group]["spec"] == {"minMember": 4, "more": 1}
    assert not bodies(pool, seen(pool, [old]))
    without = a_pool(guide_spec(num_gpus_per_worker=16, device_mapping="list(range(0,32))"))
    observed = dataclasses.replace(seen(pool, [old], there))
    assert group in bodies(without, observed)


@EACH
def test_a_group_whose_pods_are_yet_to_come_waits_for_them(declared):
    """A quota may refuse pods for long: their groups would be made and deleted by turns."""
    pool = single(declared)
    first = pool.engines[0]
    coming = Member(OWNER.name, first.name, 0).group
    there = {coming: {"spec": {"minMember": 1}, "metadata": {}}}
    assert coming in bodies(pool, seen(pool, [], there))
    later = Member(OWNER.name, first.name, 7).group
    assert later not in bodies(pool, seen(pool, [], {later: there[coming]}))


class Cluster(fake_api.Api):
    """One whose definitions of PodGroups may be missing."""

    status = 200  # what asking for them is answered with

    def _refusal(self, path: str, *, watches: bool = False) -> ApiError | None:
        if "/podgroups" in path and self.status != 200:
            return ApiError(self.status, "NotFound", f"{path}: not found", None)
        return super()._refusal(path, watches=watches)

    def groups(self) -> set[str]:
        return {path.rpartition("/")[2] for path in self.objects if "/podgroups/" in path}

    def message(self) -> str:
        found = self.pool(*KEY)["status"]["conditions"]
        return str(next(c["message"] for c in found if c["type"] == "Ready"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(informer, "BACKOFF", Backoff(0.01, 0.02))


@EACH
def test_a_group_is_made_before_its_pods_and_goes_with_its_engine(declared):
    async def story() -> None:
        api = Cluster()
        api.make(*KEY, scheduling=scheduling(declared))
        async with fake_api.operator(api, gangs=(declared.name,)):
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            made = [path for method, path in api.calls if method == "POST"]
            group = next(n for n, path in enumerate(made) if path.endswith("/podgroups"))
            pod = next(n for n, path in enumerate(made) if path.endswith("/pods"))
            assert group < pod
            assert (
                api.groups() == {p["metadata"]["name"] for p in api.pods("rl")} == {"pool-g0-1-0"}
            )
            path = paths.child(declared.kind, "rl", "pool-g0-1-0")
            await api.request("DELETE", path)
            await api.until(lambda: path in api.objects)
            await api.request("DELETE", paths.pod("rl", "pool-g0-1-0"))
            await api.until(lambda: api.groups() == {p["metadata"]["name"] for p in api.pods("rl")})
            api.change(*KEY, {**api.pool(*KEY)["spec"], "suspend": True})
            await api.until(lambda: not api.pods("rl") and not api.groups())

    asyncio.run(story())


@EACH
@pytest.mark.parametrize("status", [404, 403])
def test_without_the_definition_no_pod_is_made_and_the_pool_says_why(declared, status):
    async def story() -> None:
        api = Cluster()
        api.status = status
        api.make(*KEY, scheduling=scheduling(declared))
        async with fake_api.operator(api, gangs=(declared.name,)) as room:
            await api.until(lambda: api.reason(*KEY) == conditions.GANG_NOT_SERVED)
            assert f"Kubernetes serves no {declared.groups} here" in api.message()
            assert declared.install in api.message()
            assert not api.pods("rl")
            assert (room.unready(), room.coverage.told()) == ([], [])
            api.status = 200
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            assert len(api.groups()) == 1

    asyncio.run(story())


@EACH
def test_a_gang_that_the_operator_was_not_started_with_is_told(declared):
    """It has no rights to the objects then, and watches none: nobody else pays for them."""

    async def story() -> None:
        api = Cluster()
        api.make(*KEY, scheduling=scheduling(declared))
        async with fake_api.operator(api):
            await api.until(lambda: api.reason(*KEY) == conditions.GANG_NOT_SERVED)
            assert f"start it with --gang={declared.name}" in api.message()
            assert not api.pods("rl")
            assert not any("/podgroups" in path for _, path in api.seen)

    asyncio.run(story())


@EACH
def test_engines_that_run_are_not_replaced_by_what_cannot_be_made(declared):
    pool = single(declared)
    old = [dataclasses.replace(a_pod(pool, e, ready=True), revision="old") for e in pool.engines]
    found = plan(pool, seen(pool, old, absent_kinds=frozenset({declared.kind})), NOW)
    assert (found.removals, found.creates) == ((), ())
    words = told.missing(pool, found, seen(pool, old, absent_kinds=frozenset({declared.kind})))
    assert words.startswith(f"{len(old)} engines waiting")
    assert plan(pool, seen(pool, old), NOW).removals


@EACH
def test_a_pool_that_lacks_nobody_says_nothing_of_a_definition_that_is_gone(declared):
    pool = single(declared)
    there = [a_pod(pool, engine, ready=True) for engine in pool.engines]
    observed = seen(pool, there, absent_kinds=frozenset({declared.kind}))
    assert told.missing(pool, plan(pool, observed, NOW), observed) == ""


@EACH
def test_half_an_engine_is_not_completed_without_its_group(declared):
    pool = spanning(declared)
    half = [a_pod(pool, pool.engines[0], node_rank=1)]
    assert created(plan(pool, seen(pool, half), NOW))
    absent = seen(pool, half, absent_kinds=frozenset({declared.kind}))
    assert not created(plan(pool, absent, NOW))


@EACH
def test_what_is_somebody_elses_under_a_groups_name_is_told_and_no_pod_is_of_it(declared):
    async def story() -> None:
        api = Cluster()
        path = paths.child(declared.kind, "rl", "pool-g0-1-0")
        api.add(path, {"spec": {"minMember": 9}})
        api.make(*KEY, scheduling=scheduling(declared))
        async with fake_api.operator(api, gangs=(declared.name,)):
            await api.until(lambda: api.reason(*KEY) == conditions.NAME_CONFLICT)
            assert f"{declared.kind} pool-g0-1-0" in api.message()
            assert not api.pods("rl")
            assert api.objects[path]["spec"] == {"minMember": 9}

    asyncio.run(story())


@EACH
def test_a_refused_group_keeps_its_pods_from_being_made(declared, monkeypatch):
    monkeypatch.setattr(memory, "REFUSED_BACKOFF", Backoff(0.02, 0.1))

    async def story() -> None:
        api = Cluster()
        no = ApiError(403, "Forbidden", "no podgroups for you", None)
        api.fails = lambda method, path: (
            no if method == "POST" and path.endswith("/podgroups") else None
        )
        api.make(*KEY, scheduling=scheduling(declared))
        async with fake_api.operator(api, gangs=(declared.name,)):
            await api.until(lambda: "no podgroups for you" in str(api.pool(*KEY).get("status")))
            assert not api.pods("rl")
            api.fails = lambda method, path: None
            await api.until(lambda: api.reason(*KEY) == "PoolReady")

    asyncio.run(story())


CLOSED = ApiError(
    403,
    "Forbidden",
    'admission webhook "validatepodgroup.volcano.sh" denied the request: queue `q` is closed',
    None,
)
FULL = ApiError(
    403,
    "Forbidden",
    'podgroups.scheduling.volcano.sh "x" is forbidden: exceeded quota: few, requested: 1',
    None,
)


def posts_groups(method: str, path: str) -> bool:
    return method == "POST" and path.endswith("/podgroups")


def of_three(declared: Grouped, api: Cluster) -> dict[str, Any]:
    api.make(*KEY, scheduling=scheduling(declared))
    spec = {**api.pool(*KEY)["spec"], "device_mapping": "list(range(0,6))"}
    api.change(*KEY, spec)
    return spec


@EACH
@pytest.mark.parametrize(
    ("error", "reason"), [(CLOSED, conditions.POD_REJECTED), (FULL, conditions.QUOTA_EXCEEDED)]
)
def test_a_refused_group_keeps_nobody_elses_pods(declared, error, reason):
    """Removals need none, and give free what a quota counts."""

    async def story() -> None:
        api = Cluster()
        spec = of_three(declared, api)
        async with fake_api.operator(api, gangs=(declared.name,)):
            await api.until(lambda: len(api.pods("rl")) == 3 and api.reason(*KEY) == "PoolReady")
            api.fails = lambda *asked: error if posts_groups(*asked) else None
            ended = {"terminated": {"exitCode": 1, "reason": "Error"}}
            containers = [{"name": names.ENGINE_CONTAINER, "state": ended}]
            failed = {"phase": "Failed", "conditions": [], "containerStatuses": containers}
            api.touch(paths.pod("rl", "pool-g0-1-0"), {"status": failed})
            await api.until(lambda: api.reason(*KEY) == reason)
            assert declared.kind in api.message()
            asked = len([each for each in api.seen if posts_groups(*each)])
            api.change(*KEY, {**spec, "device_mapping": "list(range(0,4))"})
            await api.until(lambda: paths.pod("rl", "pool-g4-5-0") not in api.objects)
            more = len([each for each in api.seen if posts_groups(*each)]) - asked
            assert more <= 4, "it is tried ever later, as refused pods are"

    asyncio.run(story())


@EACH
def test_an_engine_whose_group_is_refused_keeps_no_other_from_being_made(declared):
    class Picky(Cluster):
        def _create(self, collection: str, content: Any) -> Any:
            if collection.endswith("/podgroups") and "g0-1" in content["metadata"]["name"]:
                raise CLOSED
            return super()._create(collection, content)

    async def story() -> None:
        api = Picky()
        of_three(declared, api)
        async with fake_api.operator(api, gangs=(declared.name,)):
            await api.until(lambda: len(api.pods("rl")) == 2)
            assert api.groups() == {"pool-g2-3-0", "pool-g4-5-0"}
            await api.until(lambda: api.reason(*KEY) == conditions.POD_REJECTED)
            assert "pool-g0-1-0: admission webhook" in api.message()

    asyncio.run(story())


def rolled(api: Cluster) -> None:
    template = {"metadata": {"annotations": {"another": "revision"}}}
    api.change(*KEY, {**api.pool(*KEY)["spec"], "podTemplate": template})


@EACH
def test_no_engine_goes_for_one_whose_group_would_be_refused(declared):
    async def story() -> None:
        api = Cluster()
        api.make(*KEY, scheduling=scheduling(declared))
        async with fake_api.operator(api, gangs=(declared.name,)):
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            api.fails = lambda *asked: CLOSED if posts_groups(*asked) else None
            rolled(api)
            await api.until(lambda: api.reason(*KEY) == conditions.POD_REJECTED)
            assert f"would refuse a {declared.kind} of revision" in api.message()
            assert [pod["metadata"]["name"] for pod in api.pods("rl")] == ["pool-g0-1-0"]
            assert not [path for method, path in api.calls if method == "DELETE"]

    asyncio.run(story())


def test_a_quota_of_groups_that_is_full_holds_no_rollout_up():
    """The group of the engine that makes way uses it up."""

    async def story() -> None:
        api = Cluster()
        api.make(*KEY, scheduling={"gang": "Volcano"})
        async with fake_api.operator(api, gangs=("Volcano",)):
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            before = {pod["metadata"]["uid"] for pod in api.pods("rl")}
            api.fails = lambda *asked: FULL if api.groups() and posts_groups(*asked) else None
            rolled(api)
            await api.until(
                lambda: (
                    api.pods("rl")
                    and before.isdisjoint(p["metadata"]["uid"] for p in api.pods("rl"))
                )
            )

    asyncio.run(story())


class Immutable(Cluster):
    """What a group says is never changed, and what is deleted stays for a while, as finalizers do.

    Pods have no node, and are gone at once when they are deleted.
    """

    lingering = False

    def __init__(self) -> None:
        super().__init__()
        # Of each pod as it was made: how many nodes its engine has, and its group's minimum then.
        self.made: list[tuple[int, int]] = []

    def _delete(self, path: str, options: Any) -> Any:
        found = self._found(path)
        if "/podgroups/" in path and self.lingering:
            self._meets(found["metadata"], options.get("preconditions") or {})
            found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            return self._stored(path)
        return super()._delete(path, options)

    def _change(self, method: str, path: str, content: Any, content_type: str) -> Any:
        if "/podgroups/" in path and "spec" in content:
            raise ApiError(422, "Invalid", "spec: field is immutable", None)
        return super()._change(method, path, content, content_type)

    def _create(self, collection: str, content: Any) -> Any:
        if collection.endswith("/pods"):
            notes = content["metadata"]["annotations"]
            pods = int(notes.get(names.ANNOTATION_NODES, 1))
            (group,) = (body for path, body in self.objects.items() if "/podgroups/" in path)
            assert "deletionTimestamp" not in group["metadata"]
            self.made.append((pods, least(group)))
        return super()._create(collection, content)


@EACH
@pytest.mark.parametrize("lingers", [False, True])
def test_the_next_try_of_the_same_name_has_a_group_of_its_own(declared, lingers, monkeypatch):
    """A pod that waits goes without a trace, so its engine's next one has its name."""
    waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no"}
    pending = {"phase": "Pending", "conditions": [waits]}
    monkeypatch.setattr(fake_api, "_running", lambda name: dict(pending))

    async def story() -> None:
        api = Immutable()
        api.lingering = lingers
        api.make(*KEY, scheduling=scheduling(declared), weights={"gate": "Off"})
        spec = dict(api.pool(*KEY)["spec"])
        del spec["device_mapping"]
        spec |= {"replicas": 1, "num_gpus_per_worker": 8, "num_gpus_per_node": 8}
        api.change(*KEY, spec)
        async with fake_api.operator(api, gangs=(declared.name,)):
            await api.until(lambda: "pool-r0-0" in {p["metadata"]["name"] for p in api.pods("rl")})
            api.made.clear()
            api.change(*KEY, {**spec, "num_gpus_per_worker": 16})
            if lingers:
                path = paths.child(declared.kind, "rl", "pool-r0-0")
                await api.until(
                    lambda: "deletionTimestamp" in api.objects[path]["metadata"] and not api.made
                )
                await api.until(lambda: api.seen.count(("DELETE", path)) > 1)
                assert not api.pods("rl")
                api.lingering = False
                with suppress(ApiError):  # the operator's own next delete may be first
                    await api.request("DELETE", path)
            await api.until(lambda: len(api.pods("rl")) == 2)
            assert api.made == [(2, 2), (2, 2)]
            assert not [
                each for each in api.calls if each[0] == "PATCH" and "/podgroups" in each[1]
            ]

    asyncio.run(story())


@EACH
def test_a_group_is_kept_for_its_pods_only_as_it_would_be_made(declared):
    pool = single(declared, priorityClassName="high")
    there = {body["metadata"]["name"]: body for body in before(pool, seen(pool, []))}
    assert before(pool, seen(pool, [], there)) == []
    first = next(iter(there))
    # What a webhook or a default adds is no difference.
    added = {**there[first], "spec": {**there[first]["spec"], "added": 1}}
    assert before(pool, seen(pool, [], {**there, first: added})) == []
    leaves = {**there[first]["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
    on_its_way = {**there[first], "metadata": leaves}
    emptied = {**there[first], "spec": {}}
    for found in (on_its_way, emptied):
        (made,) = before(pool, seen(pool, [], {**there, first: found}))
        assert made == there[first]
    # Of a priority that was asked for then, and is not by now.
    lower = single(declared)
    stale = before(lower, seen(lower, [], there))
    assert bool(stale) is ("priorityClassName" in there[first]["spec"])


@EACH
def test_a_group_that_is_in_sight_and_somebody_elses_has_no_pod_either(declared):
    """One of an earlier pool of this name is about to be collected, and awaited."""

    async def story() -> None:
        api = Cluster()
        path = paths.child(declared.kind, "rl", "pool-g0-1-0")
        owner = {"kind": names.KIND, "name": "pool", "uid": "earlier", "controller": True}
        labels = {names.LABEL_POOL: "pool", names.LABEL_MANAGED_BY: names.MANAGED_BY}
        metadata = {"labels": labels, "ownerReferences": [owner]}
        api.add(path, {"metadata": metadata, "spec": {"minMember": 9}})
        api.make(*KEY, scheduling=scheduling(declared))
        async with fake_api.operator(api, gangs=(declared.name,)):
            await api.until(lambda: sum(posts_groups(*each) for each in api.seen) > 1)
            assert not api.pods("rl")
            await api.request("DELETE", path)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            assert least(api.objects[path]) == 1

    asyncio.run(story())


def test_a_queue_that_a_webhook_chose_is_left():
    """Volcano's puts a group without one into the queue of its namespace."""

    class Annotated(Cluster):
        def _create(self, collection: str, content: Any) -> Any:
            if collection.endswith("/podgroups"):
                content["spec"].setdefault("queue", "team-a")
            return super()._create(collection, content)

    async def story() -> None:
        api = Annotated()
        api.make(*KEY, scheduling={"gang": "Volcano"})
        async with fake_api.operator(api, gangs=("Volcano",)):
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            path = paths.child(of("Volcano").kind, "rl", "pool-g0-1-0")
            # Somebody changes what is the operator's: that alone is put right.
            api.touch(path, {"spec": {"minMember": 7}})
            await api.until(lambda: api.objects[path]["spec"]["minMember"] == 1)
            assert api.objects[path]["spec"]["queue"] == "team-a"

    asyncio.run(story())


@EACH
def test_a_group_that_may_not_be_changed_is_told_by_its_name(declared):
    async def story() -> None:
        api = Immutable()
        api.make(*KEY, scheduling=scheduling(declared))
        async with fake_api.operator(api, gangs=(declared.name,)):
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            path = paths.child(declared.kind, "rl", "pool-g0-1-0")
            api.touch(path, {"metadata": {"labels": {names.LABEL_NAME: "mine"}}})
            await api.until(lambda: api.reason(*KEY) == conditions.CHILD_REFUSED)
            assert f"refuses {declared.kind} pool-g0-1-0" in api.message()
            assert "Service" not in api.message()

    asyncio.run(story())


def test_a_pod_whose_group_the_api_server_drops_is_taken_back_and_told():
    """As one does whose feature gate is off, and says nothing: its pods would start one by one."""

    class Dropping(Cluster):
        def _create(self, collection: str, content: Any) -> Any:
            if collection.endswith("/pods"):
                content["spec"].pop("schedulingGroup", None)
            return super()._create(collection, content)

    async def story() -> None:
        api = Dropping()
        api.make(*KEY, scheduling={"gang": "PodGroup"})
        async with fake_api.operator(api, gangs=("PodGroup",)):
            await api.until(lambda: api.reason(*KEY) == conditions.POD_REJECTED)
            assert "the API server dropped spec.schedulingGroup (pool-g0-1-0)" in api.message()
            assert "GenericWorkload" in api.message()
            assert not api.pods("rl")
            Dropping._create = Cluster._create  # type: ignore[method-assign]
            await api.until(lambda: api.reason(*KEY) == "PoolReady")

    asyncio.run(story())


def test_a_pod_with_a_group_is_read_back_whole_and_no_other_is():
    """Of the others the answer is what the server keeps of them besides their content."""
    accepted: dict[str, str] = {}

    class Asked(Cluster):
        async def request(self, method: str, path: str, **rest: Any) -> bytes:
            if method == "POST" and path.endswith("/pods"):
                accepted[path] = rest["accept"]
            return await super().request(method, path, **rest)

    async def story() -> None:
        api = Asked()
        api.make("rl", "pool", scheduling={"gang": "PodGroup"})
        api.make("other", "pool", scheduling={"gang": "Coscheduling"})
        async with fake_api.operator(api, gangs=("PodGroup", "Coscheduling")):
            await api.until(lambda: len(accepted) == 2)
        assert "PartialObjectMetadata" not in accepted[paths.pods("rl")]
        assert "PartialObjectMetadata" in accepted[paths.pods("other")]

    asyncio.run(story())


# --- what their waiting is called


@EACH
def test_engines_that_wait_for_their_group_say_so_in_the_schedulers_words(declared):
    pool = spanning(declared)
    said = "pod group is not ready, 2 Pending, 2 minAvailable"
    waits: dict[str, Any] = {
        "node": "",
        "phase": "Pending",
        "containers_ready": False,
        "engine_runs": False,
        "scheduling": "Unschedulable",
        "unschedulable": said,
        "scheduler": "theirs",
    }
    pods = [a_pod(pool, e, node_rank=n, **waits) for e in pool.engines for n in (0, 1)]
    found = plan(pool, seen(pool, pods), NOW)
    assert not found.removals
    assert told.waiting(pool, found, None) == (
        conditions.WAITING_FOR_GANG,
        "2 engines waiting until scheduler theirs has room for all of one at once (2 pods with 8 "
        f"nvidia.com/gpu each): {said}",
    )
    assert told.waiting(a_pool(), found, None) is None


def test_kai_starts_nobody_without_a_queue():
    (problem,) = refused(scheduling={"gang": "KAI"}).errors
    assert problem.field == "spec.scheduling.queueName"
    assert str(problem).endswith(texts.A_KAI_QUEUE)
    section = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    rules = section["properties"]["scheduling"]["x-kubernetes-validations"]
    assert any(rule["message"] == f"missing; write {texts.A_KAI_QUEUE}" for rule in rules)
    pool = a_pool(scheduling={"gang": "KAI", "queueName": "gpus"})
    pod = engine_pod.pod(pool, engine_pod.template(pool), pool.engines[0], 0)
    assert pod["metadata"]["labels"]["kai.scheduler/queue"] == "gpus"
    (group, *_) = before(pool, seen(pool, []))
    assert group["spec"] == {"minMember": 1, "queue": "gpus"}


def test_pods_that_kais_pod_grouper_takes_into_groups_of_its_own_are_told():
    """As it is installed it does, with a minimum of one: an engine's pods start one by one."""
    pool = spanning(of("KAI"))
    engine = pool.engines[0]
    own = Member(OWNER.name, engine.name, 0).group
    waits: dict[str, Any] = {"node": "", "phase": "Pending", "containers_ready": False}
    waits["engine_runs"] = False
    for group, is_told in ((own, False), ("", False), ("pg-actor-infer-uid", True)):
        pods = [a_pod(pool, engine, node_rank=n, group=group, **waits) for n in (0, 1)]
        words = told.regrouped(pool, plan(pool, seen(pool, pods), NOW))
        assert ("was moved to PodGroup pg-actor-infer-uid" in words) is is_told
    alone = a_pool(scheduling={"gang": "KAI", "queueName": "gpus"})
    pods = [a_pod(alone, alone.engines[0], group="pg-actor-infer-uid", **waits)]
    assert told.regrouped(alone, plan(alone, seen(alone, pods), NOW)) == ""


def test_the_group_that_a_pod_names_is_seen():
    pool = spanning(of("KAI"))
    body = engine_pod.pod(pool, engine_pod.template(pool), pool.engines[0], 2)
    body["metadata"] |= {"uid": "u", "resourceVersion": "1"}
    kept = keeping.of_pod(msgspec.convert(body, wire.Pod))
    pod = wire.observed_pod(kept, Moment(wall=NOW, steady=NOW))
    assert pod.group == Member(OWNER.name, pool.engines[0].name, 2).group
