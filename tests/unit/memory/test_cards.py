import pytest

from sglang_operator.memory import cards


@pytest.mark.parametrize(
    ("text", "name"),
    (
        ("H100-80GB", "H100-80GB"),
        ("h100-80gb", "H100-80GB"),
        ("h200", "H200-141GB"),
        ("RTX4090", "RTX4090-24GB"),
        ("A100-40GB", "A100-40GB"),
    ),
)
def test_a_card_is_known_by_its_name(text, name):
    assert cards.parse(text) == cards.CARDS[name]


def test_a_size_is_a_card_of_that_size():
    card = cards.parse("141GiB")
    assert card is not None
    assert card.mib == 141 * 1024
    small = cards.parse("24564MiB")
    assert small is not None
    assert small.mib == 24564


@pytest.mark.parametrize("text", ("A100", "H300", "", "0GiB", "141", "141GB", "-1GiB", "1e9GiB"))
def test_what_is_no_card_is_none(text):
    assert cards.parse(text) is None


def test_more_ranks_find_less_free():
    card = cards.CARDS["H200-141GB"]
    assert card.free(1) == pytest.approx(139.13, abs=0.01)  # measured
    assert card.free(8) == pytest.approx(137.3, abs=0.1)  # reported


@pytest.mark.parametrize(
    ("labels", "name"),
    (
        ({"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}, "H100-80GB"),
        ({"nvidia.com/gpu.product": "NVIDIA-A100-80GB-PCIe"}, "A100-80GB"),
        (
            {"nvidia.com/gpu.product": "NVIDIA-H200", "nvidia.com/gpu.memory": "143771"},
            "H200-141GB",
        ),
        ({"cloud.google.com/gke-accelerator": "nvidia-h100-mega-80gb"}, "H100-80GB"),
    ),
)
def test_a_card_is_known_by_the_labels_of_its_node(labels, name):
    assert cards.of_labels(labels) == cards.CARDS[name]


def test_a_node_knows_better_how_much_memory_its_card_has():
    labels = {"nvidia.com/gpu.product": "NVIDIA-H200", "nvidia.com/gpu.memory": "143000"}
    card = cards.of_labels(labels)
    assert card is not None
    assert (card.name, card.mib, card.known) == ("H200-141GB", 143000, True)


@pytest.mark.parametrize(
    "product", ("NVIDIA-H100-NVL", "NVIDIA-H20-3e", "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb")
)
def test_a_namesake_of_another_size_is_known_by_its_memory_alone(product):
    assert cards.of_labels({"nvidia.com/gpu.product": product}) is None
    labels = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": "9984"}
    card = cards.of_labels(labels)
    assert card is not None
    assert (card.name, card.mib, card.known) == (product, 9984, False)


@pytest.mark.parametrize(
    "labels",
    (
        {},
        {"nvidia.com/gpu.product": "NVIDIA-H200-SHARED"},
        {"nvidia.com/gpu.product": "NVIDIA-H200", "nvidia.com/gpu.replicas": "4"},
        {"nvidia.com/gpu.product": "new", "nvidia.com/gpu.memory": "9" * 60},
        {"nvidia.com/gpu.product": "new", "nvidia.com/gpu.memory": "much"},
        {"nvidia.com/gpu.product": ["NVIDIA-H200"], "cloud.google.com/gke-accelerator": {}},
        {"nvidia.com/gpu.memory": "81559"},
    ),
)
def test_of_a_gpu_that_is_shared_or_not_told_of_there_is_no_card(labels):
    assert cards.of_labels(labels) is None
