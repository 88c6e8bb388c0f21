"""What ROLL's file says of a pool is found, compared, or refused before anything is generated."""

import asyncio
import base64
import logging
import struct
import sys
import traceback
from types import SimpleNamespace

import pytest

from sglang_operator.client import InvalidArgument, Unsupported
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool
from tests.unit.client.test_roll import ANSWER, Cluster, worker

config = pytest.importorskip("sglang_operator.client.roll_config")
payloads = pytest.importorskip("sglang_operator.client.roll_payloads")


def of(cluster="actor_infer", model=None, replay="disable", lora=None, **strategy):
    """A worker, with what it is about in its section."""
    made = worker(0, 1, False, "10.0.0.1")
    made.cluster_name = cluster
    made.worker_config.strategy_args.strategy_config = strategy
    made.worker_config.model_args = SimpleNamespace(model_name_or_path=model, lora_target=None)
    made.worker_config.router_replay = SimpleNamespace(mode=replay)
    train = SimpleNamespace(model_args=SimpleNamespace(lora_target=lora), device_mapping=None)
    made.pipeline_config.actor_train = train
    return made


@pytest.mark.parametrize(
    ("cluster", "strategy", "name"),
    [
        ("actor_infer", {}, "actor-infer"),
        ("reward_model", {}, "reward-model"),
        ("reward-llm_judge", {}, "rewards-llm-judge"),
        ("teacher-math", {}, "teacher-math"),
        ("actor_infer", {"pool": "policy"}, "policy"),
        (None, {}, "actor-infer"),
    ],
)
def test_a_role_has_the_pool_that_convert_names_after_it(cluster, strategy, name):
    assert config.pool_name(of(cluster, **strategy)) == name


def test_keys_come_from_the_environment_or_from_files(tmp_path):
    (tmp_path / "key").write_text("secret\n")
    environment = {
        "SGLANG_API_KEY": "open",
        "SGLANG_ADMIN_API_KEY_FILE": str(tmp_path / "key"),
    }
    assert config.keys(environment) == ("open", "secret")
    assert config.keys({}) == (None, None)


def test_a_key_that_stands_where_its_file_is_to_be_named_is_not_told():
    environment = {"SGLANG_API_KEY_FILE": "c4n4ryS3cret"}
    with pytest.raises(InvalidArgument, match=r"SGLANG_API_KEY_FILE names .*No such file") as told:
        config.keys(environment)
    assert "c4n4ry" not in "".join(traceback.format_exception(told.value))


TOLD = {
    "model_path": "/models/Qwen2.5-7B-Instruct",
    "tp_size": 2,
    "mem_fraction_static": 0.7,
    "skip_tokenizer_init": True,
    "enable_return_routed_experts": False,
}


@pytest.mark.parametrize(
    ("section", "differs"),
    [
        ({"model": "Qwen/Qwen2.5-7B-Instruct", "tensor_parallel_size": 2}, []),
        ({"model": "/c/hub/models--Qwen--Qwen2.5-7B-Instruct/snapshots/a1"}, []),
        ({"model": "/c/Qwen/Qwen2___5-7B-Instruct/"}, []),
        ({"model": "Qwen/Qwen3-8B"}, ["model_name_or_path is Qwen/Qwen3-8B"]),
        ({"tp_size": 4, "pool": "x", "namespace": "y"}, ["tp_size is 4 in ROLL's file, and 2"]),
        ({"mem_fraction_static": "0.7", "skip_tokenizer_init": "True"}, []),
        ({"mem_fraction_static": 0.8, "unheard_of": 1}, ["mem_fraction_static is 0.8"]),
        ({"replay": "R3"}, ["the engines tell no experts"]),
    ],
)
def test_the_pool_is_compared_with_rolls_file(section, differs):
    found = list(config.differences(of(**section), TOLD))
    assert len(found) == len(differs)
    assert all(words in each for words, each in zip(differs, found, strict=True))


def told(caplog):
    return [each.getMessage() for each in caplog.records if "is not what ROLL's" in each.message]


def test_differences_are_told_once(roll, reach, caplog):
    async def attach(world):
        async with Cluster(roll, 3):
            pass

    with FakePool() as world:
        world.server_info = {"mem_fraction_static": 0.9}
        with caplog.at_level(logging.WARNING):
            asyncio.run(attach(reach(world)))
        (words,) = told(caplog)
        assert "mem_fraction_static is 0.7 in ROLL's file, and 0.9 at the engines" in words
        assert POOL in words


def test_lora_is_refused_before_anything_is_attached(roll, reach):
    async def attach(world):
        strategy = roll.OperatorPoolStrategy(of(pool=POOL, namespace=NAMESPACE, lora="all-linear"))
        with pytest.raises(Unsupported, match=r"actor_train trains a LoRA adapter.*all-linear"):
            await strategy.initialize()
        other = of("reward_model", pool=POOL, namespace=NAMESPACE, lora="all-linear")
        judge = roll.OperatorPoolStrategy(other)
        await judge.initialize()
        await judge.pool.close()

    with FakePool(engines=1) as world:
        asyncio.run(attach(reach(world)))


ROLLS = "roll.datasets.vlm_dataset_utils"


@pytest.mark.parametrize(
    ("role", "data", "words"),
    [
        ("actor_train", {"video_folder": "/data"}, "video data .data_args.video_folder: /data"),
        (
            "actor_train",
            {"custom_data_kwargs_func": f"{ROLLS}.video_r1_get_data_kwargs"},
            "actor_train has prompts with video data .*video_r1",
        ),
        ("actor_train", {"audio_folder": "/data"}, "audio data .data_args.audio_folder: /data"),
        (
            "validation",
            {"custom_data_kwargs_func": f"{ROLLS}.audio_test_get_data_kwargs"},
            "validation has prompts with audio data .*audio_test",
        ),
    ],
)
def test_media_of_which_the_file_tells_are_refused_before_anything_is_attached(
    roll, reach, role, data, words
):
    async def attach(world, cluster):
        made = of(cluster, pool=POOL, namespace=NAMESPACE)
        section = getattr(made.pipeline_config, role, SimpleNamespace())
        section.data_args = SimpleNamespace(**data)
        setattr(made.pipeline_config, role, section)
        strategy = roll.OperatorPoolStrategy(made)
        if cluster == "actor_infer":
            with pytest.raises(Unsupported, match=words):
                await strategy.initialize()
        else:
            await strategy.initialize()
            await strategy.pool.close()

    with FakePool(engines=1) as world:
        asyncio.run(attach(reach(world), "actor_infer"))
        assert not world.looked
        asyncio.run(attach(world, "reward_model"))


def test_pictures_and_a_users_own_function_are_no_reason_to_refuse():
    made = of()
    made.pipeline_config.actor_train.data_args = SimpleNamespace(
        image_folder="/data", video_folder=None, custom_data_kwargs_func="mine.pictures"
    )
    assert config.refusal(made) == ""


def test_all_that_a_pool_cannot_do_is_told_at_once():
    made = of(lora="all-linear")
    train = made.pipeline_config.actor_train
    train.data_args = SimpleNamespace(video_folder="/data")
    train.device_mapping = [0, 1]
    made.pipeline_config.actor_infer = SimpleNamespace(device_mapping=[0, 1], name="actor_infer")
    told = config.refusal(made)
    assert "they share 0-1" in told
    assert "lora_target: all-linear" in told
    assert "video_folder" in told


@pytest.mark.parametrize("version", ["0.5.7", "0.5.9"])
def test_a_version_that_cannot_tell_experts_is_refused_at_once(roll, reach, version):
    async def attach(world):
        strategy = roll.OperatorPoolStrategy(of(pool=POOL, namespace=NAMESPACE, replay="R3"))
        with pytest.raises(Unsupported, match=r"router_replay .* 0.5.10 or newer"):
            await strategy.initialize()

    with FakePool(engines=1, version=version) as world:
        asyncio.run(attach(reach(world)))


class Tensor:
    """As much of torch's as shapes need."""

    def __init__(self, values, shape=None):
        self.values, self.shape = values, shape

    def numel(self):
        return len(self.values)

    def reshape(self, *shape):
        assert shape[0] == -1
        rest = shape[1] * shape[2]
        return Tensor(self.values, (len(self.values) // rest, *shape[1:]))


def frombuffer(content, dtype):
    return Tensor([number for (number,) in struct.iter_unpack(dtype, content)])


@pytest.fixture
def torch(monkeypatch):
    stand_in = SimpleNamespace(int32="<i", frombuffer=frombuffer)
    monkeypatch.setitem(sys.modules, "torch", stand_in)


def text(*numbers):
    return base64.b64encode(struct.pack(f"<{len(numbers)}i", *numbers)).decode()


def test_routed_experts_get_the_shape_that_roll_reads(torch):
    answers = [
        {"meta_info": {"routed_experts": text(*range(12)), "finish_reason": "stop"}},
        {"meta_info": {"routed_experts": None}},
    ]
    first, second = payloads.with_experts(answers, layers=3, chosen=2)
    assert first["meta_info"]["routed_experts"].shape == (2, 3, 2)
    assert first["meta_info"]["routed_experts"].values == list(range(12))
    assert second["meta_info"]["routed_experts"] is None
    with pytest.raises(Unsupported, match=r"12 experts, .* 5 layers"):
        payloads.with_experts(answers, layers=5, chosen=2)


def test_experts_are_asked_for_and_handed_on(roll, reach, torch, monkeypatch):
    monkeypatch.setattr(
        roll.OperatorPoolStrategy, "_experts_of_the_model", lambda self: (1, 2), raising=True
    )

    async def train(world):
        world.engines[0].gate = None
        strategy = roll.OperatorPoolStrategy(of(pool=POOL, namespace=NAMESPACE, replay="R3"))
        await strategy.initialize()
        world.engines[0].routed_experts = text(4, 5)
        asked = {"input_ids": [1], "sampling_params": {"n": 1}, "rid": "r", "return_logprob": True}
        found = await strategy.generate_request(asked)
        assert found.pop("routed_experts")[0].values == [4, 5]
        assert found == ANSWER
        (body,) = [body for path, body in world.engines[0].asked if path == "/generate"]
        assert body["return_routed_experts"] is True
        await strategy.pool.close()

    with FakePool(engines=1, version="0.5.14", gate="Off") as world:
        asyncio.run(train(reach(world)))


class Picture:
    """PIL's, as far as it is saved."""

    def save(self, file, **options):
        file.write(f"as {options['format']}".encode())


def test_pictures_go_over_http():
    payload = {"sampling_params": {"n": 1}, "rid": "r", "return_logprob": False}
    both = {"prompt_token_ids": [1, 2], "multi_modal_data": {"image": [Picture(), "http://x/y"]}}
    found = payloads.body({**payload, "multi_modal_data": both})
    png = "data:image/png;base64," + base64.b64encode(b"as PNG").decode()
    assert found == {
        "sampling_params": {"n": 1},
        "rid": "r",
        "return_logprob": False,
        "input_ids": [1, 2],
        "image_data": [png, "http://x/y"],
    }
    only_text = {"prompt_token_ids": [1, 2]}
    assert "image_data" not in payloads.body({**payload, "multi_modal_data": only_text})
    none = {"prompt_token_ids": [1], "multi_modal_data": {"video": [], "audio": None}}
    assert "image_data" not in payloads.body({**payload, "multi_modal_data": none})


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_media_that_no_engine_is_sent_are_refused_with_their_request(kind):
    media = {"prompt_token_ids": [1], "multi_modal_data": {kind: {"pixel_values": 0}}}
    payload = {"sampling_params": {"n": 1}, "rid": "r", "multi_modal_data": media}
    with pytest.raises(Unsupported, match=f"has {kind} data"):
        payloads.body(payload)
