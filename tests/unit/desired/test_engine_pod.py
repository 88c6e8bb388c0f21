"""The environment of an engine's container, as it is rendered."""

import pytest

from sglang_operator.desired import engine_pod
from tests.builders import a_pool

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


def test_engines_whose_weights_change_keep_nothing_of_images():
    name = "SGLANG_VLM_CACHE_SIZE_MB"
    assert rendered(a_pool())[name] == "0"
    assert name not in rendered(a_pool(weights={"gate": "Off"}))
    assert rendered(a_pool(system_envs={name: 512}))[name] == "512"
    assert name not in a_pool().environment  # an upgrade restarts no engine for it
