"""Gates are written at once, and that of an engine which makes way after the one that comes."""

import asyncio

from sglang_operator import actions
from sglang_operator.api.names import Uid
from sglang_operator.cluster import gate_order
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.unit.plan.test_heirs import Case


def gate(uid: str, *, after: str = "", is_open: bool = True) -> actions.SetGate:
    return actions.SetGate(
        name=uid,
        uid=Uid(uid),
        resource_version=1,
        seen=None,
        is_open=is_open,
        reason="",
        message="",
        after=Uid(after) if after else None,
    )


def test_one_that_makes_way_is_closed_once_the_other_is_open_and_nobody_else_waits():
    async def story() -> None:
        told, slow = list[str](), asyncio.Event()

        async def one(action: actions.GateAction) -> bool:
            assert isinstance(action, actions.SetGate)
            if action.name == "new":
                await slow.wait()
            told.append(action.name)
            return True

        batch = [gate("old", after="new", is_open=False), gate("new"), gate("third")]
        task = asyncio.ensure_future(gate_order.write(batch, one))
        await asyncio.sleep(0.01)
        assert told == ["third"]
        slow.set()
        assert await task == 3
        assert told == ["third", "new", "old"]

    asyncio.run(story())


def test_one_that_makes_way_stays_open_where_the_other_could_not_be_opened():
    async def story(batch: list[actions.GateAction]) -> list[str]:
        told = list[str]()

        async def one(action: actions.GateAction) -> bool:
            assert isinstance(action, actions.SetGate)
            told.append(action.name)
            return action.name != "new"

        assert await gate_order.write(batch, one) == 0
        return told

    old = gate("old", after="new", is_open=False)
    assert asyncio.run(story([gate("new"), old])) == ["new"]
    assert asyncio.run(story([old])) == [], "it is put off, as somebody else closes it again"


def test_a_commit_closes_the_old_engine_after_its_heir_has_opened():
    case = Case()
    runs = frozenset(e.instance for e in case.registry().engines if e.instance)
    case.state = Transaction(
        phase=Phase.COMMITTED, id="t2", version="step-2", intact=True, instances=runs
    )
    found = actions.gate_actions(case.pool.owner, case.weigh())
    after = {each.name: each.after for each in found if isinstance(each, actions.SetGate)}
    assert after.pop(case.olds[3].name) == case.new.uid
    assert set(after.values()) == {None}
