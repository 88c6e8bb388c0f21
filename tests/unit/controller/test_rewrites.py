"""Somebody who puts back what the operator writes is not written against without end."""

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from sglang_operator import actions
from sglang_operator.api import names
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller import rewrites
from sglang_operator.controller.requeue import Requeue
from sglang_operator.controller.rewrites import Rewrites
from tests.unit.controller import fake_api

KEY = ("rl", "pool")


def gate(is_open=True, uid="u", name="p", message="v"):
    return actions.SetGate(
        name=name,
        uid=names.Uid(uid),
        resource_version=1,
        seen=None,
        is_open=is_open,
        reason="Synced",
        message=message,
    )


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.mark.parametrize(("is_open", "most"), [(True, 30.0), (False, rewrites.URGENT_SECONDS)])
def test_each_repetition_waits_longer_than_the_one_before(monkeypatch, is_open, most):
    clock, known, waits = Clock(monkeypatch), Rewrites(), []
    for _ in range(14):
        requeue = Requeue()
        due = known.due([gate(is_open)], requeue)
        assert bool(due) is not bool(requeue.reasons())
        waits.append(requeue.delay() or 0.0)
        clock.now += waits[-1]
        assert known.due([gate(is_open)], Requeue())
        known.wrote([gate(is_open)])
    assert waits[: rewrites.FREE + 1] == [0.0] * (rewrites.FREE + 1)
    assert waits[rewrites.FREE + 1 :] == sorted(waits[rewrites.FREE + 1 :])
    assert waits[-1] == most
    assert known.worst() == (("Pod", "p"), 13)


def test_what_differs_is_no_repetition(monkeypatch):
    clock, known = Clock(monkeypatch), Rewrites()
    for number in range(20):
        changes = [
            gate(number % 2 == 0),
            gate(uid=f"u{number}", name="q"),
            gate(name="r", message=f"step-{number}"),  # commits, one after the other
        ]
        assert known.due(changes, Requeue()) == changes
        known.wrote(changes)
        clock.now += 0.01
    assert known.worst() is None


def test_what_stood_for_a_minute_was_not_put_back(monkeypatch):
    clock, known = Clock(monkeypatch), Rewrites()
    for _ in range(10):
        known.wrote([gate()])
    assert known.worst()
    clock.now += rewrites.LASTING_SECONDS + 1
    assert known.worst() is None
    known.wrote([gate()])
    assert known.due([gate()], Requeue()) == [gate()]


class Contested(fake_api.Api):
    """Somebody spoils each of these objects whenever it is written, before anybody sees it."""

    kind = ""

    def _stored(self, path: str) -> Any:
        target = self.objects[path]
        if self.kind == "services" and path.endswith("/services/pool"):
            target["spec"]["publishNotReadyAddresses"] = True
        if self.kind == "pods" and "/pods/" in path:
            for condition in target["status"]["conditions"]:
                if condition["type"] == names.CONDITION_WEIGHTS_SYNCED:
                    condition |= {"reason": "Theirs", "status": "False"}
        return super()._stored(path)


@pytest.mark.parametrize("kind", ["services", "pods"])
def test_two_programs_do_not_write_against_each_other_as_fast_as_they_can(kind):
    async def story() -> tuple[int, str]:
        api = Contested()
        async with fake_api.operator(api) as room:
            api.make(*KEY)
            path = "/api/v1/namespaces/rl/services/pool"
            await api.until(lambda: api.up(*KEY))
            api.kind = kind
            if kind == "pods":
                api.transact(*KEY, "Committed", fake_api.instances(room, PoolKey(*KEY)))
            else:
                api.objects[path]["spec"]["publishNotReadyAddresses"] = True
                api.touch(path, {})
            before = len(api.seen)
            await api.until(lambda: api.reason(*KEY) == "ChangedBack")
            written = Counter(
                path for method, path in api.seen[before:] if method == "PATCH" and kind in path
            )
            message = api.pool(*KEY)["status"]["conditions"][0]["message"]
            return max(written.values()), message

    most, message = asyncio.run(story())
    assert most <= 12
    assert "somebody changes" in message
