"""ROLL's calls of the operator's strategy, with two engines on two cards, by NCCL."""

import pytest

from tests.gpu import trainers

pytestmark = pytest.mark.gpu2

UPDATES = (1, 2)
AGAIN = 3  # by the job that is started anew
OPEN_SECONDS = 60.0


def test_rolls_updates_by_nccl_go_on_after_its_job_is_killed_and_started_again(room, figures):
    engines = room.some_engines(2)
    cards = [room.cards(engine)[0] for engine in engines]
    assert len(set(cards)) == 2
    with trainers.roll_job(room, "roll-job", cards) as job:
        figures["first job"] = [_done(job.tell("setup"))]
        for step in UPDATES:
            figures["first job"].append(_updated(room, job, step))
    with trainers.roll_job(room, "roll-job-again", cards) as job:
        figures["second job"] = [_done(job.tell("setup")), _updated(room, job, AGAIN)]
    assert [engine.instance for engine in room.engines()] == [each.instance for each in engines]


def _updated(room, job, step):
    told = _done(job.tell("update", folder=room.folder(step)))
    if not room.stand_in:
        assert [each["unequal"] for each in told["tensors"]] == [[], []]
    addresses = {engine.pod_ip for engine in room.engines()}
    room.wait(lambda: room.in_service() == addresses, OPEN_SECONDS, "open gates")
    room.check_answers(step)
    return told


def _done(told):
    assert "error" not in told, told
    return told["seconds"]
