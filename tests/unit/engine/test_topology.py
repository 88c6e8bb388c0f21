"""How one engine's GPUs are divided."""

import pytest

from sglang_operator.api import errors
from tests.unit.engine.requests import ROLL_GUIDE, render

CONFIG = "spec.strategy_args.strategy_config"


def sized(config, gpus=8):
    return render({**ROLL_GUIDE, **config}, gpus=gpus)


def reasons(rendered):
    return [problem.reason for problem in rendered.problems]


@pytest.mark.parametrize(
    ("config", "gpus", "tp", "pp"),
    [
        pytest.param({}, 1, 1, 1, id="one GPU"),
        pytest.param({}, 8, 8, 1, id="all of them, as in ROLL"),
        pytest.param({"tensor_parallel_size": 8}, 8, 8, 1, id="said in ROLL's words"),
        pytest.param({"tp_size": 8}, 8, 8, 1, id="said in SGLang's words"),
        pytest.param({"pp_size": 1}, 8, 8, 1, id="no pipeline, said"),
        pytest.param({"tp_size": 8, "tensor_parallel_size": 8}, 8, 8, 1, id="said twice"),
        pytest.param(
            {"dp_size": 4, "enable_dp_attention": True}, 8, 8, 1, id="attention data parallelism"
        ),
        pytest.param({"ep_size": 4}, 8, 8, 1, id="expert parallelism needs no more GPUs"),
    ],
)
def test_sizes_that_fit(config, gpus, tp, pp):
    rendered = sized(config, gpus)
    assert (rendered.tp_size, rendered.pp_size) == (tp, pp)
    assert rendered.problems == ()
    assert f"--tp-size={tp}" in rendered.argv
    assert not any(token.startswith("--pp-size") for token in rendered.argv)


def test_attention_data_parallelism_has_a_newer_name():
    rendered = render({**ROLL_GUIDE, "attn_dp_size": 4}, gpus=8, version="0.5.23")
    assert rendered.tp_size == 8
    assert rendered.problems == ()
    assert {"--tp-size=8", "--attn-dp-size=4"} <= set(rendered.argv)


def test_replicas_and_attention_data_parallelism_do_not_go_together():
    """0.5.23 asserts it: see arg_groups/parallel_hook.py."""
    config = {**ROLL_GUIDE, "dp_size": 2, "attn_dp_size": 4}
    (problem, *_) = render(config, gpus=8, version="0.5.23").problems
    assert problem.reason == "ParallelismMismatch"
    assert "dp_size is 2 and attn_dp_size is 4" in problem.message


@pytest.mark.parametrize("key", ["pp_size", "pipeline_parallel_size", "pp-size"])
def test_a_pipeline_divides_the_gpus_and_cannot_be_updated_over_nccl(key):
    rendered = sized({key: 2})
    assert (rendered.tp_size, rendered.pp_size) == (4, 2)
    assert {"--tp-size=4", "--pp-size=2"} <= set(rendered.argv)
    (warning,) = (p for p in rendered.problems if p.reason != "ArgumentSpelling")
    assert warning.severity is errors.Severity.WARNING
    assert warning.field == f"{CONFIG}.{key}"
    assert warning.message == (
        f"{key} is 2: SGLang's weight update over NCCL covers tensor parallelism only; update "
        "from disk, or use tp_size 8"
    )


def test_replicas_divide_the_gpus_because_each_has_its_own():
    rendered = sized({"dp_size": 4})
    assert rendered.tp_size == 2
    assert {"--tp-size=2", "--dp-size=4"} <= set(rendered.argv)
    assert reasons(rendered) == ["WeightSyncUnsupported"]
    assert "use more engines with fewer GPUs each" in rendered.problems[0].message


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param({"tp_size": 4, "pp_size": 2}, True, id="ROLL would discard it"),
        pytest.param({"tp-size": 4, "pp_size": 2}, True, id="also with a dash"),
        pytest.param({"tensor_parallel_size": 4, "pp_size": 2}, False, id="ROLL reads this"),
        pytest.param({"tp_size": 8}, False, id="ROLL would come to the same"),
    ],
)
def test_a_tp_size_that_roll_would_discard_is_honoured_with_a_warning(config, expected):
    rendered = sized(config)
    assert ("TensorParallelHonoured" in reasons(rendered)) is expected
    assert all(p.severity is errors.Severity.WARNING for p in rendered.problems)


@pytest.mark.parametrize(
    ("config", "gpus", "message"),
    [
        pytest.param(
            {"tp_size": 4},
            2,
            "tp_size 4 x pp_size 1 = 4, but num_gpus_per_worker is 2; expected the product to be "
            "the GPUs of one engine; write num_gpus_per_worker: 4, which ROLL takes "
            "from these sizes for vLLM only, or set tp_size to 2",
            id="too many",
        ),
        pytest.param(
            {"tensor_parallel_size": 2},
            8,
            "tp_size 2 x pp_size 1 = 2, but num_gpus_per_worker is 8; expected the product to be "
            "the GPUs of one engine; write num_gpus_per_worker: 2, which ROLL takes "
            "from these sizes for vLLM only, or set tp_size to 8",
            id="too few",
        ),
        pytest.param(
            {"tp_size": 8, "pp_size": 2},
            8,
            "tp_size 8 x pp_size 2 = 16, but num_gpus_per_worker is 8; expected the product to be "
            "the GPUs of one engine; write num_gpus_per_worker: 16, which ROLL takes "
            "from these sizes for vLLM only, or set tp_size to 4",
            id="with a pipeline",
        ),
        pytest.param(
            {"tp_size": 8, "dp_size": 2},
            8,
            "tp_size 8 x pp_size 1 x dp_size 2 = 16, but num_gpus_per_worker is 8; expected the "
            "product to be the GPUs of one engine, because without enable_dp_attention each of "
            "dp_size copies has GPUs of its own; set tp_size to 4, or leave it out",
            id="with replicas",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_the_size_that_does(config, gpus, message):
    problem = sized(config, gpus).problems[0]
    assert problem.reason == "ParallelismMismatch"
    assert problem.message == message
    assert problem.severity is errors.Severity.ERROR


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param(
            {"pp_size": 3},
            "pp_size is 3; expected a divisor of the engine's 8 GPUs; use 1, 2, 4 or 8",
            id="pipeline",
        ),
        pytest.param(
            {"data_parallel_size": 3},
            "data_parallel_size is 3; expected a divisor of the engine's 8 GPUs; use 1, 2, 4 or 8",
            id="replicas",
        ),
        pytest.param(
            {"pp_size": 4, "dp_size": 4},
            "dp_size is 4; expected a divisor of the engine's 2 GPUs; use 1 or 2",
            id="replicas of pipelines",
        ),
    ],
)
def test_a_size_that_does_not_divide_the_gpus_is_refused(config, message):
    assert sized(config).problems[0].message == message


@pytest.mark.parametrize("key", ["tp_size", "pp_size", "dp_size", "tensor_parallel_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "2", True, [2], {}], ids=repr)
def test_a_size_is_a_positive_whole_number(key, value):
    rendered = sized({key: value})
    assert reasons(rendered) == ["ArgumentInvalid"]
    assert rendered.problems[0].field == f"{CONFIG}.{key}"
    assert rendered.tp_size == 8


@pytest.mark.parametrize("gpus", [0, -1, -8])
def test_too_few_gpus_are_said_elsewhere_and_raise_nothing(gpus):
    assert sized({"pp_size": 3, "dp_size": 2, "tp_size": 2}, gpus=gpus).tp_size == 2


def test_one_gpu_has_one_divisor():
    assert "use 1" in sized({"pp_size": 2}, gpus=1).problems[0].message


def test_attention_data_parallelism_under_its_newer_name_is_too_new_for_older_versions():
    (problem, *_) = render({**ROLL_GUIDE, "attn_dp_size": 4}, gpus=8, version="0.5.7").problems
    assert problem.reason == "ArgumentUnsupported"
    assert "0.5.23 is the first version known to have it" in problem.message
