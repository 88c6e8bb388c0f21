"""A revision that the API server would refuse is told before a running engine goes for it."""

import asyncio
from collections.abc import Callable

import pytest

from sglang_operator.cluster.errors import (
    ApiError,
    ApiUnreachableError,
)
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller import trying
from tests.builders import guide_spec
from tests.unit.controller import world

KEY = PoolKey("rl", "pool")
REFUSED = ApiError(
    422,
    "Invalid",
    'Pod "pool-g0-1-1" is invalid: spec.tolerations[2].effect: Unsupported value: "Never"',
    None,
)


def changed(**changes: object) -> world.Json:
    return guide_spec(device_mapping="[0, 1]", **changes)


def pod_uids(api: world.Api) -> set[str]:
    return {pod["metadata"]["uid"] for pod in api.pods(KEY.namespace)}


def is_replaced(api: world.Api, before: set[str]) -> bool:
    """Whether another pod is there instead."""
    now = pod_uids(api)
    return bool(now) and not now & before and api.reason(*KEY) == "PoolReady"


def rolled(
    error: Exception | None, done: Callable[[world.Api], bool], *, times: int = 10**6
) -> tuple[world.Api, set[str], set[str]]:
    """A pool with another revision, whose first tries meet this error; pods before and after."""

    async def story() -> tuple[world.Api, set[str], set[str]]:
        api = world.Api()
        left = [times]

        def fails(method: str, path: str) -> Exception | None:
            if method == "POST" and path.endswith("/pods") and left[0] > 0:
                left[0] -= 1
                return error
            return None

        async with world.operator(api):
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


def message(api: world.Api) -> str:
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
        ApiError(400, "BadRequest", 'webhook "x" does not support dry run', None),
        ApiError(409, "AlreadyExists", "it exists", None),
    ],
    ids=["quota", "webhook without dry run", "name"],
)
def test_what_says_nothing_of_the_revision_holds_nothing_up(error):
    def done(api: world.Api) -> bool:
        seen.append(pod_uids(api))
        return is_replaced(api, seen[0])

    seen: list[set[str]] = []
    _, before, after = rolled(error, done, times=1)
    assert not before & after


def test_a_policy_that_was_mended_lets_the_rollout_start(monkeypatch):
    monkeypatch.setattr(trying, "RETRY", (0.05, 0.1))
    seen: list[set[str]] = []

    def done(api: world.Api) -> bool:
        seen.append(pod_uids(api))
        return is_replaced(api, seen[0])

    _, before, after = rolled(REFUSED, done, times=3)
    assert not before & after


def test_a_revision_is_tried_once_and_really_not_created():
    async def story() -> list[tuple[str, str]]:
        api = world.Api()
        async with world.operator(api):
            api.make(*KEY)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            before = pod_uids(api)
            api.seen.clear()
            api.change(*KEY, changed(seed=7))
            await api.until(lambda: is_replaced(api, before))
            return [call for call in api.seen if call[0] == "POST" and call[1].endswith("/pods")]

    assert len(asyncio.run(story())) == 2  # the try, and the pod
