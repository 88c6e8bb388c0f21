"""Messages stand in the status, in Events and in logs: they quote no secret."""

import pytest

from sglang_operator.api import errors
from sglang_operator.engine import images
from sglang_operator.pool.resolve import Pool, Refused, resolve_pool
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
    "an annotation with a domain": guide_spec(
        podTemplate={"metadata": {"annotations": {"example.com/token": [SECRET]}}}
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


# By its form, and by its letters and digits alone.
KEYS = ["hf_aBcDeFgHiJkLmNoPqRsTuVwX", "sk-proj-aB3dE5gH7jK9mN1pQ3sT5", "Xk9vQ2mZt7Lw4Rb8"]


def _misplaced(key: str) -> dict[str, dict[str, object]]:
    """Specs with a key where a name, a number or an image was to be."""
    return {
        "a variable's name that is none": _container(env=[{"name": f"{key}=", "value": "x"}]),
        "a key of a variable": _container(env=[{"name": "A", key: "x"}]),
        "a key of a source": _container(env=[{"name": "A", "valueFrom": {key: {}}}]),
        "a key of envFrom": _container(envFrom=[{key: {}}]),
        "a name in system_envs": guide_spec(system_envs={f"{key}!": "x"}),
        "a name of a device's": _container(env=[{"name": f"NVIDIA_VISIBLE_DEVICES.{key}"}]),
        "a switch": guide_spec(system_envs={"SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": key}),
        "a removed variable": guide_spec(system_envs={"PYTORCH_CUDA_ALLOC_CONF": key}),
        "an image": guide_spec(image=f"lmsysorg/{key}:v0.5.14"),
        "a tag": guide_spec(image=f"lmsysorg/sglang:{key}"),
        "a tag and a version": guide_spec(image=f"a/b:v0.5.14.{key}", engineVersion="0.5.9"),
        "a digest": guide_spec(image=f"lmsysorg/sglang@{key}"),
        "a digest of a kind": guide_spec(image=f"lmsysorg/sglang@sha256:{key}"),
        "a version": guide_spec(engineVersion=key),
        "a port": guide_spec(network={"port": key}),
        "a port with a sign": guide_spec(network={"port": f"-{key}"}),
        "an engine's port": with_config(port=key),
        "a share": guide_spec(rollout={"maxUnavailable": key}),
        "a count of GPUs": guide_spec(num_gpus_per_worker=key),
        "a mapping": guide_spec(device_mapping=key),
        "an amount": _container(resources={"limits": {"cpu": key}}),
        "a number": with_config(mem_fraction_static=key),
        "a sampling": guide_spec(generating_args={"top_p": key}),
        "a choice": guide_spec(weights={"gate": key}),
    }


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", _misplaced(""))
def test_a_key_in_the_wrong_place_is_not_quoted(name: str, key: str) -> None:
    resolved = resolve_pool(OWNER, _misplaced(key)[name])
    problems = resolved.warnings if isinstance(resolved, Pool) else resolved.problems
    assert problems or "DEVICES" in str(_misplaced(key)[name])
    assert key not in " ".join(map(str, problems))


@pytest.mark.parametrize("key", KEYS[:2])
@pytest.mark.parametrize(
    "spec",
    [
        lambda key: _container(env=[{"name": key, "value": "x"}]),
        lambda key: guide_spec(system_envs={key: "x"}),
        lambda key: guide_spec(image=f"lmsysorg/sglang:{key}"),
    ],
    ids=["env", "system_envs", "image"],
)
def test_a_key_in_place_of_a_name_is_refused(spec, key: str) -> None:
    """Else it stands in each pod, for whoever may read pods."""
    resolved = resolve_pool(OWNER, spec(key))
    assert isinstance(resolved, Refused)
    assert key not in " ".join(map(str, resolved.problems))


@pytest.mark.parametrize(
    "image",
    [
        "lmsysorg/sglang:v0.5.14-cu126",
        "ghcr.io/team/sglang:3f9c2ab1d4e5f60718293a4b5c6d7e8f90a1b2c3",
        "ghcr.io/team/my_company_sglang_image_v2_build:nightly-dev-20251201-3f9c2ab1",
        "ghcr.io/team/sk-some-long-name-of-a-team/sglang:v0.5.14.post1-cu129-amd64",
        "123456789012.dkr.ecr.us-east-1.amazonaws.com/sglang:main",
        f"lmsysorg/sglang:v0.5.14@sha256:{'0f' * 32}",
    ],
)
def test_ordinary_images_pass_and_are_quoted_as_they_are(image: str) -> None:
    assert not list(images.problems(image))
    if "/sk-" not in image:
        assert images.shown(image).rstrip("…") in image
        assert "***" not in images.shown(image)


@pytest.mark.parametrize(
    "name",
    ["NCCL_SOCKET_IFNAME_ETH0", "NCCL_IB_HCA_mlx5_0", "npm_config_fetch_retry_maxtimeout"],
)
def test_ordinary_variables_pass(name: str) -> None:
    assert isinstance(resolve_pool(OWNER, guide_spec(system_envs={name: "x"})), Pool)
    assert isinstance(resolve_pool(OWNER, _container(env=[{"name": name, "value": "x"}])), Pool)
    owned = errors.SYSTEM_ENV_OWNED(f"spec.system_envs.{name}", key=name, found="set", advice="")
    assert "npm" in name or name in owned.field


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
