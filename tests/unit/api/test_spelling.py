"""Only another spelling, or a slip that leaves no doubt, stands for a name."""

import time

import pytest

from sglang_operator.api import spelling

KNOWN = ("num_gpus_per_worker", "device_mapping", "top_k", "top_p", "seed", "maxUnavailable")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("numGpusPerWorker", "num_gpus_per_worker"),
        ("num-gpus-per-worker", "num_gpus_per_worker"),
        ("NUM_GPUS_PER_WORKER", "num_gpus_per_worker"),
        (" num gpus per worker", "num_gpus_per_worker"),
        ("num_gpu_per_worker", "num_gpus_per_worker"),
        ("deivce_mapping", "device_mapping"),
        ("max_unavailable", "maxUnavailable"),
        ("topK", "top_k"),
        ("top_n", None),  # of two that are as near
        ("sed", None),
        ("num_gpus_per_node", None),  # another thing
        ("seed", None),  # it is known
        ("", None),
        ("___", None),
        ("x" * 100_000, None),
    ],
)
def test_a_name_stands_for_a_known_one_or_for_none(name, meant):
    assert spelling.meant(name, KNOWN) == meant


def test_names_that_cannot_be_meant_are_not_compared_letter_by_letter(monkeypatch):
    """Of a pipeline, each of its fields is held against each that is not there."""
    compared = []

    def distance(one, other):
        compared.append(other)
        return real(one, other)

    real = spelling.distance
    monkeypatch.setattr(spelling, "distance", distance)
    known = ("reward_pretrain", "response_length", "num_gpus_per_node", "sequence_length")
    assert spelling.meant("respones_length", known) == "response_length"
    assert spelling.meant("rewards_pretrain", known) == "reward_pretrain"
    assert spelling.meant("rollout_batch_size", known) is None
    assert compared == ["responselength", "rewardpretrain"]


def test_the_work_for_a_long_name_is_bounded():
    started = time.process_time()
    assert spelling.meant("num_gpus" * 100_000, KNOWN) is None
    assert time.process_time() - started < 0.05
