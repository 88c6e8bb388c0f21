"""A trainer and its engine on one GPU, in a container each: weights by handle, turns, ends."""

import contextlib
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from sglang_operator.api import conditions
from sglang_operator.engine import signatures
from sglang_operator.kube import paths
from sglang_operator.placement import colocated, entry
from sglang_operator.testing import errors
from sglang_operator.testing.gpu import pool, runtime, story
from sglang_operator.testing.nodes import GPU
from tests.gpu import load, starts, trainers
from tests.gpu.room import CONTROL_PORT

pytestmark = pytest.mark.gpu1

# Of the GPU: there is not as much beside it, so that a trainer takes what a sleep has freed.
SHARE = 0.7
SECONDS = 60.0
HELD_SECONDS = 3.0
CLOSED_SECONDS = 3.0
BACK_SECONDS = 240.0
CONTEXTS = 4 << 30  # bytes that processes keep which have given up their memory, at most
NOISE = 256 << 20  # bytes: a context more or less
ID = 0  # of the GPU, in device_mapping


class Pair:
    """The pool, and the trainer whose GPU its engine joins."""

    def __init__(self, room: Any) -> None:
        self.room = room
        self.trainer: Any = None
        self.begun: dict[str, Any] = {}  # the figures of the first start
        self._leaving = contextlib.ExitStack()

    def begin(self) -> dict[str, Any]:
        """The pool, the trainer, its engine: the moments of the start."""
        made = yaml.safe_load(self.room.manifest(pool.POOL, mem_fraction_static=SHARE))
        made["spec"]["num_gpus_per_node"] = 1
        made["spec"]["placement"] = {
            "mode": "Shared",
            "shared": {"runtimeClassName": runtime.NAME},
        }
        self.room.apply(made)
        self.awaited()
        return self.join()

    def awaited(self) -> None:
        """The pool waits for its trainer, and has no pod."""

        def waits() -> bool:
            ready = pool.condition(self.room.pool(), "Ready")
            return ready.get("reason") == conditions.SEATS_AWAITED

        self.room.wait(waits, SECONDS, "the pool to wait for its trainer")
        assert self.room.pods() == []

    def join(self) -> dict[str, Any]:
        """A trainer comes, and its engine joins it."""
        begun = time.monotonic()
        self.trainer = self._leaving.enter_context(trainers.owner(self.room))
        published = round(time.monotonic() - begun, 3)
        alone = self.room.used(self.cards)
        moments = self.room.follow()
        return {
            "trainer is up after, s": published,
            "start": starts.laps(moments),
            "trainer alone": alone,
            "with its engine": self.room.used(self.cards),
        }

    def leave(self) -> dict[str, float]:
        """The trainer's pod is deleted: seconds until its engine is gone."""
        [pod] = self.room.pods()
        uid, address = pod["metadata"]["uid"], pod["status"]["podIP"]
        begun = time.monotonic()
        self.room.plane.kubectl("delete", "pod", trainers.OWNER, "--wait=false")
        found = starts.seen(
            {
                "engine does not answer": lambda: (
                    not starts.answers(f"http://{address}:30000/health")
                ),
                "engine's pod gone": lambda: uid not in self._uids(),
            },
            SECONDS,
            begun,
        )
        self.close()
        return found

    def close(self) -> None:
        """No trainer is left."""
        self._leaving.close()

    def _uids(self) -> set[str]:
        listed = self.room.plane.api.get(paths.pods("default"))["items"]
        return {each["metadata"]["uid"] for each in listed}

    @property
    def cards(self) -> list[str]:
        """The UUIDs of the cards that the node has: the trainer's is one of them."""
        return [card.uuid for card in self.room.ground.found.cards]

    def synced(self) -> tuple[int, Any]:
        """A sync by handles of GPU memory, seen through to its answers: its step and seconds."""
        step = self.room.next_step()
        told = done(self.trainer.sync("tensor", step))
        compared = done(self.trainer.tell("compare", folder=self.room.folder(step)))
        assert compared["unequal"] == []
        self.room.check_answers(step)
        return step, {**told, "tensors equal": compared.get("compared", 0)}


class Late:
    """A request to an engine itself that comes while it is asleep."""

    def __init__(self, url: str) -> None:
        self.reply: load.Reply | None = None
        self._thread = threading.Thread(target=self._ask, args=[url], daemon=True)
        self._thread.start()

    def _ask(self, url: str) -> None:
        self.reply = load.request(url, story.PROMPT, story.TOKENS)

    def ended(self) -> load.Reply:
        """How it ended, once it has."""
        self._thread.join(SECONDS)
        assert self.reply is not None
        return self.reply


def done(told: Any) -> Any:
    """What a job's answer says that did not fail."""
    assert "error" not in told, told
    return told["seconds"]


@pytest.fixture(scope="module")
def _pair(_room):
    folder = Path(colocated.folder("default"))
    there = folder.exists()
    pair = Pair(_room)
    try:
        pair.begun = pair.begin()
        yield pair
    finally:
        pair.close()
        _room.clear()
        if not there:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def pair(room, _pair):
    """The pair, its trainer without memory of the GPU that it took."""
    yield _pair
    with contextlib.suppress(OSError, KeyError, errors.KitError):  # it may be gone
        _pair.trainer.tell("give")


def test_an_engine_joins_the_gpu_that_its_trainer_owns(room, pair, figures):
    figures |= pair.begun
    [pod] = room.pods()
    [container] = pod["spec"]["containers"]
    assert GPU not in str(container["resources"]), "the trainer has it"
    [card] = room.cards_of(pod)
    given = {each["name"]: each.get("value") for each in container["env"]}
    assert given["NVIDIA_VISIBLE_DEVICES"] == card
    assert pool.condition(room.pool(), "DevicesAssigned")["reason"] == conditions.SHARED

    owner = room.plane.api.get(f"{paths.pods('default')}/{trainers.OWNER}")
    assert owner["spec"]["nodeName"] == pod["spec"]["nodeName"]
    [its] = _processes(owner, "colocated.py")
    own = _processes(pod, "sglang")
    folders = [Path(f"/proc/{pid}/root/dev/shm").stat() for pid in (its, min(own))]
    assert folders[0].st_ino == folders[1].st_ino
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in own]
    assert [pool.privileged(said) for said in statuses] == [None] * len(own)
    numbers = [int(_field(said, "NSpid").split()[-1]) for said in statuses]
    assert min(numbers) >= entry.SPAN, "nobody has another's process numbers"
    figures["the engine's process numbers from"] = min(numbers)


def _processes(pod: Any, word: str) -> list[int]:
    """The processes of a pod with this in their command lines, but for what starts engines."""
    found = story.processes(pod["metadata"]["uid"])
    return [pid for pid, said in found if word in said and entry.SAID.strip() not in said]


def _field(status: str, name: str) -> str:
    return next(
        line.partition(":")[2] for line in status.splitlines() if line.startswith(f"{name}:")
    )


def test_weights_go_over_as_handles_of_memory_and_are_the_trainers(room, pair, figures):
    figures["syncs"] = [pair.synced()[1] for _ in range(3)]


def test_engine_and_trainer_take_turns_with_the_memory_of_the_gpu(room, pair, figures):
    trainer, engine = pair.trainer, room.engines()[0]
    pair.synced()
    before = room.used(pair.cards)
    slept = done(trainer.tell("sleep", devices=None))
    asleep = room.used(pair.cards)
    freed = before - asleep
    assert room.in_service() == set()
    late = Late(engine.url)

    taken = done(trainer.tell("take", bytes=freed))
    held = room.used(pair.cards)
    until = time.monotonic() + HELD_SECONDS
    while time.monotonic() < until:
        assert starts.answers(f"{room.service()}/health") == 0
        assert room.in_service() == set()
        time.sleep(0.1)
    assert late.reply is None
    given = done(trainer.tell("give"))

    woken = done(trainer.tell("wake", devices=None))
    awake = room.used(pair.cards)
    assert room.in_service() == set()  # until a sync
    step, synced = pair.synced()
    reply = late.ended()
    assert load.torn(reply, known=room.known) is None
    # An engine that is awake has the memory: there is not as much.
    again = trainer.tell("take", bytes=freed)
    room.check_answers(step)

    figures |= {
        "used": {"before": before, "asleep": asleep, "held": held, "awake": awake},
        "sleep": slept,
        "take": taken,
        "give": given,
        "wake": woken,
        "sync": synced,
        "a request that came asleep": {
            "status": reply.status,
            "reason": reply.reason,
            "label": reply.label,
            "seconds": round(reply.seconds, 3),
        },
        "to take as much of an engine that is awake": again,
    }
    if room.stand_in:
        return
    assert asleep < CONTEXTS
    assert slept["free after"] - slept["free before"] > freed - NOISE, "freed once it returns"
    assert taken["bytes"] == freed
    assert held - asleep > freed - NOISE
    assert given["intact"], "nobody else wrote there"
    assert abs(awake - before) < NOISE
    assert again["error"] == "OutOfMemoryError"


def test_a_part_that_sleeps_and_wakes_by_the_gpus_id_is_this_engine(room, pair, figures):
    pair.synced()
    before = room.used(pair.cards)
    slept = done(pair.trainer.tell("sleep", devices=[ID]))
    asleep = room.used(pair.cards)
    assert room.in_service() == set()
    told = room.wait(
        lambda: "1 asleep" in (text := _summary(room)) and text, SECONDS, "the status to tell"
    )
    taken = done(pair.trainer.tell("take", bytes=before - asleep))
    given = done(pair.trainer.tell("give"))
    woken = done(pair.trainer.tell("wake", devices=[ID]))
    awake = room.used(pair.cards)
    assert room.in_service() == set()  # it is behind: nobody wrote a checkpoint
    _, synced = pair.synced()
    figures |= {
        "used": {"before": before, "asleep": asleep, "awake": awake},
        "sleep": slept,
        "take": taken,
        "give": given,
        "wake": woken,
        "sync": synced,
        "status": told,
    }
    if not room.stand_in:
        assert asleep < CONTEXTS
        assert taken["bytes"] == before - asleep
        assert given["intact"]
        assert abs(awake - before) < NOISE


def _summary(room: Any) -> str:
    said: str = room.pool().get("status", {}).get("syncedSummary", "")
    return said


def test_an_engine_goes_with_its_trainer_and_comes_back_behind_a_closed_gate(room, pair, figures):
    pair.synced()
    before, [engine] = room.used(pair.cards), room.engines()
    figures["seconds since the trainer's pod was deleted"] = pair.leave()
    room.wait(lambda: room.in_service() == set(), SECONDS, "nobody in the Service")
    left = room.used(pair.cards)
    pair.awaited()

    back = pair.join()
    figures |= {"used": {"before": before, "both gone": left}, "back": back}
    assert [each.instance for each in room.engines()] != [engine.instance]
    until = time.monotonic() + CLOSED_SECONDS
    while time.monotonic() < until:
        assert room.in_service() == set()
    figures["sync"] = pair.synced()[1]
    if not room.stand_in:
        assert left < NOISE * 4


def test_a_wake_without_memory_to_wake_in_is_told_and_the_engine_comes_back(room, pair, figures):
    pair.synced()
    before, [engine] = room.used(pair.cards), room.engines()
    done(pair.trainer.tell("sleep", devices=None))
    done(pair.trainer.tell("take", bytes=before - room.used(pair.cards)))
    if room.stand_in:  # it has no memory
        story.ask(f"http://{engine.pod_ip}:{CONTROL_PORT}/fault", {"fault": "taken"})
    begun = time.monotonic()
    told = pair.trainer.tell("wake", devices=None)
    figures["told to the trainer"] = {**told, "after, s": round(time.monotonic() - begun, 3)}
    failed = room.wait(
        lambda: next(iter(room.failures(pool.POOL)), None), SECONDS, "the status to tell"
    )
    figures |= {"told in the status": failed, "held": room.used(pair.cards)}
    assert done(pair.trainer.tell("give"))["intact"]
    assert told["error"] == "EngineError"
    assert failed["reason"] == signatures.WOKEN_WITHOUT_MEMORY
    # The turn is the trainer's until it says otherwise: then the engine is made again.
    done(pair.trainer.tell("wake", devices=None))

    def is_back() -> bool:
        ready = pool.condition(room.pool(), "Ready").get("status") == "True"
        return ready and room.engines()[0].instance not in ("", engine.instance)

    room.wait(is_back, BACK_SECONDS, "the engine to be back")
    figures["back after, s"] = round(time.monotonic() - begun, 3)
    figures["sync"] = pair.synced()[1]
