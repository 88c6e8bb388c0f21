"""A pool is judged whatever is written in it."""

import logging

import msgspec
import pytest

from sglang_operator.api import shape
from sglang_operator.controller import judging
from sglang_operator.observed.wire import CustomResource, Meta
from sglang_operator.pool.resolve import Pool, Refused, resolve_pool
from tests.builders import OWNER, guide_spec, nested


def test_a_pool_that_could_not_be_read_is_refused_with_the_reason():
    record = CustomResource(metadata=Meta(name="a"), unreadable="it is nested too deep")
    refused = judging.judge(OWNER, record, None)
    assert isinstance(refused, Refused)
    (problem,) = refused.errors
    assert "cannot be read: it is nested too deep; expected " in problem.message


def test_a_pool_that_the_operator_fails_at_is_refused_and_told(monkeypatch, caplog):
    def failing(*_: object) -> Pool:
        raise RuntimeError("a defect")

    monkeypatch.setattr(judging, "resolve_pool", failing)
    written = msgspec.Raw(msgspec.json.encode(guide_spec()))
    record = CustomResource(metadata=Meta(name="a"), written=written)
    refused = judging.judge(OWNER, record, None)
    assert isinstance(refused, Refused)
    assert "RuntimeError: a defect" in refused.errors[0].message
    (told,) = [line for line in caplog.records if line.levelno == logging.ERROR]
    assert told.exc_info


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"data_args": {"x": nested(shape.MAX_DEPTH)}}, "levels deep", id="depth"),
        pytest.param(
            {"model_args": {f"k{i}": 1 for i in range(shape.MAX_KEYS + 1)}}, "a map of", id="keys"
        ),
        pytest.param({"data_args": [1] * (shape.MAX_ITEMS + 1)}, "a list of", id="a long list"),
        pytest.param(
            {"data_args": [[1] * 1000] * 10}, "keys and items together", id="many short lists"
        ),
        pytest.param({"data_args": "y" * (shape.MAX_TEXT + 1)}, "a text of", id="text"),
        pytest.param({"data_args": {"y" * (shape.MAX_TEXT + 1): 1}}, "a text of", id="a key"),
        pytest.param({"data_args": ["y" * shape.MAX_TEXT] * 5}, "KiB together", id="texts"),
    ],
)
def test_what_is_larger_than_any_pool_is_refused_as_a_whole(changes, words):
    refused = resolve_pool(OWNER, guide_spec(**changes))
    assert isinstance(refused, Refused)
    (problem,) = refused.errors
    assert words in problem.message


def test_what_roll_takes_is_not_too_large():
    changes = {"data_args": {"x": nested(40), "y": ["z" * 1000] * 300}}
    assert isinstance(resolve_pool(OWNER, guide_spec(**changes)), Pool)
