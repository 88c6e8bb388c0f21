"""A kind that a cluster does not know costs pools nothing, and is theirs once it is installed."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sglang_operator.backoff import Backoff
from sglang_operator.children import kept, kinds, metadata
from sglang_operator.children.kind import ChildKind
from sglang_operator.kube import informer
from sglang_operator.kube.errors import ApiError
from sglang_operator.pool.resolve import Pool
from tests.unit.controller import fake_api
from tests.unit.controller.passes import KEY

API = "scheduling.x-k8s.io/v1alpha1"
PATH = f"/apis/{API}/namespaces/rl/podgroups/pool-gang"


def a_group(pool: Pool, weights: object) -> Iterator[dict[str, Any]]:
    name = f"{pool.owner.name}-gang"
    yield metadata.child(pool.owner, API, "PodGroup", name, "gang", spec={"minMember": 1})


GANG = ChildKind(
    kind="PodGroup",
    api_version=API,
    plural="podgroups",
    desired=a_group,
    kept=kept.nothing,
    names=(lambda pool: f"{pool}-gang",),
    pruned=True,
    optional=True,
)


class Cluster(fake_api.Api):
    """One in which the definition of PodGroups may be missing."""

    status = 404  # what asking for them is answered with; 200: they are there

    def install(self) -> None:
        self.status = 200

    def uninstall(self) -> None:
        """Their definition is deleted, and so are they."""
        self.status = 404
        for path in [path for path in self.objects if "/podgroups/" in path]:
            self._delete(path, {})
        self._end_watches(lambda path: "/podgroups" in path)

    def _refusal(self, path: str, *, watches: bool = False) -> ApiError | None:
        if "/podgroups" in path and self.status != 200:
            return ApiError(self.status, "NotFound", f"{path}: not found", None)
        return super()._refusal(path, watches=watches)

    def reasons(self) -> Mapping[str, str]:
        told = self.pool(*KEY).get("status", {}).get("conditions", ())
        return {condition["type"]: condition["reason"] for condition in told}


@pytest.fixture(autouse=True)
def declared(monkeypatch):
    monkeypatch.setattr(informer, "BACKOFF", Backoff(0.01, 0.02))
    monkeypatch.setattr(kinds, "CHILDREN", (*kinds.CHILDREN, GANG))


@pytest.mark.parametrize("namespaces", [("",), ("rl",)], ids=["all namespaces", "one"])
def test_pools_are_served_without_it_and_get_theirs_when_it_is_installed(namespaces):
    async def story() -> None:
        api = Cluster()
        api.make(*KEY)
        watched = {} if namespaces == ("",) else {"namespaces": namespaces}
        async with fake_api.operator(api, **watched) as room:
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            assert (room.unready(), room.coverage.told()) == ([], [])
            assert ("POST", PATH.rpartition("/")[0]) not in api.seen
            api.install()
            await api.until(lambda: PATH in api.objects)
            assert api.reason(*KEY) == "PoolReady"

    asyncio.run(story())


def test_when_it_is_taken_away_pools_go_on_and_nobody_asks_for_it_in_vain():
    async def story() -> int:
        api = Cluster()
        api.install()
        async with fake_api.operator(api) as room:
            api.make(*KEY)
            await api.until(lambda: PATH in api.objects and api.reason(*KEY) == "PoolReady")
            api.uninstall()
            await api.until(lambda: room.coverage.absent("rl"))
            await api.until(lambda: "PoolReady" in api.reasons().values())
            before = len(api.seen)
            api.change(*KEY, {**api.pool(*KEY)["spec"], "device_mapping": "[0, 1, 2, 3]"})
            await api.until(lambda: len(api.pods("rl")) == 2)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            assert not room.unready()
            asked = [method for method, path in api.seen[before:] if "/podgroups" in path]
            api.install()
            await api.until(lambda: PATH in api.objects)
            return sum(method != "GET" for method in asked)

    assert asyncio.run(story()) == 0


@asynccontextmanager
async def begun(api: Cluster) -> AsyncIterator[Any]:
    """An operator that is not in sync yet."""
    room = fake_api.a_room(api)
    running = asyncio.create_task(room.run(None))
    try:
        yield room
    finally:
        room.stop()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_one_that_may_not_be_read_is_refused_and_absent_only_once_it_is_not_found():
    """A missing role is a mistake that somebody can mend, and is told."""

    async def story() -> None:
        api = Cluster()
        api.status = 403
        api.make(*KEY)
        async with begun(api) as room:
            await api.until(room.coverage.told)
            assert room.coverage.told() == ["all namespaces (podgroups)"]
            assert room.unready()
            assert not api.pods("rl")
            api.status = 404
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            assert (room.unready(), room.coverage.told()) == ([], [])
            api.status = 403
            await api.until(room.coverage.told)
            assert not room.coverage.reads("rl")

    asyncio.run(story())


def test_a_kind_that_is_not_optional_is_refused_when_it_is_not_found(monkeypatch):
    firm = dataclasses.replace(GANG, optional=False)
    monkeypatch.setattr(kinds, "CHILDREN", (*kinds.CHILDREN[:-1], firm))

    async def story() -> None:
        api = Cluster()
        api.make(*KEY)
        async with begun(api) as room:
            await api.until(room.coverage.told)
            assert room.coverage.told() == ["all namespaces (podgroups)"]
            assert not api.pods("rl")

    asyncio.run(story())
