"""A ROLL pipeline becomes the engines that ROLL would have started."""

import re
from typing import Any

import pytest
import yaml

from sglang_operator.api import names
from sglang_operator.cli import check_files, structure
from sglang_operator.cli.pipeline.objects import Options
from sglang_operator.pool.resolve import Owner, Pool, resolve_pool
from tests.unit.cli import roll
from tests.unit.cli.runner import (
    EXAMPLES,
    GUIDE,
    WITH_SGLANG,
    WITHOUT_SGLANG,
    converted,
    pipeline,
    run,
    write,
)

# Not from ROLL: what makes a server of an engine, and the pool's gate.
OURS = {"host", "port", "weight_version"}
# The one argument of ROLL's that is not carried over: engines with GPUs of their own never sleep.
NOT_CARRIED = {"enable_memory_saver", "nnodes", "node_rank"}


def resolved(body: dict[str, Any]) -> Pool:
    owner = Owner(name=body["metadata"]["name"], namespace="rl", uid=names.Uid("u"), generation=1)
    pool = resolve_pool(owner, body["spec"])
    assert isinstance(pool, Pool), pool
    return pool


def argument(token: str) -> tuple[str, object]:
    flag, equals, value = token.partition("=")
    return flag.removeprefix("--").replace("-", "_"), yaml.safe_load(value) if equals else True


def without_defaults(engine: dict[str, Any]) -> dict[str, Any]:
    """Arguments that are not at SGLang's default of false."""
    return {key: value for key, value in engine.items() if value not in (False, None)}


@pytest.mark.parametrize("path", WITH_SGLANG, ids=lambda path: path.stem)
def test_an_example_plans_to_what_ROLL_would_have_started(path):
    config = roll.load(path)
    (body,) = converted(path)
    pool = resolved(body)
    expected = roll.workers(config)
    assert [(e.rank, e.devices) for e in pool.running] == [(w.rank, w.gpus) for w in expected]
    per_node = pool.spec.num_gpus_per_node
    places = [tuple(divmod(gpu, per_node) for gpu in e.devices) for e in pool.running]
    assert places == [w.places for w in expected]
    found = {k: v for k, v in map(argument, pool.arguments.argv) if k not in OURS}
    wanted = without_defaults(expected[0].engine)
    assert found == {key: value for key, value in wanted.items() if key not in NOT_CARRIED}
    assert {k: pool.environment[k] for k in roll.environment(config, "actor_infer")} == (
        roll.environment(config, "actor_infer")
    )
    assert body["spec"]["generating_args"] == roll.sampling(config)


@pytest.mark.parametrize("path", WITH_SGLANG, ids=lambda path: path.stem)
def test_what_comes_out_is_accepted_by_the_strict_structure(path):
    (body,) = converted(path)
    judged = check_files.lint([str(path)], None, Options())
    assert not judged.findings
    (pool,) = judged.pools
    assert not structure.check(pool.mapping["spec"])
    assert body["apiVersion"] == names.API_VERSION


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_lints_clean(path):
    result = run("lint", "--strict", path)
    assert result.exit_code == 0
    assert result.stdout == ""


def test_a_file_without_sglang_says_so_and_writes_nothing(tmp_path):
    result = run("convert", WITHOUT_SGLANG, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "no role uses sglang (found: megatron_infer, megatron_train, vllm)" in result.stderr
    assert "left alone, they stay ROLL's: actor_train (megatron_train)" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", WITH_SGLANG, ids=lambda path: path.stem)
def test_each_value_says_where_it_came_from(path):
    source = path.read_text().splitlines()
    for line in run("convert", path).stdout.splitlines()[3:]:
        value = line.partition(":")[2].partition("  # ")[0].strip()
        if not value:
            continue
        assert (place := re.search(r"  # (.*, )?([^ :]+):([0-9]+)$", line)), line
        assert place[2] == path.name
        if not line.startswith("  name:"):
            assert value.strip('"') in source[int(place[3]) - 1]


def test_a_value_taken_from_the_pipeline_names_the_field():
    lines = run("convert", GUIDE).stdout.splitlines()
    model = next(line for line in lines if "model_name_or_path" in line)
    assert model.endswith("Qwen/Qwen3-30B-A3B-Base  # pretrain, rlvr_config_sglang.yaml:79")
    length = next(line for line in lines if "max_new_tokens" in line)
    assert length.endswith("4096  # response_length, rlvr_config_sglang.yaml:41")


def test_shared_gpus_are_told_with_what_that_means_here():
    said = run("convert", GUIDE).stderr
    assert "actor_infer shares GPUs in ROLL with actor_train (megatron_train; GPUs 0-23)" in said
    assert "in placement mode Count its engines get 24 GPUs of their own" in said
    assert "rewards.llm_judge (hf_infer)" in said


def test_the_mapping_with_which_rolls_side_starts_is_told_where_ids_are_shared():
    said = run("convert", GUIDE).stderr
    assert "under actor_infer: device_mapping: list(range(32,56)); the object may stay" in said


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"actor_train": {"device_mapping": "list(range(8,12))"}}, "list(range(16,24))"),
        (
            {
                "actor_train": {"device_mapping": "list(range(8,12))"},
                "reference": {"device_mapping": "list(range(12,14))"},
                "num_gpus_per_node": 4,
            },
            "list(range(16,24))",
        ),
        ({"reference": {"device_mapping": "list(range(8,16))"}}, ""),  # nothing is handed over
    ],
)
def test_the_mapping_to_write_is_on_nodes_that_no_role_has(tmp_path, changes, told):
    config = pipeline(**changes)
    config["actor_train"] = {"strategy_args": {"strategy_name": "megatron_train"}} | (
        changes.get("actor_train") or {"device_mapping": "list(range(0,8))"}
    )
    said = run("convert", write(tmp_path, config)).stderr
    assert (f"device_mapping: {told};" in said) == bool(told)
    assert ("does not start while" in said) == bool(told)


def test_nested_roles_and_teachers_are_converted_too(tmp_path):
    engine = pipeline()["actor_infer"]
    own = {**engine, "model_args": {"model_name_or_path": "a/judge"}}
    config = pipeline(
        rewards={
            "judge": {**own, "device_mapping": "[16,17]"},
            "rule": {"world_size": 8},
        },
        teacher={
            "math": {**own, "device_mapping": "[18,19]"},
            "code": {**own, "device_mapping": "[20,21]"},
        },
    )
    bodies = converted(write(tmp_path, config))
    found = {b["metadata"]["name"]: b["spec"]["device_mapping"] for b in bodies}
    assert found == {
        "actor-infer": "list(range(8,16))",
        "rewards-judge": "[16,17]",
        "teacher-math": "[18,19]",
        "teacher-code": "[20,21]",
    }
    assert bodies[1]["spec"]["model_args"]["model_name_or_path"] == "a/judge"


def test_one_role_can_be_asked_for(tmp_path):
    engine = pipeline()["actor_infer"]
    judge = {**engine, "model_args": {"model_name_or_path": "a/judge"}}
    path = write(tmp_path, pipeline(rewards={"judge": judge}))
    (body,) = converted(path, "--role", "rewards.judge", "--name", "judge", "-n", "rl")
    assert body["metadata"] == {"name": "judge", "namespace": "rl"}
    refused = run("convert", path, "--role", "actor_train")
    assert refused.exit_code == 2
    assert "roles with strategy sglang: actor_infer, rewards.judge" in refused.stderr


def test_the_teacher_of_a_distillation_has_a_model_of_its_own(tmp_path):
    engine = pipeline()["actor_infer"]
    config = {
        "student_pretrain": "a/student",
        "teacher_pretrain": "a/teacher",
        "student": {"strategy_args": {"strategy_name": "megatron_train"}},
        "teacher": {**engine, "generating_args": {}},
    }
    (body,) = converted(write(tmp_path, config))
    assert body["metadata"]["name"] == "teacher"
    assert body["spec"]["model_args"]["model_name_or_path"] == "a/teacher"


def test_on_policy_distillation_fills_its_students_like_actors(tmp_path):
    engine = pipeline()["actor_infer"]
    config = {
        "pretrain": "a/student",
        "student_train": pipeline()["actor_train"],
        "student_infer": {**engine, "generating_args": {}},
        "teacher": {"model_args": {"model_name_or_path": "a/teacher"}},
    }
    (body,) = converted(write(tmp_path, config))
    assert body["spec"]["model_args"]["model_name_or_path"] == "a/student"


def test_ROLL_replaces_a_model_if_another_role_has_none_and_so_do_we(tmp_path):
    config = pipeline()
    config["actor_infer"]["model_args"]["model_name_or_path"] = "own/model"
    path = write(tmp_path, config)
    (body,) = converted(path)
    assert body["spec"]["model_args"]["model_name_or_path"] == roll.model(config, "actor_infer")
    assert "ROLL replaces it by pretrain, Qwen/Qwen2.5-7B" in run("convert", path).stderr


def test_a_model_of_all_three_stays(tmp_path):
    own = {"model_args": {"model_name_or_path": "own/model"}}
    config = pipeline(reference=own)
    config["actor_train"].update(own)
    config["actor_infer"]["model_args"]["model_name_or_path"] = "own/model"
    (body,) = converted(write(tmp_path, config))
    assert body["spec"]["model_args"]["model_name_or_path"] == "own/model"


def test_secret_variables_are_named_and_not_copied(tmp_path):
    path = write(tmp_path, pipeline(system_envs={"HF_TOKEN": "hunter2", "USE_MODELSCOPE": "1"}))
    result = run("convert", path)
    assert "hunter2" not in result.output
    assert "make a Secret actor-infer-env with these keys" in result.stderr
    (body,) = yaml.safe_load_all(result.stdout)
    assert body["spec"]["system_envs"] == {"USE_MODELSCOPE": "1"}
    (container,) = body["spec"]["podTemplate"]["spec"]["containers"]
    assert container["env"] == [
        {
            "name": "HF_TOKEN",
            "valueFrom": {"secretKeyRef": {"name": "actor-infer-env", "key": "HF_TOKEN"}},
        }
    ]


def test_the_workers_variables_win_over_the_pipelines(tmp_path):
    config = pipeline(system_envs={"A": "pipeline", "B": "pipeline"})
    config["actor_infer"]["system_envs"] = {"B": "worker"}
    (body,) = converted(write(tmp_path, config))
    assert body["spec"]["system_envs"] == {"A": "pipeline", "B": "worker"}


def test_the_environment_is_read_only_if_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("THE_MODEL", "from/environment")
    path = write(tmp_path, pipeline(pretrain="${oc.env:THE_MODEL}"))
    refused = run("convert", path)
    assert refused.exit_code == 2
    assert "from/environment" not in refused.output
    (body,) = converted(path, "--env")
    assert body["spec"]["model_args"]["model_name_or_path"] == "from/environment"


def test_files_are_written_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    assert run("convert", GUIDE, "-o", out).exit_code == 0
    assert [path.name for path in out.iterdir()] == ["actor-infer.yaml"]
    assert run("convert", GUIDE, "-o", out).exit_code == 0
    (out / "actor-infer.yaml").write_text("# edited by hand\n")
    refused = run("convert", GUIDE, "-o", out)
    assert refused.exit_code == 2
    assert "--force replaces it" in refused.stderr
    assert (out / "actor-infer.yaml").read_text() == "# edited by hand\n"
    assert run("convert", GUIDE, "-o", out, "--force").exit_code == 0


def test_a_pipeline_that_the_operator_would_refuse_is_not_written(tmp_path):
    path = write(tmp_path, pipeline(), "p.yaml")
    path.write_text(path.read_text().replace("list(range(8,16))", "list(range(8,15))"))
    result = run("convert", path, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "7 is not divisible by 2; use 6 or 8 GPUs" in result.stderr
    assert not (tmp_path / "out").exists()


def test_standard_input_is_a_file_like_any_other():
    result = run("convert", "-", stdin=GUIDE.read_text())
    assert result.exit_code == 0
    assert yaml.safe_load(result.stdout) == converted(GUIDE)[0]


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_link_is_not_followed_out_of_the_folder(tmp_path, force):
    source = write(tmp_path, pipeline())
    run("convert", source, "-o", tmp_path / "first")
    (made,) = (tmp_path / "first").iterdir()
    folder, outside = tmp_path / "pools", tmp_path / "outside"
    folder.mkdir()
    (folder / made.name).symlink_to(outside)
    result = run("convert", source, "-o", folder, *force)
    assert result.exit_code == 2
    assert "it is a link" in result.output
    assert not outside.exists()


def test_one_file_serves_both_sides(tmp_path):
    """ROLL's side looks for the pool by strategy_config.pool and namespace."""
    engine = pipeline()["actor_infer"]
    args = engine["strategy_args"]
    config = {**args["strategy_config"], "pool": "policy", "namespace": "rl"}
    place = {**engine, "strategy_args": {**args, "strategy_config": config}}
    path = write(tmp_path, pipeline(actor_infer=place))
    (body,) = converted(path)
    (plain,) = converted(write(tmp_path, pipeline(), "plain.yaml"))
    assert body["metadata"] == {"name": "policy", "namespace": "rl"}
    assert body["spec"] == plain["spec"]
    (named,) = converted(path, "--name", "other", "-n", "elsewhere")
    assert named["metadata"] == {"name": "other", "namespace": "elsewhere"}


def test_a_pools_name_that_is_none_is_told_where_it_stands(tmp_path):
    engine = pipeline()["actor_infer"]
    args = {**engine["strategy_args"], "strategy_config": {"pool": "Policy_1"}}
    path = write(tmp_path, pipeline(actor_infer={**engine, "strategy_args": args}))
    line = path.read_text().splitlines().index("      pool: Policy_1") + 1
    refused = run("convert", path)
    assert refused.exit_code == 2
    assert f"pipeline.yaml:{line}:" in refused.stderr
