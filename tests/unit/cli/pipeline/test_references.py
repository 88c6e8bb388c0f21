"""References mean what they mean to OmegaConf, and no file makes the resolver work for ever."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sglang_operator.cli.pipeline.references import Resolver
from sglang_operator.cli.yaml_tree import nodes, reading, scalars
from sglang_operator.cli.yaml_tree.nodes import Mark
from tests.steps import steps
from tests.unit.cli.runner import EXAMPLES

MARK = Mark("test", 1, 1)
KEYS = st.sampled_from("abcd")
WORDS = st.one_of(
    st.integers(-9, 9),
    st.booleans(),
    st.none(),
    st.sampled_from(["x", "", "y z"]),
    st.builds("${{{}}}".format, KEYS),
    st.builds("${{{}.{}}}".format, KEYS, KEYS),
    st.builds("m/${{{}}}".format, KEYS),
    st.builds("${{.{}}}".format, KEYS),
)
CONFIGS = st.dictionaries(KEYS, WORDS | st.dictionaries(KEYS, WORDS), min_size=1, max_size=4)


@settings(max_examples=200)
@given(CONFIGS)
def test_every_value_is_OmegaConfs(config):
    """Where OmegaConf resolves a value, so do we, to the same; where it does not, we say so."""
    parsed = OmegaConf.create(config)
    for key in config:
        resolver = Resolver(nodes.of(config, MARK), environment=False)
        found = resolver.at(key)
        assert found is not None
        try:
            holder = parsed[key]
            expected = (
                OmegaConf.to_container(holder, resolve=True)
                if OmegaConf.is_config(holder)
                else holder
            )
        except (OmegaConfBaseException, RecursionError):
            assert resolver.findings
        else:
            assert not resolver.findings
            assert nodes.plain(found) == expected


@pytest.mark.parametrize(
    "config",
    [
        {"a": {"a": "${a}", "b": "${a}"}},
        {"a": {"b": "${c}"}, "c": {"d": "${a}", "e": "${a}"}},
        {"a": {"b": "${a.c}", "c": {"d": "${a.b}", "e": "${a.c}"}}},
    ],
)
def test_a_mapping_that_holds_itself_is_told_in_a_few_lines(config):
    written = nodes.of(config, MARK)
    references = sum(str(leaf.value).count("${") for leaf in nodes.leaves(written))
    for key in config:
        resolver = Resolver(written, environment=False)
        resolver.at(key)
        assert 1 <= len(resolver.findings) <= references**2


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_reads_as_OmegaConf_reads_it(path):
    (document,) = reading.load(path.read_text(), path.name).documents
    assert nodes.plain(document) == OmegaConf.to_container(OmegaConf.load(path))


@settings(max_examples=300)
@given(
    st.text(st.sampled_from("0123456789abfox_.:eE+-~ynNTtruesAlIN"), min_size=1, max_size=10)
    | st.sampled_from(["1e-6", "1.5e3", "0x1F", "010", "1:30", "1:30.5", ".5", "+.inf", ".NaN"])
)
def test_a_word_reads_as_OmegaConf_reads_it(word):
    try:
        expected = OmegaConf.to_container(OmegaConf.create(f"a: {word}\n"))
    except Exception:  # no YAML, or no config
        return
    if not isinstance(expected, dict) or set(expected) != {"a"} or isinstance(expected["a"], dict):
        return
    found = scalars.plain(word.strip())
    assert type(found) is type(expected["a"])
    assert found == expected["a"] or found != found


def _work(config: dict[str, object], last: str) -> tuple[int, str]:
    """What it takes to resolve this value, and what is found."""
    resolver = Resolver(nodes.of(config, MARK), environment=False)
    taken = steps(lambda: resolver.at(last))
    return taken, " ".join(found.problem.message for found in resolver.findings)


def _doublings(count: int) -> tuple[int, str]:
    config: dict[str, object] = {"x0": "y" * 100}
    config |= {f"x{i}": f"${{x{i - 1}}}${{x{i - 1}}}" for i in range(1, count)}
    return _work(config, f"x{count - 1}")


def _tens(count: int) -> tuple[int, str]:
    config: dict[str, object] = {"x0": ["y"] * 10}
    config |= {f"x{i}": [f"${{x{i - 1}}}"] * 10 for i in range(1, count)}
    return _work(config, f"x{count - 1}")


def test_a_chain_of_doublings_ends_soon():
    """Three more doublings are eight times the work for who resolves them to the end."""
    _doublings(2)  # OmegaConf is imported
    fewer, _ = _doublings(10)
    more, found = _doublings(13)
    assert more < 1.5 * fewer
    assert "it grows without end" in found
    assert "it grows without end" in _doublings(20)[1]


def test_plain_references_cannot_double_either():
    """One list more of ten is ten times the work for who resolves it to the end."""
    fewer, _ = _tens(5)
    more, found = _tens(6)
    assert more < 2 * fewer
    assert "it grows without end" in found


def test_a_value_keeps_the_place_and_the_name_of_where_it_was_written():
    text = "a: {b: '${c}'}\nc: [1, {d: 2}]\n"
    (document,) = reading.load(text, "f").documents
    found = Resolver(document, environment=False).at("a", "b")
    assert found is not None
    assert nodes.plain(found) == [1, {"d": 2}]
    inner = found.items[1].mapping["d"]
    assert (inner.origin, inner.mark.line) == ("c[1].d", 2)


def test_resolvers_are_as_before_after_a_file_that_used_them():
    before = OmegaConf.has_resolver("oc.env")
    config = {"a": "${oc.decode:'[1, 2]'}", "b": "${oc.env:HOME}"}
    resolver = Resolver(nodes.of(config, MARK), environment=False)
    found = resolver.at("a")
    assert found is not None
    assert nodes.plain(found) == [1, 2]
    resolver.at("b")
    assert "--env" in resolver.findings[0].problem.message
    assert OmegaConf.has_resolver("oc.env") is before is True


@pytest.mark.parametrize(
    "text",
    [
        "${oc.decode:'${oc.env:HOME}'}",
        "${oc.select:x,${oc.env:HOME}}",
        "${${y}:HOME}",
        "${oc.${z}:HOME}",
    ],
)
def test_the_environment_cannot_be_reached_by_detours(text, monkeypatch):
    monkeypatch.setenv("HOME", "/home/hunter2")
    config = {"a": text, "y": "oc.env", "z": "env"}
    resolver = Resolver(nodes.of(config, MARK), environment=False)
    found = resolver.at("a")
    assert found is not None
    assert "hunter2" not in str(nodes.plain(found))
    assert resolver.findings
