"""From ROLL's strategy to SGLang's command line: each rule, in the order of the rules."""

import pytest

from sglang_operator.api import errors
from sglang_operator.engine import aliases, arguments
from tests.unit.engine.requests import ROLL_GUIDE, added, only_problem, problems, render

CONFIG = "spec.strategy_args.strategy_config"
ERROR, WARNING = errors.Severity.ERROR, errors.Severity.WARNING


def test_the_roll_guides_example_becomes_this_command_line():
    rendered = render()
    assert rendered == arguments.Arguments(
        argv=(
            "--disable-custom-all-reduce",
            "--dtype=bfloat16",
            "--host=0.0.0.0",
            "--load-format=dummy",
            "--log-level=info",
            "--log-level-http=warning",
            "--mem-fraction-static=0.7",
            "--model-path=Qwen/Qwen3-30B-A3B-Base",
            "--port=30000",
            "--random-seed=42",
            "--skip-tokenizer-init",
            "--tp-size=2",
            "--trust-remote-code",
            "--weight-version=unsynced",
        ),
        load_format="dummy",
        tp_size=2,
        pp_size=1,
        mem_fraction_static=0.7,
        problems=(),
    )
    assert arguments.command(rendered.argv)[:4] == [
        "python3",
        "-m",
        "sglang.launch_server",
        "--disable-custom-all-reduce",
    ]


def test_the_order_of_keys_changes_nothing():
    config = {**ROLL_GUIDE, "chunked_prefill_size": 8192, "enable_metrics": True}
    assert render(config) == render(dict(reversed(config.items())))


def test_the_request_is_not_changed():
    config = {"mem_fraction_static": 0.7, "port": 1, "cuda_graph_bs": [1, 2]}
    render(config)
    assert config == {"mem_fraction_static": 0.7, "port": 1, "cuda_graph_bs": [1, 2]}


# --- keys


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        pytest.param({"max-running-requests": 8}, ["--max-running-requests=8"], id="dashes"),
        pytest.param({"ep": 2}, ["--ep-size=2"], id="a short name"),
        pytest.param({"expert_parallel_size": 2}, ["--ep-size=2"], id="a long name"),
        pytest.param(
            {"fp8_gemm_runner_backend": "auto"}, ["--fp8-gemm-backend=auto"], id="another flag"
        ),
        pytest.param({"fp8-gemm-backend": "auto"}, ["--fp8-gemm-backend=auto"], id="that flag"),
        pytest.param(
            {"cuda_graph_max_bs": 8, "cuda-graph-max-bs": 8},
            ["--cuda-graph-max-bs=8"],
            id="two spellings that agree",
        ),
    ],
)
def test_keys_may_be_spelled_in_several_ways(config, tokens):
    assert added(config) == tokens
    assert not [p for p in problems(config) if p.reason != "ArgumentSpelling"]


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"max-running-requests": 8}, "max_running_requests"),
        ({"fp8-gemm-backend": "auto"}, "fp8_gemm_runner_backend"),
        ({"tensor-parallel-size": 2}, "tensor_parallel_size"),
        ({"tp-size": 2}, "tp_size"),
    ],
)
def test_dashes_are_understood_and_told_with_the_name_that_roll_takes(config, name):
    (spelt,) = (p for p in problems(config) if p.reason == "ArgumentSpelling")
    assert spelt.severity is errors.Severity.WARNING
    assert spelt.message.endswith(f"write {name}")
    assert spelt.field == f"{CONFIG}.{next(iter(config))}"


@pytest.mark.parametrize("name", ["max_running_requests", "ep", "tensor_parallel_size"])
def test_names_with_underscores_need_no_word(name):
    assert "ArgumentSpelling" not in {p.reason for p in problems({name: 2})}


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"ep_size": 2, "expert_parallel_size": 4}, id="two names"),
        pytest.param({"max-running-requests": 2, "max_running_requests": 4}, id="two dashes"),
        pytest.param({"enable_metrics": True, "enable-metrics": 1}, id="equal only in Python"),
    ],
)
def test_two_spellings_that_differ_are_refused_in_the_same_words_in_any_order(config):
    problem = only_problem(config)
    assert only_problem(dict(reversed(config.items()))) == problem
    assert problem.reason == "ArgumentConflict"
    first, second = sorted(config, key=lambda name: (name != aliases.canonical(name), name))
    assert problem.field == f"{CONFIG}.{second}"
    assert f"{second} is " in problem.message
    assert problem.message.startswith(f"{first} is ")


@pytest.mark.parametrize(
    "key", ["", "a b", "--load-format", "Load_Format", "1a", "a.b", "a=b", "ключ", "a\n", 7]
)
def test_what_cannot_be_a_key_is_refused(key):
    problem = only_problem({key: 1})
    assert problem.reason == "ArgumentInvalid"
    # At a name that is meant, else at the whole, as the admission policy says it too.
    is_meant = key in ("--load-format", "Load_Format")
    assert problem.field == (f"{CONFIG}.{key}" if is_meant else CONFIG)
    assert "is not a possible argument name" in problem.message


# --- what the operator sets


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("model_path", "write model_args.model_name_or_path"),
        ("model", "write model_args.model_name_or_path"),
        ("host", "an engine listens where its pod is reached"),
        ("nnodes", "the operator places engines by device_mapping and num_gpus_per_worker"),
        ("node-rank", "the operator places engines by device_mapping and num_gpus_per_worker"),
        ("dist_init_addr", "the operator places engines"),
        ("nccl_init_addr", "the operator places engines"),
        ("base_gpu_id", "the pod sees only the GPUs of its engine"),
        ("gpu_id_step", "the pod sees only the GPUs of its engine"),
        ("config", "write its keys into strategy_config"),
        ("use_ray", "the operator starts engines, not Ray"),
        ("custom_sigquit_handler", "it takes a Python object"),
        ("stat_loggers", "it takes a Python object"),
        ("smg_grpc_mode", "engines are reached over HTTP"),
        ("weight_version", "every engine starts as unsynced, and trainers set it"),
    ],
)
def test_the_operators_own_arguments_are_refused_with_where_to_say_it(key, advice):
    problem = only_problem({key: "x"})
    assert (problem.reason, problem.severity) == ("ArgumentOwned", ERROR)
    assert problem.field == f"{CONFIG}.{key}"
    assert problem.message.startswith(
        f"{key} is set to x, but the operator sets it; remove it from strategy_config: {advice}"
    )
    assert added({key: "x"}) == []


@pytest.mark.parametrize(
    ("key", "field"), [("api_key", "apiKey"), ("admin-api-key", "adminApiKey")]
)
def test_a_key_in_the_wrong_place_is_not_repeated(key, field):
    problem = only_problem({key: "hush"})
    assert problem.reason == "ArgumentOwned"
    assert problem.message.endswith(f"name a Secret in security.{field}")
    assert "hush" not in problem.message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param(
            {"port": 8000},
            "port is 8000, but network.port decides it, as in ROLL: 30000 is used",
            id="port",
        ),
        pytest.param(
            {"dtype": "float16"},
            "dtype is float16, but model_args.dtype decides it, as in ROLL: bfloat16 is used",
            id="dtype",
        ),
        pytest.param(
            {"random_seed": 7},
            "random_seed is 7, but seed decides it, as in ROLL: 42 is used",
            id="seed",
        ),
        pytest.param(
            {"enable_return_routed_experts": True},
            "enable_return_routed_experts is true, but router_replay.mode decides it, as in ROLL: "
            "false is used",
            id="routed experts",
        ),
        pytest.param(
            {"random_seed": "${seed}"},
            "random_seed is ${seed}, but seed decides it, as in ROLL: 42 is used",
            id="a reference that does not matter",
        ),
    ],
)
def test_what_roll_overwrites_in_silence_is_overridden_with_a_warning(config, message):
    problem = only_problem(config)
    assert (problem.reason, problem.severity) == ("ArgumentOverridden", WARNING)
    assert problem.message == message
    assert added(config) == []


@pytest.mark.parametrize(
    "config",
    [
        {"port": 30000},
        {"dtype": "bfloat16"},
        {"dtype": "bf16"},
        {"random_seed": 42},
        {"enable_return_routed_experts": False},
        {"port": None},
    ],
    ids=str,
)
def test_there_is_no_warning_about_a_value_that_is_used_anyway(config):
    assert problems(config) == ()


@pytest.mark.parametrize(
    ("dtype", "flag"),
    [
        ("fp32", "--dtype=float32"),
        ("fp16", "--dtype=float16"),
        ("bf16", "--dtype=bfloat16"),
        ("auto", "--dtype=auto"),
        (None, "--dtype=bfloat16"),
    ],
)
def test_dtypes_are_translated_as_roll_does(dtype, flag):
    rendered = render(dtype=dtype)
    assert flag in rendered.argv
    assert rendered.problems == ()


@pytest.mark.parametrize("dtype", ["bfloat16", "fp8", "", 16, ["bf16"], True])
def test_a_dtype_that_roll_does_not_know_is_refused(dtype):
    problem = only_problem(dtype=dtype)
    assert problem.field == "spec.model_args.dtype"
    assert "expected one of fp32, fp16, bf16 or auto" in problem.message


def test_port_and_seed_come_from_their_own_fields():
    assert added(port=31000, seed=7) == ["--port=31000", "--random-seed=7"]


@pytest.mark.parametrize("model", [None, "", "  "])
def test_a_missing_model_is_refused(model):
    problem = only_problem(model=model)
    assert problem.reason == "ModelMissing"
    assert not any(token.startswith("--model-path") for token in render(model=model).argv)


def test_a_model_that_roll_would_resolve_is_refused():
    problem = only_problem(model="${pretrain}")
    assert problem.reason == "ValueUnresolved"
    assert problem.field == "spec.model_args.model_name_or_path"


def test_a_dtype_that_roll_would_resolve_is_refused():
    assert only_problem(dtype="${dtype}").reason == "ValueUnresolved"


# --- defaults


@pytest.mark.parametrize(
    ("key", "flag"),
    [
        ("skip_tokenizer_init", "--skip-tokenizer-init"),
        ("trust_remote_code", "--trust-remote-code"),
        ("disable_custom_all_reduce", "--disable-custom-all-reduce"),
    ],
)
def test_rolls_switches_are_on_unless_they_are_said_to_be_off(key, flag):
    assert flag in render({**ROLL_GUIDE, key: True}).argv
    assert flag in render({**ROLL_GUIDE, key: None}).argv
    off = render({**ROLL_GUIDE, key: False})
    assert flag not in off.argv
    assert off.problems == ()


def test_log_levels_can_be_changed():
    config = {"log_level": "debug", "log_level_http": "error"}
    assert added(config) == ["--log-level=debug", "--log-level-http=error"]


def test_the_memory_saver_is_on_only_if_it_is_asked_for():
    assert added({"enable_memory_saver": True}) == ["--enable-memory-saver"]
    assert added({"enable_memory_saver": False}) == []
    assert problems({"enable_memory_saver": True}) == ()


@pytest.mark.parametrize(
    "key", ["skip_tokenizer_init", "trust_remote_code", "enable_memory_saver", "grpc_mode"]
)
@pytest.mark.parametrize("value", [1, 0, "yes", "true", []], ids=repr)
def test_a_switch_is_true_or_false(key, value):
    problem = only_problem({key: value})
    assert problem.reason == "ArgumentInvalid"
    assert "expected true or false" in problem.message


@pytest.mark.parametrize("version", ["0.4.6.post5", "0.4.10.post2"])
def test_an_engine_without_weight_versions_gets_no_sentinel(version):
    argv = render(version=version).argv
    assert not any(token.startswith("--weight-version") for token in argv)


def test_grpc_is_refused_and_its_absence_may_be_said():
    assert only_problem({"grpc_mode": True}).message.startswith("grpc_mode is true; expected false")
    assert problems({"grpc_mode": False}) == ()
    assert added({"grpc_mode": False}) == []


def test_a_missing_mem_fraction_is_a_warning():
    problem = render({"load_format": "dummy"}).problems[0]
    assert (problem.reason, problem.severity) == ("MemFractionMissing", WARNING)
    assert render({"mem_fraction_static": None}).problems == (problem,)


@pytest.mark.parametrize(
    "value", [0, 1, 0.0, 1.0, -0.5, 85, True, "0.7", "abc", [0.7], float("nan"), float("inf")]
)
def test_a_mem_fraction_that_is_none_is_refused(value):
    problem = only_problem({"mem_fraction_static": value})
    assert problem.reason == "ArgumentInvalid"
    assert problem.field == f"{CONFIG}.mem_fraction_static"
    assert problem.message.startswith("mem_fraction_static is ")


def test_a_mem_fraction_out_of_bounds_is_refused_in_the_words_of_the_definition():
    assert only_problem({"mem_fraction_static": 1.5}).message == (
        "mem_fraction_static is 1.5; expected a number above 0 and below 1; use 0.6 to 0.85"
    )


@pytest.mark.parametrize(
    ("config", "load_format"),
    [
        ({"load_format": "dummy"}, "dummy"),
        ({"load-format": "safetensors"}, "safetensors"),
        ({"load_format": None}, "auto"),
        ({}, "auto"),
    ],
)
def test_the_load_format_is_told_to_whoever_sets_the_gate(config, load_format):
    assert render({"mem_fraction_static": 0.7, **config}).load_format == load_format


@pytest.mark.parametrize("value", [True, False, 1, "", ["dummy"], {"a": 1}], ids=repr)
def test_a_load_format_that_is_no_word_is_refused(value):
    rendered = render({"mem_fraction_static": 0.7, "load_format": value})
    assert [problem.reason for problem in rendered.problems] == ["ArgumentInvalid"]
    assert rendered.load_format == "auto"


def test_text_that_looks_like_a_number_is_quoted_so_that_the_mistake_can_be_seen():
    message = only_problem({"mem_fraction_static": "0.7"}).message
    assert message.startswith('mem_fraction_static is "0.7"; expected a number')


# --- router replay, keys


def test_r3_makes_the_engine_return_its_experts():
    assert added(router_replay_mode="R3") == ["--enable-return-routed-experts"]
    assert problems(router_replay_mode="R3") == ()


def test_r3_needs_a_version_that_has_it():
    problem = only_problem(router_replay_mode="R3", version="0.5.6.post2")
    assert problem.reason == "RouterReplayUnsupported"
    assert "the engine is SGLang 0.5.6.post2; expected 0.5.6.post3 or newer" in problem.message


@pytest.mark.parametrize("mode", ["R2", "r3", "", "enable"])
def test_other_modes_of_router_replay_are_refused(mode):
    problem = only_problem(router_replay_mode=mode)
    assert problem.reason == "RouterReplayUnsupported"
    assert problem.message.endswith("ROLL itself implements no other")


def test_api_keys_are_given_by_reference():
    argv = render(has_api_key=True, has_admin_api_key=True, version="0.5.8").argv
    assert "--api-key=$(SGLANG_API_KEY)" in argv
    assert "--admin-api-key=$(SGLANG_ADMIN_API_KEY)" in argv
    assert list(argv) == sorted(argv, key=lambda token: token.partition("=")[0])


def test_an_admin_key_needs_a_version_that_has_it():
    problem = only_problem(has_admin_api_key=True, version="0.5.7")
    assert problem.reason == "ArgumentUnsupported"
    assert problem.message.startswith(
        "admin_api_key needs SGLang 0.5.8 or newer, but the engine is 0.5.7;"
    )


# --- defaults of the server for sampling


def test_sampling_parameters_become_defaults_of_the_server():
    tokens = added(sampling={"top_p": 0.99, "temperature": 0.5, "max_new_tokens": 64})
    assert tokens == [
        '--preferred-sampling-params={"max_new_tokens":64,"temperature":0.5,"top_p":0.99}'
    ]


def test_the_number_of_answers_cannot_be_a_default():
    sampling = {"n": 8, "top_p": 0.9}
    assert added(sampling=sampling) == ['--preferred-sampling-params={"top_p":0.9}']
    problem = only_problem(sampling=sampling)
    assert (problem.reason, problem.severity) == ("GenerationDefaultsIgnored", WARNING)
    assert problem.message.startswith("num_return_sequences cannot be a default of the server")


def test_one_answer_is_the_default_anyway():
    assert problems(sampling={"n": 1}) == ()
    assert added(sampling={"n": 1}) == []


def test_stop_strings_need_a_tokenizer():
    sampling = {"stop": ["</s>"], "no_stop_trim": True, "top_p": 0.9}
    assert added(sampling=sampling) == ['--preferred-sampling-params={"top_p":0.9}']
    assert "set skip_tokenizer_init: false" in only_problem(sampling=sampling).message
    config = {"skip_tokenizer_init": False}
    assert added(config, sampling=sampling) == [
        '--preferred-sampling-params={"no_stop_trim":true,"stop":["</s>"],"top_p":0.9}'
    ]
    assert problems(config, sampling=sampling) == ()


def test_server_defaults_cannot_be_said_in_two_places():
    config = {"preferred_sampling_params": {"top_p": 1}}
    assert added(config) == ['--preferred-sampling-params={"top_p":1}']
    problem = only_problem(config, sampling={"top_p": 0.9})
    assert problem.reason == "ArgumentOwned"
    assert "generation is ServerDefault" in problem.message


def test_server_defaults_need_a_version_that_has_them():
    problem = only_problem(sampling={"top_p": 0.9}, version="0.4.6.post1")
    assert problem.reason == "ArgumentUnsupported"


@pytest.mark.parametrize(
    ("value", "reason"),
    [("${top_p}", "ValueUnresolved"), (float("nan"), "ArgumentInvalid")],
)
def test_sampling_parameters_that_cannot_be_written_are_refused(value, reason):
    problem = only_problem(sampling={"top_p": value})
    assert problem.reason == reason
    assert problem.field == "spec.generating_args"


# --- extraArgs


def test_extra_arguments_come_last_and_as_they_are():
    extra = ("--enable-metrics", "--log-requests-level", "1", "--x=$$(POD_IP)", "--a=${b}$")
    rendered = render(extra_args=extra)
    assert rendered.argv[-5:] == extra
    assert rendered.problems == ()


@pytest.mark.parametrize(
    ("argument", "key"),
    [
        ("--load-format=dummy", "load_format"),
        ("--load-f", "load_format"),
        ("--weight-version=1", "weight_version"),
        ("--host", "host"),
        ("--port=1", "port"),
        ("--tp", "tp_size"),
        ("--tp-size=4", "tp_size"),
        ("--tensor-parallel-size=4", "tp_size"),
        ("--tensor-p=4", "tp_size"),
        ("--pp-size=2", "pp_size"),
        ("--model=x", "model_path"),
        ("--api-key=hush", "api_key"),
        ("--nnodes", "nnodes"),
        ("--config=x.yaml", "config"),
    ],
)
def test_an_extra_argument_must_not_make_the_operator_wrong_about_its_engines(argument, key):
    problem = only_problem(extra_args=("--enable-metrics", argument))
    assert (problem.reason, problem.severity) == ("ArgumentOwned", ERROR)
    assert problem.field == "spec.extraArgs[1]"
    assert f"but the operator must know {key}; remove it: " in problem.message
    assert "hush" not in problem.message


@pytest.mark.parametrize(
    "argument",
    [
        "--tokenizer-path=x",
        "--hosts",
        "--moe-dp-size=2",
        "--model-loader-extra-config={}",
        "--ports",
        "--log-level=debug",
    ],
)
def test_other_extra_arguments_are_nobodys_business(argument):
    assert problems(extra_args=(argument,)) == ()


def test_an_extra_argument_that_no_process_can_take_is_refused():
    assert only_problem(extra_args=("--a=\0",)).field == "spec.extraArgs[0]"


@pytest.mark.parametrize("argument", ["$(X)", "--$(X)=dummy", "--a=$$$(X)", "--a=$()", "$$$$$(X)"])
def test_an_extra_argument_must_not_become_another_after_the_checks(argument):
    problem = only_problem(extra_args=("--enable-metrics", argument))
    assert (problem.field, problem.severity) == ("spec.extraArgs[1]", ERROR)
    assert "which the kubelet would replace; write the value itself" in problem.message


@pytest.mark.parametrize("argument", ["$$(X)", "--a=$X", "--a=$(X", "a$$$$(X)", "--a=${X}", "$)"])
def test_dollar_signs_that_reach_the_process_as_they_are_stay(argument):
    assert problems(extra_args=("--a", argument)) == ()


# --- all together


def test_every_problem_is_said_not_only_the_first():
    config = {
        "mem_fraction_static": 7,
        "host": "x",
        "port": 1,
        "tp_size": 3,
        "a b": 1,
        "lora_paths": ["-x"],
        "x": "${y}",
        "grpc_mode": True,
    }
    rendered = render(config, model=None, dtype="fp8", router_replay_mode="R2")
    assert [problem.reason for problem in rendered.problems] == [
        "ArgumentInvalid",  # a b
        "ArgumentOwned",  # host
        "ArgumentOverridden",  # port
        "ArgumentInvalid",  # lora_paths
        "ValueUnresolved",  # x
        "ModelMissing",
        "ArgumentInvalid",  # dtype
        "ArgumentInvalid",  # grpc_mode
        "ArgumentInvalid",  # mem_fraction_static
        "RouterReplayUnsupported",
        "ParallelismMismatch",
    ]


# --- TLS


@pytest.mark.parametrize("key", ["ssl_keyfile", "ssl_certfile", "ssl_ca_certs"])
def test_tls_is_refused_because_probes_registry_and_trainers_speak_plain_http(key):
    problem = only_problem({key: "/tls/file"}, version="0.5.23")
    assert (problem.reason, problem.field) == ("ArgumentUnsupported", f"{CONFIG}.{key}")
    assert problem.message.startswith(f"{key} is set to /tls/file, but engines are reached over")


@pytest.mark.parametrize("key", ["ssl_keyfile_password", "ssl-keyfile-password"])
def test_a_password_reaches_neither_the_command_line_nor_a_message(key):
    rendered = render({**ROLL_GUIDE, key: "hunter2"}, version="0.5.23")
    assert [problem.reason for problem in rendered.problems] == ["ArgumentUnsupported"]
    assert "hunter2" not in str((rendered.argv, rendered.problems))


@pytest.mark.parametrize("extra", ["--ssl-keyfile-password=hunter2", "--ssl-keyfile-passw=hunter2"])
def test_a_password_is_refused_in_extra_args_too(extra):
    problem = only_problem(extra_args=[extra], version="0.5.23")
    assert problem.reason == "ArgumentOwned"
    assert "hunter2" not in problem.message


def test_tls_that_is_off_is_nothing():
    assert problems({"enable_ssl_refresh": False, "ssl_certfile": None}, version="0.5.23") == ()


def test_a_version_that_knows_no_tls_says_that_it_does_not():
    assert "0.5.14 is the first" in only_problem({"ssl_certfile": "/tls/file"}).message


# --- what follows from a typo


def test_a_misspelt_mem_fraction_static_is_not_missing_besides():
    config = {"mem_fraction_statc": 0.7, "load_format": "dummy"}
    (problem,) = render(config).problems
    assert problem.reason == "ArgumentUnknown"
    assert [p.reason for p in render({"load_format": "dummy"}).problems] == ["MemFractionMissing"]
