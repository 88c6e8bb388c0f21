"""A handle of GPU memory from a pod that shares only the card: the engine's end, in words."""

import pytest

from tests.gpu import trainers

pytestmark = pytest.mark.gpu1

ENDED_SECONDS = 60.0


def test_a_handle_that_an_engine_cannot_open_ends_it_and_is_told(room, figures):
    """A trainer on the same card, in a pod with a /dev/shm of its own: pods are isolated so.

    An engine that has taken handles from a trainer whose /dev/shm was its own too opens those of
    any other with that process number: seen on an H200, with the right weights.
    """
    engine = room.fresh_engine()
    with room.client() as client:
        room.sync(client)
    before = len(room.failures("actor-infer"))
    card = room.cards(engine)[0]
    with trainers.beside(room, card, shared_memory=False) as trainer:
        told = trainer.sync("tensor", room.next_step())
        figures |= {"told to the trainer": told}
        assert told["error"] in ("StaleEpoch", "EngineError")
        failure = room.wait(
            lambda: len(found := room.failures("actor-infer")) > before and found[0],
            ENDED_SECONDS,
            "the pool's status to tell of the engine's end",
        )
    figures |= {"told in the status": failure}
    # A stand-in has no memory to map: there the handle is of a GPU that is not its own.
    expected = "HandleOfAnotherGPU" if room.stand_in else "HandleNotOpened"
    assert failure["reason"] == expected
    assert room.engines()[0].pod_ip not in room.in_service()
