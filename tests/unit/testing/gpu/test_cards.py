"""What nvidia-smi and the driver's files say, as cards with device nodes."""

import pytest

from sglang_operator.testing import errors
from sglang_operator.testing.gpu import cards

SMI = """\
GPU-aaaa, NVIDIA H200, 580.159.04, 1024, 143771
GPU-bbbb, NVIDIA H200, 580.159.04, 0, 143771
"""
INFORMATION = """\
Model: \t\t NVIDIA H200
GPU UUID: \t {uuid}
Bus Location: \t 0000:19:00.0
Device Minor: \t {minor}
"""


def test_an_answer_of_nvidia_smi_is_one_card_a_line():
    first, second = cards.parse(SMI)
    assert (first.uuid, first.used, first.total) == ("GPU-aaaa", 1024 << 20, 143771 << 20)
    assert (second.driver, second.product) == ("580.159.04", "NVIDIA-H200")


@pytest.mark.parametrize(
    "line",
    ["NVIDIA-SMI has failed because it could not communicate", "GPU-a, H200, 580, [N/A], 143771"],
)
def test_another_answer_is_told_in_its_own_words(line):
    with pytest.raises(ValueError, match="nvidia-smi says") as told:
        cards.parse(SMI + line)
    assert line in str(told.value)


def test_a_card_has_the_node_that_the_driver_says():
    files = [INFORMATION.format(uuid="GPU-aaaa", minor=3), INFORMATION.format(uuid="x", minor=0)]
    known = cards.minors(files)
    assert known == {"GPU-aaaa": 3, "x": 0}
    (card,) = cards.with_nodes(cards.parse(SMI), known, [0, 3])
    assert (card.uuid, card.minor) == ("GPU-aaaa", 3)


def test_without_a_word_of_the_driver_nodes_are_in_the_order_of_cards():
    found = cards.with_nodes(cards.parse(SMI), {}, [6, 2])
    assert [card.minor for card in found] == [2, 6]


def test_it_is_not_guessed_which_of_fewer_nodes_belongs_to_which_card():
    assert cards.with_nodes(cards.parse(SMI), {}, [2]) == []


def test_a_card_whose_node_is_not_here_is_somebody_else_s():
    assert cards.with_nodes(cards.parse(SMI), {"GPU-aaaa": 0, "GPU-bbbb": 1}, []) == []


def test_the_cards_with_most_free_memory_are_taken():
    found = cards.with_nodes(cards.parse(SMI), {"GPU-aaaa": 0, "GPU-bbbb": 1}, [0, 1])
    assert [card.uuid for card in cards.choose(found, 1)] == ["GPU-bbbb"]
    assert [card.uuid for card in cards.choose(found, 2)] == ["GPU-aaaa", "GPU-bbbb"]


def test_nodes_have_as_many_cards_each_and_none_has_another_s():
    first, second = cards.parse(SMI)
    assert cards.shared_out([first, second], 1) == [[first, second]]
    assert cards.shared_out([first, second], 2) == [[first], [second]]


@pytest.mark.parametrize(("count", "nodes"), [(1, 2), (2, 3), (0, 1)])
def test_cards_that_nodes_cannot_share_evenly_are_refused(count, nodes):
    with pytest.raises(errors.KitError, match=f"{nodes} nodes cannot .* of {count} GPUs"):
        cards.shared_out(cards.parse(SMI)[:count], nodes)
