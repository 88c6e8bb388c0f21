"""Arguments that SGLang's parser takes as text and that its engine reads as JSON."""

import pytest

from generators.schema.later import LATER
from sglang_operator.api import errors
from sglang_operator.engine import schema
from tests.unit.engine.requests import added, only_problem, problems

PYTHON, SHELL = "{'a': 1}", "'{\"a\": 1}'"
WHOLE = ("json_model_override_args", "model_loader_extra_config", "kv_events_config")


@pytest.mark.parametrize("key", [*WHOLE, "hicache_storage_backend_extra_config", "deepep_config"])
@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (PYTHON, "JSON has double quotes, not Python's: write it as a map"),
        (SHELL, "remove the quotes of the shell that are in the text, or write it as a map"),
        ("{", "write it as a map, without quotes around it"),
        ("[1]", "write it as a map, without quotes around it"),
    ],
)
def test_what_is_no_json_is_refused_with_the_map_that_is_right(key, text, advice):
    problem = only_problem({key: text})
    assert problem.severity is errors.Severity.ERROR
    assert problem.field.endswith(key)
    found = text if text in ("{", "[1]") else "text that begins with {"  # maybe a secret
    assert problem.message.startswith(f"{key} is {found}; expected a map, or its JSON as text")
    assert advice in problem.message


@pytest.mark.parametrize("key", sorted(LATER))
def test_every_version_takes_a_map_and_its_json_and_no_text_in_pythons_quotes(key):
    """In each version that reads the argument as JSON."""
    seen = 0
    for known in schema.KNOWN:
        argument = schema.load(str(known)).argument(key)
        if argument is None or not (argument.json or argument.is_json):
            continue
        seen += 1
        version = str(known)
        for right in ({"a": 1}, '{"a": 1}', ' {"a": {"b": [1]}} '):
            assert not refused({key: right}, version)
        assert refused({key: PYTHON}, version)
        assert refused({key: [{"a": 1}]}, version) or argument.is_json
        assert refused({key: 3}, version)
    assert seen


def refused(config, version):
    found = problems(config, version=version)
    return [p for p in found if p.severity is errors.Severity.ERROR and p.field.endswith(*config)]


@pytest.mark.parametrize("key", ["deepep_config", "init_expert_location"])
def test_a_path_is_no_json(key):
    assert added({key: "/etc/config.json"}) == [f"--{key.replace('_', '-')}=/etc/config.json"]


def test_words_that_mean_something_are_no_json():
    assert not problems({"init_expert_location": "trivial"})
    assert "or trivial" in only_problem({"init_expert_location": "even"}).message


def test_a_file_is_read_where_the_version_reads_one_and_warned_of_where_not():
    key, text = "hicache_storage_backend_extra_config", "@/etc/hicache/config.json"
    assert not refused({key: text}, "0.5.9")
    (problem,) = [p for p in problems({key: text}, version="0.5.7") if p.field.endswith(key)]
    assert problem.severity is errors.Severity.WARNING
    assert "reads no file there" in problem.message
    assert added({key: text}) == [f"--{key.replace('_', '-')}={text}"]


def test_no_text_at_all_is_nothing_where_sglang_takes_it_so():
    assert not refused({"model_loader_extra_config": ""}, "0.5.7")
    assert refused({"json_model_override_args": ""}, "0.5.7")


def test_a_map_for_an_argument_that_nobody_reads_as_json_is_refused():
    assert only_problem({"chat_template": {"a": 1}}).message.endswith("expected text; correct it")
