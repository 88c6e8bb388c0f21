"""Names and words that people bring from vLLM and other places."""

import pytest

from sglang_operator.api import errors
from sglang_operator.engine import habits, schema, typos, versions
from tests.unit.engine.requests import only_problem, problems, render

WITHOUT = "and SGLang has nothing like it: remove it"
GUIDE = {"load_format": "dummy"}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("enable_prefix_caching", False, "for false write disable_radix_cache: true"),
        ("enable_prefix_caching", True, "for true remove it"),
        ("sleep_level", 2, "write enable_memory_saver instead (true, "),
        ("enable_expert_parallel", True, "write ep_size instead"),
        ("max_loras", 2, "write max_loras_per_batch instead"),
        ("disable_log_stats", True, "remove it"),
        ("limit_mm_per_prompt", {"image": 3}, "write limit_mm_data_per_request instead"),
        ("cudagraph_capture_sizes", [1, 2], "write cuda_graph_bs instead"),
        ("disable_mm_preprocessor_cache", True, WITHOUT),
        ("optimization_level", 3, WITHOUT),
        ("distributed_executor_backend", "ray", WITHOUT),
        ("swap_space", 4, WITHOUT),
        ("tokenizer", "x", "write tokenizer_path instead"),
        ("hf_overrides", {"a": 1}, "write json_model_override_args instead"),
        ("num_gpus_per_worker", 2, "a field of the worker: write it beside strategy_args"),
        ("temperature", 1.0, "write generating_args beside strategy_args"),
        ("tensor_model_parallel_size", 2, "it is Megatron's: write tp_size instead"),
        ("sglang_page_size", 64, "it is slime's for page_size: write that"),
    ],
)
def test_a_name_of_somebody_elses_is_told_as_what_it_is(key, value, words):
    problem = only_problem({key: value})
    assert problem.severity is errors.Severity.ERROR
    assert words in problem.message
    assert "did you mean" not in problem.message


@pytest.mark.parametrize("version", [str(known) for known in schema.KNOWN])
def test_the_counterpart_is_one_that_the_version_has(version):
    known = schema.load(version)
    for name, habit in habits.HABITS.items():
        said = habits.advice(name, known)
        named = [key for key in habit.instead if f"write {key} " in f"{said} "]
        assert len(named) == any(map(known.argument, habit.instead)), (name, said)
        assert all(map(known.argument, named))


def test_every_counterpart_is_an_argument_of_some_version():
    every = {key for known in schema.KNOWN for key in schema.load(str(known)).arguments}
    assert {key for habit in habits.HABITS.values() for key in habit.instead} <= every


def test_no_name_of_somebody_elses_is_one_of_sglangs_newest():
    """Else it would never be told: the version's own argument is taken first."""
    newest = schema.load(str(schema.KNOWN[-1]))
    assert not [name for name in habits.NAMES if name in newest.arguments]


@pytest.mark.parametrize(
    ("key", "value", "own"),
    [
        ("kv_cache_dtype", "fp8", "fp8_e4m3"),
        ("attention_backend", "FLASH_ATTN", "fa3"),
        ("grammar_backend", "guidance", "llguidance"),
    ],
)
def test_a_word_of_vllms_is_told_as_sglangs(key, value, own):
    config = {key: value}
    (problem,) = problems(config)
    assert problem.message.endswith(f"{value} is vLLM's word: write {own}")


def test_a_variable_is_no_argument_and_vllms_is_to_be_removed():
    assert "it is vLLM's, which SGLang does not read" in only_problem({"VLLM_USE_V1": 1}).message
    assert only_problem({"NCCL_DEBUG": "INFO"}).message.endswith("write it into system_envs")


@pytest.mark.parametrize(
    "key",
    ["gpu_memory_utilization", "memFractionStatic", "mem_fraction_statc", "--mem-fraction-static"],
)
def test_a_memory_fraction_under_another_name_is_not_missed_besides(key):
    found = render({**GUIDE, key: 0.8}).problems
    assert len(found) == 1, found
    assert "mem_fraction_static" in found[0].message


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("memFractionStatic", "mem_fraction_static"),
        ("--chunked-prefill-size", "chunked_prefill_size"),
        ("TpSize", "tp_size"),
        ("tensorParallelSize", "tp_size"),
        ("Load_Format", "load_format"),
    ],
)
def test_another_spelling_of_a_known_name_is_told_as_that(key, meant):
    assert only_problem({key: 1}).message.endswith(f"expected {meant}; write it so")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("mem_fraction_statc", ("mem_fraction_static",)),
        ("mem_fraction", ("mem_fraction_static",)),
        ("contxt_length", ("context_length",)),
        ("context_len", ("context_length",)),
        ("enable_prefix_caching", ()),
        ("min_running_requests", ()),
        ("enable_radix_cache", ()),
        ("decode_delayer_max_delay_passes", ()),
    ],
)
def test_only_what_a_slip_explains_is_offered(name, found):
    near = typos.similar(versions.parse("0.5.7"), name)
    assert near[:1] == found


def test_the_opposite_is_told_as_such():
    said = only_problem({"enable_radix_cache": False}).message
    assert said.endswith("for true remove it, for false write disable_radix_cache: true")
    said = only_problem({"disable_mixed_chunk": True}).message
    assert said.endswith("SGLang does it with enable_mixed_chunk: true alone: remove it")


def test_the_work_for_many_unknown_names_is_bounded(monkeypatch):
    """With each compared it is more than a minute for these."""
    looked_for = []

    def similar(version, name):
        looked_for.append(name)
        return real(version, name)

    real = typos.similar
    monkeypatch.setattr(typos, "similar", similar)
    config = {f"mem_fraction_statik{i}": 1 for i in range(50_000)}
    found = problems(config)
    assert len(looked_for) == typos.MOST_SUGGESTED
    assert len(found) == len(config)
    assert sum("did you mean" in problem.message for problem in found) <= typos.MOST_SUGGESTED


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("TP_SIZE", "expected tp_size; write it so"),
        ("MEM_FRACTION_STATIC", "expected mem_fraction_static; write it so"),
        ("mem fraction static", "expected mem_fraction_static; write it so"),
        ("mem.fraction.static", "expected mem_fraction_static; write it so"),
        (" mem_fraction_static", "expected mem_fraction_static; write it so"),
        ("gpuMemoryUtilization", "it is vLLM's: write mem_fraction_static instead"),
        ("--max-model-len", "it is vLLM's: write context_length instead"),
        ("gpu-memory-utilization", "it is vLLM's: write mem_fraction_static instead"),
        ("gpu_memory_utilisation", "did you mean gpu_memory_utilization? it is vLLM's: write mem"),
        ("enforce_eger", "did you mean enforce_eager? it is vLLM's: write disable_cuda_graph"),
        ("tp", "it is a short form: write tp_size instead"),
        ("HF_TOKEN", "a variable of the environment"),
    ],
)
def test_a_name_in_another_spelling_is_told_as_what_it_is(key, words):
    found = only_problem({key: 1})
    assert words in found.message
    assert found.field.endswith(f".{key}") or key == "HF_TOKEN"


@pytest.mark.parametrize("text", ["None", "null"])
@pytest.mark.parametrize("key", ["tokenizer_path", "context_length", "quantization"])
def test_no_value_in_quotes_is_a_word_and_is_to_be_left_out(key, text):
    assert only_problem({key: text}).message.endswith("leave the argument out")


@pytest.mark.parametrize("value", [0, 1.5, True])
def test_a_number_for_one_of_some_words_is_told_the_words(value):
    assert "expected one of " in only_problem({"kv_cache_dtype": value}).message


@pytest.mark.parametrize(
    ("key", "text"),
    [("mem_fraction_static", "0.8"), ("tp_size", "2"), ("dp_size", " 2 "), ("page_size", "16")],
)
def test_a_number_in_quotes_is_to_be_written_without_them(key, text):
    assert only_problem({key: text}).message.endswith("; write it without quotes")


def test_a_whole_size_may_be_written_as_a_float():
    assert "--tp-size=2" in render({**GUIDE, "tp_size": 2.0}, gpus=2).argv
