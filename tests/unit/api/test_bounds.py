"""What trainers write into the Lease is kept within bounds, and can always be written again."""

from typing import Any

import pytest

from sglang_operator.api import bounds, names
from sglang_operator.weights import lease_state, times

WORST = {
    "too long": "v" * 200_000,
    "of many bytes": "😀" * 10_000,
    "not printable": "\x1b[2J\nforged: line",
}


def a_lease(spec: dict[str, Any] | None = None, /, **notes: str) -> dict[str, Any]:
    told = {getattr(names, f"ANNOTATION_{key.upper()}"): text for key, text in notes.items()}
    return {"metadata": {"name": "pool-weights", "annotations": told}, "spec": spec or {}}


@pytest.mark.parametrize("text", WORST.values(), ids=WORST)
@pytest.mark.parametrize("field", ["version", "target_version", "epoch", "transaction"])
def test_a_name_in_the_lease_is_bounded_and_stays_another_than_every_other(field, text):
    def read(text: str) -> str:
        state = lease_state.read(a_lease(**{field: text}))
        return state.id if field == "transaction" else str(getattr(state, field))

    kept = read(text)
    assert len(kept) <= bounds.MAX_LABEL
    assert kept.isprintable()
    assert kept != read(f"{text}!")
    assert read(kept) == kept, "what was written back is the same"


@pytest.mark.parametrize("text", ["step-1", "", "ä b", "v" * bounds.MAX_LABEL])
def test_what_a_trainer_may_give_is_kept_as_it_is(text):
    assert lease_state.read(a_lease(version=text)).version == text


@pytest.mark.parametrize("text", WORST.values(), ids=WORST)
def test_what_the_lease_says_in_words_is_bounded(text):
    state = lease_state.read(a_lease(message=text, released=",".join([text] * 40), checkpoint=text))
    assert len(state.message) <= bounds.MAX_WORDS
    assert state.message.isprintable()
    assert len(state.released) <= bounds.MAX_TAGS
    assert all(len(tag) <= bounds.MAX_LABEL for tag in state.released)
    assert state.checkpoint == "" or len(state.checkpoint) <= bounds.MAX_PATH


@pytest.mark.parametrize(
    "time",
    ["0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59-10:00", "1969-12-31T23:59:59Z", "x", ""],
)
def test_a_time_that_nobody_can_write_is_none(time):
    lease = a_lease({"renewTime": time, "acquireTime": time}, begun=time, committed=time)
    state = lease_state.read(lease)
    assert (state.begun, state.committed, state.renewed, state.acquired) == (0.0, 0.0, 0.0, 0.0)
    assert lease_state.written(lease, state)["spec"].get("renewTime") is None
    assert times.shown(state.begun) == "an unknown time"


@pytest.mark.parametrize("time", ["1970-01-01T00:00:01Z", "9999-12-31T23:59:59Z"])
def test_a_time_at_the_edge_is_written_as_it_was_read(time):
    assert times.shown(lease_state.read(a_lease(begun=time)).begun) == time


def test_numbers_of_a_lease_stay_within_what_the_server_takes():
    largest = bounds.INT32
    lease = a_lease({"leaseTransitions": largest, "leaseDurationSeconds": largest})
    state = lease_state.read(lease)
    spec = lease_state.written(lease, lease_state.Transaction(transitions=state.transitions + 1))[
        "spec"
    ]
    assert spec["leaseTransitions"] == largest


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("OOMKilled", "OOMKilled"),
        ("", ""),
        ("a b", "a_b"),
        ("1st: thing!", "st_thing"),
        ("x_", "x_"),
        ("é", ""),
        ("A" * 9000, "A" * bounds.MAX_LABEL),
    ],
)
def test_a_reason_is_one_that_a_condition_takes(said, kept):
    assert bounds.reason(said) == kept
    assert bounds.reason(kept) == kept
