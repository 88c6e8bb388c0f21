"""What a pass has engines do is in the words of each engine's own version, at its own port."""

import dataclasses
from collections.abc import Iterable
from typing import Any, cast

from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller.asking import Asker
from sglang_operator.controller.memory import Memory
from sglang_operator.fleet.poller import Poller
from sglang_operator.observed.model import Observed, ObservedPod
from sglang_operator.weights.lease_state import Phase, Transaction
from tests import builders


class Recorder:
    """A poller that only notes what it is to do."""

    def __init__(self) -> None:
        self.loads: list[tuple[str, str]] = []  # address and mode of the pause
        self.runs: set[str] = set()  # of which it forgets nothing

    def permit(self, *_: Any) -> None:
        pass

    def ask(self, key: PoolKey, asked: Any, runs: Iterable[str]) -> None:
        self.runs = set(runs)

    def load(self, key: PoolKey, run: str, url: str, *_: Any, pause: str, **__: Any) -> None:
        self.loads.append((url, pause))


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
    Asker(cast(Poller, recorder), builders.OPERATOR).ask(
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
    Asker(cast(Poller, recorder), builders.OPERATOR).ask(
        PoolKey("rl", "actor-infer"),
        Memory(uid=pool.owner.uid),
        pool,
        builders.planned(pool, [unseen], **seen),
        builders.weighed(pool, [unseen], **seen),
        Observed(pods=(unseen,), **seen),
    )
    assert (recorder.runs, recorder.loads) == ({pod.instance}, [])
