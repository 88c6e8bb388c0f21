"""What a pass has engines do is in the words of each engine's own version, at its own port."""

import asyncio
import dataclasses
from collections.abc import Iterable
from typing import Any, cast

import pytest

from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller import asking
from sglang_operator.controller.asking import Asker
from sglang_operator.controller.memory import Memory
from sglang_operator.fleet.poller import Confirm, Poller
from sglang_operator.kube.errors import ApiError, ApiUnreachableError
from sglang_operator.observed import wire
from sglang_operator.observed.model import Observed, ObservedPod
from sglang_operator.weights.lease_state import Phase, Transaction
from tests import builders


class Recorder:
    """A poller that only notes what it is to do."""

    def __init__(self) -> None:
        self.loads: list[tuple[str, str]] = []  # address and mode of the pause
        self.runs: set[str] = set()  # of which it forgets nothing
        self.confirms: list[Confirm] = []

    def permit(self, *_: Any) -> None:
        pass

    def ask(self, key: PoolKey, asked: Any, runs: Iterable[str]) -> None:
        self.runs = set(runs)

    def load(
        self, key: PoolKey, run: str, url: str, *_: Any, pause: str, confirm: Confirm, **__: Any
    ) -> None:
        self.loads.append((url, pause))
        self.confirms.append(confirm)


async def nobody(key: PoolKey, name: str) -> None:
    """No pod of any name."""


def loads_into(pod: ObservedPod) -> Transaction:
    """The Lease while the operator loads what was committed into this pod's engine."""
    return Transaction(
        phase=Phase.COMMITTED,
        id="t1",
        version="step-1",
        checkpoint="/c/1",
        holder=builders.OPERATOR,
        duration=30,
        renewed=builders.NOW,
        acquired=builders.NOW,
        instances=frozenset({"other"}),
        recovering=frozenset({str(pod.instance)}),
        intact=True,
    )


def test_an_engine_of_an_earlier_revision_loads_the_checkpoint_at_its_own_port():
    weights = {"gate": "Committed", "recovery": "FromCheckpoint"}
    earlier: dict[str, Any] = {"image": "lmsysorg/sglang:v0.5.5.post3", "network": {"port": 31000}}
    old = builders.a_pool(replicas=1, weights=weights, **earlier)
    new = builders.a_pool(replicas=1, weights=weights, rollout={"paused": True})
    pods = builders.all_pods(old, container_id="c0")
    state = loads_into(pods[0])
    seen: dict[str, Any] = {
        "children": builders.a_lease_saying(new, state),
        "revisions": {old.revision: old.facts},
    }
    gates, recorder = builders.weighed(new, pods, **seen), Recorder()
    assert len(gates.recoveries) == 1
    Asker(cast(Poller, recorder), builders.OPERATOR, nobody).ask(
        PoolKey("rl", "actor-infer"),
        Memory(uid=new.owner.uid),
        new,
        builders.planned(new, pods, **seen),
        gates,
        Observed(pods=tuple(pods), **seen),
    )
    assert recorder.loads == [("http://10.0.0.1:31000", "abort")]
    assert new.features.quickest_pause == "retract"


def test_a_load_goes_on_and_none_is_sent_while_kubelet_tells_of_no_container():
    weights = {"gate": "Committed", "recovery": "FromCheckpoint"}
    pool = builders.a_pool(replicas=1, weights=weights)
    (pod,) = builders.all_pods(pool, container_id="c0")
    state = loads_into(pod)
    seen: dict[str, Any] = {"children": builders.a_lease_saying(pool, state)}
    unseen, recorder = dataclasses.replace(pod, container_id="", ip=""), Recorder()
    Asker(cast(Poller, recorder), builders.OPERATOR, nobody).ask(
        PoolKey("rl", "actor-infer"),
        Memory(uid=pool.owner.uid),
        pool,
        builders.planned(pool, [unseen], **seen),
        builders.weighed(pool, [unseen], **seen),
        Observed(pods=(unseen,), **seen),
    )
    assert (recorder.runs, recorder.loads) == ({pod.instance}, [])


def why_not_sent(found: Exception | dict[str, Any] | str | None) -> str:
    """Why nothing is sent where the API server shows this; changes of a pod: the pod with them."""
    pool = builders.a_pool(replicas=1, weights={"gate": "Committed", "recovery": "FromCheckpoint"})
    (pod,) = builders.all_pods(pool, container_id="c0")
    seen: dict[str, Any] = {"children": builders.a_lease_saying(pool, loads_into(pod))}

    async def look(key: PoolKey, name: str) -> wire.Pod | None:
        assert (key.namespace, name) == ("rl", pod.name)
        if isinstance(found, Exception):
            raise found
        if found == "hangs":
            await asyncio.sleep(60)
        return builders.told(pod, **found) if isinstance(found, dict) else None

    async def run() -> str:
        recorder = Recorder()
        Asker(cast(Poller, recorder), builders.OPERATOR, look).ask(
            PoolKey("rl", "actor-infer"),
            Memory(uid=pool.owner.uid),
            pool,
            builders.planned(pool, [pod], **seen),
            builders.weighed(pool, [pod], **seen),
            Observed(pods=(pod,), **seen),
        )
        (confirm,) = recorder.confirms
        return await confirm()

    return asyncio.run(run())


def test_a_load_is_sent_to_an_engine_that_runs_where_it_was_seen():
    assert why_not_sent({}) == ""


@pytest.mark.parametrize(
    "found",
    [
        None,
        {"uid": "another"},
        {"container_id": "c1"},
        {"container_id": ""},
        {"ip": "10.0.0.9"},
        {"ip": ""},
        {"deleted": "2026-01-01T00:00:00Z"},
        {"runs": False},
        {"phase": "Failed"},
    ],
)
def test_nothing_is_sent_to_an_address_that_is_not_the_engines_any_more(found):
    """The stream of pods may have stalled, and the address be that of another pool's engine."""
    assert why_not_sent(found) == "it does not run at 10.0.0.1 any more, so nothing was sent"


@pytest.mark.parametrize(
    "found",
    [
        ApiError(403, "Forbidden", "may not get pods", None),
        ApiUnreachableError("no answer"),
        "hangs",
    ],
)
def test_nothing_is_sent_where_the_api_server_does_not_say_whose_an_address_is(monkeypatch, found):
    monkeypatch.setattr(asking, "CONFIRM_SECONDS", 0.01)
    begins = "whether 10.0.0.1 is the engine's cannot be told, so nothing was sent: "
    assert why_not_sent(found).startswith(begins)
