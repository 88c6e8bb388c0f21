import re

import pytest

from sglang_operator.api.patterns import Pattern

TEXT = "tp=2, pp=4"


def test_a_pattern_is_compiled_once_somebody_looks_for_it():
    pattern = Pattern(r"(\w+)=(\d)")
    assert "compiled" not in vars(pattern)
    assert pattern.search(TEXT)
    assert vars(pattern)["compiled"] is pattern.compiled


@pytest.mark.parametrize("name", ("match", "fullmatch", "search"))
@pytest.mark.parametrize("bounds", ((), (6,), (0, 4), (1, 4)))
def test_it_finds_what_re_finds(name, bounds):
    found = getattr(Pattern(r"(\w+)=(\d)"), name)(TEXT, *bounds)
    expected = getattr(re.compile(r"(\w+)=(\d)"), name)(TEXT, *bounds)
    assert (found and found.span()) == (expected and expected.span())


@pytest.mark.parametrize("bounds", ((), (2,), (0, 4)))
def test_it_finds_all_that_re_finds(bounds):
    found = Pattern(r"\w=\d").finditer(TEXT, *bounds)
    expected = re.compile(r"\w=\d").finditer(TEXT, *bounds)
    assert [one.span() for one in found] == [one.span() for one in expected]


def test_the_rest_is_as_of_re_too():
    pattern = Pattern(r", P", re.IGNORECASE)
    assert pattern.findall(TEXT) == [", p"]
    assert pattern.split(TEXT) == ["tp=2", "p=4"]
    assert pattern.sub("; ", TEXT) == "tp=2; p=4"
    assert pattern.sub(lambda found: found[0].upper(), TEXT) == "tp=2, Pp=4"
    assert repr(pattern) == "Pattern(', P', re.IGNORECASE)"


def test_what_is_no_pattern_says_so_when_it_is_looked_for():
    with pytest.raises(re.error):
        Pattern("(").search("")
