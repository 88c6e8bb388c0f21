"""Weights: groups, buckets, sessions, versions, and what says which weights an engine has."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from sglang_operator.testing import ports
from tests.contract import scenarios
from tests.contract.contract import contract
from tests.contract.subject import TOKENS, Answer, Subject, waits

SWITCH = {"SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false"}
NORM, HEAD = "model.norm.weight", "lm_head.weight"
SHAPES = {NORM: [512], HEAD: [32000, 512]}
FAKE = "asks for what only the fake says"


@contextlib.asynccontextmanager
async def session(engine: Subject) -> AsyncIterator[None]:
    """Updates stand between begin and end from 0.5.21 on."""
    if not engine.target.since("0.5.21"):
        yield
        return
    assert (await engine.post("/begin_weight_update", {})).json["success"]
    yield
    assert (await engine.post("/end_weight_update", {})).json["success"]


def of_group(engine: Subject, name: str) -> dict[str, Any]:
    """The body of an update of one tensor; 0.4.6 takes no lists and has one group."""
    if not engine.target.since("0.4.10"):
        return {"name": name, "dtype": "bfloat16", "shape": SHAPES[name]}
    lists = {"names": [name], "dtypes": ["bfloat16"], "shapes": [SHAPES[name]]}
    return {**lists, "group_name": "g"}


async def join(engine: Subject, trainer: Any) -> Answer:
    """Have the engine join a trainer's group, as its only other rank."""
    where = {"master_address": "127.0.0.1", "master_port": trainer.port, "group_name": "g"}
    ranks = {"rank_offset": 1, "world_size": 2, "backend": "gloo"}
    return await engine.post("/init_weights_update_group", {**where, **ranks})


async def send(engine: Subject, trainer: Any, name: str, **more: object) -> Answer:
    """Broadcast one tensor while the engine is told to expect it."""
    loop = asyncio.get_running_loop()
    sent = loop.run_in_executor(None, trainer.broadcast, [name], "0.25")
    answer = await engine.post(
        "/update_weights_from_distributed", {**of_group(engine, name), **more}
    )
    await sent
    return answer


@contract()
async def test_a_group_brings_tensors_and_versions(engine: Subject):
    """tests/data/real-engine/0.5.14-group.json; http_server.py of each version."""
    with scenarios.make_trainer() as trainer:
        joined = await join(engine, trainer)
        assert joined.json == {
            "success": True,
            "message": "Succeeded to initialize custom process group.",
        }
        async with session(engine):
            first = await send(engine, trainer, NORM, weight_version="v-1")
            assert first.status == 200
            assert first.json["success"]
            knows_versions = engine.target.since("0.5.2")
            assert ("Weight version updated to v-1." in first.json["message"]) == knows_versions
            if knows_versions:  # with the first bucket, before the others have come
                assert (await engine.versioned_info())["weight_version"] == "v-1"
            assert (await send(engine, trainer, HEAD, flush_cache=False)).status == 200
        assert (await engine.generate()).status == 200
        if engine.target.since("0.5.4.post2"):
            body = {"group_name": "g"}
            assert (await engine.post("/destroy_weights_update_group", body)).json["success"]
            again = await engine.post("/destroy_weights_update_group", body)
            assert again.status == 400
            assert again.json["message"] == "The group to be destroyed does not exist."


@contract()
async def test_a_port_may_come_as_text(engine: Subject):
    """pydantic reads a number in text as one; AReaL sends its port so."""
    with scenarios.make_trainer() as trainer:
        where = {"master_address": "127.0.0.1", "master_port": str(trainer.port), "group_name": "g"}
        ranks = {"rank_offset": 1, "world_size": 2, "backend": "gloo"}
        assert (await engine.post("/init_weights_update_group", {**where, **ranks})).status == 200


@contract(environment=SWITCH)
async def test_a_group_that_never_comes_blocks_what_the_scheduler_does(engine: Subject):
    """explanation/sglang.md; tests/data/real-engine/0.5.14-group-that-never-comes.json."""
    group = {"master_address": "127.0.0.1", "master_port": ports.free(), "rank_offset": 1}
    joining = engine.later(
        "POST", "/init_weights_update_group", {**group, "world_size": 2, "backend": "gloo"}
    )
    assert await waits(joining, 0.3)
    asked = engine.later("POST", "/generate", TOKENS)
    assert await waits(asked)
    await engine.versioned_info()
    if engine.target.since("0.5.6"):
        assert (await engine.get("/health")).status == 200
    for task in (joining, asked):
        assert not task.done()
        task.cancel()


@contract(since="0.4.10")
async def test_an_update_for_an_unknown_group_kills_until_0_5_21(engine: Subject):
    """explanation/sglang.md, Weights; tests/data/real-engine/0.5.14-unknown-group.json."""
    body = {**of_group(engine, NORM), "group_name": "nobody"}
    if not engine.target.since("0.5.21"):
        assert await engine.dropped("POST", "/update_weights_from_distributed", body)
        assert await engine.ended() == 137
        assert "Group nobody not in []" in engine.log
        return
    async with session(engine):
        answer = await engine.post("/update_weights_from_distributed", body)
    assert answer.status == 400
    assert answer.json["message"].startswith("Failed to receive weights: Group nobody not in [")


@contract(since="0.5.21")
async def test_updates_are_refused_outside_of_a_session(engine: Subject):
    """weight_updater.py of 0.5.21."""
    answer = await engine.post("/update_weights_from_distributed", of_group(engine, NORM))
    assert answer.status == 400
    assert answer.json["message"].endswith(
        "must run between begin_weight_update() and end_weight_update()"
    )
    assert not (await engine.post("/end_weight_update", {})).json["success"]
    assert (await engine.post("/begin_weight_update", {})).json["success"]
    assert not (await engine.post("/begin_weight_update", {})).json["success"]


@contract(since="0.4.10")
async def test_tensors_can_come_with_the_request(engine: Subject):
    """explanation/sglang.md; tests/data/real-engine/0.5.14-buckets.json."""
    checker = "/weights_checker" if engine.target.since("0.5.6") else ""
    if checker:
        assert (await engine.post(checker, {"action": "snapshot"})).json["success"]
    async with session(engine):
        body = {**scenarios.tensors(HEAD, 0.5), "weight_version": "b-1"}
        answer = await engine.post("/update_weights_from_tensor", body)
    assert answer.status == 200
    if engine.target.since("0.5.2"):
        assert answer.json["message"] == "Success Weight version updated to b-1."
    if checker:
        compared = await engine.post(checker, {"action": "compare"})
        assert compared.status == 400
        assert f"name={HEAD}" in compared.json["message"]
        assert f"name={NORM}" not in compared.json["message"]


@contract(since="0.5.14")
async def test_checksums_tell_which_tensors_differ(engine: Subject):
    """explanation/sglang.md: differs for the updated tensor only; checksums exist from 0.5.14."""
    before = (await engine.post("/weights_checker", None)).json
    async with session(engine):
        body = scenarios.tensors(HEAD, 0.5)
        assert (await engine.post("/update_weights_from_tensor", body)).status == 200
    after = (await engine.post("/weights_checker", {"action": "checksum"})).json
    assert before["per_engine_checksum"] != after["per_engine_checksum"]
    old, new = before["ranks"][0]["checksums"], after["ranks"][0]["checksums"]
    assert [name for name in old if old[name] != new[name]] == [HEAD]


@contract(since="0.4.10")
async def test_an_unknown_format_of_tensors_kills(engine: Subject):
    """tests/data/real-engine/0.5.14-buckets.json: NotImplementedError in the scheduler."""
    body = {**scenarios.tensors(HEAD, 0.5), "load_format": "nonsense"}
    if engine.target.since("0.5.21"):
        assert (await engine.post("/begin_weight_update", {})).json["success"]
    assert await engine.dropped("POST", "/update_weights_from_tensor", body)
    assert await engine.ended() == 137
    assert "Unknown load_format=nonsense" in engine.log


@contract(since="0.4.10", environment={"CUDA_VISIBLE_DEVICES": "0"})
async def test_a_handle_of_another_gpu_is_the_end_of_an_engine(engine: Subject):
    """srt/utils/patch_torch.py; measured on two GPUs with 0.5.14."""
    elsewhere = [scenarios.serialize_elsewhere(HEAD, 0.5)]
    if engine.target.since("0.5.21"):
        assert (await engine.post("/begin_weight_update", {})).json["success"]
    body = {"serialized_named_tensors": elsewhere, "flush_cache": False}
    assert await engine.dropped("POST", "/update_weights_from_tensor", body)
    assert await engine.ended() == 137
    assert "Invalid device_uuid=" in engine.log


@contract(since="0.4.10", fake_only=FAKE, environment={"FAKE_SGLANG_DEVICES": "GPU-of-the-trainer"})
async def test_a_fake_that_has_the_gpu_takes_the_handle(engine: Subject):
    async with session(engine):
        body = {"serialized_named_tensors": [scenarios.serialize_elsewhere(HEAD, 0.5)]}
        assert (await engine.post("/update_weights_from_tensor", body)).status == 200


@contract(shared=True)
async def test_a_dummy_engine_does_not_load_from_disk_unless_told_how(engine: Subject):
    """explanation/sglang.md: the server's own load_format is the default."""
    answer = await engine.post("/update_weights_from_disk", {"model_path": "/models/missing"})
    assert answer.status == 400
    assert answer.json["message"].startswith("Failed to get model loader: ")
    assert "DummyModelLoader" in answer.json["message"]
    body = {"model_path": "/models/missing", "load_format": "auto"}
    answer = await engine.post("/update_weights_from_disk", body)
    assert answer.status == 400
    assert answer.json["message"].startswith("Failed to get weights iterator: ")


@contract(since="0.5.2")
async def test_the_version_is_a_label_that_anybody_can_set(engine: Subject):
    """explanation/sglang.md: /update_weight_version."""
    answer = await engine.post("/update_weight_version", {"new_version": "step-7"})
    assert answer.status == 200
    assert (await engine.versioned_info())["weight_version"] == "step-7"
    assert (await engine.generate()).json["meta_info"]["weight_version"] == "step-7"


@contract(since="0.4.10", fake_only=FAKE)
async def test_the_fake_says_that_weights_are_torn_between_two_buckets(engine: Subject):
    """A trainer that dies in the middle leaves this behind; no real engine says so."""
    assert (await engine.generate()).json["fake_weights"]["state"] == "random"
    async with session(engine):
        body = scenarios.tensors(HEAD, 0.5)
        assert (await engine.post("/update_weights_from_tensor", body)).status == 200
    assert (await engine.generate()).json["fake_weights"]["state"] == "torn"


@contract(since="0.4.10", fake_only=FAKE)
async def test_the_fake_says_that_weights_are_lost_by_sleeping(engine: Subject):
    """The memory saver keeps no copy of weights unless --enable-weights-cpu-backup."""
    assert (await engine.post("/release_memory_occupation", {})).status == 200
    assert (await engine.post("/resume_memory_occupation", {})).status == 200
    assert (await engine.generate()).json["fake_weights"]["state"] == "garbage"


@contract(since="0.4.10", fake_only=FAKE)
async def test_a_trainer_that_dies_leaves_the_engine_waiting(engine: Subject):
    """NCCL: a broadcast whose source is gone does not end by itself."""
    with scenarios.make_trainer() as trainer:
        await join(engine, trainer)
    if engine.target.since("0.5.21"):
        await engine.post("/begin_weight_update", {})
    task = engine.later("POST", "/update_weights_from_distributed", of_group(engine, NORM))
    assert await waits(task, 0.5)
    await engine.versioned_info()
    task.cancel()


@contract(since="0.4.10")
async def test_the_name_of_a_group_is_taken_until_the_engine_leaves_it(engine: Subject):
    """torch keeps names for the life of a process; measured on 0.5.14, as is what follows.

    It says so once all have met, and not before (torch 2.11, gloo).
    """
    with scenarios.make_trainer() as trainer:
        assert (await join(engine, trainer)).status == 200
    with scenarios.make_trainer() as trainer:
        again = await join(engine, trainer)
    assert again.status == 400
    assert "The specified group name has already been created" in again.json["message"]
    if engine.target.since("0.5.4.post2"):
        left = await engine.post("/destroy_weights_update_group", {"group_name": "g"})
        assert left.status == 200  # although its peer is gone
        with scenarios.make_trainer() as trainer:
            assert (await join(engine, trainer)).status == 200
