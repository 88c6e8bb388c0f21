"""Hydra's defaults, in the forms of ROLL's examples and those that Hydra documents beside them."""

import pytest
import yaml

from sglang_operator.cli.pipeline import defaults as pipelines
from sglang_operator.cli.yaml_tree import nodes, reading
from tests.unit.cli.runner import converted, pipeline, run, write


def _composed(tmp_path, text, **files):
    """The configuration, and the reasons of what was found."""
    for name, content in files.items():
        path = tmp_path / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "main").mkdir(exist_ok=True)
    (document,) = reading.load(text, str(tmp_path / "main" / "config.yaml")).documents
    composed = pipelines.compose(document, folder=tmp_path / "main")
    return nodes.plain(composed.root), [found.problem.message for found in composed.findings]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("../config/envs@_here_", {"a": 1, "b": {"c": 3, "d": 4}}),
        ("../config/envs.yaml@_here_", {"a": 1, "b": {"c": 3, "d": 4}}),
        ("../config/envs@_global_", {"a": 1, "b": {"c": 3, "d": 4}}),
        ("../config/envs@x.y", {"x": {"y": {"a": 0, "b": {"c": 3}}}, "a": 1, "b": {"d": 4}}),
        ("optional ../config/absent@_here_", {"a": 1, "b": {"d": 4}}),
        ("group: option", {"group": {"g": 5}, "a": 1, "b": {"d": 4}}),
        ("group@_here_: option", {"g": 5, "a": 1, "b": {"d": 4}}),
        ("group: null", {"a": 1, "b": {"d": 4}}),
        ("override hydra/launcher: x", {"a": 1, "b": {"d": 4}}),
        ("header", {"top": {"h": 6}, "a": 1, "b": {"d": 4}}),
    ],
)
def test_an_entry_is_merged_under_the_file(tmp_path, entry, expected):
    text = f"defaults:\n  - {entry}\na: 1\nb: {{d: 4}}\n"
    found, told = _composed(
        tmp_path,
        text,
        config__envs="a: 0\nb: {c: 3}\n",
        main__group__option="g: 5\n",
        main__header="# @package top\nh: 6\n",
    )
    assert found == expected
    assert not told


def test_self_says_who_wins(tmp_path):
    text = "defaults: [_self_, ../config/envs@_here_]\na: 1\n"
    assert _composed(tmp_path, text, config__envs="a: 0\n")[0] == {"a": 0}


def test_defaults_may_have_defaults(tmp_path):
    found, _ = _composed(
        tmp_path,
        "defaults: [one@_here_]\na: 1\n",
        main__one="defaults: [two@_here_]\nb: 2\n",
        main__two="b: 0\nc: 3\n",
    )
    assert found == {"a": 1, "b": 2, "c": 3}


def test_files_that_name_each_other_end(tmp_path):
    path = tmp_path / "loop.yaml"
    path.write_text(yaml.safe_dump({"defaults": ["loop@_here_"], **pipeline()}))
    result = run("convert", path)
    assert result.exit_code == 2
    assert "too many files" in result.stderr


def test_a_missing_file_is_told_where_it_is_named(tmp_path):
    path = write(tmp_path, {"defaults": ["../config/traj_envs@_here_"], **pipeline()})
    result = run("lint", path)
    assert result.exit_code == 0
    assert f"{path}:2:3: warning: actor" not in result.stdout
    assert f"{path}:2:3: warning: defaults: " in result.stdout


def test_an_entry_that_is_none_is_an_error(tmp_path):
    _, told = _composed(tmp_path, "defaults: [[1], {a: {b: c}}, 7]\n")
    assert len(told) == 3


def test_values_of_another_file_say_so(tmp_path):
    (tmp_path / "base.yaml").write_text("pretrain: from/base\n")
    config = pipeline()
    del config["pretrain"]
    path = write(tmp_path, {"defaults": ["base@_here_"], **config})
    assert converted(path)[0]["spec"]["model_args"]["model_name_or_path"] == "from/base"
    assert "# pretrain, base.yaml:1" in run("convert", path).stdout
