"""With two GPUs: a trainer on one broadcasts to an engine on the other, and an engine of both."""

import os
import signal

import pytest

from sglang_operator.testing.gpu import pool
from tests.gpu import trainers
from tests.gpu.load import Clients, torn
from tests.gpu.test_weights import CLIENTS, MODES, TOKENS, allowed

pytestmark = pytest.mark.gpu2

MISSED_SECONDS = 60.0


@pytest.fixture(scope="module")
def _broadcaster(_room):
    if len(_room.ground.found.cards) < 2:
        yield None
        return
    _room.engine()
    with trainers.apart(_room) as trainer:
        yield trainer


@pytest.mark.parametrize("mode", MODES)
def test_a_broadcast_under_each_pause_leaves_whole_weights(room, _broadcaster, figures, mode):
    engine = room.engine()
    if not allowed(room, mode):
        told = _broadcaster.sync("group", room.next_step(), mode)
        assert told["error"] == "Unsupported"
        figures["refused"] = told["text"]
        return
    with room.client() as client:
        room.sync(client)
    with Clients(engine.url, CLIENTS if mode else 0, TOKENS) as clients:
        first, then = room.next_step(), room.next_step()
        told = [_broadcaster.sync("group", step, mode) for step in (first, then)]
    assert [each for each in told if "error" in each] == []
    room.check_answers(then)
    figures |= {"syncs": [each["seconds"] for each in told], "answers": len(clients.replies)}
    assert [reply for reply in clients.replies if reply.status != 200] == []
    wrong = [torn(reply, known=room.known and mode == "abort") for reply in clients.replies]
    assert [each for each in wrong if each] == []


def test_an_engine_of_two_gpus_syncs_and_answers(room, figures):
    engine = room.engine(gpus=2)
    cards = room.cards(engine)
    assert len(cards) == engine.gpus == 2
    with room.client() as client:
        step = room.sync(client)
        room.check_answers(step)
        before = room.used(cards)
        client.sleep()
        asleep = room.used(cards)
        client.wake()
        step = room.sync(client)
        room.check_answers(step)
    figures |= {"before": before, "asleep": asleep, "start": room.started[-1]}
    if not room.stand_in:
        assert before - asleep > 2 << 30


def test_a_rank_that_is_killed_takes_its_engine_out_of_the_service(room, figures):
    engine = room.engine(gpus=2)
    with room.client() as client:
        room.sync(client)
        epoch = client.epoch
        room.wait(lambda: room.in_service(), MISSED_SECONDS, "an open gate")
        found = room.processes(engine)
        ranks = sorted(pid for pid, command in found.items() if pool.SCHEDULER in command)
        os.kill(ranks[-1] if ranks else pool.victim(found), signal.SIGKILL)
        room.wait(lambda: engine.pod_ip not in room.in_service(), MISSED_SECONDS, "a closed gate")
        failure = room.wait(
            lambda: next(iter(room.failures(pool.POOL)), None), MISSED_SECONDS, "the status to tell"
        )
        room.wait(lambda: client.epoch != epoch, MISSED_SECONDS, "another epoch")
    figures["told"] = failure
    assert failure["reason"]
