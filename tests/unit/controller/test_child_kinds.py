"""One declaration and its desired function make a kind of child: nothing else has to know it."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.children import kinds, metadata
from sglang_operator.children.kind import ChildKind
from sglang_operator.kube import paths
from sglang_operator.pool.resolve import Pool
from tests.unit.controller import fake_api
from tests.unit.controller.passes import KEY, Clock, Passes

PATH = "/apis/networking.k8s.io/v1/namespaces/rl/networkpolicies/pool-ingress"


def desired(pool: Pool, weights: object) -> Iterator[dict[str, Any]]:
    """A NetworkPolicy, unless the pool is suspended."""
    if not pool.spec.suspend:
        yield metadata.child(
            pool.owner,
            "networking.k8s.io/v1",
            "NetworkPolicy",
            f"{pool.owner.name}-ingress",
            "ingress",
            spec={"podSelector": {"matchLabels": names.selector(pool.owner.name)}},
        )


DECLARED = ChildKind(
    kind="NetworkPolicy",
    api_version="networking.k8s.io/v1",
    plural="networkpolicies",
    names=lambda pool: (f"{pool}-ingress",),
    desired=desired,
    optional=True,
)


@pytest.fixture(autouse=True)
def declared(monkeypatch):
    monkeypatch.setattr(kinds, "CHILDREN", (*kinds.CHILDREN, DECLARED))


def test_a_declared_kind_is_made_put_right_and_deleted_when_it_is_no_longer_wanted(monkeypatch):
    async def told() -> None:
        pool = Passes(Clock(monkeypatch))
        await pool.settle()
        wanted = {"podSelector": {"matchLabels": names.selector("pool")}}
        assert pool.api.objects[PATH]["spec"] == wanted
        pool.api.touch(PATH, {"spec": {"podSelector": {"matchLabels": {names.LABEL_POOL: "x"}}}})
        await pool.settle()
        assert pool.api.objects[PATH]["spec"] == wanted
        pool.change(suspend=True)
        await pool.settle()
        assert PATH not in pool.api.objects

    asyncio.run(told())


def test_one_of_somebody_else_is_left_alone_and_told(monkeypatch):
    async def told() -> None:
        pool = Passes(Clock(monkeypatch))
        pool.api.add(PATH, {"spec": {}})
        await pool.run()
        assert pool.reason == "NameConflict"
        assert pool.api.objects[PATH]["spec"] == {}

    asyncio.run(told())


def test_a_declared_kind_is_watched():
    """Whatever becomes of it wakes the pool."""

    async def told() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: PATH in api.objects)
            await api.request("DELETE", PATH)
            await api.until(lambda: PATH in api.objects)

    asyncio.run(told())


def test_a_refusal_of_it_is_told_by_its_kind(monkeypatch):
    assert kinds.in_words().endswith("or NetworkPolicy")
    assert paths.child("NetworkPolicy", "rl", "pool-ingress") == PATH
