"""Pods of which no stream tells are asked for, each until it is over, in its namespace's turn."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import orjson
import pytest

from sglang_operator.api import device_variables, names
from sglang_operator.cluster import seeking, unseen
from sglang_operator.cluster.seeking import Seeker
from sglang_operator.cluster.stores import PodStore, PoolKey
from sglang_operator.kube import paths
from sglang_operator.kube.errors import ApiError
from sglang_operator.observed import wire

Json = dict[str, Any]


def a_pod(name: str, namespace: str = "rl", *, ended: bool = False, uid: str = "") -> Json:
    """A pod on a GPU of its own, which no stream chooses."""
    env = [{"name": device_variables.NVIDIA, "value": f"GPU-{name}"}]
    state: Json = {"terminated": {"exitCode": 0}} if ended else {"running": {}}
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid or f"uid-{name}",
            "resourceVersion": "2",
            "labels": {names.LABEL_POOL: "pool"},
        },
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": names.ENGINE_CONTAINER, "env": env}],
        },
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": names.ENGINE_CONTAINER, "state": state}],
        },
    }


class Server:
    """Pods by their path; ``refuses`` reads of some."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.refuses: Callable[[str], bool] = lambda path: False
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0

    def add(self, pod: Json) -> Json:
        meta = pod["metadata"]
        self.objects[paths.pod(meta["namespace"], meta["name"])] = pod
        return pod

    async def request(self, method: str, path: str, **_: Any) -> bytes:
        self.asked.append(path)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.refuses(path):
            raise ApiError(403, "Forbidden", f"{path}: no", None)
        if path.endswith("/pods"):
            items = [pod for known, pod in self.objects.items() if known.startswith(f"{path}/")]
            return orjson.dumps({"metadata": {"resourceVersion": "9"}, "items": items})
        if path not in self.objects:
            raise ApiError(404, "NotFound", f"{path} not found", None, missing=True)
        return orjson.dumps(self.objects[path])


class Room:
    def __init__(self) -> None:
        self.server = Server()
        self.woken: list[PoolKey] = []
        self.pods = PodStore(lambda key, urgent: self.woken.append(key))

    def lose(self, pod: Json) -> None:
        """The stream has told of it as one of its own, and tells no more."""
        labelled = msgspec.convert(pod, wire.Pod)
        labels = {**labelled.metadata.labels, names.LABEL_MANAGED_BY: names.MANAGED_BY}
        meta = msgspec.structs.replace(labelled.metadata, labels=labels)
        self.pods.put(msgspec.structs.replace(labelled, metadata=meta))
        self.pods.drop(msgspec.structs.replace(labelled, metadata=meta))

    def hidden(self) -> list[str]:
        unseen = self.pods.unseen
        return sorted(each.pod.name for n in unseen.namespaces for each in unseen.of(n))

    async def until(self, check: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not check():
                await asyncio.sleep(0.002)


@asynccontextmanager
async def seeking_in(room: Room) -> AsyncIterator[None]:
    client: Any = room.server
    task = asyncio.create_task(Seeker(client, room.pods).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(seeking, "FIRST_SECONDS", 0.02)
    monkeypatch.setattr(seeking, "EACH_SECONDS", 0.0)


@pytest.mark.parametrize("over", ["gone", "another of its name", "ended"])
def test_one_is_asked_for_until_its_engine_is_over(over):
    async def story() -> None:
        room = Room()
        path = paths.pod("rl", "a")
        room.lose(room.server.add(a_pod("a")))
        async with seeking_in(room):
            await room.until(lambda: room.server.asked.count(path) > 2)
            assert room.hidden() == ["a"]
            room.woken.clear()
            if over == "gone":
                del room.server.objects[path]
            else:
                other = "uid-other" if over != "ended" else ""
                room.server.add(a_pod("a", ended=over == "ended", uid=other))
            await room.until(lambda: not room.hidden())
            before = len(room.server.asked)
            await asyncio.sleep(0.1)
            assert len(room.server.asked) == before

    asyncio.run(story())


def test_a_namespace_that_may_not_be_read_or_is_full_of_them_delays_no_other():
    async def story() -> None:
        room = Room()
        room.server.refuses = lambda path: "/tenant/" in path
        for number in range(500):
            room.lose(room.server.add(a_pod(f"decoy-{number}", "tenant")))
        async with seeking_in(room):
            await room.until(lambda: room.server.asked)
            before = len(room.server.asked)
            room.lose(a_pod("a"))
            await room.until(lambda: "a" not in room.hidden())
            assert len(room.server.asked) - before < 50
            await asyncio.sleep(0.1)
            assert len(room.server.asked) < 50, "its turn ends after a few refusals"
            assert len(room.hidden()) == 500
        assert room.server.most_at_once <= seeking.AT_ONCE

    asyncio.run(story())


def test_many_of_one_namespace_are_asked_for_a_few_at_a_time():
    async def story() -> None:
        room = Room()
        for number in range(100):
            room.lose(a_pod(f"p-{number}"))
        async with seeking_in(room):
            await room.until(lambda: not room.hidden())
        assert (room.server.most_at_once, len(room.server.asked)) == (seeking.AT_ONCE_OF_ONE, 100)

    asyncio.run(story())


def test_what_there_was_no_room_for_is_found_by_reading_all_pods_of_the_namespace(monkeypatch):
    monkeypatch.setattr(unseen, "MOST", 2)

    async def story() -> None:
        room = Room()
        for name in ("a", "b", "c", "d"):
            pod = a_pod(name)
            room.lose(pod if name in "ab" else room.server.add(pod))
        assert room.pods.unseen.beyond("rl") == 2
        async with seeking_in(room):
            await room.until(lambda: room.hidden() == ["c", "d"])
            assert not room.pods.unseen.beyond("rl")

    asyncio.run(story())


def test_nobody_is_taken_for_known_while_the_namespace_cannot_be_read(monkeypatch):
    monkeypatch.setattr(unseen, "MOST", 1)

    async def story() -> None:
        room = Room()
        room.server.refuses = lambda path: path.endswith("/pods")
        for name in ("a", "b"):
            room.lose(a_pod(name))
        async with seeking_in(room):
            await room.until(lambda: paths.pods("rl") in room.server.asked)
            await asyncio.sleep(0.05)
            assert room.pods.unseen.beyond("rl") == 1
            assert "rl" in room.pods.unseen.namespaces

    asyncio.run(story())


def test_a_pod_that_only_an_answer_told_of_is_asked_for_until_it_is_gone():
    """No stream would tell its end: it was an engine for ever."""

    async def story() -> None:
        room = Room()
        pod = a_pod("pool-g0-1-0")
        pod["metadata"]["ownerReferences"] = [
            {"kind": names.KIND, "name": "pool", "uid": "uid-pool", "controller": True}
        ]
        pod["spec"]["containers"][0]["env"] = []
        room.pods.answered(msgspec.convert(room.server.add(pod), wire.Pod))
        async with seeking_in(room):
            await room.until(lambda: len(room.server.asked) > 2)
            assert len(room.pods) == 1
            room.pods.replace("", [], 10)
            assert len(room.pods) == 1, "the stream's list says nothing of it"
            pod["metadata"] |= {"deletionTimestamp": "2036-11-30T14:30:00Z", "resourceVersion": "3"}
            await room.until(lambda: next(room.pods.of(PoolKey("rl", "pool"))).pod.deleting)
            room.server.objects.clear()
            await room.until(lambda: len(room.pods) == 0)
            assert room.woken[-1] == PoolKey("rl", "pool")

    asyncio.run(story())
