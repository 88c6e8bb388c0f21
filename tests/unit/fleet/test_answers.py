"""What is kept of an engine's answer can stand in a gate and in a status, whatever it says."""

import orjson
import pytest

from sglang_operator.api import bounds
from sglang_operator.fleet import answers

INT64 = 2**63 - 1


@pytest.mark.parametrize("version", ["v" * 4_000_000, "step\n1\x1b"])
def test_a_weight_version_that_no_trainer_may_give_is_bounded(version):
    told = answers.weight_version(
        answers.MODEL_INFO.decode(orjson.dumps({"weight_version": version}))
    )
    assert told is not None
    assert len(told) <= bounds.MAX_LABEL
    assert told.isprintable()


@pytest.mark.parametrize(
    ("number", "kept"), [(10**30, None), (2**63, None), (INT64, INT64), (7, 7)]
)
def test_numbers_that_no_status_holds_are_not_told(number, kept):
    body = f'{{"max_total_num_tokens": {number}, "max_running_requests": {number}, '
    body += f'"context_length": {number}, "version": "0.5.14\\n"}}'
    found = answers.SERVER_INFO.decode(body).resolved
    counts = (found.max_total_tokens, found.max_running_requests, found.context_length)
    assert counts == (kept, kept, kept)
    assert found.version.isprintable()
    orjson.dumps(counts)


def test_what_an_engine_says_of_its_memory_is_kept():
    states = [{"memory_usage": {"weight": 15.28, "kvcache": 96.01, "graph": 0}}, {"other": 1}]
    told = {"max_total_num_tokens": 699117, "internal_states": states}
    found = answers.SERVER_INFO.decode(orjson.dumps(told)).resolved
    assert (found.weights_gib, found.cache_gib) == (15.28, 96.01)


@pytest.mark.parametrize(
    "states", ["null", "{}", "[]", "[1]", '[{"memory_usage": "much"}]', "[{}]", '"x"']
)
def test_an_engine_that_tells_of_its_memory_in_another_way_is_heard_all_the_same(states):
    body = f'{{"version": "0.5.14", "internal_states": {states}}}'
    found = answers.SERVER_INFO.decode(body).resolved
    assert found.version == "0.5.14"
    assert found.weights_gib is None
