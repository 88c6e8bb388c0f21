import json
import os
import subprocess
import sys

import pytest

from sglang_operator.memory import cards
from tests.unit.cli.pipeline.test_slime import SCRIPT
from tests.unit.cli.runner import (
    EXAMPLES,
    GUIDE,
    SAMPLES,
    WITH_SGLANG,
    WITHOUT_SGLANG,
    pipeline,
    run,
    write,
)
from tests.unit.memory.shapes import config


def planned(*arguments, stdin=""):
    """What the command says as JSON."""
    result = run("plan", *arguments, "-o", "json", stdin=stdin)
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.stdout)


def test_the_verdict_comes_first_and_is_one_line():
    result = run("plan", GUIDE, "--gpu", "H100-80GB")
    assert result.exit_code == 0, result.output
    first, second, *_ = result.stdout.splitlines()
    assert first.startswith("actor_infer on H100-80GB: fits: ")
    assert "92 sequences of 6144 at once" in first
    assert not second


def test_the_guide_s_numbers_are_those_of_sglang_0_5_7():
    """48 layers, 2 of 4 heads of keys and values on each GPU, 128 + 128 numbers of 2 bytes."""
    (pool,) = planned(GUIDE, "--gpu", "H100-80GB")["pools"]
    assert (pool["version"], pool["engines"], pool["gpusPerEngine"]) == ("0.5.7", 12, 2)
    assert pool["bytesPerToken"] == 48 * 2 * 256 * 2
    assert pool["gib"]["weights"] == pytest.approx(28.5, abs=0.1)
    cache = pool["gib"]["freeBeforeLoading"] * 0.7 - pool["gib"]["weights"]
    assert pool["gib"]["cache"] == pytest.approx(cache, abs=0.01)
    assert pool["sequences"] == pool["tokens"] // (2048 + 4096)


@pytest.mark.parametrize("path", WITH_SGLANG, ids=lambda path: path.stem)
@pytest.mark.parametrize("card", ("H100-80GB", "A100-80GB", "H200-141GB"))
def test_roll_s_examples_fit_the_cards_that_they_were_made_for(path, card):
    found = planned(path, "--gpu", card)
    assert found["fits"], found
    assert found["pools"]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_sample_has_a_plan(path):
    found = planned(path, "--gpu", "H100")
    assert all(pool["verdict"]["outcome"] != "not known" for pool in found["pools"]), found


def test_each_card_has_a_verdict():
    result = run("plan", GUIDE, "--gpu", "RTX4090,H200,80GiB")
    assert result.exit_code == 1
    heads = [line.split(":")[0] for line in result.stdout.splitlines()[:3]]
    assert heads == [f"actor_infer on {name}" for name in ("RTX4090-24GB", "H200-141GB", "80GiB")]
    assert "does not fit" in result.stdout.splitlines()[0]


def test_what_does_not_fit_names_the_one_knob(tmp_path):
    path = write(tmp_path, pipeline(pretrain="Qwen/Qwen2.5-72B-Instruct"))
    result = run("plan", path, "--gpu", "H100-80GB")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0].endswith("set num_gpus_per_worker: 4")


def test_a_model_that_nobody_told_of_is_not_known_and_nothing_is_computed(tmp_path):
    path = write(tmp_path, pipeline(pretrain="mine/never-seen"))
    result = run("plan", path, "--gpu", "H100")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0] == (
        "actor_infer on H100-80GB: not known: the sizes of mine/never-seen; give its config.json "
        "with --config, or its folder with --model"
    )
    (pool,) = planned(path, "--gpu", "H100")["pools"]
    assert "tokens" not in pool


def test_a_config_json_makes_it_known(tmp_path):
    path = write(tmp_path, pipeline(pretrain="mine/never-seen"))
    (tmp_path / "config.json").write_text(json.dumps(config()))
    by_file = planned(path, "--gpu", "H100", "--config", tmp_path / "config.json")
    assert by_file["pools"][0]["verdict"]["outcome"] == "fits"
    assert planned(path, "--gpu", "H100", "--model", tmp_path) == by_file


def test_an_architecture_that_is_not_understood_is_not_known(tmp_path):
    path = write(tmp_path, pipeline())
    other = write(tmp_path, json.dumps(config(architectures=["New"])), "config.json")
    result = run("plan", path, "--gpu", "H100", "--config", other)
    assert result.exit_code == 1
    assert "not known: the architecture 'New'" in result.stdout


def test_a_version_that_does_not_have_the_model_yet_is_told(tmp_path):
    path = write(tmp_path, pipeline(pretrain="Qwen/Qwen3.5-35B-A3B"))
    result = run("plan", path, "--gpu", "H100")
    assert "SGLang 0.5.7 has no Qwen3_5MoeForConditionalGeneration" in result.stdout


def test_the_length_that_is_asked_for_counts():
    (pool,) = planned(GUIDE, "--gpu", "H100", "--sequence", "8192+4096")["pools"]
    assert pool["sequences"] == pool["tokens"] // 12288


def test_an_object_is_planned_as_it_is(tmp_path):
    path = next(path for path in SAMPLES if path.stem == "roll-guide")
    (pool,) = planned(path, "--gpu", "H100")["pools"]
    assert pool["name"] == "actor-infer"
    assert pool["sequences"] is None  # an object does not say how long a prompt may get
    assert planned(path, "--gpu", "H100")["pipelines"] == []


def test_standard_input_is_a_file_too():
    found = planned("-", "--gpu", "H100", stdin=GUIDE.read_text())
    assert found["pools"] == planned(GUIDE, "--gpu", "H100")["pools"]


@pytest.mark.parametrize(
    ("options", "what"),
    (
        (("--gpu", "H300"), "expected a card or a size"),
        (("--gpu", ""), "expected a card or a size"),
        (("--gpu", "H100,,X"), "found X"),
        ((), "give FILE and --gpu"),
        (("--gpu", "H100", "--sequence", "8192"), "expected the tokens of prompt + response"),
        (("--gpu", "H100", "--sequence", "a+b"), "expected the tokens of prompt + response"),
        (("--gpu", "H100", "--sequence", "-1+5"), "expected the tokens of prompt + response"),
        (("--gpu", "H100", "--sequence", "0+0"), "expected the tokens of prompt + response"),
        (("--gpu", "H100", "--sequence", "9" * 30 + "+1"), "expected the tokens"),
        (("--gpu", "H100", "--config", "a", "--model", "b"), "give one"),
        (("--gpu", "H100", "--config", "/nowhere/config.json"), "the file cannot be read"),
    ),
)
def test_options_that_mean_nothing_are_refused(options, what):
    result = run("plan", GUIDE, *options)
    assert result.exit_code == 2
    assert what in result.output


@pytest.mark.parametrize("text", ("", "[]", "{", "7", "[" * 100_000))
def test_a_config_that_is_none_is_refused(tmp_path, text):
    path = write(tmp_path, text, "config.json")
    result = run("plan", GUIDE, "--gpu", "H100", "--config", path)
    assert result.exit_code == 2
    assert "FileUnreadable" in result.output


def test_a_file_with_errors_is_not_planned(tmp_path):
    broken = pipeline()
    broken["actor_infer"]["strategy_args"]["strategy_config"]["mem_fraction_static"] = 7
    result = run("plan", write(tmp_path, broken), "--gpu", "H100")
    assert result.exit_code == 2
    assert "mem_fraction_static" in result.output
    assert "fits" not in result.stdout


def test_a_pipeline_without_engines_has_nothing_to_plan():
    result = run("plan", WITHOUT_SGLANG, "--gpu", "H100")
    assert result.exit_code == 1
    assert "no role uses sglang" in result.output


# --- the whole pipeline


def test_the_picture_shows_who_shares_which_gpus():
    result = run("plan", GUIDE, "--gpu", "H100")
    lines = result.stdout.splitlines()
    rows = [line for line in lines if line.startswith("│ node_rank")]
    assert len(rows) == 4
    assert "A/B/N A/B/N A/C/N" in rows[0]  # the trainer, engines of two GPUs, the reference
    assert "A/N/O" in rows[3]  # where the judge is
    assert any(line.strip() == "B–M  actor_infer: sglang, 24 GPUs" for line in lines)


def test_who_waits_in_which_phase_is_counted(tmp_path):
    """8 GPUs train, 8 generate, and nobody does both."""
    path = write(tmp_path, pipeline())
    (whole,) = planned(path, "--gpu", "H100")["pipelines"]
    assert whole["idle"] == {"rollout": 8, "training": 8}


def test_the_trainer_s_peak_is_told_with_its_terms():
    (whole,) = planned(GUIDE, "--gpu", "H100")["pipelines"]
    peak = next(found for found in whole["trainers"] if found["name"] == "actor_train")["gib"]
    assert set(peak) == {"weights", "gradients", "optimizer", "activations", "logits", "context"}
    assert peak["gradients"] == pytest.approx(2 * peak["weights"], abs=0.02)


def test_other_roles_on_the_same_gpus_keep_something_while_engines_run():
    (pool,) = planned(GUIDE, "--gpu", "H100")["pools"]
    assert pool["gib"]["residentOthers"] == 3.0


def test_better_balances_are_two_at_most_and_better():
    (whole,) = planned(GUIDE, "--gpu", "H100")["pipelines"]
    (found,) = whole["balances"]
    assert 1 <= len(found["better"]) <= 2
    rates = [balance["tokensPerGpuSecond"] for balance in found["better"]]
    assert rates == sorted(rates, reverse=True)
    assert all(rate > 1.05 * found["now"]["tokensPerGpuSecond"] for rate in rates)


def test_a_card_whose_speed_is_not_known_has_no_balance():
    (whole,) = planned(GUIDE, "--gpu", "80GiB")["pipelines"]
    assert whole["balances"] == []


def test_a_pipeline_whose_step_is_not_told_has_no_balance(tmp_path):
    (whole,) = planned(write(tmp_path, pipeline()), "--gpu", "H100")["pipelines"]
    assert whole["balances"] == []


@pytest.mark.parametrize("card", cards.CARDS)
def test_every_card_is_answered(card):
    assert run("plan", GUIDE, "--gpu", card).exit_code in (0, 1)


@pytest.mark.parametrize("mapping", ("list(range(0,4096))", "[4000, 4001]"))
def test_a_very_large_pipeline_is_drawn_in_part(tmp_path, mapping):
    wide = pipeline()
    wide["actor_infer"]["device_mapping"] = mapping
    result = run("plan", write(tmp_path, wide), "--gpu", "H100")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) < 200


# --- a launch script of slime


def test_a_launch_script_of_slime_is_planned_without_being_run(tmp_path):
    path = write(tmp_path, SCRIPT + "touch ran\n", "run-qwen3.sh")
    found = planned(path, "--gpu", "H100", "--sglang", "0.5.14")
    (pool,) = found["pools"]
    assert (pool["name"], pool["version"], pool["engines"]) == ("actor_infer", "0.5.14", 2)
    assert pool["attentionReplicas"] == 4
    assert pool["gib"]["residentOthers"] == 1.5
    assert found["pipelines"][0]["trainers"][0]["name"] == "actor_train"
    assert not (tmp_path / "ran").exists()


def test_a_launch_script_whose_model_is_a_variable_is_not_known(tmp_path):
    path = write(tmp_path, SCRIPT.replace('SIZE="30B"', ""), "run.sh")
    result = run("plan", path, "--gpu", "H100")
    assert result.exit_code == 1
    assert "not known" in result.stdout.splitlines()[0]


def test_a_version_that_is_none_is_refused(tmp_path):
    result = run("plan", write(tmp_path, SCRIPT, "run.sh"), "--gpu", "H100", "--sglang", "latest")
    assert result.exit_code == 2
    assert "--sglang" in result.output


def test_fewer_gpus_than_an_engine_takes_are_no_engine(tmp_path):
    few = SCRIPT.replace("--rollout-num-gpus-per-engine 8", "--rollout-num-gpus-per-engine 32")
    (pool,) = planned(write(tmp_path, few, "run.sh"), "--gpu", "H100")["pools"]
    assert pool["engines"] == 0


# --- the same in lint


def test_lint_says_nothing_of_memory_where_it_is_not_told_the_gpu(tmp_path):
    path = write(tmp_path, pipeline(pretrain="Qwen/Qwen2.5-72B-Instruct"))
    assert "Memory" not in run("lint", path).output


def test_lint_refuses_what_cannot_fit_by_a_clear_margin(tmp_path):
    path = write(tmp_path, pipeline(pretrain="Qwen/Qwen2.5-72B-Instruct"))
    result = run("lint", path, "--gpu", "H100")
    assert result.exit_code == 2
    assert "error: actor_infer: spec: H100-80GB: does not fit: weights take" in result.stdout
    assert "set num_gpus_per_worker: 4 [MemoryLacking]" in result.stdout


def test_lint_warns_of_what_is_tight(tmp_path):
    given = pipeline(pretrain="Qwen/Qwen3-30B-A3B", prompt_length=1024)
    given["actor_infer"]["num_gpus_per_worker"] = 8
    path = write(tmp_path, given)
    result = run("lint", path, "--gpu", "H100")
    assert result.exit_code == 0, result.output
    assert "warning: actor_infer: spec: H100-80GB: tight: tp 8 with 4 heads" in result.stdout
    assert run("lint", path, "--gpu", "H100", "--strict").exit_code == 1


def test_lint_only_warns_where_the_estimate_decides(tmp_path):
    """Less than two GiB lacking: an engine may start all the same."""
    given = pipeline(pretrain="Qwen/Qwen3-8B")
    given["actor_infer"]["strategy_args"]["strategy_config"]["mem_fraction_static"] = 0.98
    given["actor_infer"]["num_gpus_per_worker"] = 1
    result = run("lint", write(tmp_path, given), "--gpu", "H100")
    assert result.exit_code == 0, result.output
    assert "MemoryTight" in result.stdout


def test_lint_warns_of_a_model_that_is_not_known(tmp_path):
    result = run("lint", write(tmp_path, pipeline(pretrain="mine/other")), "--gpu", "H100")
    assert result.exit_code == 0
    assert "MemoryUnknown" in result.stdout


@pytest.mark.parametrize("path", WITH_SGLANG, ids=lambda path: path.stem)
def test_lint_has_nothing_against_roll_s_examples_on_their_cards(path):
    assert "Memory" not in run("lint", path, "--gpu", "H100-80GB").stdout


def test_a_trainer_that_needs_too_much_is_told_with_its_knob():
    result = run("plan", GUIDE, "--gpu", "A100-40GB")
    told = [line for line in result.stdout.splitlines() if line.startswith("actor_train on")]
    assert told == [
        "actor_train on A100-40GB: its peak is 2 GiB too much by the estimate, beside what others "
        "keep; set expert_model_parallel_size: 8"
    ]
    assert not planned(GUIDE, "--gpu", "H100")["pipelines"][0]["lacking"]


def test_what_others_keep_may_be_said():
    (pool,) = planned(GUIDE, "--gpu", "H100", "--resident", "40")["pools"]
    assert pool["gib"]["residentOthers"] == 40
    assert pool["verdict"]["outcome"] == "does not fit"
    assert pool["verdict"]["knob"]["name"] == "mem_fraction_static"
    assert run("plan", GUIDE, "--gpu", "H100", "--resident", "-1").exit_code == 2


def test_a_quantization_that_is_not_understood_is_not_known(tmp_path):
    given = pipeline()
    given["actor_infer"]["strategy_args"]["strategy_config"]["quantization"] = "bitsandbytes"
    result = run("plan", write(tmp_path, given), "--gpu", "H100")
    assert result.exit_code == 1
    assert "not known: how much memory the quantization bitsandbytes takes" in result.stdout


# Who looks at a cluster, serves, or reads what engines write at their ends.
OF_A_CLUSTER = {
    *("aiohttp", "asyncio", "kopf", "kubernetes", "omegaconf", "prometheus_client", "ssl"),
    *("subprocess", "sglang_operator.children", "sglang_operator.cli.cluster"),
    *("sglang_operator.client", "sglang_operator.diagnosis", "sglang_operator.engine.diagnosis"),
    *("sglang_operator.kube", "sglang_operator.observed.model", "sglang_operator.status"),
    "sglang_operator.view.cluster_view",
}
DRAWING = {"rich", "sglang_operator.cli.plan_tables", "sglang_operator.view"}
OF_SCRIPTS = {"shlex", "sglang_operator.cli.pipeline.slime", "sglang_operator.cli.plan_script"}
OF_POOLS = {
    *("msgspec", "yaml", "sglang_operator.api.spec", "sglang_operator.cli.check_files"),
    *("sglang_operator.engine.arguments", "sglang_operator.pool.resolve"),
}


@pytest.fixture(scope="module")
def launch_script(tmp_path_factory):
    return write(tmp_path_factory.mktemp("slime"), SCRIPT, "run.sh")


def after(*arguments):
    """Modules that are loaded after a command, and its patterns: how many, how many compiled."""
    code = (
        "import gc, sys\n"
        "from sglang_operator.cli.main import cli\n"
        "try: cli(sys.argv[1:], standalone_mode=False)\n"
        "except SystemExit as end: assert end.code in (0, 1)\n"
        "loaded = [*sys.modules]\n"
        "from sglang_operator.api.patterns import Pattern\n"
        "all = [each for each in gc.get_objects() if isinstance(each, Pattern)]\n"
        "compiled = [each for each in all if 'compiled' in vars(each)]\n"
        "print(len(all), len(compiled), *loaded, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=here, check=True, capture_output=True, text=True)
    patterns, compiled, *loaded = done.stderr.split("\n")[-2].split()
    return {*loaded}, int(patterns), int(compiled)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("output", "needless"),
    (((), OF_A_CLUSTER | OF_SCRIPTS), (("-o", "json"), OF_A_CLUSTER | OF_SCRIPTS | DRAWING)),
    ids=("tables", "json"),
)
def test_a_plan_waits_for_nothing_that_it_does_not_need(path, output, needless):
    """Most of its time goes into what it imports, and into patterns that nobody looks for."""
    loaded, patterns, compiled = after("plan", path, "--gpu", "H100", *output)
    assert sorted(needless & loaded) == []
    assert compiled < patterns / 5


def test_the_plan_of_a_launch_script_waits_for_no_yaml_and_no_pool(launch_script):
    loaded, _, compiled = after("plan", launch_script, "--gpu", "H100", "-o", "json")
    assert sorted((OF_A_CLUSTER | OF_POOLS | DRAWING) & loaded) == []
    assert compiled == 0


@pytest.mark.parametrize("command", ("lint", "convert"))
def test_who_draws_nothing_does_not_wait_for_what_draws(command):
    loaded, patterns, compiled = after(command, GUIDE)
    assert sorted((OF_A_CLUSTER | OF_SCRIPTS | DRAWING) & loaded) == []
    assert compiled < patterns / 5
