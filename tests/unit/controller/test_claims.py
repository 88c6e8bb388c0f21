"""Pods of a trainer that claim one node rank in turn do not restart engines without end."""

import asyncio

import pytest

from sglang_operator.controller import claims
from sglang_operator.controller.claims import FREE, LASTING_SECONDS, Claims
from sglang_operator.kube import paths
from sglang_operator.placement.seats import TrainerPod
from sglang_operator.placement.slots import Slot
from tests.unit.controller import fake_api
from tests.unit.controller.test_trainers import (
    KEY,
    a_pool_that_joined,
    engines,
    publish,
    run_trainer,
    trainer,
)
from tests.unit.placement.trainers import a_slot, gpu, pods, published

ONE = a_slot(0)
OTHER = a_slot(0, pod="trainer-b", uid="uid-b", gpus=tuple(gpu(0, i + 8) for i in range(8)))
BOTH = pods(ONE, OTHER)


class Trainer:
    """What is published of node rank 0, and what is followed of it, by a clock of its own."""

    def __init__(self) -> None:
        self.claims, self.now, self.there = Claims(), 1000.0, BOTH

    def says(self, slot: Slot, after: float = 0.0) -> Slot:
        """This, after so many seconds; the slot that engines are on then."""
        self.now += after
        found = self.claims.settled(published(slot), self.there, self.now)
        told = {claim.node_rank: claim.followed for claim in found}
        text = told.get(0, published(slot)["node-rank-0"])
        return next(each for each in (ONE, OTHER, slot) if published(each)["node-rank-0"] == text)

    def quarrels(self) -> None:
        """Each says so in turn, until the next move is not followed at once."""
        assert self.says(ONE) is ONE
        for turn in range(FREE):
            slot = OTHER if turn % 2 == 0 else ONE
            assert self.says(slot, 0.1) is slot, "followed at once"


def test_each_move_waits_longer_than_the_one_before():
    case = Trainer()
    case.quarrels()
    waits, on = list[float](), OTHER
    for _ in range(10):
        to, begun = (ONE if on is OTHER else OTHER), case.now
        assert case.says(to) is on
        assert case.claims.due is not None
        assert case.says(to, case.claims.due - case.now - 0.01) is on
        assert case.says(to, 0.01) is to
        waits.append(case.now - begun)
        on = to
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(claims.BACKOFF.most)


def test_it_is_told_which_pods_claim_a_node_rank_until_they_are_at_one():
    case = Trainer()
    case.quarrels()
    (claim,) = case.claims.settled(published(OTHER), BOTH, case.now)
    assert claim.pods == ("trainer-0", "trainer-b")
    assert case.claims.due == pytest.approx(case.now + LASTING_SECONDS)
    assert not case.claims.settled(published(OTHER), BOTH, case.now + LASTING_SECONDS)
    case.now += LASTING_SECONDS
    assert case.says(ONE) is ONE, "the next is a single move again"


def test_one_that_publishes_again_what_it_has_moves_nobody():
    case = Trainer()
    for user in range(10):
        case.says(a_slot(0, user=user), 0.1)
    assert case.claims.due is None
    assert case.says(OTHER) is OTHER


def test_engines_leave_a_pod_that_is_gone_at_once_whatever_was_before():
    case = Trainer()
    case.quarrels()
    assert case.says(ONE) is OTHER
    case.there = {**BOTH, "trainer-b": TrainerPod(uid="uid-b", node="gpu-0", gone=True)}
    assert case.says(ONE) is ONE


def test_trainers_that_are_made_anew_again_and_again_are_followed():
    case = Trainer()
    for turn in range(10):
        slot = a_slot(0, uid=f"uid-{turn}")
        case.there = pods(slot)
        assert case.says(slot, 1.0) is slot
    assert case.claims.due is None


def test_what_is_no_slot_or_nobodys_is_told_as_it_is_and_counts_as_no_move():
    case = Trainer()
    case.says(ONE)
    for _ in range(5):
        wrong = a_slot(0, gpus=("GPU-none",))
        assert case.says(wrong, 0.1) is wrong
        strange = a_slot(0, pod="nobody")
        assert case.says(strange, 0.1) is strange
        assert case.says(ONE, 0.1) is ONE
    assert case.claims.due is None


def test_a_node_rank_that_is_said_no_more_is_forgotten():
    case = Trainer()
    case.quarrels()
    case.claims.settled({}, BOTH, case.now + LASTING_SECONDS + 1.0)
    assert not case.claims._ranks


def test_two_pods_that_publish_in_turn_start_engines_a_few_times_and_are_told():
    """Twenty publications made twenty pods, and nobody was told why."""
    made, gone = ("POST", paths.pods("rl")), "DELETE"

    async def story() -> None:
        api = fake_api.Api()
        async with fake_api.operator(api, watch_nodes=False):
            run_trainer(api, OTHER)
            await a_pool_that_joined(api, ONE)
            api.seen.clear()
            for turn in range(20):
                publish(api, ONE if turn % 2 else OTHER)
                await asyncio.sleep(0.1)
            assert api.seen.count(made) <= FREE
            assert sum(method == gone and "/pods/" in path for method, path in api.seen) <= FREE
            await api.until(lambda: api.pool(*KEY)["status"].get("warnings"))
            (warning,) = api.pool(*KEY)["status"]["warnings"]
            assert warning["reason"] == "NodeRankClaimed"
            assert "pods trainer-0 and trainer-b" in warning["message"]
            events = [
                body for body in api.objects.values() if body.get("reason") == "NodeRankClaimed"
            ]
            assert len(events) == 1

            # One of them goes: its engines do not wait for the quarrel to be forgotten.
            publish(api, ONE)
            await asyncio.sleep(0.1)
            await api.request("DELETE", trainer(OTHER)[0])
            await api.until(lambda: seen_by_engines(api) == ONE.gpus[:2])

    asyncio.run(story())


def seen_by_engines(api: fake_api.Api) -> tuple[str, ...]:
    """The GPUs of the one engine that there is."""
    found = [
        variable["value"]
        for pod in engines(api)
        for variable in pod["spec"]["containers"][0]["env"]
        if variable["name"] == "NVIDIA_VISIBLE_DEVICES"
    ]
    return tuple(",".join(found).split(",")) if len(found) == 1 else ()
