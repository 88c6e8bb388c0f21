"""Whatever a file holds, the commands end, say something, and run none of it."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import targets
from tests.unit.cli.runner import GUIDE, converted, pipeline, run

# `make fuzz` is the long run, guided by coverage.
EXAMPLES = 60
SOON = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

TEXT = GUIDE.read_text()
OBJECT = yaml.safe_dump(converted(GUIDE)[0], sort_keys=False)
PIECES = st.sampled_from(
    [
        "${",
        "}",
        "${actor_infer}",
        "${.x}",
        "${oc.env:HOME}",
        "${oc.decode:'[1]'}",
        "!!python/object/apply:os.system [exit]",
        "&a",
        "*a",
        "<<: ",
        "[",
        "]",
        "{",
        "---\n",
        "\t",
        "\x00",
        "\ud7ff",
        "? ",
        "null",
        "1e999",
        "list(range(0,10**9))",
        "__import__('os').abort()",
        "0x" + "f" * 50,
        "9" * 500,
        "\n",
        ": ",
        "- ",
        "'",
        '"',
    ]
)


def _cut(draw, text):
    """A text with a few pieces put in, taken out or doubled."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        length = draw(st.integers(0, 40))
        text = (
            text[:start] + draw(PIECES | st.just(text[start : start + 80])) + text[start + length :]
        )
    return text


@st.composite
def broken(draw):
    return _cut(draw, draw(st.sampled_from([TEXT, OBJECT])))


KEYS = st.sampled_from(["actor_infer", "strategy_args", "a", "spec", "metadata", "", "${x}"])
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), PIECES
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def odd_pipelines(draw):
    """A pipeline some of whose fields hold anything."""
    config = pipeline()
    worker = config["actor_infer"]
    for key in draw(
        st.lists(st.sampled_from([*worker, "system_envs", "router_replay"]), max_size=2)
    ):
        worker[key] = draw(VALUES)
    for key in draw(
        st.lists(st.sampled_from([*config, "rewards", "teacher", "defaults"]), max_size=2)
    ):
        config[key] = draw(VALUES)
    return config


def _judge(path: Path) -> None:
    targets.converter(path.read_bytes(), path.parent)


@SOON
@given(broken())
def test_a_broken_file_is_told(tmp_path, text):
    path = tmp_path / "file.yaml"
    path.write_bytes(text.encode("utf-8", "replace"))
    _judge(path)


@SOON
@given(st.binary(max_size=300))
def test_bytes_are_told(tmp_path, data):
    path = tmp_path / "file.yaml"
    path.write_bytes(data)
    _judge(path)


@SOON
@given(odd_pipelines())
def test_an_odd_pipeline_is_told_and_what_is_written_is_good(tmp_path, config):
    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump(config))
    _judge(path)


@SOON
@given(VALUES.filter(lambda value: isinstance(value, dict)), st.integers())
def test_an_odd_spec_is_told(tmp_path, spec, seed):
    body = yaml.safe_load(OBJECT)
    body["spec"] = {**body["spec"], **spec, "seed": seed}
    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump(body))
    _judge(path)


def test_code_in_a_file_is_not_run(tmp_path):
    witness = tmp_path / "witness"
    for code in (
        f"!!python/object/apply:os.mkdir ['{witness}']",
        f"__import__('os').mkdir('{witness}')",
        f"${{oc.create:'!!python/object/apply:os.mkdir [{witness}]'}}",
        f"${{oc.decode:'!!python/object/apply:os.mkdir [{witness}]'}}",
    ):
        path = tmp_path / "file.yaml"
        path.write_text(TEXT.replace("list(range(0,24))", code))
        assert run("lint", path).exit_code == 2
        assert run("convert", path, "--env").exit_code == 2
        assert not witness.exists()


@pytest.mark.parametrize("name", ["\0", "a" * 5000, "/dev/zero", "/proc/self/mem", "."])
def test_a_file_that_is_none_is_told(name):
    assert run("lint", name).exit_code == 2
