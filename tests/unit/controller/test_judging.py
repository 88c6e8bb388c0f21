"""A pool is judged whatever is written in it."""

import logging

import msgspec
import pytest

from sglang_operator.api import shape
from sglang_operator.controller import judging
from sglang_operator.controller.memory import Memory
from sglang_operator.observed.wire import CustomResource, Meta
from sglang_operator.pool.resolve import Pool, Refused, resolve_pool
from tests.builders import OWNER, guide_spec, nested


def test_a_pool_that_could_not_be_read_is_refused_with_the_reason():
    record = CustomResource(metadata=Meta(name="a"), unreadable="it is nested too deep")
    refused = judging.judge(OWNER, record, None)
    assert isinstance(refused, Refused)
    (problem,) = refused.errors
    assert "cannot be read: it is nested too deep; expected " in problem.message


def test_another_spec_of_the_same_generation_is_judged_anew():
    """A cluster was restored, and edited once: generations count on from before."""
    memory = Memory(uid=OWNER.uid)

    def judged(version: str, **changes: object) -> Pool | Refused:
        written = msgspec.Raw(msgspec.json.encode(guide_spec(**changes)))
        meta = Meta(name="a", uid=OWNER.uid, generation=2, resource_version=version)
        record = CustomResource(metadata=meta, written=written)
        return judging.resolved(memory, record, "0.0.0.0")

    first = judged("8", network={"port": 31000})
    memory.refusals = 3
    assert judged("9", network={"port": 31000}) is first, "judged once"
    other = judged("8", network={"port": 32000})
    assert isinstance(first, Pool)
    assert isinstance(other, Pool)
    assert (first.facts.port, other.facts.port, memory.refusals) == (31000, 32000, 0)


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


def test_engines_that_came_up_before_are_believed_over_the_plan_of_their_memory():
    """A new operator plans what an earlier one ran: its engines would be nobody's."""
    selector = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    spec = guide_spec(
        model_args={"model_name_or_path": "Qwen/Qwen2.5-72B-Instruct", "dtype": "bf16"},
        podTemplate={"spec": {"nodeSelector": selector}},
    )
    runs = resolve_pool(OWNER, spec | {"memoryCheck": "Off"})
    assert isinstance(runs, Pool)
    written = msgspec.Raw(msgspec.json.encode(spec))

    def judged(**status):
        record = CustomResource(metadata=Meta(name="a"), written=written, status=status)
        return judging.judge(OWNER, record, None)

    assert isinstance(judged(), Refused)
    assert isinstance(judged(revision=runs.revision, engines={"up": 0}), Refused)
    assert isinstance(judged(revision=runs.revision, engines={"up": 1}), Pool)
    assert isinstance(judged(revision=runs.revision, reported={"maxTotalTokens": 5}), Pool)
    assert isinstance(judged(revision="another", engines={"up": 1}), Refused)
