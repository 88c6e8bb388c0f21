"""Weights by each path and under each pause, while clients ask: whole, and named as they are."""

from typing import Any

import pytest

from sglang_operator.client import Unsupported, pausing
from tests.gpu import trainers
from tests.gpu.load import Clients, torn

pytestmark = pytest.mark.gpu1

CLIENTS = 6
TOKENS = 64
MODES = ("abort", "retract", None)


@pytest.fixture(scope="module")
def _beside(_room):
    """A trainer on the engine's card, which has its /dev/shm."""
    engine = _room.engine()
    with trainers.beside(_room, _room.cards(engine)[0]) as trainer:
        yield trainer


@pytest.fixture
def beside(room, _beside):
    """The same, while the engine is up."""
    room.engine()
    return _beside


def allowed(room: Any, mode: str | None) -> bool:
    """Whether engines of this version can be paused like this."""
    try:
        pausing.check(mode, room.features, room.ground.version)
    except Unsupported:
        return False
    return True


@pytest.mark.parametrize("by", ["disk", "tensor"])
@pytest.mark.parametrize("mode", MODES)
def test_a_sync_under_each_pause_leaves_whole_weights(room, beside, figures, mode, by):
    """With a pause that ends or keeps requests clients ask all the while; without one none does."""
    if not allowed(room, mode):
        told = beside.sync(by, room.next_step(), mode)
        assert told["error"] == "Unsupported"
        assert f"pause={mode}" in told["text"] or f"mode {mode}" in told["text"]
        figures["refused"] = told["text"]
        return
    with room.client() as client:
        room.sync(client)  # so that clients reach an engine of known weights
    url = room.engines()[0].url
    with Clients(url, CLIENTS if mode else 0, TOKENS) as clients:
        step = room.next_step()
        told = beside.sync(by, step, mode)
    assert "error" not in told, told
    room.check_answers(step)
    figures |= {"seconds": told["seconds"], "answers": len(clients.replies)}
    lost = [reply for reply in clients.replies if reply.status != 200]
    figures["ended by the pause"] = sum(reply.reason == "abort" for reply in clients.replies)
    assert lost == []
    # What a retraction kept was begun with the old weights and ends with the new ones.
    wrong = [torn(reply, known=room.known and mode == "abort") for reply in clients.replies]
    assert [each for each in wrong if each] == []
    assert not mode or clients.replies


@pytest.mark.parametrize("mode", ["in_place", "nonsense"])
def test_a_pause_that_would_mix_weights_is_refused_in_words(room, beside, mode):
    with room.client() as client:
        step = room.sync(client)
    told = beside.sync("disk", room.next_step(), mode)
    assert told["error"] == "Unsupported"
    assert f"pause='{mode}': expected 'abort', 'retract'" in told["text"]
    room.check_answers(step)  # nothing was touched
