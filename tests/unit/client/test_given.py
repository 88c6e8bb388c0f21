"""What a trainer gives is checked before anything is taken, in words that name the argument."""

import asyncio
import math
import numbers
from pathlib import Path

import pytest

from sglang_operator.client import AsyncPool, InvalidArgument, Pool, given
from sglang_operator.weights import turn
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool


@pytest.fixture
def world():
    with FakePool() as made:
        yield made


@pytest.fixture
def pool(world):
    with Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as made:
        yield made


def untouched(world):
    return not world.puts and not any(engine.asked for engine in world.engines)


NO_VERSIONS = [None, "", " ", True, 7.0, b"7", ["7"], "a\nb", "a\x00", "\udc80", "v" * 513]


@numbers.Integral.register
class Counted:
    """A whole number that is no int, as numpy's are."""

    def __init__(self, value):
        self.value = value

    def __int__(self):
        return self.value

    def __add__(self, other):
        return Counted(self.value + other)


@pytest.mark.parametrize("step", [7, Counted(7)], ids=["int", "numpy"])
def test_a_step_that_trainers_count_is_written_as_text(world, pool, step):
    pool.update_from_disk("/c/7", step)
    assert world.state.version == "7"
    assert {engine.label for engine in world.engines} == {"7"}
    assert pool.wait_synced(step, 5).weights.version == "7"
    with pool.sync(step + 1) as sync:
        assert sync.version == "8"
    assert world.state.version == "8"


@pytest.mark.parametrize("version", NO_VERSIONS, ids=repr)
def test_what_is_no_version_is_refused_before_anything_is_taken(world, pool, version):
    for call in (
        lambda: pool.update_from_disk("/c/1", version),
        lambda: pool.sync(version).__enter__(),
        lambda: pool.wait_synced(version, 1),
    ):
        with pytest.raises(InvalidArgument, match=r"^version is .*; expected "):
            call()
    assert untouched(world)


def test_the_same_for_asyncio(world):
    async def story():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as made:
            with pytest.raises(
                InvalidArgument, match=r"^version is None \(NoneType\); expected te"
            ):
                made.sync(None)  # type: ignore[arg-type]
            await made.update_from_disk(Path("/c/3"), 3)

    asyncio.run(story())
    assert (world.state.version, world.state.checkpoint) == ("3", "/c/3")


@pytest.mark.parametrize("path", [None, "", 7, b"/c", "/c\n", "/" * 4097], ids=repr)
def test_what_is_no_path_is_refused_before_anything_is_taken(world, pool, path):
    with pytest.raises(InvalidArgument, match=r"^path is "):
        pool.update_from_disk(path, "step-1")
    assert untouched(world)


def test_a_checkpoint_is_a_path_or_nothing(world, pool):
    with pool.sync("step-1") as sync:
        for wrong in (None, 7, "\n", ["/c"]):
            with pytest.raises(InvalidArgument, match=r"^checkpoint is "):
                sync.checkpoint = wrong
        sync.checkpoint = ""
        sync.checkpoint = Path("/c/1")
    assert (world.state.version, world.state.checkpoint) == ("step-1", "/c/1")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("duration", 0),
        ("duration", -1),
        ("duration", math.nan),
        ("duration", math.inf),
        ("duration", "30"),
        ("duration", True),
        ("wait", -1),
        ("wait", math.nan),
        ("wait", None),
        ("epoch", 7),
        ("epoch", ""),
        ("pause", 1),
        ("load_format", ""),
    ],
)
def test_options_of_a_sync_are_checked_too(world, pool, option, value):
    with pytest.raises(InvalidArgument, match=rf"^{option} is "):
        pool.update_from_disk("/c/1", "step-1", **{option: value})
    assert untouched(world)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "a/b"},
        {"name": ""},
        {"name": 7},
        {"name": "Actor"},
        {"namespace": "../x"},
        {"namespace": 7},
        {"holder": ""},
        {"holder": 7},
        {"holder": "a\r\nb"},
    ],
    ids=str,
)
def test_names_are_checked_when_a_pool_is_made(options):
    (argument,) = options
    with pytest.raises(InvalidArgument, match=rf"^{argument} is "):
        AsyncPool(**{"name": POOL, "namespace": NAMESPACE, "identity": object(), **options})


@pytest.mark.parametrize("take", ["sleep", "wake", "take_turn"])
def test_an_id_that_no_lease_tells_is_no_gpu(world, pool, take):
    """Read there it stood for all GPUs: those of engines that serve were never given back."""
    with pytest.raises(InvalidArgument, match=r"^devices is \[0, 65536\]"):
        getattr(pool, take)(devices=[0, turn.MOST_ID])
    assert untouched(world)
    last = turn.MOST_ID - 1
    told = turn.read(turn.written(turn.of(given.devices([0, last]))))
    assert told == turn.Turn(frozenset({0, last}))


@pytest.mark.parametrize("key", ["se\ncret", b"secret", "sécret"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(key):
    with pytest.raises(InvalidArgument, match=r"^admin_api_key \(.*not shown") as caught:
        AsyncPool(POOL, NAMESPACE, identity=object(), admin_api_key=key)  # type: ignore[arg-type]
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "plan"),
    [
        ("master_address", ("", 29500, {})),
        ("master_port", ("10.0.0.1", "29500", {})),
        ("master_port", ("10.0.0.1", 65536, {})),
        ("group_name", ("10.0.0.1", 29500, {"group_name": None})),
    ],
)
def test_a_plan_is_checked_before_engines_wait_for_each_other(world, pool, argument, plan):
    address, port, options = plan
    with pytest.raises(InvalidArgument, match=rf"^{argument} is "):
        pool.nccl_plan(address, port, **options)
    assert untouched(world)


def test_a_long_value_is_told_in_short():
    with pytest.raises(InvalidArgument) as caught:
        given.version("v" * 100_000)
    assert len(str(caught.value)) < 200
