"""Values on a command line: which form each takes, and which have none."""

import argparse
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sglang_operator.engine import values
from tests.unit.engine.requests import added, problems


def expanded(text, variables):
    """What the kubelet makes of a text: Kubernetes' third_party/forked/golang/expansion."""

    def replacement(match):
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", replacement, text)


@given(st.text(alphabet="$()aB", max_size=20))
@example("$$(A)")
@example("$(A)$")
@example("$$$")
def test_the_kubelet_leaves_a_literal_as_it_was_written(text):
    variables = {"A": "expanded", "a": "expanded", "": "expanded", "B": "expanded"}
    assert expanded(values.literal(text), variables) == text


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        pytest.param(True, ("--a",), id="true"),
        pytest.param(False, (), id="false"),
        pytest.param(None, (), id="null"),
        pytest.param(8, ("--a=8",), id="an integer"),
        pytest.param(-1, ("--a=-1",), id="a negative integer"),
        pytest.param(0, ("--a=0",), id="zero"),
        pytest.param(0.7, ("--a=0.7",), id="a float"),
        pytest.param(8.0, ("--a=8",), id="a whole float, which JSON may have made an integer"),
        pytest.param(1e-05, ("--a=1e-05",), id="a small float"),
        pytest.param(1e300, ("--a=1e+300",), id="a large float"),
        pytest.param("x", ("--a=x",), id="text"),
        pytest.param("", ("--a=",), id="empty text"),
        pytest.param("-x y", ("--a=-x y",), id="text that begins with a dash"),
        pytest.param("a=b", ("--a=a=b",), id="an equals sign"),
        pytest.param("$(HOME)", ("--a=$$(HOME)",), id="what the kubelet would expand"),
        pytest.param("$$(HOME)", ("--a=$$$$(HOME)",), id="what it would unescape"),
        pytest.param([1, 2, 4], ("--a", "1", "2", "4"), id="a list"),
        pytest.param((1, -2), ("--a", "1", "-2"), id="negative items"),
        pytest.param([], (), id="an empty list"),
        pytest.param(["n=/m", {"b": 1}], ("--a", "n=/m", '{"b":1}'), id="a list with a map"),
        pytest.param(["$(A)"], ("--a", "$$(A)"), id="an item that would be expanded"),
        pytest.param({"b": [1, None], "a": "ü"}, ('--a={"a":"\\u00fc","b":[1,null]}',), id="a map"),
        pytest.param({}, ("--a={}",), id="an empty map"),
    ],
)
def test_each_value_has_one_form(value, tokens):
    assert values.problem("field", "a", value) is None
    assert values.tokens("--a", value) == tokens


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(float("nan"), "a finite number", id="nan"),
        pytest.param(float("-inf"), "a finite number", id="infinity"),
        pytest.param(2**63, "a number of 64 bits", id="a huge number"),
        pytest.param(-(10**5000), "a number of 64 bits", id="a number of 5000 digits"),
        pytest.param("a\0b", "text on one line", id="a NUL"),
        pytest.param("a\nb", "text on one line", id="two lines"),
        pytest.param("a\rb", "text on one line", id="a carriage return"),
        pytest.param("\ud800", "text in UTF-8", id="half a character"),
        pytest.param("true", "true or false", id="true in quotes"),
        pytest.param("False", "true or false", id="false in quotes"),
        pytest.param(["--x"], "a list whose items do not begin with a dash", id="an item's dash"),
        pytest.param([True], "a list of strings, numbers or maps", id="true in a list"),
        pytest.param([None], "a list of strings, numbers or maps", id="null in a list"),
        pytest.param([[1]], "a list of strings, numbers or maps", id="a list in a list"),
        pytest.param(["a\nb"], "text on one line", id="two lines in a list"),
        pytest.param([float("inf")], "a finite number", id="infinity in a list"),
        pytest.param({"a": float("nan")}, "a finite number", id="nan in a map"),
        pytest.param({"a": [10**400]}, "a number of 64 bits", id="a huge number in a map"),
        pytest.param({1: 2}, "a map whose keys are strings", id="a number for a key"),
        pytest.param({"a": {"b": {None: 1}}}, "a map whose keys are strings", id="deep inside"),
        pytest.param({"a": object()}, "a map of strings, numbers", id="an object in a map"),
        pytest.param(object(), "a string, a number, true", id="an object"),
        pytest.param({1, 2}, "a string, a number, true", id="a set"),
    ],
)
def test_what_has_no_form_is_refused(value, expected):
    problem = values.problem("spec.x", "a", value)
    assert problem is not None
    assert problem.field == "spec.x"
    assert problem.message.startswith("a is ")
    assert f"; expected {expected}" in problem.message
    assert problem.message.isprintable()


def problem_of(value):
    problem = values.problem("f", "a", value)
    assert problem is not None
    return problem


def nested(depth):
    value: dict[str, object] = {}
    for _ in range(depth):
        value = {"a": [value]}
    return value


def test_a_map_of_endless_depth_is_refused_and_not_a_crash():
    assert "at most 32 levels" in problem_of(nested(50_000)).message
    assert values.problem("f", "a", nested(10)) is None


@pytest.mark.parametrize(
    "value",
    [
        "${x}",
        "a${oc.env:HOME}b",
        ["a", "${x}"],
        {"a": {"b": ["${x}"]}},
        {"${x}": 1},
    ],
    ids=str,
)
def test_what_roll_would_resolve_is_refused_wherever_it_is(value):
    problem = problem_of(value)
    assert problem.reason == "ValueUnresolved"
    assert "${...} is filled in by ROLL's config loader" in problem.message


def test_long_values_are_shortened_in_messages():
    assert len(problem_of("x" * 5000 + "\n").message) < 250


plain = st.text(alphabet=st.characters(blacklist_categories=("Cs", "Cc")), max_size=20)


@given(plain.filter(lambda text: text.lower() not in ("true", "false") and "${" not in text))
@example("-x")
@example("--b")
@example("a b")
def test_argparse_reads_every_text_as_it_was_written(text):
    parser = argparse.ArgumentParser()
    parser.add_argument("--a")
    parser.add_argument("--b", action="store_true")
    (token,) = values.tokens("--a", text)
    assert parser.parse_args([expanded(token, {})]).a == text


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=5))
def test_argparse_reads_every_list_of_numbers_as_it_was_written(numbers):
    parser = argparse.ArgumentParser()
    parser.add_argument("--a", nargs="+", type=int)
    parser.add_argument("--b")
    argv = [*values.tokens("--a", numbers), "--b=1"]
    assert parser.parse_args(argv).a == numbers


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.text(max_size=12), anything)
@example("tp_size", 0)
@example("load_format", {})
@example("mem_fraction_static", "x")
@example("enable_dp_attention", [])
def test_rendering_never_raises(key, value):
    config = {key: value}
    tokens, found = added(config), problems(config)
    assert all(isinstance(token, str) and "\0" not in token for token in tokens)
    assert all(problem.message.isprintable() for problem in found)
