"""With two GPUs: one engine of both, in two pods on two nodes, which come, serve and go as one.

Five starts, one of them for each end.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sglang_operator.client.registry import Engine
from sglang_operator.kube import paths
from sglang_operator.testing.gpu import model, pool, story
from tests.gpu import load, starts
from tests.gpu.room import CONTROL_PORT, Room, has_ended
from tests.gpu.test_costs import SHARE
from tests.gpu.test_memory import FREES, NOISE, SHOWN_SECONDS
from tests.gpu.test_serving import RUNNING_SECONDS, running

pytestmark = pytest.mark.gpu2

NODES = 2
START_SECONDS = 300.0
GATE_SECONDS = 30.0
OVER_SECONDS = 150.0  # a drain's grace, twice and more; NCCL would wait for 300
# Where the vocabulary is split between the ranks, tokens to both sides of it and across.
PROMPTS = ([3, 5], [2, model.VOCABULARY // 2 - 3], [7, model.VOCABULARY // 2 + 9])
TOKENS = 8
LAST_TOKENS = 2000
LOG_LINES, LOG_WIDTH = 40, 300  # all arguments are one line
# What happens, and the node rank of the pod that it happens to.
ENDS = {
    "follower's scheduler killed": 1,
    "leader's scheduler killed": 0,
    "follower deleted": 1,
    "leader deleted": 0,
}


@pytest.fixture
def engine(room: Room) -> Engine:
    """The engine, which is up."""
    return room.engine(NODES, START_SECONDS)


def test_an_engine_on_two_nodes_is_one_of_which_the_leader_answers(room, engine, figures):
    members = room.members(engine)
    moments = room.started[-1]
    figures |= {
        "start": starts.laps(moments),
        "the operator's own, s": starts.own(moments),
        "the operator's own, share": round(starts.own(moments) / moments["ready"], 4),
    }
    assert len({pod["spec"]["nodeName"] for pod in members}) == NODES
    cards = [room.cards_of(pod) for pod in members]
    assert [len(each) for each in cards] == [1, 1]
    assert cards[0] != cards[1]
    for pod in members:
        pid = pool.victim(dict(story.processes(pod["metadata"]["uid"])))
        assert pool.privileged(Path(f"/proc/{pid}/status").read_text()) is None
    leader = members[0]
    assert [(each.pod, each.gpus, each.gate) for each in room.engines()] == [
        (leader["metadata"]["name"], NODES, "Closed")
    ]
    assert engine.pod_ip == leader["status"]["podIP"]
    assert room.in_service() == set()
    if not room.stand_in:  # which starts in less than the loop takes to look
        assert starts.own(moments) <= SHARE * moments["ready"]


def test_weights_from_disk_by_way_of_the_leader_reach_both_nodes(room, engine, figures):
    seconds = []
    with room.client() as client:
        for _ in range(3):
            begun = time.monotonic()
            step = room.sync(client)
            seconds.append(round(time.monotonic() - begun, 3))
            check(room, engine, step)
    figures["syncs, s"] = seconds
    assert room.in_service() == {engine.pod_ip}


def check(room: Room, engine: Engine, step: int) -> None:
    """Both ranks' parts of the vocabulary have the weights of a step; raises AssertionError."""
    room.check_answers(step)
    replies = [load.request(str(engine.url), prompt, TOKENS) for prompt in PROMPTS]
    assert [(each.status, each.label) for each in replies] == [(200, f"step-{step}")] * len(PROMPTS)
    assert [load.torn(each, known=room.known) for each in replies] == [None] * len(PROMPTS)


def test_a_sleep_frees_the_cards_of_both_nodes_and_a_wake_takes_them_again(room, engine, figures):
    cards = room.cards(engine)

    def used() -> list[int]:
        return [room.used([uuid]) for uuid in cards]

    with room.client() as client:
        room.sync(client)
        room.wait(lambda: room.in_service(), GATE_SECONDS, "an open gate")
        before = used()
        begun = time.monotonic()
        client.sleep()
        figures["sleep, s"] = round(time.monotonic() - begun, 3)
        room.wait(lambda: not room.in_service(), GATE_SECONDS, "a closed gate")
        figures |= {"before": before, "asleep": used()}
        if not room.stand_in:
            room.wait(
                lambda: all(b - a >= FREES["all"] for b, a in zip(before, used(), strict=True)),
                SHOWN_SECONDS,
                f"memory freed on both cards, of {before}",
            )
            figures["asleep"] = used()
        begun = time.monotonic()
        client.wake()
        figures["wake, s"] = round(time.monotonic() - begun, 3)
        if not room.stand_in:
            room.wait(
                lambda: all(abs(b - a) < NOISE for b, a in zip(before, used(), strict=True)),
                SHOWN_SECONDS,
                f"memory taken again on both cards, {before}",
            )
        figures["awake"] = used()
        assert not room.in_service()  # until a sync
        check(room, engine, room.sync(client))


@pytest.mark.parametrize("what", ENDS)
def test_what_ends_one_pod_ends_the_engine_which_comes_back_whole(
    room, engine, figures, tmp_path, what
):
    members = room.members(engine)
    old = {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in members}
    earlier = room.failures(pool.POOL)

    def told() -> list[Any]:
        return [each for each in room.failures(pool.POOL) if each not in earlier]

    with room.client() as client, followed(room, list(old.values()), tmp_path):
        room.sync(client)
        room.wait(lambda: room.in_service(), GATE_SECONDS, "an open gate")
        epoch = client.epoch
        with asking(room, engine) as replies:
            begun = time.monotonic()
            end(room, members[ENDS[what]], killed="killed" in what)
            looks = {
                "gate closed": lambda: not room.in_service(),
                "request over": lambda: bool(replies),
                "both pods gone": lambda: not standing(room, old),
            }
            if "killed" in what:
                looks["told"] = lambda: bool(told())
            figures["seconds since"] = starts.seen(looks, OVER_SECONDS, begun)
        [reply] = replies
        moments = room.follow(START_SECONDS, gone=old, begun=begun)
        figures |= {
            "back": moments,
            "its start": starts.laps({**moments, "asked": moments["pod"]}),
            "request": {"status": reply.status, "tokens": len(reply.tokens), "text": reply.text},
            "told": [f"{each['reason']} of {each['pod']}: {each['message']}" for each in told()],
        }
        [after] = room.engines()
        whole = room.members(after)
        assert {pod["metadata"]["uid"] for pod in whole}.isdisjoint(old)
        assert len({pod["spec"]["nodeName"] for pod in whole}) == NODES
        assert (after.gate, room.in_service()) == ("Closed", set())
        assert label(room, after) in ("None", pool.UNSYNCED)
        assert client.epoch != epoch
        check(room, after, room.sync(client))
    assert room.in_service() == {after.pod_ip}
    if what == "leader deleted":
        assert (reply.status, len(reply.tokens)) == (200, LAST_TOKENS)
    if "deleted" in what:
        # What was decided is no failure, though a follower ends by itself when its leader has.
        assert told() == []
        return
    [cause] = told()
    assert cause["reason"]
    if cause["reason"] not in [each["reason"] for each in earlier]:  # else an earlier one has it
        # Also the leader's: it learns by NCCL that the other's rank is gone, at once.
        assert cause["pod"] in old.values()


def end(room: Room, pod: Any, *, killed: bool) -> None:
    """Kill the scheduler in a pod, or have the pod deleted."""
    if not killed:
        room.plane.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    elif room.stand_in and pod["metadata"]["name"].endswith("n1"):
        # It has no scheduler of its own, but ends as one that has lost it.
        url = f"http://{pod['status']['podIP']}:{CONTROL_PORT}/fault"
        story.ask(url, {"fault": "kill-scheduler"})
    else:
        os.kill(pool.victim(dict(story.processes(pod["metadata"]["uid"]))), signal.SIGKILL)


def standing(room: Room, uids: dict[str, str]) -> list[str]:
    """Those of these pods that are there and have not ended."""
    there = room.plane.api.get(paths.pods("default"))["items"]
    return [
        each["metadata"]["name"]
        for each in there
        if each["metadata"]["uid"] in uids and not has_ended(each)
    ]


def label(room: Room, engine: Engine) -> str:
    """How an engine calls its weights."""
    said = story.ask(f"{engine.url}{room.features.model_info_path}")
    return str(said.get("weight_version"))


@contextlib.contextmanager
def asking(room: Room, engine: Engine) -> Iterator[list[load.Reply]]:
    """One long request that is under way; what became of it is in the list once it is over."""
    replies: list[load.Reply] = []
    url = str(engine.url)
    thread = threading.Thread(
        target=lambda: replies.append(load.request(url, [2, 3, 5], LAST_TOKENS))
    )
    thread.start()
    try:
        room.wait(lambda: running(url, room) >= 1, RUNNING_SECONDS, "the request to run")
        yield replies
    finally:
        thread.join()


@contextlib.contextmanager
def followed(room: Room, pods: list[str], folder: Path) -> Iterator[None]:
    """Keep what these pods log, also when they are gone; an error that leaves has its end."""
    with contextlib.ExitStack() as stack:
        for pod in pods:
            output = stack.enter_context((folder / pod).open("wb"))
            argv = [str(room.plane.tools / "kubectl"), "logs", "--follow", pod]
            process = subprocess.Popen(
                argv, stdout=output, stderr=subprocess.STDOUT, env=room.plane.environment()
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
        try:
            yield
        except BaseException as error:
            for pod in pods:
                said = (folder / pod).read_text(errors="replace").splitlines()
                tail = "\n".join(line[:LOG_WIDTH] for line in said[-LOG_LINES:])
                error.add_note(f"the end of the log of {pod}, which may be gone:\n{tail}")
            raise
