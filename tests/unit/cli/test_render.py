"""What would run."""

import json

import pytest
import yaml

from sglang_operator.api import errors
from sglang_operator.children import engine_pod
from tests.unit.cli.runner import GUIDE, WITHOUT_SGLANG, guide_body, guide_pool, run
from tests.unit.placement.trainers import THREE, by_hand, gpu


def _write(tmp_path, body):
    path = tmp_path / "pool.yaml"
    path.write_text(yaml.safe_dump(body))
    return path


def test_render_shows_the_operators_own_pods(tmp_path):
    body = guide_body()
    result = run("render", _write(tmp_path, body), "-o", "json")
    found = json.loads(result.stdout)["items"]
    pool = guide_pool(body)
    shared = engine_pod.template(pool)
    wanted = [engine_pod.pod(pool, shared, engine, 0, 0) for engine in pool.running]
    for pod in wanted:
        pod["metadata"] = {**pod["metadata"]}
        (reference,) = pod["metadata"]["ownerReferences"]
        pod["metadata"]["ownerReferences"] = [
            {**reference, "uid": "00000000-0000-0000-0000-000000000000"}
        ]
    assert found == wanted
    assert list(yaml.safe_load_all(run("render", _write(tmp_path, body)).stdout)) == wanted


def test_render_shows_the_command_line_of_a_pipeline():
    result = run("render", GUIDE, "-o", "argv")
    head, command = result.stdout.splitlines()
    assert head.startswith("# actor-infer: 12 engines of 2 GPUs, GPUs 0-23; SGLang 0.5.7")
    assert command.startswith("python3 -m sglang.launch_server --disable-custom-all-reduce ")
    assert "--tp-size=2" in command


def test_render_shows_where_engines_belong_whose_slots_are_written_down(tmp_path):
    body = guide_body(placement=by_hand(*THREE))
    found = json.loads(run("render", _write(tmp_path, body), "-o", "json").stdout)["items"]
    env = found[5]["spec"]["containers"][0]["env"]
    assert env[-1] == {"name": "NVIDIA_VISIBLE_DEVICES", "value": f"{gpu(1, 2)},{gpu(1, 3)}"}
    assert "gpu-1" in json.dumps(found[5]["spec"]["affinity"])


def test_render_of_nothing_says_so():
    assert run("render", WITHOUT_SGLANG).exit_code == 1


def test_render_hides_the_values_of_secrets(tmp_path):
    body = guide_body(
        system_envs={"HF_TOKEN": "hunter2", "HTTP_PROXY": "http://me:hunter2@proxy", "A": "b"},
        extraArgs=["--wandb-password", "hunter2", "--some-api-key=hunter2"],
    )
    path = _write(tmp_path, body)
    for form in ("yaml", "json", "argv"):
        result = run("render", path, "-o", form)
        assert result.exit_code == 0
        assert "hunter2" not in result.output
    assert "value: b" in run("render", path).stdout


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True),
        ("WANDB_API_KEY", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("OSS_ACCESS_KEY_ID", True),
        ("DB_PASSWORD", True),
        *((name, True) for name in ("DB_PWD", "db_pwd", "PASS", "PGPASS", "OPENAI_SK", "HFTOKEN")),
        *(
            (name, True)
            for name in ("hf token", " API KEY ", "WIFI_PSK", "OPENAI_KEY_2", "NPM_AUTH")
        ),
        *(
            (name, False)
            for name in ("PWD", "OLDPWD", "NCCL_BYPASS", "TASK", "MAX_TOKENS", "AUTHOR")
        ),
        ("example.com/token", True),
        ("token.example.com/pool", False),
        ("USE_MODELSCOPE", False),
        ("TOKENIZERS_PARALLELISM", False),
        ("NCCL_MONKEY", False),
        ("KEYBOARD", False),
    ],
)
def test_secrets_are_known_by_their_names(name, secret):
    assert errors.is_secret(name) is secret
