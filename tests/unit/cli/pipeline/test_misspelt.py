"""Nothing of a pipeline is dropped in silence for the way it is spelt."""

import pytest
import yaml

from tests.unit.cli.runner import EXAMPLES, converted, pipeline, run, write


def _renamed(config, path, name):
    """The config with the key at a path under another name."""
    *parents, old = path.split(".")
    holder = config
    for part in parents:
        holder = holder[part]
    renamed = {name if key == old else key: value for key, value in holder.items()}
    holder.clear()
    holder.update(renamed)
    return config


MISSPELT = [
    ("actor_infer", "actorInfer"),
    ("actor_infer", "actor-infer"),
    ("actor_infer", "actor_infr"),
    ("pretrain", "preTrain"),
    ("pretrain", "pretrian"),
    ("seed", "Seed"),
    ("num_gpus_per_node", "numGpusPerNode"),
    ("num_gpus_per_node", "num_gpu_per_node"),
    ("actor_infer.num_gpus_per_worker", "numGpusPerWorker"),
    ("actor_infer.num_gpus_per_worker", "num-gpus-per-worker"),
    ("actor_infer.num_gpus_per_worker", "gpus_per_worker"),
    ("actor_infer.device_mapping", "deviceMapping"),
    ("actor_infer.device_mapping", "device_maping"),
    ("actor_infer.model_args", "modelArgs"),
    ("actor_infer.generating_args", "generatingArgs"),
    ("actor_infer.strategy_args", "strategyArgs"),
    ("actor_infer.strategy_args.strategy_name", "strategyName"),
    ("actor_infer.strategy_args.strategy_name", "strategy-name"),
    ("actor_infer.strategy_args.strategy_config", "strategyConfig"),
]


@pytest.mark.parametrize(("path", "name"), MISSPELT)
def test_a_misspelt_field_is_refused_once_with_its_right_name(tmp_path, path, name):
    config = _renamed(pipeline(), path, name)
    result = run("convert", write(tmp_path, config), "-o", tmp_path / "out")
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if " error: " in line]
    assert f"did you mean {path.rpartition('.')[2]}?" in line
    assert name in line
    assert not (tmp_path / "out").exists()


FIELDS = [
    "num_gpus_per_worker",
    "device_mapping",
    "model_args",
    "strategy_args",
    "generating_args",
    "strategy_args.strategy_name",
    "strategy_args.strategy_config",
]
CAMEL = {
    "num_gpus_per_worker": "numGpusPerWorker",
    "device_mapping": "device-mapping",
    "model_args": "modelArgs",
    "strategy_args": "strategyArgs",
    "generating_args": "generating-args",
    "strategy_name": "strategyName",
    "strategy_config": "strategyConfig",
}


@pytest.mark.parametrize("path", FIELDS)
def test_the_same_in_an_object(tmp_path, path):
    (body,) = converted(write(tmp_path, pipeline()))
    field = path.rpartition(".")[2]
    _renamed(body["spec"], path, CAMEL[field])
    result = run("lint", write(tmp_path, body, "pool.yaml"))
    assert result.exit_code == 2
    (line,) = [line for line in result.stdout.splitlines() if "error: " in line]
    assert f"did you mean {field}?" in line


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("max_unavailable", "write it as spec.rollout.maxUnavailable"),
        ("pod_template", "did you mean podTemplate?"),
        ("engine-version", "did you mean engineVersion?"),
        ("tpSize", "it is an argument of SGLang: write it into strategy_args.strategy_config"),
    ],
)
def test_a_field_of_ours_in_rolls_spelling_is_told_too(tmp_path, name, advice):
    (body,) = converted(write(tmp_path, pipeline()))
    body["spec"][name] = "x"
    result = run("lint", write(tmp_path, body, "pool.yaml"))
    assert advice in result.stdout


DOUBTFUL = [
    ("SGLang", "found SGLang, expected sglang; write it so"),
    ("sg-lang", "found sg-lang, expected sglang; write it so"),
    (["sglang"], 'found ["sglang"], expected text such as sglang'),
    ({}, "found {}, expected text such as sglang"),
    (True, "found true, expected text such as sglang"),
    ("${nothing}", "${nothing} cannot be resolved"),
    ("${oc.env:BACKEND,sglang}", "reads the environment, which is off"),
]


@pytest.mark.parametrize(("name", "words"), DOUBTFUL, ids=str)
def test_a_strategy_that_is_not_understood_is_no_other_strategy(tmp_path, name, words):
    config = pipeline()
    config["actor_infer"]["strategy_args"]["strategy_name"] = name
    result = run("convert", write(tmp_path, config))
    assert result.exit_code == 2
    assert words in result.stderr
    assert "actor_infer.strategy_args.strategy_name" in result.stderr


@pytest.mark.parametrize("value", ["sglang", ["sglang"], 3, True, "${nothing}"])
@pytest.mark.parametrize("field", ["actor_infer", "actor_infer.strategy_args"])
def test_a_worker_that_is_no_map_is_told(tmp_path, field, value):
    config = pipeline()
    holder = config if field == "actor_infer" else config["actor_infer"]
    holder[field.rpartition(".")[2]] = value
    result = run("convert", write(tmp_path, config))
    assert result.exit_code == 2
    assert f"{field}: " in result.stderr


def test_a_strategy_from_the_environment_is_sglang_where_that_may_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKEND", "sglang")
    config = pipeline()
    config["actor_infer"]["strategy_args"]["strategy_name"] = "${oc.env:BACKEND}"
    (body,) = converted(write(tmp_path, config), "--env")
    assert body["spec"]["strategy_args"]["strategy_name"] == "sglang"


def test_a_second_spelling_beside_the_first_is_told(tmp_path):
    result = run("convert", write(tmp_path, pipeline(numGpusPerNode=4)))
    assert result.exit_code == 2
    assert "remove it: num_gpus_per_node is there" in result.stderr


def test_roles_that_are_not_asked_for_do_not_matter(tmp_path):
    config = pipeline(reference={"strategy_args": {"strategy_name": ["hf_infer"]}})
    assert run("convert", write(tmp_path, config)).exit_code == 2
    assert run("convert", write(tmp_path, config), "--role", "actor_infer").exit_code == 0


@pytest.mark.parametrize("entries", ["envs", {"a": "b"}, 3])
def test_defaults_that_are_no_list_are_told(tmp_path, entries):
    result = run("convert", write(tmp_path, pipeline(defaults=entries)))
    assert result.exit_code == 2
    assert "defaults: the entry is" in result.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_no_field_of_rolls_own_examples_is_taken_for_a_misspelt_one(path):
    assert "did you mean" not in run("convert", path).stderr


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf"])
@pytest.mark.parametrize("field", ["world_size", "num_gpus_per_worker", "model_args"])
def test_a_number_that_json_has_not_is_told_where_it_stands(tmp_path, number, field):
    (body,) = converted(write(tmp_path, pipeline()))
    value = yaml.safe_load(number)
    body["spec"][field] = {"extra": value} if field == "model_args" else value
    result = run("lint", write(tmp_path, body, "pool.yaml"))
    assert result.exit_code == 2
    assert f"spec.{field}" in result.stdout


@pytest.mark.parametrize("value", [[], ["A=b"], "A=b", 3, True])
def test_variables_of_the_pipeline_that_are_no_map_are_told(tmp_path, value):
    result = run("convert", write(tmp_path, pipeline(system_envs=value)))
    assert result.exit_code == 2
    assert "spec.system_envs: found " in result.stderr


SLIPS_OF_YAML = [
    ("    top_p = 0.9\n", "top_p: and the value, with a colon"),
    ("    top_p:0.9\n", "a space after the colon of top_p"),
    ("    top_p 0.9\n", "a colon after top_p"),
    ("    top_p\n", "a colon after top_p"),
    ("   top_p: 0.9\n", "is its indentation meant?"),
]


@pytest.mark.parametrize(("line", "words"), SLIPS_OF_YAML)
def test_a_slip_of_yaml_is_told_at_its_line_with_what_to_write(tmp_path, line, words):
    text = f"pretrain: a\nactor_infer:\n  generating_args:\n    top_k: 5\n{line}    num_beams: 1\n"
    result = run("convert", write(tmp_path, text))
    assert result.exit_code == 2
    assert words in result.stderr
    assert any(f"pipeline.yaml:{number}:" in result.stderr for number in (5, 6))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("temperature", "write it below generating_args"),
        ("model_name_or_path", "write it below model_args"),
        ("mem_fraction_static", "write it into strategy_args.strategy_config"),
    ],
)
def test_a_field_at_the_wrong_level_is_told_where_it_belongs(tmp_path, name, advice):
    config = pipeline()
    config["actor_infer"][name] = 1
    assert advice in run("convert", write(tmp_path, config)).stderr
    (body,) = converted(write(tmp_path, pipeline()))
    body["spec"][name] = 1
    assert advice in run("lint", write(tmp_path, body, "pool.yaml")).stdout


def test_an_argument_beside_strategy_config_is_told_where_it_belongs(tmp_path):
    config = pipeline()
    config["actor_infer"]["strategy_args"]["load_format"] = "dummy"
    result = run("convert", write(tmp_path, config))
    assert "write it into strategy_args.strategy_config" in result.stderr


def test_a_strategy_config_beside_strategy_args_is_not_left_out(tmp_path):
    config = pipeline()
    worker = config["actor_infer"]
    worker["strategy_config"] = worker["strategy_args"].pop("strategy_config")
    result = run("convert", write(tmp_path, config))
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if " error: " in line]
    assert "strategy_config" in line
    assert "write it below strategy_args" in line
