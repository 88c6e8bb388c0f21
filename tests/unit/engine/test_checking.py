"""What a version's schema says of what a user writes: one bad value per row, and none too many."""

from functools import partial

import pytest

from sglang_operator.api import errors
from sglang_operator.engine import extra_arguments, schema, versions
from sglang_operator.engine.schemas import index
from tests.steps import steps
from tests.unit.engine.requests import ROLL_GUIDE, added, only_problem, problems, render

CONFIG = "spec.strategy_args.strategy_config"


# --- names


@pytest.mark.parametrize(
    ("version", "key", "message"),
    [
        pytest.param(
            "0.5.7",
            "mem_fraction_statc",
            "is not an argument of SGLang 0.5.7; did you mean mem_fraction_static?",
            id="a typo",
        ),
        pytest.param(
            "0.5.7",
            "gpu_memory_utilization",
            "is not an argument of SGLang 0.5.7; it is vLLM's: write mem_fraction_static instead "
            "(of weights and KV cache alone, so mostly a little lower)",
            id="vLLM's name",
        ),
        pytest.param(
            "0.5.7",
            "xyzzy",
            "is not an argument of SGLang 0.5.7; correct its name, or remove it",
            id="nothing like it",
        ),
        pytest.param(
            "0.5.7",
            "weight_cache_mode",
            "is not an argument of SGLang 0.5.7: 0.5.20 is the first version known to have it; "
            "remove it, or use a newer image",
            id="introduced later",
        ),
        pytest.param(
            "0.5.7",
            "cuda_graph_max_bs_decode",
            "is not an argument of SGLang 0.5.7: 0.5.14 is the first version known to have it; "
            "use cuda_graph_max_bs, or a newer image",
            id="renamed later",
        ),
        pytest.param(
            "0.5.23",
            "cuda_graph_max_bs",
            "is not an argument of SGLang 0.5.23: 0.5.14 is the last version known to have it; "
            "use cuda_graph_max_bs_decode instead",
            id="renamed",
        ),
        pytest.param(
            "0.5.23",
            "torchao_config",
            "is not an argument of SGLang 0.5.23: 0.5.14 is the last version known to have it; "
            "remove it, or use an older image",
            id="removed",
        ),
        pytest.param(
            "0.5.23",
            "watermark_key",
            "can be set in Python only: SGLang 0.5.23 has no flag for it; remove it",
            id="for Python only",
        ),
    ],
)
def test_a_name_that_the_version_does_not_have_is_refused(version, key, message):
    problem = only_problem({key: "hush"}, version=version)
    assert problem.severity is errors.Severity.ERROR
    assert problem.field == f"{CONFIG}.{key}"
    assert problem.message == f"{key} {message}"
    assert added({key: 1}, version=version) == added(version=version)


def test_a_name_is_repeated_as_it_was_written():
    assert only_problem({"mem-fraction-statc": 1}).message.startswith("mem-fraction-statc is not")


# --- values


@pytest.mark.parametrize(
    ("version", "config", "message"),
    [
        pytest.param(
            "0.5.7",
            {"enable_metrics": 1},
            "enable_metrics is 1; expected true or false; correct it",
            id="a flag with a value",
        ),
        pytest.param(
            "0.5.7",
            {"chunked_prefill_size": 1.5},
            "chunked_prefill_size is 1.5; expected a whole number; correct it",
            id="half a number",
        ),
        pytest.param(
            "0.5.7",
            {"chunked_prefill_size": "8192"},
            'chunked_prefill_size is "8192"; expected a whole number; write it without quotes',
            id="a number in quotes",
        ),
        pytest.param(
            "0.5.7",
            {"chunked_prefill_size": 1e30},
            "chunked_prefill_size is 1e+30; expected a whole number; correct it",
            id="a number with an exponent",
        ),
        pytest.param(
            "0.5.7",
            {"schedule_conservativeness": "fast"},
            "schedule_conservativeness is fast; expected a number; correct it",
            id="a word for a number",
        ),
        pytest.param(
            "0.5.7",
            {"served_model_name": 7},
            "served_model_name is 7; expected text; write it in quotes",
            id="a number for text",
        ),
        pytest.param(
            "0.5.7",
            {"served_model_name": True},
            "served_model_name is true; expected text; correct it",
            id="true for text",
        ),
        pytest.param(
            "0.5.7",
            {"schedule_policy": "fifo"},
            "schedule_policy is fifo; expected one of lpm, random, fcfs, dfs-weight, lof, "
            "priority; correct it",
            id="a word that is no choice",
        ),
        pytest.param(
            "0.5.7",
            {"schedule_policy": "fcsf"},
            "schedule_policy is fcsf; expected one of lpm, random, fcfs, dfs-weight, lof, "
            "priority; did you mean fcfs?",
            id="a choice with a typo",
        ),
        pytest.param(
            "0.5.7",
            {"cuda_graph_bs": 8},
            "cuda_graph_bs is 8; expected a list, a whole number each; write it as a list",
            id="one value for a list",
        ),
        pytest.param(
            "0.5.7",
            {"cuda_graph_bs": [8, "a"]},
            'cuda_graph_bs is [8, "a"]; expected a whole number; correct it',
            id="a bad item",
        ),
        pytest.param(
            "0.5.7",
            {"enable_multimodal": False},
            "enable_multimodal is false, which SGLang's command line cannot say: without the "
            "flag SGLang decides by itself; remove it",
            id="a false that cannot be said",
        ),
        pytest.param(
            "0.5.7",
            {"forward_hooks": {"a": 1}},
            'forward_hooks is {"a": 1}; expected a list; correct it',
            id="a map for a list of JSON",
        ),
        pytest.param(
            "0.5.7",
            {"mm_process_config": "{"},
            "mm_process_config is {; expected a map, or its JSON as text; correct it",
            id="broken JSON",
        ),
        pytest.param(
            "0.5.7",
            {"lora_paths": [{"name": "a"}]},
            'lora_paths is [{"name": "a"}]; expected a list of adapters, each a path or name=path '
            "or a map with lora_name and lora_path; correct it",
            id="an adapter without a path",
        ),
        pytest.param(
            "0.4.10.post2",
            {"lora_paths": [{"lora_name": "a", "lora_path": "/b"}]},
            'lora_paths is [{"lora_name": "a", "lora_path": "/b"}]; expected a list of adapters, '
            "each a path or name=path; correct it",
            id="an adapter that is too new",
        ),
        pytest.param(
            "0.5.23",
            {"context_length": "0.5"},
            'context_length is "0.5"; expected a number, or 32k; correct it',
            id="half a token",
        ),
        pytest.param(
            "0.5.23",
            {"cuda_graph_config": {"decod": {}}},
            'cuda_graph_config is {"decod": {}}; expected a map with decode and prefill; '
            "correct it",
            id="an unknown key in a map",
        ),
        pytest.param(
            "0.4.6.post5",
            {"enable_flashmla": True},
            "enable_flashmla is true, but SGLang does not start with it any more; use "
            "--attention-backend",
            id="retired",
        ),
    ],
)
def test_a_value_that_the_version_does_not_take_is_refused(version, config, message):
    problem = only_problem(config, version=version)
    assert problem.severity is errors.Severity.ERROR
    assert problem.message == message


@pytest.mark.parametrize(
    ("version", "config", "tokens"),
    [
        pytest.param("0.5.23", {"dllm_fdfo": False}, ["--no-dllm-fdfo"], id="false of a switch"),
        pytest.param("0.5.23", {"dllm_fdfo": True}, ["--dllm-fdfo"], id="true of a switch"),
        pytest.param("0.5.23", {"dllm_fdfo": None}, [], id="null of a switch"),
        pytest.param("0.5.23", {"context_length": "32k"}, ["--context-length=32k"], id="32k"),
        pytest.param("0.5.7", {"context_length": 32768.0}, ["--context-length=32768"], id="whole"),
        pytest.param("0.5.7", {"forward_hooks": [[1]]}, ["--forward-hooks=[[1]]"], id="JSON list"),
        pytest.param(
            "0.5.7", {"mm_process_config": '{"a":1}'}, ['--mm-process-config={"a":1}'], id="JSON"
        ),
        pytest.param(
            "0.5.7", {"json_model_override_args": {"a": 1}},
            ['--json-model-override-args={"a":1}'], id="a map for text",
        ),
        pytest.param(
            "0.5.7", {"lora_paths": {"a": "/b"}}, ["--lora-paths", "a=/b"], id="adapters by name"
        ),
        pytest.param("0.5.7", {"reasoning_parser": "qwen3"}, ["--reasoning-parser=qwen3"], id="x"),
    ],
)  # fmt: skip
def test_a_value_takes_the_form_that_the_version_reads(version, config, tokens):
    guide = render(version=version).argv
    argv = render({**ROLL_GUIDE, **config}, version=version).argv
    assert [token for token in argv if token not in guide] == tokens
    assert problems(config, version=version) == ()


# --- deprecated


def test_a_deprecated_argument_is_a_warning_that_names_its_replacement():
    problem = only_problem({"cuda_graph_max_bs": 8}, version="0.5.14")
    assert (problem.reason, problem.severity) == ("ArgumentDeprecated", errors.Severity.WARNING)
    assert problem.message == (
        "cuda_graph_max_bs is deprecated in SGLang 0.5.14; use cuda_graph_max_bs_decode"
    )
    argv = render({**ROLL_GUIDE, "cuda_graph_max_bs": 8}, version="0.5.14").argv
    assert "--cuda-graph-max-bs=8" in argv


def test_a_deprecated_flag_that_is_off_is_no_matter():
    assert problems({"disable_cuda_graph": False}, version="0.5.14") == ()


@pytest.mark.parametrize(
    "config",
    [
        {"cuda_graph_max_bs": 8, "cuda_graph_max_bs_decode": 9},
        {"enable_breakable_cuda_graph": True, "cuda_graph_backend_prefill": "disabled"},
        {"stream_output": True, "incremental_streaming_output": False},
    ],
    ids=["a value", "a constant", "a flag"],
)
def test_an_old_and_a_new_name_that_differ_are_refused(config):
    found = problems(config, version="0.5.14")
    assert [problem.reason for problem in found] == ["ArgumentDeprecated", "ArgumentConflict"]


def test_an_old_flag_that_is_off_stands_for_nothing():
    config = {"enable_breakable_cuda_graph": False, "cuda_graph_backend_prefill": "disabled"}
    assert problems(config, version="0.5.14") == ()


def test_an_old_and_a_new_name_that_agree_are_only_deprecated():
    config = {"enable_breakable_cuda_graph": True, "cuda_graph_backend_prefill": "breakable"}
    assert only_problem(config, version="0.5.14").reason == "ArgumentDeprecated"


# --- a version that is not exactly known


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"mem_fraction_statc": 0.7}, ["--mem-fraction-statc=0.7"]),
        ({"enable_metrics": 1}, ["--enable-metrics=1"]),
        ({"schedule_policy": "new"}, ["--schedule-policy=new"]),
    ],
    ids=["an unknown name", "another type", "another choice"],
)
@pytest.mark.parametrize(
    "unknown",
    [{"version": "0.5.7.post9"}, {"version": "0.5.7", "version_known": False}],
    ids=["between", "assumed"],
)
def test_findings_are_warnings_where_another_versions_schema_stands_in(config, tokens, unknown):
    problem = only_problem(config, **unknown)
    assert problem.severity is errors.Severity.WARNING
    assert problem.message.endswith(
        "(by the arguments of SGLang 0.5.7, the nearest version that is known; it is passed on as "
        "it is)"
    )
    argv = render({**ROLL_GUIDE, **config}, **unknown).argv
    assert [token for token in argv if token in tokens] == tokens


# argparse takes the beginning of a flag for the flag, and the last one on a command line wins.
SHORTENED = {
    **dict.fromkeys(("hos", "h", "api_ke", "api-ke", "admin_api", "weight_versio", "conf"), "evil"),
    **dict.fromkeys(("por", "nnode", "tp_siz", "base_gpu"), 2),
    **dict.fromkeys(("load_forma", "ssl_keyfil", "model_pat", "dist_init", "dtyp"), "x"),
    **dict.fromkeys(("enable_memory_save", "skip_tokenizer_ini", "disable_radix_cach"), True),
    "json_model_override_arg": "{}",
    "random_see": 1,
}


@pytest.mark.parametrize(("name", "value"), SHORTENED.items())
@pytest.mark.parametrize(
    "unknown",
    [
        {"version": "0.5.7.post9"},
        {"version": "0.5.7", "version_known": False},
        {"version": "9.9.9"},
        {"version": "0.1.0"},
    ],
    ids=["between", "assumed", "later", "older"],
)
def test_the_beginning_of_a_name_is_an_error_whatever_the_version(name, value, unknown):
    wrong = [p for p in problems({name: value}, **unknown) if p.severity is errors.Severity.ERROR]
    assert [problem.field for problem in wrong] == [f"{CONFIG}.{name}"]
    assert "evil" not in wrong[0].message
    flag = "--" + name.replace("_", "-")
    argv = render({**ROLL_GUIDE, name: value}, **unknown).argv
    assert not [token for token in argv if token.partition("=")[0] == flag]


def test_no_argument_of_any_version_is_the_beginning_of_what_the_operator_sets():
    names = {name for version in schema.KNOWN for name in schema.nearest(version).arguments}
    own = [name for name in names if extra_arguments.owned_key(name) not in (None, name)]
    assert own == []


def test_what_no_command_line_can_carry_is_an_error_anywhere():
    problem = only_problem({"x": "a\nb"}, version="0.5.7.post9")
    assert problem.severity is errors.Severity.ERROR


# --- secrets, and what is not judged


def test_a_password_is_not_repeated():
    problem = only_problem({"ssl_keyfile_password": 12345678}, version="0.5.23")
    assert problem.message == "ssl_keyfile_password is a value; expected text; write it in quotes"


@pytest.mark.parametrize("version", index.VERSIONS)
def test_the_guides_example_has_nothing_to_say_about_in_any_version(version):
    assert render(version=version).problems == ()
    roll = {"tensor_parallel_size": 2, "enable_return_routed_experts": False, "grpc_mode": False}
    assert problems(roll, version=version) == ()


def test_an_unknown_name_is_looked_up_fast_even_if_it_is_long():
    for version in map(str, map(versions.parse, index.VERSIONS)):
        short = steps(partial(only_problem, {"mem_a" * 40: 1}, version=version))
        long = steps(partial(only_problem, {"mem_b" * 4000: 1}, version=version))
        assert long < 1.5 * short, "without a bound it is five times as many, and more"
