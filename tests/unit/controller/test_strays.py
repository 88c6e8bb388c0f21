"""No pod that clients reach holds weights that nobody looks after."""

import asyncio
import json
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.children import kinds
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.kube import keeping, paths
from tests import builders
from tests.unit.controller import fake_api
from tests.unit.controller.passes import Clock, Passes

KEY = PoolKey("rl", "pool")


async def committed(api: fake_api.Api, room: Any, **changes: Any) -> str:
    """A pool of one engine that serves; the path of its pod."""
    api.make(*KEY, **changes)
    await api.until(lambda: api.up(*KEY))
    api.transact(*KEY, "Committed", fake_api.instances(room, KEY))
    await api.until(lambda: api.gate("rl") == "True")
    return next(path for path in api.objects if path.startswith(paths.pods("rl") + "/"))


def gates(api: fake_api.Api) -> dict[str, str]:
    return {
        pod["metadata"]["name"]: condition["status"]
        for pod in api.pods("rl")
        for condition in pod["status"]["conditions"]
        if condition["type"] == names.CONDITION_WEIGHTS_SYNCED
    }


def acknowledged(api: fake_api.Api) -> str:
    registry = api.objects[paths.child("ConfigMap", "rl", names.registry_name("pool"))]
    return str(json.loads(registry["data"]["engines.json"])["weights"]["transaction"])


def test_services_choose_no_pod_that_the_operator_does_not_watch():
    async def story() -> dict[str, str]:
        api = fake_api.Api()
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: api.up(*KEY))
            return dict(api.objects[paths.child("Service", "rl", "pool")]["spec"]["selector"])

    selector = asyncio.run(story())
    assert selector[names.LABEL_MANAGED_BY] == names.MANAGED_BY
    assert names.selector("pool").items() <= selector.items()


def test_the_gate_of_a_pod_that_another_pools_label_is_put_on_closes():
    """It would answer for the other pool, with this one's model and weights."""

    async def story() -> dict[str, str]:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            path = await committed(api, room)
            api.touch(path, {"metadata": {"labels": {names.LABEL_POOL: "other"}}})
            name = path.rpartition("/")[2]
            await api.until(lambda: gates(api).get(name) == "False")
            await api.until(lambda: len(api.pods("rl")) == 2)
            return gates(api)

    assert asyncio.run(story())["pool-g0-1-0"] == "False"


def test_nothing_is_acknowledged_while_clients_reach_an_orphan_with_old_weights():
    async def story() -> tuple[str, str]:
        api = fake_api.Api()
        async with fake_api.operator(api) as room:
            path = await committed(api, room)
            await api.until(lambda: acknowledged(api) == "Committed")
            api.objects[path]["metadata"]["ownerReferences"] = []
            api.touch(path, {})
            await api.until(lambda: api.reason(*KEY) == "NameConflict")
            api.transact(*KEY, "Sleeping")
            await asyncio.sleep(0.3)
            before = acknowledged(api)
            api._delete(path, {})
            await api.until(lambda: acknowledged(api) == "Sleeping")
            return before, acknowledged(api)

    before, after = asyncio.run(story())
    assert (before != "Sleeping", after) == (True, "Sleeping")


def test_pods_that_vanish_again_and_again_are_made_more_and_more_slowly():
    """Whoever takes them out of the operator's sight holds a GPU with each."""

    async def story() -> tuple[int, str]:
        api = fake_api.Api()
        made = 0
        async with fake_api.operator(api):
            api.make(*KEY)
            for _ in range(400):
                for path in [p for p in api.objects if p.startswith(paths.pods("rl") + "/")]:
                    made += 1
                    api._delete(path, {})  # as the watch tells it: gone, without a word before
                await asyncio.sleep(0.005)
            await api.until(lambda: api.reason(*KEY) == "PodRejected")
            return made, api.pool(*KEY)["status"]["conditions"][0]["message"]

    made, message = asyncio.run(story())
    assert 8 <= made <= 12
    assert "vanished within an hour" in message


@pytest.mark.parametrize(("per_node", "pods"), [(16, 1), (4, 4), (1, 16)])
def test_an_engine_forced_out_once_is_made_again_at_once_however_many_pods_it_is(
    monkeypatch, per_node, pods
):
    async def story() -> None:
        clock = Clock(monkeypatch)
        pool = Passes(
            clock,
            interval=1.0,
            num_gpus_per_worker=16,
            num_gpus_per_node=per_node,
            device_mapping="list(range(0,16))",
            weights={"gate": "Off"},
        )
        for _ in range(3):
            clock.advance(40)
            await pool.run()
        assert len(pool.pod_names()) == pods
        for name in pool.pod_names():
            pool.api.objects.pop(paths.pod("rl", name))
        await pool.run()
        assert pool.pod_names()

    asyncio.run(story())


class Selecting(fake_api.Api):
    """Watches and lists choose by the operator's label, as the real one's do."""

    def __init__(self) -> None:
        super().__init__()
        self._hidden: set[str] = set()

    def _tell(self, kind: str, path: str, body: Any) -> None:
        labels = body["metadata"].get("labels") or {}
        chosen = "sglanginferences" in path or names.LABEL_MANAGED_BY in labels
        if not chosen and path in self._hidden:
            return
        if chosen:
            self._hidden.discard(path)
        else:
            self._hidden.add(path)
        super()._tell(kind if chosen else "DELETED", path, body)


@pytest.mark.parametrize("kind", [each.kind for each in kinds.CHILDREN])
def test_a_child_that_lost_the_operators_label_gets_it_back(kind):
    """Out of the watch's sight it was made and read again 3,000 times a second, for ever."""
    named, changes = kinds.of(kind).names, {}
    name = named[0]("pool") if named else names.revision_name("pool", builders.a_pool().revision)
    if kind == kinds.CLAIM.kind:
        name, changes = names.claim_name("pool", 0), {"placement": {"mode": "Slot"}}

    async def story() -> int:
        api = Selecting()
        async with fake_api.operator(api) as room:
            await committed(api, room, **changes)
            path = paths.child(kind, "rl", name)
            await api.until(lambda: path in api.objects)
            before = len(api.seen)
            api.touch(path, {"metadata": {"labels": {names.LABEL_MANAGED_BY: None}}})
            await api.until(
                lambda: names.LABEL_MANAGED_BY in api.objects[path]["metadata"]["labels"]
            )
            await asyncio.sleep(0.3)
            assert api.gate("rl") == "True", "what the Lease says still holds"
            api.transact(*KEY, "Sleeping")
            await api.until(lambda: api.gate("rl") == "False")
            return sum(method == "POST" for method, _ in api.seen[before:])

    assert asyncio.run(story()) <= 6


def test_a_lease_of_which_only_the_name_is_kept_is_read_and_never_taken_for_empty(monkeypatch):
    """A trainer's sync was overwritten with an abort when the operator began anew, and its list of
    pools came after that of Leases."""
    monkeypatch.setattr(keeping, "UNCONFIRMED_BYTES", 0)  # as if others had filled it
    lease = paths.child("Lease", "rl", names.weights_lease_name("pool"))

    class Slow(fake_api.Api):
        slow = False

        async def request(self, method: str, path: str, **rest: Any) -> bytes:
            if self.slow and method == "GET" and path.endswith("/sglanginferences"):
                await asyncio.sleep(0.2)
            return await super().request(method, path, **rest)

    async def story() -> tuple[str, str]:
        api = Slow()
        async with fake_api.operator(api) as room:
            await committed(api, room)
            api.transact(*KEY, "Syncing", fake_api.instances(room, KEY))
        api.slow = True
        spec = api.objects[lease].setdefault("spec", {})
        spec |= {"holderIdentity": "trainer", "leaseDurationSeconds": 600}
        async with fake_api.operator(api):
            await asyncio.sleep(0.5)
            annotations = api.objects[lease]["metadata"]["annotations"]
            return annotations[names.ANNOTATION_PHASE], api.gate("rl")

    assert asyncio.run(story()) == ("Syncing", "True")
