"""Of several pools with engines on one GPU at most one has its memory."""

import dataclasses
from typing import Any

import pytest

from sglang_operator.api.names import EngineName, Uid
from sglang_operator.observed import groups
from sglang_operator.plan import contending
from sglang_operator.plan.contending import Contender, Order, Place
from sglang_operator.weights.lease_state import Phase, Transaction
from sglang_operator.weights.turn import TRAINER, Turn
from tests.builders import a_pod, a_pool

GPUS = ("GPU-a", "GPU-b")
ENGINE = EngineName("g0-1")
PLACE = Place(ENGINE, (0, 1), GPUS)
POOL = a_pool()
POD = dataclasses.replace(a_pod(POOL, POOL.engines[0]), gpus_seen=GPUS, container_id="c")
RUN = POD.instance or ""
ASLEEP = Transaction(
    phase=Phase.SLEEPING, id="t", released=("weights", "kv_cache"), asleep=(RUN,), turn=TRAINER
)


def says(**changes: Any) -> Transaction:
    return dataclasses.replace(ASLEEP, **changes)


def a_contender(name: str, created: float = 1.0, **of: Any) -> Contender:
    gpus = {key: frozenset(of.get(key, ())) for key in ("wants", "has", "granted")}
    order = Order(created, "rl", name)
    return Contender(uid=Uid(name), order=order, **gpus, makes=of.get("makes", False))


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (None, ()),
        (Transaction(), GPUS),
        (ASLEEP, ()),
        (says(turn=Turn(frozenset({2, 3}))), GPUS),
        (says(at_work=True), GPUS),
        (says(phase=Phase.ABORTED, at_work=True), ()),
    ],
)
def test_who_is_to_be_started_or_about_to_be_woken_is_to_have_the_memory(said, wanted):
    assert contending.wants([PLACE], said) == {*wanted}


@pytest.mark.parametrize(
    ("said", "told", "has"),
    [
        (None, None, True),
        (Transaction(), None, True),
        (ASLEEP, None, False),
        (says(asleep=("other",)), None, True),
        (says(released=("kv_cache",)), None, True),
        (says(woken=frozenset({f"{RUN}/weights"})), None, True),
        (says(unclear=frozenset({RUN})), None, True),
        (says(releases=True), None, True),
        (says(phase=Phase.ABORTED, fence=True), None, True),
        (says(phase=Phase.ABORTED, at_work=True), frozenset(), True),
        (says(at_work=True), None, False),
        (says(at_work=True), frozenset(), True),
        (says(at_work=True), frozenset({ENGINE}), False),
    ],
)
def test_who_sleeps_on_all_of_it_and_is_not_about_to_wake_has_no_memory(said, told, has):
    assert contending.has([POD], said, told) == ({*GPUS} if has else set())


def test_an_engine_of_several_pods_sleeps_in_all_of_them():
    """The Lease names its run, which is that of no pod: its GPUs were its own for ever."""
    pods = [
        dataclasses.replace(
            POD, name=f"p{n}", uid=Uid(f"u{n}"), nodes=2, node_rank=n, gpus_seen=(gpu,)
        )
        for n, gpu in enumerate(GPUS)
    ]
    (group,) = groups.of(pods)
    asleep = says(asleep=(group.instance,))
    assert contending.has(pods, asleep, None) == set()
    assert contending.has(pods, says(), None) == {*GPUS}
    assert contending.has(pods, says(asleep=(group.instance,), at_work=True), {ENGINE}) == set()
    assert contending.has(pods[1:], asleep, None) == {*GPUS[1:]}, "nobody knows what that is"


def test_a_pod_that_has_ended_has_no_memory():
    assert contending.has([dataclasses.replace(POD, over=True)], None, None) == set()


def test_what_nobody_has_yet_is_the_older_pools():
    old, new = a_contender("b", 1.0, wants=GPUS), a_contender("a", 2.0, wants=GPUS)
    assert contending.barred(old, [new]) == {}
    assert contending.barred(new, [old]) == dict.fromkeys(GPUS, old)


def test_of_one_age_the_name_decides():
    a, b = a_contender("a", wants=GPUS), a_contender("b", wants=GPUS)
    assert (contending.barred(a, [b]), contending.barred(b, [a])) == ({}, dict.fromkeys(GPUS, a))


@pytest.mark.parametrize("how", [{"has": GPUS}, {"wants": GPUS, "granted": GPUS}])
def test_who_has_it_keeps_it_whoever_is_older(how):
    old, new = a_contender("a", 1.0, wants=GPUS), a_contender("b", 2.0, **how)
    assert contending.barred(old, [new]) == dict.fromkeys(GPUS, new)
    assert contending.barred(new, [old]) == {}


def test_what_was_granted_ends_with_the_wish_but_not_while_pods_are_on_their_way():
    old = a_contender("a", 1.0, wants=GPUS)
    ended, makes = (a_contender("b", 2.0, granted=GPUS, makes=each) for each in (False, True))
    assert contending.barred(old, [ended]) == {}
    assert contending.barred(old, [makes]) == dict.fromkeys(GPUS, makes)


def test_gpus_that_the_other_has_not_are_nobodys_matter():
    own, other = a_contender("a", 2.0, wants=GPUS), a_contender("b", 1.0, has=GPUS[:1])
    assert contending.barred(own, [other]) == {GPUS[0]: other}


def test_two_that_have_it_all_the_same_wake_nobody_else():
    """As an operator of before has left them."""
    one, two = a_contender("a", has=GPUS), a_contender("b", has=GPUS)
    assert contending.barred(one, [two]) and contending.barred(two, [one])
