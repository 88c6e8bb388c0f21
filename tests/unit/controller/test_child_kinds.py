"""One declaration and its desired function make a kind of child: the loop need not know it.

What a real one wants besides (roles, names, faults) is in CONTRIBUTING.md.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.children import kept, kinds, metadata
from sglang_operator.children.kind import ChildKind
from sglang_operator.children.last_known import LastKnown
from sglang_operator.kube import paths
from sglang_operator.pool.resolve import Owner, Pool
from tests.unit.controller import fake_api
from tests.unit.controller.passes import KEY, Clock, Passes

PATH = "/apis/example.com/v1/namespaces/rl/fences/pool-fence"


def desired(pool: Pool, weights: object) -> Iterator[dict[str, Any]]:
    """A Fence, unless the pool is suspended."""
    if not pool.spec.suspend:
        yield fence(pool.owner)


def fence(owner: Owner) -> dict[str, Any]:
    return metadata.child(
        owner,
        "example.com/v1",
        "Fence",
        f"{owner.name}-fence",
        "fence",
        spec={"podSelector": {"matchLabels": names.selector(owner.name)}},
    )


def known_of_it(known: LastKnown) -> Iterator[dict[str, Any]]:
    """It follows from the pool's name alone."""
    yield fence(known.owner)


DECLARED = ChildKind(
    kind="Fence",
    api_version="example.com/v1",
    plural="fences",
    desired=desired,
    kept=known_of_it,
    names=(lambda pool: f"{pool}-fence",),
    pruned=True,
)


ONE = {"minMember": 1}
GROUPS = "/apis/scheduling.x-k8s.io/v1alpha1/namespaces/rl/podgroups"


def a_group_an_engine(pool: Pool, weights: object) -> Iterator[dict[str, Any]]:
    for engine in pool.running:
        yield metadata.child(
            pool.owner,
            "scheduling.x-k8s.io/v1alpha1",
            "PodGroup",
            group_name(pool.owner.name, engine.name),
            "gang",
            spec={"minMember": 1},
        )


def group_name(pool: str, engine: str) -> str:
    return f"{pool}-{engine}-gang"


AN_ENGINES = ChildKind(
    kind="PodGroup",
    api_version="scheduling.x-k8s.io/v1alpha1",
    plural="podgroups",
    desired=a_group_an_engine,
    kept=kept.nothing,
    engine_name=group_name,
    pruned=True,
)


@pytest.fixture(autouse=True)
def declared(monkeypatch):
    monkeypatch.setattr(kinds, "CHILDREN", (*kinds.CHILDREN, DECLARED, AN_ENGINES))


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


def test_it_is_put_right_while_the_spec_is_refused_too():
    """The list of what such a pool keeps was another one than that of the kinds."""

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: PATH in api.objects and groups(api) == {"g0-1": ONE})
            api.change(*KEY, {**api.pool(*KEY)["spec"], "device_mapping": "nothing of the kind"})
            await api.until(lambda: api.reason(*KEY) == "DeviceMappingInvalid")
            group = f"{GROUPS}/{group_name('pool', 'g0-1')}"
            api.touch(group, {"spec": {"minMember": 7}})
            wanted = {"podSelector": {"matchLabels": names.selector("pool")}}
            api.touch(PATH, {"spec": {"podSelector": {"matchLabels": {names.LABEL_POOL: "x"}}}})
            await api.until(lambda: api.objects[PATH]["spec"] == wanted)
            await api.request("DELETE", PATH)
            await api.until(lambda: PATH in api.objects)
            assert groups(api) == {"g0-1": {"minMember": 7}}  # what only the spec tells

    asyncio.run(story())


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
    assert kinds.in_words().endswith("Fence or PodGroup")
    assert paths.child("Fence", "rl", "pool-fence") == PATH


def groups(api: fake_api.Api) -> dict[str, Any]:
    """What the groups say, by the engine's name in theirs."""
    return {
        path.removeprefix(f"{GROUPS}/pool-").removesuffix("-gang"): body["spec"]
        for path, body in api.objects.items()
        if path.startswith(GROUPS)
    }


@pytest.mark.parametrize(
    ("mapping", "engines"),
    [
        ({"device_mapping": "[0, 1, 4, 7]"}, {"g0-1", "g4x7"}),
        ({"device_mapping": None, "replicas": 2}, {"r0", "r1"}),
    ],
    ids=["by GPU ids", "by rank"],
)
def test_each_engine_has_one_which_is_put_right_and_goes_with_it(mapping, engines):
    async def story() -> None:
        api, one = fake_api.Api(), {"minMember": 1}
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: groups(api) == {"g0-1": one})
            spec = api.pool(*KEY)["spec"]
            now = {key: value for key, value in {**spec, **mapping}.items() if value is not None}
            api.change(*KEY, now)
            await api.until(lambda: groups(api) == dict.fromkeys(engines, one))
            path = f"{GROUPS}/{group_name('pool', min(engines))}"
            api.touch(path, {"spec": {"minMember": 7}})
            await api.until(lambda: groups(api) == dict.fromkeys(engines, one))
            await api.request("DELETE", path)
            await api.until(lambda: path in api.objects)
        api.touch(path, {"spec": {"minMember": 7}})
        # As one that begins with a list has it.
        async with fake_api.operator(api):
            await api.until(lambda: groups(api) == dict.fromkeys(engines, one))
            api.change(*KEY, spec)
            await api.until(lambda: groups(api) == {"g0-1": one})

    asyncio.run(story())


@pytest.mark.parametrize(
    ("name", "may"),
    [
        ("pool-g0-1-gang", True),
        ("pool-g4-5x12-13-gang", True),
        ("pool-h0123456789ab-gang", True),
        ("pool-r17-gang", True),
        ("pool-g0-1", False),
        ("pool-gang", False),
        ("pool--gang", False),
        ("pool-*-gang", False),
        ("pool-x-g0-1-gang", False),
        ("pool-mine-gang", False),
        ("other-g0-1-gang", False),
    ],
)
def test_only_an_engines_name_makes_an_engines_object(name, may):
    """What is kept whole of objects that anybody may write."""
    assert AN_ENGINES.is_name(name, "pool") is may


def test_what_each_engine_has_is_known_as_it_was_written(monkeypatch):
    """What is kept by name alone would be put right for ever."""

    async def told() -> None:
        pool = Passes(Clock(monkeypatch), device_mapping="[0, 1, 4, 7]")
        await pool.settle()
        assert groups(pool.api).keys() == {"g0-1", "g4x7"}
        path = f"{GROUPS}/{group_name('pool', 'g4x7')}"
        pool.api.touch(path, {"spec": {"minMember": 7}})
        await pool.settle()
        assert groups(pool.api)["g4x7"] == {"minMember": 1}

    asyncio.run(told())
