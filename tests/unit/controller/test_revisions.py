"""Revisions are stored while the loop is at work, also by one whose role came later."""

import asyncio

from sglang_operator.api import names
from sglang_operator.kube.errors import ApiError
from tests.builders import guide_spec
from tests.unit.controller import fake_api
from tests.unit.controller.passes import KEY

PATH = "/apis/apps/v1/namespaces/rl/controllerrevisions/"


def numbers(api: fake_api.Api) -> list[int]:
    return sorted(body["revision"] for path, body in api.objects.items() if path.startswith(PATH))


def current(api: fake_api.Api) -> fake_api.Json:
    """The stored revision that the pool's status names; empty where it names none that is there."""
    digest = api.pool(*KEY).get("status", {}).get("revision", "")
    return api.objects.get(PATH + names.revision_name("pool", digest), {})


def reasons(api: fake_api.Api) -> list[str]:
    told = api.pool(*KEY).get("status", {}).get("warnings", ())
    return [warning["reason"] for warning in told]


def warning(api: fake_api.Api) -> str:
    told = api.pool(*KEY)["status"].get("warnings", ())
    return "".join(w["message"] for w in told if w["reason"] == "RevisionHistoryNotKept")


def test_each_revision_is_stored_and_one_that_comes_back_is_the_latest():
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: numbers(api) == [1])
            first = guide_spec(device_mapping="[0, 1]")
            api.change(*KEY, {**first, "seed": 7})
            await api.until(lambda: numbers(api) == [1, 2])
            api.change(*KEY, first)
            # A revision is stored before the status names it.
            await api.until(lambda: current(api).get("revision") == 3)
            assert numbers(api) == [2, 3]
            assert '"model_args"' in current(api)["data"]["spec"]
            api.change(*KEY, {**first, "rollout": {"revisionHistoryLimit": 0}})
            await api.until(lambda: numbers(api) == [])

    asyncio.run(story())


def test_an_operator_of_an_older_role_serves_on_says_so_and_stores_them_once_it_may():
    async def story() -> None:
        api = fake_api.Api()
        api.refuse(lambda path: "/controllerrevisions" in path)
        api.make(*KEY)
        async with fake_api.operator(api) as room:
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            await api.until(lambda: "RevisionHistoryNotKept" in reasons(api))
            assert (room.unready(), room.coverage.told()) == ([], [])
            assert not [m for m, path in api.seen if m != "GET" and "/controllerrevisions" in path]
            api.refuse(lambda path: False)
            await api.until(lambda: numbers(api) == [1])
            await api.until(lambda: "RevisionHistoryNotKept" not in reasons(api))

    asyncio.run(story())


def test_one_that_may_read_them_and_not_make_them_serves_on_and_says_so():
    async def story() -> None:
        api = fake_api.Api()
        refused = ApiError(403, "Forbidden", "controllerrevisions is forbidden", None)
        api.fails = lambda method, path: (
            refused if method == "POST" and "/controllerrevisions" in path else None
        )
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: "RevisionHistoryNotKept" in reasons(api))
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            assert "controllerrevisions is forbidden" in warning(api)
            api.fails = lambda method, path: None
            await api.until(lambda: numbers(api) == [1])
            await api.until(lambda: not reasons(api))

    asyncio.run(story())


def test_a_strangers_object_under_the_name_is_a_warning_and_its_removal_is_enough():
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: api.reason(*KEY) == "PoolReady" and numbers(api) == [1])
            (path,) = [path for path in api.objects if path.startswith(PATH)]
            name = path.removeprefix(PATH)
            api._delete(path, {})
            api.add(path, {"metadata": {"name": name, "namespace": "rl"}, "revision": 1})
            await api.until(
                lambda: f"kubectl delete -n rl controllerrevision/{name}" in warning(api)
            )
            told = api.pool(*KEY)["status"]["conditions"]
            assert [c["reason"] for c in told if c["type"] == "Ready"] == ["PoolReady"]
            assert not [c for c in told if c["type"] == "Stalled" and c["status"] == "True"]
            # What is no longer wanted is in nobody's way.
            api.change(*KEY, {**guide_spec(device_mapping="[0, 1]"), "seed": 7})
            await api.until(lambda: not warning(api))

    asyncio.run(story())


def test_a_number_beyond_all_is_nobodys_and_is_not_counted_on():
    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: api.reason(*KEY) == "PoolReady" and numbers(api) == [1])
            (body,) = [body for path, body in api.objects.items() if path.startswith(PATH)]
            name = names.revision_name("pool", "0123456789")
            meta = {**body["metadata"], "name": name}
            meta = {key: meta[key] for key in ("name", "namespace", "labels", "ownerReferences")}
            api.add(PATH + name, {"metadata": meta, "data": {"spec": "{}"}, "revision": 2**63 - 1})
            api.change(*KEY, {**guide_spec(device_mapping="[0, 1]"), "seed": 7})
            await api.until(lambda: numbers(api) == [1, 2])
            await api.until(lambda: api.reason(*KEY) == "PoolReady")

    asyncio.run(story())
