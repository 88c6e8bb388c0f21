"""A stored status may be of another version of the operator, or of anybody who may write it."""

import itertools
from typing import Any

import pytest

from sglang_operator.api import spec
from sglang_operator.api.spec import WeightsGate
from sglang_operator.gates import decide
from sglang_operator.observed.model import Observed
from sglang_operator.plan.plan import plan
from sglang_operator.status import compute as status
from sglang_operator.status import stored, transitions
from tests.builders import NOW, a_failed_start, a_pod, a_pool, refused

POOL = a_pool()
FIRST = POOL.running[0]
FAILED = (a_failed_start(POOL, FIRST), *(a_pod(POOL, e) for e in POOL.running[1:]))
STARTS = (a_pod(POOL, FIRST, failures=1, containers_ready=False), *FAILED[1:])


def compute(pods, previous: dict[str, Any]) -> dict[str, Any]:
    observed = Observed(pods=pods)
    made = plan(POOL, observed, NOW)
    policy = spec.Weights(gate=POOL.gate)
    weighed = decide.decide(POOL.owner, policy, made.engines, observed, NOW, "")
    return status.compute(
        POOL, made, weighed, ignored=(), troubles=(), previous=previous, now=NOW, reports={}
    )


WHOLE = compute(FAILED, {})
ODD: tuple[Any, ...] = (None, "", "text", 7, True, [], [None], ["text"], [[]], {}, [{}])


def odd_statuses() -> list[dict[str, Any]]:
    """The status of this version with each of its parts left out, or of another shape."""
    found = [{**WHOLE, field: odd} for field, odd in itertools.product(WHOLE, ODD)]
    for field in ("conditions", "lastFailures", "warnings"):
        entry = {**(WHOLE.get(field) or [{"reason": "r", "field": "f", "message": "m"}])[0]}
        for key in entry:
            found.append({field: [{k: v for k, v in entry.items() if k != key}]})
            found += [{field: [{**entry, key: odd}]} for odd in ODD]
    found += [{"weights": {"history": odd}} for odd in ODD]
    found += [{"resolved": {"gate": odd}} for odd in ODD]
    return found + [{"tuning": odd, "reported": odd, "memory": odd} for odd in ODD]


def test_no_status_of_another_version_keeps_a_pool_from_being_told():
    bad = refused(num_gpus_per_worker="x")
    for previous in odd_statuses():
        for pods in (FAILED, STARTS):
            new = compute(pods, previous)
            assert {c["type"] for c in new["conditions"]} >= {"Ready", "EnginesReady"}
            assert all(c["lastTransitionTime"] for c in new["conditions"])
            list(transitions.events(previous, new))
        told = status.compute_refused(
            bad, Observed(pods=FAILED), ignored=(), previous=previous, now=NOW, steady=NOW
        )
        list(transitions.events(previous, told))
        assert told["conditions"]
        assert stored.gate_of(previous) in (WeightsGate.OFF, WeightsGate.COMMITTED)


def test_a_status_of_this_version_is_understood_whole():
    assert stored.understood(WHOLE) == WHOLE


def test_what_is_known_of_a_failure_is_kept():
    entry = {"reason": "CUDAOutOfMemory", "message": "m", "lastTime": "2026-11-28T10:00:00Z"}
    (known,) = stored.understood({"lastFailures": [entry, {"reason": "X", "message": "m"}]})[
        "lastFailures"
    ]
    assert known == {**entry, "firstTime": entry["lastTime"], "engines": []}


@pytest.mark.parametrize(
    ("word", "gate"),
    [
        ("Versioned", WeightsGate.VERSIONED),
        ("Off", WeightsGate.OFF),
        (None, WeightsGate.OFF),
        ("", WeightsGate.OFF),
        ("Future", WeightsGate.COMMITTED),
        ("Auto", WeightsGate.COMMITTED),
    ],
)
def test_under_an_unknown_gate_engines_serve_what_is_committed(word, gate):
    assert stored.gate_of({"resolved": {"gate": word}}) is gate
