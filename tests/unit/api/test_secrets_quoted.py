"""Messages stand in the status, in Events and in logs: they quote no secret."""

import pytest

from sglang_operator.api import errors
from sglang_operator.pool.resolve import Pool, resolve_pool
from tests.builders import OWNER, guide_spec, with_config

SECRET = "hunter2Xq"


def _container(**fields: object) -> dict[str, object]:
    return guide_spec(podTemplate={"spec": {"containers": [{"name": "engine", **fields}]}})


SPECS = {
    "JSON as text": with_config(model_loader_extra_config='{"token": "' + SECRET + '",}'),
    "system_envs as a list": guide_spec(system_envs=["HF_TOKEN=" + SECRET]),
    "a blank in a name": guide_spec(system_envs={"hf token": SECRET}),
    "a name of a shell": guide_spec(system_envs={f"export DB_PWD {SECRET}": "1"}),
    "a name of a shell that says nothing": guide_spec(system_envs={f"set LOGIN {SECRET}": "1"}),
    "a name and its value of no known kind": guide_spec(system_envs={f"DB_LOGIN={SECRET}": "1"}),
    "a list under a short name": guide_spec(system_envs={"DB_PWD": [SECRET]}),
    "a list under any name": guide_spec(system_envs={"PASS": ["x", SECRET], "LOGIN": [SECRET]}),
    "a map under any name": guide_spec(system_envs={"LOGIN": {"a": SECRET}}),
    "a reference": guide_spec(system_envs={"OPENAI_SK": "${" + SECRET + "}"}),
    "a reference under any name": guide_spec(system_envs={"LOGIN": "${a:" + SECRET + "}"}),
    "text that ends within": guide_spec(system_envs={"LOGIN": SECRET + "\0"}),
    "docker's habit": guide_spec(system_envs={"HF_TOKEN=" + SECRET: "1"}),
    "env as a map": _container(env={"HF_TOKEN": SECRET}),
    "env as texts": _container(env=["HF_TOKEN=" + SECRET]),
    "valueFrom as text": _container(env=[{"name": "HF_TOKEN", "valueFrom": SECRET}]),
    "a Secret's name as text": _container(envFrom=[{"secretRef": SECRET}]),
    "a name with its value": _container(env=[{"name": "HF_TOKEN=" + SECRET}]),
    "extraArgs": guide_spec(extraArgs=["--hf-token=" + SECRET + "\0"]),
    "a bucket": guide_spec(model_args={"model_name_or_path": f"s3://me:{SECRET}@host/m\n"}),
    "a registry": guide_spec(image=f"user:{SECRET}@reg/img:v0.5.7"),
    "strategy_config as text": guide_spec(
        strategy_args={"strategy_name": "sglang", "strategy_config": "api_key=" + SECRET}
    ),
    "containers as a map": guide_spec(
        podTemplate={"spec": {"containers": {"env": [{"name": "A", "value": SECRET}]}}}
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_message_quotes_no_secret(name: str) -> None:
    resolved = resolve_pool(OWNER, SPECS[name])
    problems = resolved.warnings if isinstance(resolved, Pool) else resolved.problems
    assert problems
    assert SECRET not in " ".join(map(str, problems))


@pytest.mark.parametrize(
    "value",
    [
        {"secretAccessKey": SECRET},
        [{"name": "DB_PASSWORD", "value": SECRET}],
        f"--api-key {SECRET}",
        f"password: {SECRET}",
        f"https://{SECRET}@host/x",
        "s3://me:" + SECRET * 9 + "@host",
    ],
)
def test_a_quoted_value_hides_what_has_a_secrets_name(value: object) -> None:
    assert SECRET not in errors.shown(value)


@pytest.mark.parametrize("value", ["img:v0.5.7@sha256:abc", "list(range(0,8))", "Qwen/Qwen3-8B"])
def test_what_is_no_secret_is_quoted_as_it_is(value: str) -> None:
    assert errors.shown(value) == value
