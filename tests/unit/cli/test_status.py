"""``status``: who acts, one screen for people, one document for programs."""

import json
from datetime import datetime
from typing import Any

from sglang_operator.cli import status
from sglang_operator.cli.cluster import operator_leases
from tests.builders import NOW
from tests.golden import pictures
from tests.unit.view.drawn_cluster import guide

T = "2027-01-15T08:00:0"


def _shown(*items: Any, now: float = NOW) -> str:
    found = operator_leases.holders(json.dumps({"items": items}).encode(), now)
    return pictures.plain(status.render(guide().cluster_view(holders=found), now, detail=False))


def test_who_acts_for_pools_is_told():
    spec = {"holderIdentity": "op-0_1", "renewTime": f"{T}0.000000Z"}
    lease = {"metadata": {"namespace": "sys"}, "spec": spec}
    renewed = datetime.fromisoformat(spec["renewTime"]).timestamp()
    assert "operator: op-0_1 in sys, renewed 3s ago\n" in _shown(lease, now=renewed + 3)
    assert "op-0_1 in sys, renewed 14s ago" in _shown(lease, now=renewed + 14)
    stopped = (
        "✘ operator: op-0_1 in sys, which held the Lease sglang-operator, stopped 15s ago, and"
    )
    assert stopped in _shown(lease, now=renewed + 15)
    longer = {**lease, "spec": {**spec, "leaseDurationSeconds": 30}}
    assert "renewed 29s ago" in _shown(longer, now=renewed + 29)
    nobody = "✘ operator: nobody holds the Lease sglang-operator"
    assert nobody in _shown({**lease, "spec": {**spec, "holderIdentity": ""}}, now=renewed)
    assert "kubectl sglang doctor" in _shown()


def test_a_lease_that_may_not_be_read_says_nothing_of_the_operator():
    shown = pictures.plain(status.render(guide().cluster_view(), NOW, detail=False))
    assert "operator:" not in shown
