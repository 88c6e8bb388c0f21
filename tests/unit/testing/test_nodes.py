"""The node grammar and the Node objects."""

import pytest

from sglang_operator.testing import errors, nodes


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        pytest.param("3x8", [8, 8, 8], id="one group"),
        pytest.param("2x8,1x4", [8, 8, 4], id="two groups"),
        pytest.param(" 1x8 , 1x0 ", [8, 0], id="spaces and a node without GPUs"),
        pytest.param("0", [], id="zero"),
        pytest.param("", [], id="nothing"),
        pytest.param("0x8", [], id="zero of a kind"),
    ],
)
def test_the_grammar_gives_each_node_its_gpus(text, gpus):
    assert [spec.gpus for spec in nodes.parse(text)] == gpus


def test_names_are_numbered_across_groups():
    names = [spec.name for spec in nodes.parse("1x8,2x4")]
    assert names == ["gpu-node-0", "gpu-node-1", "gpu-node-2"]


@pytest.mark.parametrize("text", ["3", "x8", "3x", "3×8", "3x8,", "-1x8", "3x8x2", "3x8;1x4"])
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(errors.KitError, match="write 3x8 for three nodes"):
        nodes.parse(text)


def test_a_slip_of_the_finger_does_not_make_ten_thousand_nodes():
    with pytest.raises(errors.KitError, match="10000 nodes, at most 5000"):
        nodes.parse("10000x8")


def test_a_node_has_the_labels_that_gpu_feature_discovery_would_give_it():
    spec = nodes.NodeSpec(name="gpu-node-0", gpus=8)
    labels = nodes.manifest(spec, product="NVIDIA-H200")["metadata"]["labels"]
    assert labels["nvidia.com/gpu.product"] == "NVIDIA-H200"
    assert labels["nvidia.com/gpu.count"] == "8"
    assert labels["kubernetes.io/hostname"] == "gpu-node-0"


def test_a_node_offers_its_gpus_as_capacity_and_allocatable():
    status = nodes.manifest(nodes.NodeSpec(name="n", gpus=4), product="P")["status"]
    assert status["capacity"]["nvidia.com/gpu"] == "4"
    assert status["allocatable"] == status["capacity"]


def test_a_node_without_gpus_says_nothing_of_gpus():
    node = nodes.manifest(nodes.NodeSpec(name="n", gpus=0), product="P")
    assert "nvidia.com/gpu" not in node["status"]["capacity"]
    assert not [label for label in node["metadata"]["labels"] if label.startswith("nvidia.com")]


def test_own_labels_win():
    spec = nodes.NodeSpec(name="n", gpus=8)
    own = {"topology.kubernetes.io/zone": "z7", "rack": "r1"}
    labels = nodes.manifest(spec, product="P", labels=own)["metadata"]["labels"]
    assert labels["topology.kubernetes.io/zone"] == "z7"
    assert labels["rack"] == "r1"


def test_no_two_nodes_share_an_address():
    addresses = {nodes.address(number) for number in range(nodes.MAX_NODES)}
    assert len(addresses) == nodes.MAX_NODES
    assert all(0 < int(part) < 255 for a in addresses for part in a.split(".")[3:])


@pytest.mark.parametrize(
    ("node", "ready"),
    [
        pytest.param({}, False, id="new"),
        pytest.param(
            {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, True, id="ready"
        ),
        pytest.param(
            {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}, False, id="silent"
        ),
        pytest.param(
            {
                "spec": {"taints": [{"key": "node.kubernetes.io/not-ready"}]},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            },
            False,
            id="ready but tainted",
        ),
    ],
)
def test_a_node_is_ready_when_it_says_so_and_has_no_taints(node, ready):
    assert nodes.is_ready(node) is ready
