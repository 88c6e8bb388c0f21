"""The environment of an engine's container, as it is rendered."""

import json
from typing import Any

import pytest

from sglang_operator.api import errors
from sglang_operator.children import engine_pod, trainer_registry
from sglang_operator.engine import arguments
from tests.builders import a_pool, all_pods, weighed

DUMPS = ("SGLANG_CUDA_COREDUMP_BEFORE_CRASH", "SGLANG_PYSPY_DUMP_BEFORE_CRASH")


def rendered(pool):
    container = engine_pod.template(pool)["spec"]["containers"][0]
    return {variable["name"]: variable.get("value") for variable in container["env"]}


def image(version):
    return {"image": f"lmsysorg/sglang:v{version}"}


@pytest.mark.parametrize(("version", "value"), [("0.5.12", None), ("0.5.13", "false")])
def test_an_engine_that_crashed_ends_at_once(version, value):
    found = rendered(a_pool(**image(version)))
    assert [found.get(name) for name in DUMPS] == [value] * 2


def test_who_wants_the_diagnostics_of_a_crash_gets_them():
    first, second = DUMPS
    env = [{"name": second, "value": "1"}]
    template = {"spec": {"containers": [{"name": "engine", "env": env}]}}
    pool = a_pool(**image("0.5.14"), system_envs={first: "true"}, podTemplate=template)
    assert [rendered(pool)[name] for name in DUMPS] == ["true", "1"]


def test_an_upgrade_of_the_operator_restarts_no_engine_for_that():
    pool = a_pool(**image("0.5.14"))
    assert not set(DUMPS) & set(pool.environment)
    assert set(DUMPS) <= set(rendered(pool))


def test_engines_whose_weights_may_change_keep_nothing_of_images():
    """A trainer may sync engines without a gate, too."""
    name = "SGLANG_VLM_CACHE_SIZE_MB"
    assert rendered(a_pool())[name] == "0"
    assert rendered(a_pool(weights={"gate": "Off"}))[name] == "0"
    assert rendered(a_pool(system_envs={name: 512}))[name] == "512"
    assert name not in a_pool().environment  # an upgrade restarts no engine for it


# --- what depends on the rank alone

COUNTED: dict[str, Any] = {"device_mapping": None, "replicas": 3}
REVISION = "bd2c5a8f4d"


def seeds(pool):
    """Of each engine by rank, as SGLang takes them: the last one counts."""
    shared = engine_pod.template(pool)
    pods = [engine_pod.pod(pool, shared, engine, attempt=0) for engine in pool.running]
    args = [pod["spec"]["containers"][0]["args"] for pod in pods]
    return [[item for item in each if item.startswith("--random-seed")][-1] for each in args]


def test_engines_of_one_prompt_draw_samples_of_their_own():
    """As slime and miles have it: one seed for all would repeat samples."""
    assert seeds(a_pool(**COUNTED)) == [f"--random-seed={seed}" for seed in (42, 43, 44)]
    assert seeds(a_pool(**COUNTED, seed=7))[2] == "--random-seed=9"


def test_the_engines_of_roll_have_its_one_seed():
    assert set(seeds(a_pool())) == {"--random-seed=42"}


def test_a_seed_at_the_end_of_what_numpy_takes_goes_on_from_its_beginning():
    assert seeds(a_pool(**COUNTED, seed=2**32 - 1))[1] == "--random-seed=0"


def test_a_seed_beside_the_table_stays_as_it_is():
    assert arguments.seeded(["--random-seed=42", "--random-seed=5"], 2) == [
        "--random-seed=44",
        "--random-seed=5",
    ]


def test_an_upgrade_restarts_no_engine_for_its_seed():
    """This revision is that of an operator which gave all engines one."""
    pool = a_pool(**COUNTED)
    assert "--random-seed=42" in pool.argv
    pods = [
        engine_pod.pod(pool, engine_pod.template(pool), engine, attempt=0)
        for engine in pool.running
    ]
    assert len({pod["metadata"]["labels"]["sglang-operator.dev/revision"] for pod in pods}) == 1
    assert pool.revision == REVISION


# --- trainers that are not ROLL


def warned(pool):
    return [each for each in pool.warnings if each.reason == errors.TOKENIZER_SKIPPED.reason]


def test_a_pool_without_gpu_ids_is_told_that_it_answers_ids_alone():
    (warning,) = warned(a_pool(**COUNTED))
    assert "set skip_tokenizer_init (slime, miles: false)" in warning.message
    assert "--skip-tokenizer-init" in a_pool(**COUNTED).argv  # as it was: nothing restarts
    assert not warned(a_pool())


@pytest.mark.parametrize("name", ["skip_tokenizer_init", "skip-tokenizer-init"])
@pytest.mark.parametrize("value", [True, False])
def test_who_has_said_which_is_not_told(name, value):
    config = {"mem_fraction_static": 0.7, name: value}
    strategy = {"strategy_name": "sglang", "strategy_config": config}
    assert not warned(a_pool(**COUNTED, strategy_args=strategy))


def test_an_engine_without_an_address_moves_no_other_to_its_place():
    """slime and AReaL know a rank by its place in the list."""
    pool = a_pool(**COUNTED)
    pods = all_pods(pool)
    whole = trainer_registry.registry(pool, weighed(pool, pods))["data"]
    assert len(whole[trainer_registry.SLIME_KEY].split()) == 3
    less = trainer_registry.registry(pool, weighed(pool, [pods[0], pods[2]]))["data"]
    assert (less[trainer_registry.SLIME_KEY], less[trainer_registry.AREAL_KEY]) == ("", "")
    urls = [engine["url"] for engine in json.loads(less[trainer_registry.ENGINES_KEY])["engines"]]
    assert [url is None for url in urls] == [False, True, False]
