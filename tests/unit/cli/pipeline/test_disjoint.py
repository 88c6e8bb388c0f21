"""Where a file has trainer and engines on the same ids, an object with which ROLL's side starts."""

from types import SimpleNamespace

import pytest

from sglang_operator.client import colocated
from sglang_operator.roll import device_mapping
from tests.unit.cli import roll
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

DOES_NOT_START = "ROLL's side of a pool with GPUs of its own does not start"


def mapping_of(body):
    return body["spec"]["device_mapping"]


def sharing(mapping="list(range(0,8))", **changes):
    """A pipeline whose engines have this mapping beside a trainer on 0 to 7."""
    config = pipeline(**changes)
    config["actor_infer"]["device_mapping"] = mapping
    return config


def judge(mapping):
    own = {"model_args": {"model_name_or_path": "a/judge"}, "device_mapping": mapping}
    return {**pipeline()["actor_infer"], **own}


def rolls_side(config):
    """What the worker of ROLL's side says of a file."""
    made = SimpleNamespace(**_roles(config), rewards=_roles(config.get("rewards", {})))
    made.num_gpus_per_node = config.get("num_gpus_per_node")
    return colocated.refusal(SimpleNamespace(cluster_name="actor_infer", pipeline_config=made))


def _roles(sections):
    return {
        name: SimpleNamespace(device_mapping=section["device_mapping"], name=name)
        for name, section in sections.items()
        if isinstance(section, dict) and "device_mapping" in section
    }


@pytest.mark.parametrize("path", WITH_SGLANG, ids=lambda path: path.stem)
def test_an_example_gets_as_many_engines_on_ids_that_its_trainer_does_not_have(path):
    (plain,), (body,) = converted(path), converted(path, "--disjoint")
    before, after = guide_pool(plain), guide_pool(body)
    assert len(after.engines) == len(before.engines)
    assert after.gpus == before.gpus
    config = roll.load(path)
    trainer = set(device_mapping.parse(config["actor_train"]["device_mapping"]))
    assert not trainer & {gpu for engine in after.engines for gpu in engine.devices}
    config["actor_infer"]["device_mapping"] = mapping_of(body)
    assert rolls_side(config) == ""
    for each in (plain, body):
        del each["spec"]["device_mapping"]
    assert body == plain


def test_the_guides_object_is_written_with_the_ids_that_rolls_side_is_told(tmp_path):
    config = roll.load(GUIDE)
    told = "device_mapping: list(range(32,56))"
    assert told in rolls_side(config)
    result = run("convert", "--disjoint", GUIDE, "-o", tmp_path)
    assert result.exit_code == 0
    assert f"write in ROLL's file, under actor_infer: {told}; the object has it too" in (
        result.stderr
    )
    text = (tmp_path / "actor-infer.yaml").read_text()
    line = (
        GUIDE.read_text()
        .splitlines()
        .index("  device_mapping: list(range(0,24)) # device share with llm reward")
    )
    assert f"{told}  # --disjoint, rlvr_config_sglang.yaml:{line + 1}\n" in text
    assert not linted(tmp_path, text).findings
    assert run("lint", "--strict", tmp_path / "actor-infer.yaml").exit_code == 0


def test_with_that_in_its_file_rolls_side_starts_and_nothing_is_left_to_write(tmp_path):
    config = roll.load(GUIDE)
    config["actor_infer"]["device_mapping"] = mapping_of(converted(GUIDE, "--disjoint")[0])
    assert rolls_side(config) == ""
    path = write(tmp_path, config)
    said = run("convert", "--disjoint", path).stderr
    assert DOES_NOT_START not in said
    assert "--disjoint changes nothing of actor_infer: it shares no id with actor_train" in said
    assert mapping_of(converted(path, "--disjoint")[0]) == "list(range(32,56))"


@pytest.mark.parametrize(
    ("mapping", "written"),
    [
        ("list(range(0,8))", "list(range(16,24))"),
        ("list(range(6,14))", "list(range(16,24))"),
        ("[0,1]+list(range(20,22))", "list(range(16,20))"),
        ("list(range(7, -1, -1))", "list(range(16,24))"),
        ("list([2, 3])", "list(range(16,18))"),
        ("${actor_train.device_mapping}", "list(range(16,24))"),
        ("list(range(0,${num_gpus_per_node}))", "list(range(16,24))"),
    ],
)
def test_a_mapping_may_have_any_form_that_rolls_has(tmp_path, mapping, written):
    config = sharing(mapping, reference={**pipeline()["actor_train"]})
    config["reference"]["device_mapping"] = "list(range(8,16))"
    path = write(tmp_path, config)
    (body,) = converted(path, "--disjoint")
    assert mapping_of(body) == written
    assert len(guide_pool(body).engines) == len(guide_pool(converted(path)[0]).engines)
    told = f"device_mapping: {written}; the "
    assert f"{told}object may stay" in run("convert", path).stderr
    assert f"device_mapping: {written}; then the pool may stay" in rolls_side(roll.load(path))


@pytest.mark.parametrize("mapping", ["list(range(8,16))", "[8, 9]", "list(range(8,12))+[20,21]"])
def test_without_ids_in_common_the_object_is_the_same(tmp_path, mapping):
    path = write(tmp_path, sharing(mapping))
    result = run("convert", "--disjoint", path)
    assert result.stdout == run("convert", path).stdout
    assert "--disjoint changes nothing of actor_infer: it shares no id" in result.stderr


def test_of_several_roles_only_the_one_that_is_trained_moves(tmp_path):
    path = write(tmp_path, sharing(rewards={"judge": judge("list(range(4,10))")}))
    bodies = converted(path, "--disjoint")
    found = {body["metadata"]["name"]: mapping_of(body) for body in bodies}
    assert found == {
        "actor-infer": "list(range(16,24))",
        "rewards-judge": "list(range(4,10))",
    }
    said = run("convert", "--disjoint", path).stderr
    assert "--disjoint changes nothing of rewards.judge: no trainer hands it weights" in said


def test_one_role_alone_is_moved_past_the_others_too(tmp_path):
    path = write(tmp_path, sharing(rewards={"judge": judge("list(range(8,20))")}))
    (body,) = converted(path, "--disjoint", "--role", "actor_infer", "--name", "policy")
    assert mapping_of(body) == "list(range(24,32))"
    (alone,) = converted(path, "--disjoint", "--role", "rewards.judge")
    assert mapping_of(alone) == "list(range(8,20))"


def test_students_are_moved_as_actors_are(tmp_path):
    """ROLL takes student_train and student_infer for the actors (_handle_opd_mapping)."""
    own = {**pipeline()["actor_infer"], "generating_args": {}}
    config = {
        "pretrain": "a/student",
        "student_train": pipeline()["actor_train"],
        "student_infer": {**own, "device_mapping": "[0,1]"},
        "teacher": {"model_args": {"model_name_or_path": "a/teacher"}},
    }
    path = write(tmp_path, config)
    assert mapping_of(converted(path, "--disjoint")[0]) == "list(range(8,10))"
    assert "student_infer shares ids with student_train" in run("convert", path).stderr


def test_ids_of_the_trainer_that_are_not_understood_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINERS", "list(range(0,16))")
    config = sharing()
    config["actor_train"]["device_mapping"] = "${oc.env:TRAINERS}"
    path = write(tmp_path, config)
    assert run("convert", path).exit_code == 0  # it is nothing that the object depends on
    refused = run("convert", "--disjoint", path, "-o", tmp_path / "out")
    line = path.read_text().splitlines().index("  device_mapping: ${oc.env:TRAINERS}") + 1
    assert refused.exit_code == 2
    assert f"pipeline.yaml:{line}:" in refused.stderr
    assert "actor_train.device_mapping" in refused.stderr
    assert not (tmp_path / "out").exists()
    assert mapping_of(converted(path, "--disjoint", "--env")[0]) == "list(range(16,24))"


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ([0, 1], "device_mapping is a list; expected a string"),
        ("range(0,8)", "device_mapping is range(0,8); expected list(range(a,b))"),
    ],
)
def test_a_trainers_mapping_that_roll_cannot_read_is_told_with_its_role(tmp_path, mapping, words):
    config = sharing()
    config["actor_train"]["device_mapping"] = mapping
    refused = run("convert", "--disjoint", write(tmp_path, config))
    assert refused.exit_code == 2
    assert f"error: actor_train: actor_train.device_mapping: {words}" in refused.stderr
    assert refused.stdout == ""


def test_an_engine_that_would_lie_on_two_nodes_is_refused_as_in_any_object(tmp_path):
    """ROLL wants the ids without gaps, so that there is no other mapping to write."""
    config = sharing("list(range(0,3))+list(range(8,11))+list(range(16,19))")
    config["actor_infer"]["num_gpus_per_worker"] = 3
    path = write(tmp_path, config)
    assert run("convert", path).exit_code == 0
    refused = run("convert", "--disjoint", path)
    assert refused.exit_code == 2
    assert "14-16" in refused.stderr
    assert refused.stdout == ""
