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
