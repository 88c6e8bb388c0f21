"""The mode Count: the device plugin chooses GPUs, as many as are asked for."""

import pytest

from sglang_operator.api import conditions, spec
from sglang_operator.api.spec import PlacementMode
from sglang_operator.placement import modes
from sglang_operator.placement.base import Placed, PodParts
from sglang_operator.placement.count import Count
from sglang_operator.placement.seats import Seen
from sglang_operator.pool.resolve import Pool, Refused, resolve_pool
from tests.builders import OWNER, guide_spec


def placed_by(**placement: object) -> Pool | Refused:
    return resolve_pool(OWNER, guide_spec(placement=placement))


def test_an_engine_asks_for_as_many_of_the_resource_as_it_has_gpus():
    pool = placed_by(resourceName="amd.com/gpu")
    assert isinstance(pool, Pool)
    assert pool.resource == "amd.com/gpu"
    assert pool.placement.requests(pool.spec, pool.gpus) == {"amd.com/gpu": "2"}
    assert pool.placement.parts(pool.spec, OWNER.namespace) == PodParts()
    assert pool.seating(Seen()) is None


def test_a_resource_that_is_not_counted_is_refused():
    refused = placed_by(resourceName="cpu")
    assert isinstance(refused, Refused)
    assert [problem.field for problem in refused.errors] == ["spec.placement.resourceName"]


class Claimed(Count):
    """A mode that counts GPUs by a resource of its own."""

    def resource(self, parsed: spec.PoolSpec) -> str:
        return "example.com/card"


@pytest.mark.parametrize(
    ("theirs", "judged"), [("example.com/card", False), ("nvidia.com/gpu", True)]
)
def test_the_users_amount_of_what_a_mode_counts_is_not_judged(monkeypatch, theirs, judged):
    """It is not taken.  Which resource that is, the strategy says, whatever the pool names."""
    monkeypatch.setattr(modes, "MODES", {PlacementMode.SLOT: Claimed()})
    limits = {"containers": [{"name": "engine", "resources": {"limits": {theirs: "1500m"}}}]}
    raw = guide_spec(placement={"mode": "Slot"}, podTemplate={"spec": limits})
    assert isinstance(resolve_pool(OWNER, raw), Refused) is judged


@pytest.mark.parametrize(
    ("engines", "complete", "reason"),
    [(12, True, conditions.COUNTED), (11, False, conditions.ENGINES_UNPLACED)],
)
def test_what_is_achieved_counts_gpus_and_nodes(engines, complete, reason):
    parsed = spec.parse(guide_spec())
    found = modes.of(parsed).achieved(Placed(engines=engines, of=12, nodes=3, gpus=2))
    assert (found.complete, found.reason) == (complete, reason)
    assert f"{2 * engines} " in found.message
    assert "3 nodes" in found.message
