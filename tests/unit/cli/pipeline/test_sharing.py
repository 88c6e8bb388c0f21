"""``convert --shared``: ids in common with the trainer mean what ROLL means by them, its GPUs."""

import pytest
import yaml

from sglang_operator.roll import device_mapping
from tests.unit.cli import roll
from tests.unit.cli.pipeline.test_disjoint import judge, sharing
from tests.unit.cli.runner import (
    GUIDE,
    WITH_SGLANG,
    converted,
    guide_pool,
    linted,
    pipeline,
    run,
    write,
)


def overlap(path):
    config = roll.load(path)
    roles = ("actor_train", "actor_infer")
    train, infer = (set(device_mapping.parse(config[role]["device_mapping"])) for role in roles)
    return train & infer


@pytest.mark.parametrize("path", WITH_SGLANG, ids=lambda path: path.stem)
def test_an_example_that_shares_ids_joins_its_trainer_by_the_same_ids(path):
    (plain,), (body,) = converted(path), converted(path, "--shared")
    placement = body["spec"].pop("placement", None)
    assert placement == ({"mode": "Shared"} if overlap(path) else None)
    assert body == plain


def test_the_guides_object_is_taken_by_lint_and_its_engines_can_sleep(tmp_path):
    result = run("convert", "--shared", GUIDE, "-o", tmp_path)
    assert result.exit_code == 0
    assert "does not start" not in result.stderr
    assert "of their own" not in result.stderr
    assert "actor_infer joins actor_train on its GPUs" in result.stderr
    for needed in ("sglang-operator.dev/trainer", "POD_UID", "/dev/shm", "actor-infer-slots"):
        assert needed in result.stderr
    text = (tmp_path / "actor-infer.yaml").read_text()
    assert "placement:\n    mode: Shared  # --shared, rlvr_config_sglang.yaml:" in text
    assert not linted(tmp_path, text).findings
    pool = guide_pool(yaml.safe_load(text))
    assert len(pool.engines) == 12
    assert pool.saves_memory, "as ROLL sets it, and Shared asks for it"


def test_the_agentic_default_has_engines_on_the_trainers_gpus_and_beside_them(tmp_path):
    """partial_gpu_mode, which is on in ROLL unless a file switches it off."""
    config = sharing("list(range(0,16))", train_env_manager={"max_env_num_per_worker": 4})
    path = write(tmp_path, config)
    (body,) = converted(path, "--shared")
    assert body["spec"]["placement"] == {"mode": "Shared"}
    assert body["spec"]["device_mapping"] == "list(range(0,16))"
    used = [gpu for engine in guide_pool(body).engines for gpu in engine.devices]
    assert used == [*range(16)]


def test_without_ids_in_common_the_object_is_the_same_and_that_is_said(tmp_path):
    path = write(tmp_path, sharing("list(range(8,16))"))
    result = run("convert", "--shared", path)
    assert result.stdout == run("convert", path).stdout
    assert "--shared changes nothing of actor_infer: it shares no id" in result.stderr


def test_a_judge_keeps_gpus_of_its_own(tmp_path):
    path = write(tmp_path, sharing(rewards={"judge": judge("list(range(4,10))")}))
    modes = {
        body["metadata"]["name"]: body["spec"].get("placement")
        for body in converted(path, "--shared")
    }
    assert modes == {"actor-infer": {"mode": "Shared"}, "rewards-judge": None}
    said = run("convert", "--shared", path).stderr
    assert "--shared changes nothing of rewards.judge: no trainer hands it weights" in said
    assert "rewards.judge shares GPUs in ROLL with actor_train" in said


def test_without_a_flag_both_ways_out_are_told(tmp_path):
    said = run("convert", write(tmp_path, sharing())).stderr
    assert "device_mapping: list(range(8,16))" in said
    assert "let its engines join the trainer on its GPUs: convert --shared" in said


def test_one_way_out_at_a_time(tmp_path):
    refused = run("convert", "--shared", "--disjoint", write(tmp_path, pipeline()))
    assert refused.exit_code == 2
    assert "--disjoint or --shared, not both" in refused.output


def test_ids_of_the_trainer_that_are_not_understood_are_an_error(tmp_path):
    config = sharing()
    config["actor_train"]["device_mapping"] = "${oc.env:TRAINERS}"
    refused = run("convert", "--shared", write(tmp_path, config))
    assert refused.exit_code == 2
    assert "actor_train.device_mapping" in refused.stderr
