"""Going back to a stored revision leaves alone what has no part in its hash."""

import json
from typing import Any

import pytest

from sglang_operator.pool import revision, undoing
from sglang_operator.pool.resolve import Refused
from tests.builders import OWNER, a_pool, guide_spec

OURS = "reg.example/sglang:ours"


def part_of(raw: dict[str, Any]) -> dict[str, Any]:
    pool = a_pool(raw)
    found = revision.reaching_pods(pool.spec, spans=pool.nodes > 1)
    again: dict[str, Any] = json.loads(json.dumps(found))
    return again


def back(raw: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    found = undoing.undone(OWNER, raw, part)
    assert not isinstance(found, Refused)
    return found.spec


def with_args(**more: Any) -> dict[str, Any]:
    return guide_spec(model_args={**guide_spec()["model_args"], **more})


@pytest.mark.parametrize(
    ("stored", "edited"),
    [
        pytest.param(
            guide_spec(weights={"gate": "Versioned"}),
            guide_spec(weights={"gate": "Committed"}),
            id="the weights gate",
        ),
        pytest.param(
            guide_spec(image=OURS, engineVersion="0.5.9"),
            guide_spec(image=OURS, engineVersion="0.5.10"),
            id="a version by which engines are started alike",
        ),
        pytest.param(
            with_args(attn_implementation="fa2"),
            with_args(attn_implementation="sdpa", lora_rank=8),
            id="arguments of the trainer's model",
        ),
        pytest.param(
            guide_spec(system_envs={"A": "1"}), guide_spec(system_envs={"A": 1}), id="another type"
        ),
        pytest.param(
            guide_spec(startup={"timeoutSeconds": 1800}), guide_spec(), id="a default of before"
        ),
    ],
)
def test_what_was_edited_since_and_restarts_nothing_stays(stored, edited):
    assert a_pool(stored).revision == a_pool(edited).revision
    later = {**edited, "seed": 99}
    assert back(later, part_of(stored)) == edited
    assert back(edited, part_of(stored)) == edited, "it is that revision already"


def test_what_else_stands_beside_such_a_field_comes_back():
    stored = with_args(attn_implementation="fa2", model_name_or_path="Qwen/Qwen3-8B")
    found = back(with_args(attn_implementation="sdpa"), part_of(stored))
    assert found == with_args(attn_implementation="sdpa", model_name_or_path="Qwen/Qwen3-8B")


def test_what_would_be_refused_is_refused_whatever_could_be_kept():
    old = guide_spec(num_gpus_per_worker=5, device_mapping="list(range(0,5))")
    assert isinstance(undoing.undone(OWNER, guide_spec(), part_of(old)), Refused)


def test_changes_are_told_value_by_value():
    was = {"a": {"b": 1, "c": 2}, "l": [{"name": "X", "value": "1"}], "gone": {}}
    now = {"a": {"b": 1, "c": 3}, "l": [{"name": "X", "value": "2"}, 7], "new": [1]}
    found = [(c.field, c.was, c.now, set(c.names)) for c in undoing.changes(was, now)]
    assert found == [
        ("a.c", 2, 3, {"c"}),
        ("l[0].value", "1", "2", {"value", "X"}),
        ("l[1]", None, 7, {"l"}),
        ("gone", {}, None, {"gone"}),
        ("new[0]", None, 1, {"new"}),
    ]


def test_a_value_after_a_flag_is_called_by_the_flags_of_both_lists():
    was, now = ["--log-requests", "--dist-password", "s"], ["--dist-password", "s"]
    found = {change.field: change for change in undoing.changes({"args": was}, {"args": now})}
    assert found["args[1]"].was == "--dist-password"
    assert found["args[1]"].names == {"args", "--log-requests", "--dist-password"}
    assert found["args[2]"].names == {"args", "--dist-password"}


def test_items_without_names_are_held_against_those_in_their_place():
    was = {"tolerations": [{"key": "a"}, {"key": "b"}]}
    (change,) = undoing.changes(was, {"tolerations": [{"key": "a"}, {"key": "c"}]})
    assert (change.field, change.was, change.now) == ("tolerations[1].key", "b", "c")
