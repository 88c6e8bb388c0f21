"""A revision that the API server would refuse is told before a running engine goes for it."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.backoff import Backoff
from sglang_operator.cluster.dry_runs import DRY_RUN
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller import trying
from sglang_operator.kube.errors import (
    ApiError,
    ApiUnreachableError,
)
from tests.builders import guide_spec
from tests.unit.controller import fake_api

KEY = PoolKey("rl", "pool")
REFUSED = ApiError(
    422,
    "Invalid",
    'Pod "pool-g0-1-1" is invalid: spec.tolerations[2].effect: Unsupported value: "Never"',
    None,
)


def changed(**changes: object) -> fake_api.Json:
    return guide_spec(device_mapping="[0, 1]", **changes)


def pod_uids(api: fake_api.Api) -> set[str]:
    return {pod["metadata"]["uid"] for pod in api.pods(KEY.namespace)}


def is_replaced(api: fake_api.Api, before: set[str]) -> bool:
    """Whether another pod is there instead."""
    now = pod_uids(api)
    return bool(now) and not now & before and api.reason(*KEY) == "PoolReady"


def rolled(
    error: Exception | None, done: Callable[[fake_api.Api], bool], *, times: int = 10**6
) -> tuple[fake_api.Api, set[str], set[str]]:
    """A pool with another revision, whose first tries meet this error; pods before and after."""

    async def story() -> tuple[fake_api.Api, set[str], set[str]]:
        api = fake_api.Api()
        left = [times]

        def fails(method: str, path: str) -> Exception | None:
            if method == "POST" and path.endswith("/pods") and left[0] > 0:
                left[0] -= 1
                return error
            return None

        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            before = pod_uids(api)
            api.fails = fails
            toleration = {"key": "a", "effect": "NoSchedule", "operator": "Exists"}
            template = {"spec": {"tolerations": [toleration]}}
            api.change(*KEY, changed(podTemplate=template))
            await api.until(lambda: done(api))
            return api, before, pod_uids(api)

    return asyncio.run(story())


def message(api: fake_api.Api) -> str:
    told = api.pool(*KEY)["status"]["conditions"]
    return next((str(c["message"]) for c in told if c["type"] == "Ready"), "")


def test_no_engine_goes_for_a_revision_that_would_be_refused():
    api, before, after = rolled(REFUSED, lambda api: api.reason(*KEY) == "PodRejected")
    assert after == before
    assert not [path for method, path in api.calls if method == "DELETE" and "/pods/" in path]
    # The operator's own two tolerations stand before the user's.
    assert "spec.podTemplate.spec.tolerations[0].effect: Unsupported value" in message(api)
    assert "the engines run on" in message(api)


@pytest.mark.parametrize(
    "error",
    [
        ApiError(500, "InternalError", 'failed calling webhook "x": no answer', None),
        ApiUnreachableError("no answer in time"),
        ApiError(403, "Forbidden", 'violates PodSecurity "restricted:latest"', None),
    ],
    ids=["webhook", "no answer", "pod security"],
)
def test_nor_while_it_cannot_be_told(error):
    _, before, after = rolled(error, lambda api: api.reason(*KEY) == "PodRejected")
    assert after == before


@pytest.mark.parametrize(
    "error",
    [
        ApiError(403, "Forbidden", "exceeded quota: gpus, requested: nvidia.com/gpu=2", None),
        ApiError(400, "BadRequest", 'admission webhook "x" does not support dry run', None),
        ApiError(409, "AlreadyExists", "it exists", None),
    ],
    ids=["quota", "webhook without dry run", "name"],
)
def test_what_says_nothing_of_the_revision_holds_nothing_up(error):
    def done(api: fake_api.Api) -> bool:
        seen.append(pod_uids(api))
        return is_replaced(api, seen[0])

    seen: list[set[str]] = []
    _, before, after = rolled(error, done, times=1)
    assert not before & after


# Policies that look at other pods than the one that is made.
COUNTING = {
    "Kyverno": (
        400,
        'admission webhook "validate.kyverno.svc-fail" denied the request: resource '
        "Pod/rl/{name} was blocked: max-pods: at most 1 GPU pods are allowed in this namespace",
    ),
    "Gatekeeper": (
        403,
        'admission webhook "validation.gatekeeper.sh" denied the request: [max-gpus] {gpus} more '
        "GPUs than 2 of 2 that are in use",
    ),
    "HNC": (
        403,
        'admission webhook "resourcequotasstatus.hnc.x-k8s.io" denied the request: exceeded '
        'hierarchical quota in namespace "team": "hrq", used: 2, limited: 2',
    ),
    "a policy": (
        422,
        "pods \"{name}\" is forbidden: ValidatingAdmissionPolicy 'few' with binding 'few' denied "
        "request: no more pods of this pool",
    ),
}


class Policies(fake_api.Api):
    """An API server whose admission looks at the pods that are made; it says why not."""

    def __init__(
        self, refuses: Callable[[fake_api.Json, list[fake_api.Json]], ApiError | None]
    ) -> None:
        super().__init__()
        self.admission: Callable[[fake_api.Json, list[fake_api.Json]], ApiError | None] = refuses
        self.tried: list[fake_api.Json] = []

    async def request(self, method: str, path: str, **rest: Any) -> bytes:
        if method == "POST" and path.endswith("/pods"):
            body = json.loads(rest["body"])
            if rest.get("params") == DRY_RUN:
                self.tried.append(body)
            if error := self.admission(body, self.pods(KEY.namespace)):
                raise error
        return await super().request(method, path, **rest)


def rolls(
    refuses: Callable[[fake_api.Json, list[fake_api.Json]], ApiError | None],
    done: Callable[[fake_api.Api, set[str]], bool],
    **changes: object,
) -> tuple[Policies, set[str], set[str]]:
    """The same under such admission, which is in force from the change on."""

    async def story() -> tuple[Policies, set[str], set[str]]:
        api = Policies(lambda body, pods: None)
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            before = pod_uids(api)
            api.admission = refuses
            api.change(*KEY, changed(**changes or {"seed": 7}))
            await api.until(lambda: done(api, before))
            return api, before, pod_uids(api)

    return asyncio.run(story())


def is_refused(api: fake_api.Api, before: set[str]) -> bool:
    return api.reason(*KEY) == "PodRejected"


def says(text: str, status: int, body: fake_api.Json) -> ApiError:
    limits = body["spec"]["containers"][0]["resources"]["limits"]
    told = text.format(name=body["metadata"]["name"], gpus=limits["nvidia.com/gpu"])
    return ApiError(status, "Forbidden", told, None)


@pytest.mark.parametrize(("status", "text"), COUNTING.values(), ids=COUNTING)
@pytest.mark.parametrize("changes", [{"seed": 7}, {"num_gpus_per_worker": 1}], ids=["seed", "gpus"])
def test_what_counts_the_pod_that_makes_way_holds_nothing_up(status, text, changes):
    """The try stands beside the pod that is to go; once that has gone there is room."""

    def counts(body: fake_api.Json, pods: list[fake_api.Json]) -> ApiError | None:
        standing = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        return says(text, status, body) if standing else None

    def done(api: fake_api.Api, before: set[str]) -> bool:
        return not pod_uids(api) & before and bool(pod_uids(api))

    _, before, after = rolls(counts, done, **changes)
    assert not before & after


def test_the_pod_that_stands_is_tried_as_it_would_be_made_again():
    api, *_ = rolls(
        lambda body, pods: says(COUNTING["Kyverno"][1], 400, body) if pods else None, is_replaced
    )
    new, again = api.tried[:2]
    assert again["metadata"]["name"] == new["metadata"]["name"]
    assert not {"uid", "resourceVersion", "creationTimestamp"} & again["metadata"].keys()
    assert not {"nodeName"} & again["spec"].keys()
    assert "status" not in again
    assert again["spec"]["containers"][0]["args"] != new["spec"]["containers"][0]["args"]
    assert again["metadata"]["ownerReferences"] == new["metadata"]["ownerReferences"]


def test_what_refuses_the_new_revision_alone_holds_it_up():
    def of_seed(body: fake_api.Json, pods: list[fake_api.Json]) -> ApiError | None:
        is_new = "--random-seed=7" in body["spec"]["containers"][0]["args"]
        return says(COUNTING["a policy"][1], 422, body) if is_new else None

    _, before, after = rolls(of_seed, is_refused)
    assert before == after


def test_nor_does_another_refusal_of_the_pod_that_stands_excuse_it():
    def either(body: fake_api.Json, pods: list[fake_api.Json]) -> ApiError | None:
        is_new = "--random-seed=7" in body["spec"]["containers"][0]["args"]
        if is_new:
            return says('admission webhook "a" denied the request: no such seed', 403, body)
        return says(COUNTING["Kyverno"][1], 400, body) if pods else None

    _, before, after = rolls(either, is_refused)
    assert before == after


def test_a_pod_that_cannot_be_read_excuses_nothing():
    def refuses(body: fake_api.Json, pods: list[fake_api.Json]) -> ApiError | None:
        return says(COUNTING["Kyverno"][1], 400, body) if pods else None

    async def story() -> bool:
        api = Policies(lambda body, pods: None)
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            before = pod_uids(api)
            api.admission = refuses
            forbidden = ApiError(403, "Forbidden", "no", None)
            api.fails = lambda method, path: (
                forbidden if method == "GET" and "/pods/" in path else None
            )
            api.change(*KEY, changed(seed=7))
            await api.until(lambda: is_refused(api, before))
            return pod_uids(api) == before

    assert asyncio.run(story())


def test_a_policy_that_was_mended_lets_the_rollout_start(monkeypatch):
    monkeypatch.setattr(trying, "RETRY", Backoff(0.05, 0.1))
    seen: list[set[str]] = []

    def done(api: fake_api.Api) -> bool:
        seen.append(pod_uids(api))
        return is_replaced(api, seen[0])

    _, before, after = rolled(REFUSED, done, times=3)
    assert not before & after


def test_a_revision_is_tried_once_and_really_not_created():
    async def story() -> list[tuple[str, str]]:
        api = fake_api.Api()
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            before = pod_uids(api)
            api.seen.clear()
            api.change(*KEY, changed(seed=7))
            await api.until(lambda: is_replaced(api, before))
            return [call for call in api.seen if call[0] == "POST" and call[1].endswith("/pods")]

    assert len(asyncio.run(story())) == 2  # the try, and the pod


@pytest.mark.parametrize("changes", [{"seed": 7}, {"num_gpus_per_worker": 1}], ids=str)
def test_a_policy_that_takes_no_pod_at_all_costs_one_engine_whose_gates_are_closed(changes):
    """It came after the pods, and nothing of the pool serves: all went, and none came back."""

    async def story() -> None:
        api = Policies(lambda body, pods: None)
        async with fake_api.operator(api):
            api.make(*KEY, weights={"gate": "Committed"})
            spec = {**api.pool(*KEY)["spec"], "device_mapping": "[0,1,2,3,4,5,6,7]"}
            api.change(*KEY, spec)
            await api.until(lambda: len(api.pods("rl")) == 4 and api.reason(*KEY) == "PoolReady")
            before = pod_uids(api)
            api.admission = lambda body, pods: says(COUNTING["a policy"][1], 422, body)
            api.change(*KEY, {**spec, **changes})
            await api.until(lambda: is_refused(api, before))
            await asyncio.sleep(0.5)
            assert len(pod_uids(api) & before) == 3
            api.admission = lambda body, pods: None
            api.change(*KEY, {**spec, **changes, "rollout": {"maxUnavailable": 2}})
            await api.until(lambda: not pod_uids(api) & before)

    asyncio.run(story())


class Changing(fake_api.Api):
    """Policies change pods as they are made, tried or not."""

    policy: Callable[[fake_api.Json], object] = staticmethod(lambda pod: None)

    def _create(self, collection: str, content: fake_api.Json) -> fake_api.Json:
        return super()._create(collection, self._changed(collection, content))

    def _tried(self, collection: str, content: fake_api.Json) -> fake_api.Json:
        return super()._tried(collection, self._changed(collection, content))

    def _changed(self, collection: str, content: fake_api.Json) -> fake_api.Json:
        if collection.endswith("/pods"):
            self.policy(content)
        return content


def relabelled(pod: fake_api.Json) -> None:
    pod["metadata"]["labels"][names.LABEL_MANAGED_BY] = "platform"


def ungrouped(pod: fake_api.Json) -> None:
    pod["spec"].pop("schedulingGroup", None)


@pytest.mark.parametrize(
    ("policy", "says", "spec"),
    [
        (relabelled, "changes its label", {"seed": 7}),
        (ungrouped, "dropped spec.schedulingGroup", {"scheduling": {"gang": "PodGroup"}}),
    ],
)
def test_no_engine_goes_for_a_revision_whose_pods_would_be_taken_back(policy, says, spec):
    """The API server takes them; its answer to the try tells what it makes of them."""

    async def story() -> None:
        api = Changing()
        async with fake_api.operator(api, gangs=("PodGroup",)):
            api.make(*KEY)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            before = pod_uids(api)
            api.policy = policy
            api.change(*KEY, changed(**spec))
            await api.until(lambda: api.reason(*KEY) == "PodRejected")
            assert says in message(api)
            assert pod_uids(api) == before

    asyncio.run(story())
