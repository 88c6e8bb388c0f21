"""ROLL's guide to its SGLang backend, read from top to bottom: each thing that it says holds for
a pool.

The headings are the guide's.  The pool is what ``kubectl sglang convert`` makes of the very file
that the guide quotes; that it runs as told here is seen on a real control plane in
tests/integration/test_main_job.py and test_flow.py.
"""

import pytest
import yaml

from sglang_operator.api import errors
from sglang_operator.api.spec import WeightsGate
from sglang_operator.children import engine_pod, trainer_registry
from sglang_operator.engine import diagnosis, versions
from sglang_operator.engine.schemas import index
from sglang_operator.pool.resolve import Refused, resolve_pool
from tests.builders import OWNER, a_pool, all_pods, weighed
from tests.proof import oracle
from tests.unit.cli.runner import GUIDE, ROOT, converted, run
from tests.unit.engine.wheels import sglang_or_skip

SPEC = converted(GUIDE)[0]["spec"]
LOGS = ROOT / "tests" / "data" / "engine-logs"
LOG_OF = {"KV cache": "kv-cache-too-small", "CUDA": "cuda-out-of-memory"}


def with_strategy(**config):
    """The guide's pool with this in its strategy_config."""
    own = SPEC["strategy_args"]["strategy_config"]
    return {
        **SPEC,
        "strategy_args": {"strategy_name": "sglang", "strategy_config": {**own, **config}},
    }


def container(pool):
    rendered = engine_pod.pod(pool, engine_pod.template(pool), pool.engines[0], 0, 0)
    return rendered["spec"]["containers"][0]


def arguments(pool):
    return container(pool)["args"]


def warnings(pool):
    return [problem.reason for problem in pool.warnings]


# --- Configuring SGLang Strategy


def test_the_strategy_is_configured_by_strategy_args():
    assert SPEC["strategy_args"] == {
        "strategy_name": "sglang",
        "strategy_config": {"mem_fraction_static": 0.7, "load_format": "dummy"},
    }
    told = arguments(a_pool(with_strategy(mem_fraction_static=0.65)))
    assert "--mem-fraction-static=0.65" in told


# --- Basic Configuration Example


def test_the_example_is_taken_over_field_by_field():
    """What the example says, with its two references filled in from the file around it."""
    pipeline = yaml.safe_load(GUIDE.read_text())
    assert SPEC["model_args"] == {
        "model_name_or_path": pipeline["pretrain"],
        "disable_gradient_checkpointing": True,
        "dtype": "bf16",
    }
    assert SPEC["generating_args"] == {
        "max_new_tokens": pipeline["response_length"],
        "top_p": 0.99,
        "top_k": 100,
        "num_beams": 1,
        "temperature": 0.99,
        "num_return_sequences": pipeline["num_return_sequences_in_group"],
    }
    assert SPEC["num_gpus_per_worker"] == 2
    assert SPEC["device_mapping"] == "list(range(0,24))"


def test_the_example_is_a_pool_that_runs_without_a_warning():
    pool = a_pool(SPEC)
    assert warnings(pool) == []
    assert len(pool.running) == 12


def test_generating_args_are_what_each_request_is_sampled_with():
    told = a_pool(SPEC).sampling
    assert (told["max_new_tokens"], told["n"]) == (4096, 8)
    assert (told["temperature"], told["top_p"], told["top_k"]) == (0.99, 0.99, 100)


# --- Configuration Parameter Details, 1: strategy_name


def test_sglang_is_the_name_of_this_backend_and_others_are_not_run():
    for name in ("vllm", "hf_infer", "megatron_infer"):
        refused = resolve_pool(OWNER, {**SPEC, "strategy_args": {"strategy_name": name}})
        assert isinstance(refused, Refused)
        assert "StrategyUnsupported" in [problem.reason for problem in refused.errors]


# --- 2: strategy_config


@pytest.mark.parametrize("version", [index.VERSIONS[0], "0.5.7", index.VERSIONS[-1]])
def test_strategy_config_goes_straight_through_to_sglang(version):
    """Values of every form, read back by that version's own parser."""
    config = {
        "mem_fraction_static": 0.7,
        "load_format": "dummy",
        "context_length": 8192,
        "chunked_prefill_size": -1,
        "attention_backend": "triton",
        "disable_radix_cache": True,
        "enable_metrics": True,
        "served_model_name": "a name, with $(SIGNS) and 'quotes'",
        "log_level": "debug",
        "json_model_override_args": {"rope_scaling": {"factor": 4.0}},
    }
    sglang = sglang_or_skip(version)
    pool = a_pool({**with_strategy(**config), "image": f"lmsysorg/sglang:v{version}"})
    found = sglang.parse([token.replace("$$", "$") for token in arguments(pool)])
    for name, value in config.items():
        assert oracle.same(name, value, found[name], sglang.defaults[name]), name


def test_mem_fraction_static_is_a_share_of_a_gpu():
    for share in (0.01, 0.6, 0.85, 0.99):
        assert f"--mem-fraction-static={share}" in arguments(
            a_pool(with_strategy(mem_fraction_static=share))
        )
    for wrong in (0, 1, 1.5, -0.1, "0.7", True):
        refused = resolve_pool(OWNER, with_strategy(mem_fraction_static=wrong))
        assert isinstance(refused, Refused), wrong


@pytest.mark.parametrize(
    ("trouble", "advice"),
    [("KV cache", "raise mem_fraction_static"), ("CUDA", "lower mem_fraction_static")],
)
def test_which_way_to_turn_it_is_what_a_failed_engine_says(trouble, advice):
    log = (LOGS / f"{LOG_OF[trouble]}.txt").read_text()
    assert advice in diagnosis.diagnose(log, 137, "Error").advice


def test_dummy_may_be_set_because_the_weights_are_updated_first():
    pool = a_pool(SPEC)
    assert "--load-format=dummy" in arguments(pool)
    assert pool.gate is WeightsGate.COMMITTED  # nobody is served before that update
    assert a_pool(with_strategy(load_format="auto")).gate is WeightsGate.OFF


# --- 3: num_gpus_per_worker


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
def test_a_worker_has_its_gpus_and_uses_them_in_parallel(gpus):
    pool = a_pool({**SPEC, "num_gpus_per_worker": gpus})
    engine = container(pool)
    assert engine["resources"]["limits"]["nvidia.com/gpu"] == str(gpus)
    assert f"--tp-size={gpus}" in engine["args"]


# --- 4: device_mapping


def test_device_mapping_lists_the_gpus_in_use():
    for mapping in ("list(range(8,16))", "[8, 9, 10, 11, 12, 13, 14, 15]", "list([9,8])+[15,14]"):
        pool = a_pool({**SPEC, "device_mapping": mapping})
        used = [device for engine in pool.engines for device in engine.devices]
        assert used == eval(mapping)


# --- 5: infer_batch_size, and Performance Optimization, 3


def test_infer_batch_size_is_taken_and_changes_nothing_and_is_said_to():
    without = a_pool(SPEC)
    for size in (1, 64, None):
        pool = a_pool({**SPEC, "infer_batch_size": size})
        assert pool.revision == without.revision
        assert warnings(pool) == ["InferBatchSizeIgnored"] * (size is not None)


# --- Integration with Other Components


def test_of_a_pipeline_the_sglang_roles_become_pools_and_the_others_are_left_to_roll():
    result = run("convert", GUIDE)
    assert [body["metadata"]["name"] for body in yaml.safe_load_all(result.stdout)] == [
        "actor-infer"
    ]
    (left,) = [line for line in result.stderr.splitlines() if "left alone" in line]
    for role in (
        "actor_train (megatron_train)",
        "reference (megatron_infer)",
        "rewards.llm_judge (hf_infer)",
    ):
        assert role in left


# --- Performance Optimization, 1: memory


def test_memory_that_is_not_set_is_warned_of():
    assert "MemFractionMissing" in warnings(a_pool(with_strategy(mem_fraction_static=None)))


def test_the_memory_of_a_gpu_can_be_watched():
    """SGLang's own metrics, on the port that the pool's Service and pods have."""
    assert "--enable-metrics" in arguments(a_pool(with_strategy(enable_metrics=True)))


# --- 2: parallel processing


@pytest.mark.parametrize("gpus", [8, 16, 24, 32])
@pytest.mark.parametrize("per_worker", [1, 2, 4, 8])
def test_the_number_of_engines_is_the_gpus_divided_by_those_of_a_worker(gpus, per_worker):
    changes = {"device_mapping": f"list(range(0,{gpus}))", "num_gpus_per_worker": per_worker}
    pool = a_pool({**SPEC, **changes})
    assert len(pool.running) == gpus // per_worker
    assert all(len(engine.devices) == per_worker for engine in pool.running)


def test_gpus_that_are_left_over_are_refused_as_roll_refuses_them():
    refused = resolve_pool(OWNER, {**SPEC, "device_mapping": "list(range(0,23))"})
    assert isinstance(refused, Refused)
    (problem,) = refused.errors
    assert problem.message.endswith("23 is not divisible by 2; use 22 or 24 GPUs")


# --- 3: batch processing


def test_the_length_of_sequences_and_the_size_of_batches_are_sglangs_to_set():
    told = arguments(a_pool(with_strategy(context_length=16384, max_running_requests=64)))
    assert {"--context-length=16384", "--max-running-requests=64"} <= {*told}


# --- Notes


def test_the_version_without_further_words_is_one_that_roll_is_made_for():
    pool = a_pool(SPEC)
    assert pool.version in versions.ROLL_VERSIONS
    assert pool.image.endswith(str(pool.version))


def test_a_version_that_roll_is_not_made_for_is_warned_of_with_the_list():
    pool = a_pool({**SPEC, "image": "lmsysorg/sglang:v0.5.9-cu129"})
    (told,) = [w for w in pool.warnings if w.reason == errors.VERSION_OUTSIDE_ROLL.reason]
    assert all(str(version) in told.message for version in versions.ROLL_VERSIONS)


def test_components_that_would_share_gpus_are_shown():
    """In the guide's file actor_infer has the GPUs of actor_train and reference too."""
    said = run("convert", GUIDE).stderr
    assert "shares GPUs in ROLL with actor_train" in said
    assert "in placement mode Count its engines get 24 GPUs of their own" in said


def test_what_a_megatron_trainer_has_to_configure_is_the_pools_to_tell():
    """One NCCL group over all engines: the trainer is rank 0, engine i begins at 1 + 2i."""
    pool = a_pool(SPEC)
    document = trainer_registry.document(pool, weighed(pool, all_pods(pool)))
    assert document["worldSize"] == 25
    assert [engine["rankOffset"] for engine in document["engines"]] == [*range(1, 25, 2)]
