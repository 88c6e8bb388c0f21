"""Memory: what a sleep frees, all of it or a part, and whether the plan said what an engine has."""

import contextlib
import json
import time

import pytest

from sglang_operator.engine import versions
from sglang_operator.memory import cards, engine, models, reading, settings
from sglang_operator.testing.gpu import model, pool, story
from tests.gpu import starts

pytestmark = pytest.mark.gpu1

NOISE = 64 << 20  # bytes that come and go by themselves
SHOWN_SECONDS = 20.0
GATE_SECONDS = 30.0
TAGS = {"all": ("weights", "kv_cache"), "weights": ("weights",), "kv_cache": ("kv_cache",)}
KNOWN = "Qwen3-8B"  # whose shape the operator has
FREES = {"all": 1 << 30, "kv_cache": 1 << 30, "weights": 8 << 20}  # at least; the model is tiny


@pytest.mark.parametrize("what", TAGS)
def test_a_sleep_frees_what_it_is_told_to_and_a_wake_takes_it_again(room, figures, what):
    seen = room.engine()
    uuids = room.cards(seen)
    with room.client() as client:
        step = room.sync(client)
        room.wait(lambda: room.in_service(), GATE_SECONDS, "an open gate")
        before = room.used(uuids)
        client.sleep(TAGS[what])
        room.wait(lambda: not room.in_service(), GATE_SECONDS, "closed gates")
        assert starts.answers(f"{seen.url}/health") == 200
        if not room.stand_in:
            room.wait(
                lambda: before - room.used(uuids) >= FREES[what], SHOWN_SECONDS, "freed memory"
            )
        asleep = room.used(uuids)
        client.wake()
        if not room.stand_in:
            room.wait(
                lambda: abs(room.used(uuids) - before) < NOISE, SHOWN_SECONDS, "memory taken again"
            )
        figures |= {"before": before, "asleep": asleep, "awake": room.used(uuids)}
        if "weights" in TAGS[what]:
            assert not room.in_service()  # until a sync
            step = room.sync(client)
        else:
            room.wait(lambda: room.in_service(), GATE_SECONDS, "open gates without a sync")
        room.check_answers(step)


@contextlib.contextmanager
def recovering(room):
    """The pool's engines are loaded from the checkpoint of the last commit when they lack it."""

    def recovery(how):
        patch = json.dumps({"spec": {"weights": {"recovery": how}}})
        room.plane.kubectl("patch", "sgi", pool.POOL, "--type=merge", "-p", patch)

    recovery("FromCheckpoint")
    try:
        yield
    finally:
        recovery(None)


def test_a_part_that_sleeps_by_its_gpus_ids_wakes_and_catches_up_by_itself(room, figures):
    """The commit told of a checkpoint: no trainer has to sync again."""
    seen = room.engine()
    uuids = room.cards(seen)
    with recovering(room), room.client() as client:
        step = room.sync(client)
        room.wait(lambda: room.in_service(), GATE_SECONDS, "an open gate")
        before = room.used(uuids)
        client.sleep(devices=seen.devices)
        room.wait(lambda: not room.in_service(), GATE_SECONDS, "a closed gate")
        asleep = room.used(uuids)
        begun = time.monotonic()
        client.wake(devices=seen.devices)
        awake = time.monotonic()
        room.wait(lambda: room.in_service(), GATE_SECONDS, "an open gate without a sync")
        served = time.monotonic()
    figures |= {"before": before, "asleep": asleep, "awake": room.used(uuids)}
    figures["seconds"] = {"wake": round(awake - begun, 3), "in service": round(served - begun, 3)}
    if not room.stand_in:
        assert before - asleep >= FREES["all"]
        assert abs(room.used(uuids) - before) < NOISE
    room.check_answers(step)


def test_the_plan_says_what_the_engine_reports(room, figures):
    """Within the tolerance of tests/unit/memory/test_measured.py."""
    seen = room.engine()
    if room.stand_in:
        pytest.skip("a stand-in has no memory")
    name = next(
        (each for each in cards.CARDS if each.split("-")[0] in room.ground.facts()["card"].split()),
        "",
    )
    if not name:
        pytest.skip(f"the planner does not know {room.ground.facts()['card']}")
    argv = next(
        command.split()
        for command in room.processes(seen).values()
        if "sglang.launch_server" in command
    )
    version = versions.parse(room.ground.version)
    plan = engine.plan(
        engine.Request(
            shape=reading.shape(model.config()),
            card=cards.CARDS[name],
            version=version,
            settings=settings.of_argv([each for each in argv if each.startswith("--")], version),
        )
    )
    said = story.ask(f"{seen.url}{room.features.server_info_path}")
    tokens = said.get("max_total_num_tokens") or said["internal_states"][0]["max_total_num_tokens"]
    figures |= {
        "planned": {"tokens": plan.pools.tokens, "mem_fraction_static": plan.share},
        "reported": {"tokens": tokens, "mem_fraction_static": said["mem_fraction_static"]},
    }
    assert plan.share == pytest.approx(said["mem_fraction_static"], abs=0.0005)
    assert plan.pools.tokens == pytest.approx(tokens, rel=0.01)


def test_the_status_of_a_known_model_has_the_plan_and_what_the_engine_got(room, figures):
    if room.stand_in:
        pytest.skip("a stand-in has no memory")
    config = {**model.config(), **(models.config(KNOWN) or {}), "model_type": "qwen3"}
    folder = room.ground.models / KNOWN
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    name = "known-model"
    manifest = room.manifest(name).replace(pool.BASE, f"{pool.MODELS}/{KNOWN}")
    room.make_way()
    room.plane.kubectl("apply", "-f", "-", input=manifest)

    def reported():
        memory = room.pool(name).get("status", {}).get("memory") or {}
        return memory if memory.get("reported") else None

    try:
        told = room.wait(reported, story.START_SECONDS, "the status to have both")
    finally:
        room.plane.kubectl("delete", "sgi", name, "--wait=false")
    figures["status"] = told
    assert told["planned"]["tokens"] == pytest.approx(told["reported"]["tokens"], rel=0.01)
    assert told["planned"]["weightsGiB"] == pytest.approx(told["reported"]["weightsGiB"], abs=0.2)
    assert abs(told["errorPercent"]) < 1
