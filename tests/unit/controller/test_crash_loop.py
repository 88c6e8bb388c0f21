"""A crash loop is taken over: the new pod comes once the delete of the old one is taken."""

from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.kube import paths
from sglang_operator.kube.errors import ApiError
from tests.unit.controller.passes import Clock, Passes
from tests.unit.controller.test_reconcile import failing, story

SHARE = {"load_format": "auto", "mem_fraction_static": 0.7}
REFUSED = ApiError(403, "Forbidden", 'admission webhook "w" denied the request: no', None)
CHANGED = ApiError(409, "Conflict", "the object has been modified", None)
AWAY = ApiError(503, "ServiceUnavailable", "later", None)
STRAY = ApiError(404, "", "404 page not found", None)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


async def looping(clock: Clock) -> Passes:
    """A pool whose engine fails at its start, and is started again by kubelet."""
    pool = Passes(clock, strategy_args={"strategy_name": "sglang", "strategy_config": SHARE})
    await pool.settle()
    end: dict[str, Any] = {
        "exitCode": 1,
        "reason": "Error",
        "message": "ValueError: Not enough memory. Please try to increase --mem-fraction-static.",
        "startedAt": "2026-01-01T00:00:00Z",
        "finishedAt": "2026-01-01T00:00:20Z",
    }
    container = {
        "name": names.ENGINE_CONTAINER,
        "restartCount": 2,
        "containerID": "containerd://2",
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": end},
    }
    conditions = [{"type": "PodScheduled", "status": "True"}]
    status = {"phase": "Running", "conditions": conditions, "containerStatuses": [container]}
    pool.api.touch(paths.pod("rl", pool.pod_names()[0]), {"status": status})
    return pool


@pytest.mark.parametrize("error", [REFUSED, CHANGED, AWAY, STRAY], ids=str)
def test_no_second_pod_is_made_of_an_engine_whose_first_one_stays(clock, error):
    async def told() -> None:
        pool = await looping(clock)
        first = pool.pod_names()
        pool.api.fails = failing("DELETE", "/pods/", error)
        for _ in range(4):
            clock.advance(600)
            await pool.run()
            assert pool.pod_names() == first
        assert pool.api.seen.count(("DELETE", paths.pod("rl", first[0])))
        pool.api.fails = lambda method, path: None
        clock.advance(600)
        await pool.run()
        (second,) = pool.api.pods("rl")
        assert second["metadata"]["name"] != first[0]
        # What is known of its failures is handed on.
        assert second["metadata"]["annotations"][names.ANNOTATION_STARTUP_FAILURES] == "2"
        assert second["spec"]["restartPolicy"] == "Never"

    story(told)
