import pytest

from sglang_operator.cli.pipeline import objects, training
from sglang_operator.cli.yaml_tree import file_text, reading
from sglang_operator.memory.trainer import Kind
from tests.unit.cli.runner import GUIDE, pipeline, write


def read(path):
    (document,) = reading.load(file_text.read(str(path)), str(path)).documents
    found = objects.convert(document, objects.Options(), path.parent)
    assert found.root is not None
    return training.Pipeline(found.root, environment=False), found.roles


def roles_of(path):
    values, found = read(path)
    return {each.name: each for each in training.trainings(values, found)}


def test_the_guide_s_trainer_is_read_with_its_sizes():
    found = roles_of(GUIDE)["actor_train"]
    assert (found.kind, found.gpus, found.tp, found.pp, found.ep) == (Kind.MEGATRON, 32, 2, 2, 4)
    assert found.trains
    assert found.recompute
    assert found.distributed_optimizer
    assert found.tokens == 2048 + 4096


def test_roles_that_only_look_are_told_apart():
    found = roles_of(GUIDE)
    assert set(found) == {"actor_train", "reference", "rewards.llm_judge"}
    assert not found["reference"].trains
    assert found["rewards.llm_judge"].kind is Kind.INFERENCE


def test_the_work_of_a_step_is_what_the_file_says():
    values, found = read(GUIDE)
    step = training.step(values, found)
    assert step is not None
    assert (step.samples, step.prompt, step.response) == (64 * 8, 2048, 4096)
    assert (step.passes, step.train_gpus, step.total_gpus) == (2, 32, 32)


def test_without_a_batch_there_is_no_step(tmp_path):
    values, found = read(write(tmp_path, pipeline()))
    assert training.step(values, found) is None


@pytest.mark.parametrize(
    ("lengths", "sequence"),
    (
        ({"prompt_length": 512, "response_length": 1024}, (512, 1024)),
        ({"response_length": 1024}, (1024, 1024)),
        ({"response_length": None, "sequence_length": 8192, "prompt_length": 2048}, (2048, 6144)),
        ({"response_length": None}, None),
        ({"response_length": 0}, None),
        ({"response_length": "many"}, None),
    ),
)
def test_how_long_a_sequence_may_get(tmp_path, lengths, sequence):
    given = pipeline(**lengths)
    given["actor_infer"]["generating_args"] = {"max_new_tokens": 16}
    values, _ = read(write(tmp_path, given))
    found = values.sequence()
    assert (None if found is None else (found.prompt, found.response)) == sequence


def test_a_role_whose_model_is_not_known_is_left_out(tmp_path):
    assert roles_of(write(tmp_path, pipeline(pretrain="mine/other"))) == {}
