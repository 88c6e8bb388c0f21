"""An engine that serves: the contract, probes under load, and an end that loses no request."""

import os
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from sglang_operator.testing.gpu import story
from tests.gpu import load, starts
from tests.gpu.load import Clients
from tests.gpu.room import pod_condition

pytestmark = pytest.mark.gpu1

CONTRACT_SECONDS = 240.0
# What the operator's engine is not, on purpose: a test of the contract, and why.
OTHERWISE = {
    "test_health_generates_a_token_and_takes_a_second": "the operator has /health generate nothing",
    "test_metrics_have_sglang_s_names": "the pool asks for no metrics",
}
LONG_PROMPT = 3000
BURST = 48
BURSTS = 3
LOOK_SECONDS = 0.1
LAST_REQUESTS = 8
LAST_TOKENS = 1500
RUNNING_SECONDS = 20.0


def test_the_contract_that_fakes_are_held_to_holds_of_the_operators_engine(room, figures):
    """Those of its tests that start and end no engine: of one that the operator rendered."""
    engine = room.fresh_engine()  # a load from disk changes what it says of itself
    left = [f"--deselect=tests/contract/test_requests.py::{test}" for test in OTHERWISE]
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *left, "tests/contract"],
        env={
            **os.environ,
            "SGLANG_CONTRACT_VERSION": room.ground.version,
            "SGLANG_CONTRACT_URL": engine.url,
        },
        capture_output=True,
        text=True,
        timeout=CONTRACT_SECONDS,
    )
    figures |= {"contract": shown.stdout.strip().splitlines()[-1], "left out": OTHERWISE}
    assert shown.returncode == 0, shown.stdout[-4000:]
    assert " passed" in figures["contract"]


def test_an_engine_stays_ready_under_a_burst_of_long_prompts(room, figures):
    engine = room.engine()
    with room.client() as client:
        room.sync(client)
    over, seen, health = threading.Event(), set(), []

    def look() -> None:
        while not over.is_set():
            [pod] = room.pods()
            state = pod["status"]["containerStatuses"][0]
            seen.add((pod_condition(pod, "Ready"), state["restartCount"]))
            begun = time.monotonic()
            seen.add(("/health", starts.answers(f"{engine.url}/health")))
            health.append(time.monotonic() - begun)
            time.sleep(LOOK_SECONDS)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        replies = []
        for burst in range(BURSTS):
            prompts = [[2 + burst, *range(n, n + LONG_PROMPT)] for n in range(BURST)]
            bound = [[token % 2000 for token in prompt] for prompt in prompts]
            replies += load.together(partial(load.request, engine.url, p, 4) for p in bound)
    finally:
        over.set()
        watcher.join()
    figures |= {
        "answers": len(replies),
        "slowest answer, s": round(max(reply.seconds for reply in replies), 3),
        "slowest /health, s": round(max(health), 3),
    }
    assert {reply.status for reply in replies} == {200}
    assert seen == {("True", 0), ("/health", 200)}


def test_an_engine_that_is_deleted_answers_what_it_has_accepted(room, figures):
    engine = room.engine()
    with room.client() as client:
        step = room.sync(client)
    [pod] = room.pods()
    replies: list[load.Reply] = []

    def ask(number: int) -> None:
        replies.append(load.request(engine.url, [number, 7, 5], LAST_TOKENS))

    threads = [threading.Thread(target=ask, args=[number]) for number in range(LAST_REQUESTS)]
    for thread in threads:
        thread.start()
    room.wait(
        lambda: running(engine.url, room) >= LAST_REQUESTS, RUNNING_SECONDS, "the requests to run"
    )
    begun = time.monotonic()
    room.plane.kubectl("delete", "pod", engine.pod, "--wait=false")
    room.wait(lambda: engine.pod_ip not in room.in_service(), RUNNING_SECONDS, "a closed gate")
    figures["gate closed after, s"] = round(time.monotonic() - begun, 3)
    for thread in threads:
        thread.join()
    figures |= {"answers": len(replies), "last answer after, s": round(time.monotonic() - begun, 3)}
    assert {(reply.status, len(reply.tokens)) for reply in replies} == {(200, LAST_TOKENS)}
    assert [load.torn(reply, known=room.known) for reply in replies] == [None] * LAST_REQUESTS
    assert {reply.label for reply in replies} == {f"step-{step}"}
    # Another one comes up in its place; from where it was, for the cost of a start.
    room.follow(gone=[pod["metadata"]["uid"]])


def running(url: str, room) -> int:
    """How many requests an engine has in work."""
    loads = story.ask(f"{url}{room.features.load_path}")
    if isinstance(loads, dict):
        loads = loads.get("loads", [loads])
    return sum(
        int(each.get("num_running_reqs", each.get("num_reqs", 0)))
        + int(each.get("num_waiting_reqs", 0))
        for each in loads
    )


def test_clients_of_the_service_see_no_error_while_syncs_go_on(room, figures):
    room.engine()
    with room.client() as client:
        room.sync(client)
        room.wait(lambda: room.in_service(), RUNNING_SECONDS, "an open gate")
        with Clients(room.service(), 4, 48) as clients:
            for _ in range(5):
                room.sync(client)
    wrong = [load.torn(reply, known=room.known) for reply in clients.replies]
    figures |= {"answers": len(clients.replies), "syncs": 5}
    assert [reply for reply in clients.replies if reply.status != 200] == []
    assert [each for each in wrong if each] == []
