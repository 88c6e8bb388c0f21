"""ROLL's device_mapping: what it means, and what is said about one that means nothing."""

import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sglang_operator.api import errors, names
from sglang_operator.roll import device_mapping


def problem_of(text):
    with pytest.raises(errors.InvalidError) as caught:
        device_mapping.parse(text)
    problem = caught.value.problem
    assert problem.field == "spec.device_mapping"
    assert problem.reason == "DeviceMappingInvalid"
    assert problem.severity is errors.Severity.ERROR
    return problem


# Every form in the YAML of ROLL's examples, tests and docs (explanation/roll.md).
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        pytest.param("list(range(0,24))", tuple(range(24)), id="the guide's"),
        pytest.param("list(range(8, 16))", tuple(range(8, 16)), id="with a blank"),
        pytest.param("list([4,5,12,13])", (4, 5, 12, 13), id="a list in list()"),
        pytest.param("[1]", (1,), id="one id"),
        pytest.param("[6, 7]", (6, 7), id="a list display"),
        pytest.param(
            "list(range(0,2))+list(range(14,16))", (0, 1, 14, 15), id="a sum without blanks"
        ),
        pytest.param(
            "list(range(0,4)) + list(range(8,12))", (0, 1, 2, 3, 8, 9, 10, 11), id="a sum"
        ),
    ],
)
def test_every_form_that_roll_files_use_is_understood(text, ids):
    assert device_mapping.parse(text) == ids


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        pytest.param("list(range(4))", (0, 1, 2, 3), id="a range with one bound"),
        pytest.param("list(range(0,8,2))", (0, 2, 4, 6), id="a step"),
        pytest.param("list(range(3,-1,-1))", (3, 2, 1, 0), id="a descending step down to 0"),
        pytest.param("[3, 1, 2]", (3, 1, 2), id="in list order, not sorted"),
        pytest.param("[0] + [1] + [2]", (0, 1, 2), id="a sum of three"),
        pytest.param("[0] + ([1] + [2])", (0, 1, 2), id="parentheses"),
        pytest.param("((list((range((0),(2))))))", (0, 1), id="many parentheses"),
        pytest.param("  list(range(0,2))\n", (0, 1), id="blanks around"),
        pytest.param("[0,\n 1,]", (0, 1), id="over two lines, with a last comma"),
        pytest.param("[] + [5]", (5,), id="an empty term"),
        pytest.param("list(range(5,5)) + [1]", (1,), id="an empty range"),
        pytest.param("[1_000]", (1000,), id="an underscore, as in Python"),
        pytest.param("[999999]", (999999,), id="the highest id"),
        pytest.param("[-0]", (0,), id="minus zero"),
    ],
)
def test_what_python_would_make_of_it_is_what_comes_out(text, ids):
    assert device_mapping.parse(text) == ids == tuple(eval(text.strip()))


@pytest.mark.parametrize(
    "text",
    [
        "range(0,8)",
        "list",
        "list()",
        "list(8)",
        "list(list([0]))",
        "list([0], [1])",
        "list(range())",
        "list(range(0,8,1,1))",
        "list(range(0,8,0))",
        "list(range(start=0))",
        "list(range(*[0,8]))",
        "list(range(0,10**9))",
        "list(range(0,8)) - [1]",
        "[0] * 8",
        "[0][0]",
        "[[0]]",
        "(0, 1)",
        "0",
        "0,1",
        "[True]",
        "[-True]",
        "[None]",
        "[0.5]",
        "[1e3]",
        "[0x10]",
        "[+1]",
        "[--1]",
        "[~1]",
        "[1, 'a']",
        "[01]",
        "[x for x in range(8)]",
        "[0 if 1 else 2]",
        "[0or 1]",
        "{0, 1}",
        "list(range(0,8)",
        "list(range(0,8)))",
        "__import__('os').system('true')",
        "list(exec)",
        "lambda: [0]",
        "[0]; [1]",
        "[0] # all",
        "[0]\\",
        "[０]",
        "[0]\0",
        "sum([[0]], [])",
        "print([0])",
        "0-7",
    ],
)
def test_anything_else_is_refused_with_an_example_of_what_is_meant(text):
    problem = problem_of(text)
    assert "expected list(range(a,b)), [0, 1] or sums of these" in problem.message
    assert problem.message.startswith("device_mapping is ")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("(" * 2000 + "[0]" + ")" * 2000, id="parentheses"),
        pytest.param("[" * 2000 + "0" + "]" * 2000, id="lists"),
        pytest.param("[" + "-" * 4000 + "1]", id="signs"),
        pytest.param("list(" * 600 + "[0]" + ")" * 600, id="calls"),
    ],
)
def test_deep_nesting_is_refused_and_not_a_crash(text):
    assert "expected list(range(a,b))" in problem_of(text).message


def test_a_long_sum_is_either_understood_or_refused():
    text = "+".join(f"[{n}]" for n in range(600))
    try:
        assert device_mapping.parse(text) == tuple(range(600))
    except errors.InvalidError as error:
        assert "expected list(range(a,b))" in error.problem.message


@pytest.mark.parametrize(
    ("value", "word"),
    [
        pytest.param([0, 1], "list", id="a list"),
        pytest.param((0, 1), "list", id="a tuple"),
        pytest.param(8, "number", id="an integer"),
        pytest.param(0.5, "number", id="a float"),
        pytest.param(True, "boolean", id="a bool"),
        pytest.param({"a": 1}, "map", id="a map"),
        pytest.param(None, "null", id="null"),
        pytest.param(b"[0]", "bytes", id="bytes"),
    ],
)
def test_what_is_no_string_is_refused_as_roll_does(value, word):
    message = problem_of(value).message
    assert message.startswith(f"device_mapping is a {word}; expected a string, as in ROLL")


def test_a_reference_that_roll_would_resolve_is_told_from_a_mistake():
    message = problem_of("list(range(0,${num_gpus}))").message
    assert message.startswith("device_mapping is list(range(0,${num_gpus})): ${...} is filled in")


@pytest.mark.parametrize(
    "text", ["", "  ", "\n", "[]", "list([])", "list(range(0))", "list(range(8,8))", "[] + []"]
)
def test_a_mapping_without_gpus_is_refused(text):
    assert "names no GPU" in problem_of(text).message


def test_blank_text_is_quoted_so_that_it_can_be_seen():
    assert problem_of(" ").message.startswith('device_mapping is " ", which names no GPU')


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("[0, -3]", -3, id="an id"),
        pytest.param("[-1, -2]", -2, id="the lowest of two"),
        pytest.param("list(range(-2,4))", -2, id="the start of a range"),
        pytest.param("list(range(0,-4))", -4, id="the end of an empty range"),
        pytest.param("list(range(3,-3,-1))", -2, id="the end of a descending range"),
        pytest.param("list(range(-99999999999999999999,0))", -(10**20 - 1), id="a huge one"),
    ],
)
def test_a_negative_id_is_named(text, found):
    assert f"names GPU {found};" in problem_of(text).message


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("list(range(0,1000000000))", id="a huge range"),
        pytest.param("list(range(0,99999999999999999999999))", id="a range beyond any index"),
        pytest.param("list(range(0,8193))", id="one GPU too many"),
        pytest.param("list(range(0,8192)) + [9000]", id="one too many in a sum"),
        pytest.param("[1000000]", id="an id too high"),
        pytest.param("list(range(999995,1000001))", id="a range that ends too high"),
        pytest.param("list(range(99999,0,-1))", id="a range that begins too high"),
        pytest.param(f"[{'9' * 4000}]", id="an id of 4000 digits"),
    ],
)
def test_too_much_is_refused_before_anything_is_built(text):
    message = problem_of(text).message
    assert "names more than 8192 GPUs or an id above 999999" in message
    assert len(message) < 250


def test_the_largest_mapping_is_understood():
    assert len(device_mapping.parse("list(range(0,8192))")) == 8192


def test_text_that_is_too_long_is_refused_with_advice_to_use_ranges():
    text = f"[{', '.join(map(str, range(1000)))}]"
    message = problem_of(text).message
    assert message.startswith(f"device_mapping has {len(text)} characters; expected at most 4096")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("[3, 3]", "3", id="one"),
        pytest.param("list(range(0,4)) + list(range(2,6))", "2-3", id="an overlap"),
        pytest.param("[0, 5, 0, 5, 9]", "0,5", id="two"),
    ],
)
def test_repeated_ids_are_named(text, found):
    assert f"names GPU {found} more than once" in problem_of(text).message


def test_found_text_is_shortened_in_messages():
    message = problem_of("list(" + "x" * 4000).message
    assert "…" in message
    assert len(message) < 250


def test_a_mapping_that_does_not_come_out_even_says_which_numbers_would():
    ids = device_mapping.parse("list(range(0,23))")
    with pytest.raises(errors.InvalidError) as caught:
        device_mapping.groups(ids, 5)
    assert str(caught.value) == (
        "spec.device_mapping: device_mapping has 23 GPUs but num_gpus_per_worker is 5: 23 is not "
        "divisible by 5; use 20 or 25 GPUs"
    )


def test_a_mapping_smaller_than_one_worker_gets_one_number_as_advice():
    with pytest.raises(errors.InvalidError, match=r"use 5 GPUs$"):
        device_mapping.groups((0, 1, 2), 5)


def test_engines_are_consecutive_slices_in_list_order():
    assert device_mapping.groups((4, 5, 1, 0), 2) == ((4, 5), (1, 0))
    assert device_mapping.groups((0, 1), 1) == ((0,), (1,))
    assert device_mapping.groups((), 2) == ()


def test_the_guides_example_is_twelve_engines():
    groups = device_mapping.groups(device_mapping.parse("list(range(0,24))"), 2)
    assert len(groups) == 12
    assert groups[-1] == (22, 23)


@given(st.integers(1, 16), st.integers(0, 40))
def test_groups_are_a_partition_that_keeps_the_order(per_worker, count):
    ids = tuple(range(per_worker * count))
    groups = device_mapping.groups(ids, per_worker)
    assert len(groups) == count
    assert tuple(gpu for group in groups for gpu in group) == ids


def test_an_id_counts_the_gpus_of_the_nodes_before_it():
    assert [device_mapping.node_rank(gpu, 8) for gpu in (0, 7, 8, 23)] == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ((), ""),
        ((5,), "5"),
        ((0, 1, 2, 3, 4, 5, 6, 7, 12), "0-7,12"),
        ((1, 0), "1,0"),
        ([0, 2], "0,2"),
    ],
)
def test_ids_are_described_as_ranges_in_the_order_given(ids, text):
    assert device_mapping.describe(ids) == text


@pytest.mark.parametrize(
    ("ids", "name"),
    [
        ((5,), "g5"),
        ((0, 1), "g0-1"),
        ((0, 2), "g0x2"),
        ((1, 0), "g1x0"),
        ((4, 5, 12, 13), "g4-5x12-13"),
        (tuple(range(8)), "g0-7"),
        ((999998, 999999), "g999998-999999"),
        ((1, 3, 5, 7, 9, 11), "g1x3x5x7x9x11"),
        ((1, 3, 5, 7, 9, 11, 13), "h338722f3ad50"),
    ],
)
def test_a_group_is_named_by_its_ids_or_where_they_are_many_by_a_digest(ids, name):
    assert device_mapping.engine_name(ids) == name


groups_of_ids = st.lists(
    st.integers(0, device_mapping.MAX_ID), min_size=1, max_size=12, unique=True
).map(tuple)
# Ids close together and one digit apart: the ones that a careless spelling would mix up.
crowded_groups = st.lists(st.integers(0, 13), min_size=1, max_size=5, unique=True).map(tuple)


@given(crowded_groups, crowded_groups)
@example((1, 2), (12,))
@example((0, 1, 2), (0, 2))
@example((1, 0), (0, 1))
def test_different_small_groups_have_different_names(one, other):
    same = device_mapping.engine_name(one) == device_mapping.engine_name(other)
    assert same is (one == other)


@given(groups_of_ids, groups_of_ids)
def test_different_groups_have_different_names(one, other):
    same = device_mapping.engine_name(one) == device_mapping.engine_name(other)
    assert same is (one == other)


@given(groups_of_ids)
def test_a_group_name_fits_into_a_pods_name(ids):
    name = device_mapping.engine_name(ids)
    assert 2 <= len(name) <= names.MAX_ENGINE_NAME
    assert name.replace("-", "").isalnum()
    assert name == name.lower()
    assert name[0] in "gh"
    assert name[-1] != "-"


@given(st.lists(st.integers(0, 200), min_size=1, max_size=20, unique=True))
def test_a_list_of_ids_comes_out_as_it_went_in(ids):
    assert device_mapping.parse(str(ids)) == tuple(ids)


@given(st.text(alphabet="lisrange()[]+-0123456789, ", max_size=60))
def test_no_text_of_the_grammars_letters_raises_anything_else(text):
    try:
        ids = device_mapping.parse(text)
    except errors.InvalidError:
        return
    assert ids == tuple(eval(text.strip()))


@given(st.text(max_size=40))
def test_no_text_raises_anything_else(text):
    try:
        device_mapping.parse(text)
    except errors.InvalidError as error:
        assert "\n" not in error.problem.message


def test_a_small_stack_changes_nothing():
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200)
    try:
        assert device_mapping.parse("list(range(0,2))") == (0, 1)
    finally:
        sys.setrecursionlimit(limit)
