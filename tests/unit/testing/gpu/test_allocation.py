"""What the plugin tells kubelet of its cards, and what a container with some of them gets."""

import pytest

from sglang_operator.testing import errors
from sglang_operator.testing.gpu import allocation

INVENTORY = allocation.Inventory(
    resource="nvidia.com/gpu",
    cards={"GPU-a": "/dev/nvidia0", "GPU-b": "/dev/nvidia5"},
    control=["/dev/nvidiactl", "/dev/nvidia-uvm"],
    mounts=[allocation.Mount(host="/usr", inside="/usr")],
    variables={"HF_HUB_OFFLINE": "1"},
)


def test_a_card_that_the_driver_does_not_show_is_unhealthy():
    assert allocation.devices(INVENTORY, ["GPU-b", "GPU-new"]) == {
        "GPU-a": "Unhealthy",
        "GPU-b": "Healthy",
    }


def test_a_container_gets_its_cards_nodes_and_no_others():
    answer = allocation.allocate(INVENTORY, ["GPU-b"])
    assert [inside for _, inside in answer.nodes] == [
        "/dev/nvidia5",
        "/dev/nvidiactl",
        "/dev/nvidia-uvm",
    ]
    assert answer.variables == {"HF_HUB_OFFLINE": "1", "NVIDIA_VISIBLE_DEVICES": "GPU-b"}
    assert answer.mounts == INVENTORY.mounts
    assert answer.mounts[0].read_only


def test_a_container_with_two_cards_sees_them_in_the_driver_s_order():
    answer = allocation.allocate(INVENTORY, ["GPU-b", "GPU-a"])
    assert answer.variables["NVIDIA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert [host for host, _ in answer.nodes[:2]] == ["/dev/nvidia0", "/dev/nvidia5"]


def test_a_card_that_the_plugin_never_had_is_refused():
    with pytest.raises(errors.KitError, match="kubelet gives GPU-c, the plugin has GPU-a, GPU-b"):
        allocation.allocate(INVENTORY, ["GPU-a", "GPU-c"])


def test_a_stand_in_s_nodes_are_in_a_container_where_the_driver_s_would_be():
    inventory = allocation.Inventory(
        resource="nvidia.com/gpu", cards={"GPU-a": "/folder/dev/nvidia0"}, root="/folder"
    )
    answer = allocation.allocate(inventory, ["GPU-a"])
    assert answer.nodes == [("/folder/dev/nvidia0", "/dev/nvidia0")]


def test_the_plugin_s_process_reads_what_was_written_for_it():
    assert allocation.from_json(allocation.to_json(INVENTORY)) == INVENTORY
