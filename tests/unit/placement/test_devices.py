"""What is known of devices and claims, and what of a status is understood."""

import pytest

from sglang_operator.placement import devices
from sglang_operator.placement.devices import HeldSlot, Pin
from tests.unit.placement.claims import DRIVER
from tests.unit.placement.trainers import gpu

GPUS = {3: gpu(0, 3), 0: gpu(0, 0)}


def test_what_the_status_tells_of_a_claim_is_what_it_is_pinned_to():
    held = HeldSlot(node_rank=2, claim="c", node="gpu-0", driver=DRIVER, gpus=GPUS, allocated=True)
    told = held.written(8)
    assert [each["id"] for each in told["gpus"]] == [16, 19]
    assert devices.pins([told]) == {2: Pin("gpu-0", DRIVER, GPUS)}


@pytest.mark.parametrize(
    "entry",
    [
        {"nodeRank": 0, "claim": "c"},
        {"nodeRank": "0", "claim": "c", "node": "n", "driver": "d", "gpus": [{"uuid": "x"}]},
        {"nodeRank": 0, "claim": "c", "node": "n", "driver": "d", "gpus": "x"},
        {"nodeRank": 0, "claim": "c", "node": "n", "driver": "d", "gpus": [{"uuid": "x"}]},
        {"nodeRank": 0, "claim": "c", "node": "n", "driver": 1, "gpus": [{"request": "gpu-1"}]},
    ],
)
def test_what_another_version_wrote_pins_nothing(entry):
    assert devices.pins([entry]) == {}


@pytest.mark.parametrize(
    ("request_", "rank"),
    [("gpu-0", 0), ("gpu-31", 31), ("gpu-", None), ("gpu-01", None), ("cards", None)],
)
def test_a_request_is_for_the_gpu_in_its_name(request_, rank):
    assert devices.rank_of(request_) == rank


def test_a_uuid_is_a_text_in_the_expression_whatever_it_is():
    pin = Pin("gpu-0", 'a"b', {0: 'x" || true || "'})
    (request,) = devices.spec("gpu.nvidia.com", [0], pin)["devices"]["requests"]
    (selector,) = request["exactly"]["selectors"]
    assert selector["cel"]["expression"] == (
        r'device.attributes["a\"b"].uuid == "x\" || true || \""'
    )


def test_gpus_are_told_by_their_uuids_in_order_or_not_at_all():
    one, two = (devices.token("rl", "pool-node-0", f"gpu-{rank}") for rank in range(2))
    cards = {two: "GPU-b", one: "GPU-a"}
    assert devices.uuids((one, two), cards) == ["GPU-a", "GPU-b"]
    assert not devices.uuids((one, two), {one: "GPU-a"})
    assert devices.uuids(("GPU-c",), {}) == ["GPU-c"], "which is had by no claim"
