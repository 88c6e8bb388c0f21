"""The fake has the conversations that were recorded with real engines, step by step."""

import asyncio
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sglang_operator.testing.engine import settings
from tests.contract import record, scenarios
from tests.contract.contract import contract
from tests.contract.subject import LONG, Subject, waits
from tests.contract.targets import Target, targets

RECORDED = Path(__file__).parents[1] / "data" / "real-engine"
VERSION = "0.5.14"
OUTCOMES = ("status", "waits", "dropped", "no_answer", "exit_code")
# What the fake does not do as the real one did, and why.
DIFFERENT = {
    ("information", "GET /v1/loads"): "FastAPI newer than SGLang's middleware (README there)",
    ("information", "POST /v1/chat/completions"): "not simulated: 501",
    ("information", "POST /v1/completions"): "not simulated: 501",
    ("information", "GET /metrics"): "compared by name",
}
RECORDED_ONES = [name for name, each in scenarios.SCENARIOS.items() if not each.awaits]
_SAME_BEGINNING = 25  # characters of messages that have to be the same


def test_every_recorded_conversation_is_one_that_is_had_here():
    names = {path.name.removeprefix(f"{VERSION}-") for path in RECORDED.glob(f"{VERSION}-*.json")}
    assert names == {f"{name}.json" for name in RECORDED_ONES}


@pytest.fixture
def fake() -> Target:
    """The fake of the version that was recorded, where there is one beside a real engine."""
    for target in targets():
        if str(target.version) == VERSION and not target.real:
            return target
    pytest.skip("it is the fake that is compared")


def test_the_fake_answers_as_the_real_one_did(fake):
    # SIGTERM is looked at after the next request of the conversation.
    slow = {**fake.settings, f"{settings.PREFIX}DRAIN_POLL_SECONDS": "3"}
    target = dataclasses.replace(fake, settings=slow)
    names = [name for name in RECORDED_ONES if name != "first-process" or os.geteuid() == 0]

    async def all_talks() -> list[list[scenarios.Entry]]:
        talks = (record.talk(target, scenarios.SCENARIOS[name]) for name in names)
        return await asyncio.gather(*talks)

    wrong: list[str] = []
    for name, had in zip(names, asyncio.run(all_talks()), strict=True):
        recorded = json.loads((RECORDED / f"{VERSION}-{name}.json").read_text())["entries"]
        wrong += [f"{name}: {text}" for text in _differences(name, had, recorded)]
    assert not wrong, "\n".join(wrong)


def test_what_is_not_recorded_yet_is_had_here_all_the_same(fake):
    async def had(name: str) -> list[scenarios.Entry]:
        return await record.talk(fake, scenarios.SCENARIOS[name])

    twice = asyncio.run(had("group-twice"))
    assert [e["status"] for e in twice if "ended" in e] == [200, 400, 200]
    assert twice[-1] == {"exit_code": None}
    elsewhere = asyncio.run(had("handle-of-another-gpu"))
    assert [each.get("status") for each in elsewhere] == [200, None, None]
    assert elsewhere[-1]["exit_code"] == 137


def _differences(name: str, had: list[Any], recorded: list[Any]) -> Iterator[str]:
    if len(had) != len(recorded):
        yield f"{len(had)} steps instead of {len(recorded)}: {had}"
        return
    for one, real in zip(had, recorded, strict=True):
        step = real.get("request", str(real)[:60])
        if (name, step) in DIFFERENT:
            continue
        for outcome in OUTCOMES:
            if one.get(outcome) != real.get(outcome):
                yield f"{step}: {outcome} {one.get(outcome)}, not {real.get(outcome)}: {one}"
        yield from (f"{step}: {text}" for text in _shapes(one.get("answer"), real.get("answer")))


def _shapes(one: Any, real: Any) -> Iterator[str]:
    """Differences between two answers: the fake says nothing that the real one does not."""
    if _abbreviated(one) or _abbreviated(real):
        return
    if isinstance(one, list) and isinstance(real, list) and one and real:
        yield from _shapes(one[0], real[0])
    elif isinstance(one, dict) and isinstance(real, dict):
        if new := set(one) - set(real) - {"fake_weights"} - set(real.get("checksums", {})):
            yield f"{sorted(new)} is not in the real answer"
        for key in set(one) & set(real) - {"checksums"}:
            yield from _shapes(one[key], real[key])
        for key in ("success", "message", "status"):
            if _type_only(one.get(key)) or _type_only(real.get(key)):
                continue
            if str(one.get(key))[:_SAME_BEGINNING] != str(real.get(key))[:_SAME_BEGINNING]:
                yield f"{one.get(key)} instead of {real.get(key)}"
    elif isinstance(one, str) != isinstance(real, str):
        yield f"{one} instead of {real}"


def _abbreviated(value: Any) -> bool:
    """Whether only the type was kept of a long answer; an empty value tells no more."""
    return value in (None, [], {}) or _type_only(value)


def _type_only(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("(")


@contract(since="0.5.14", until="0.5.20", arguments=["--enable-metrics"])
async def test_metrics_have_the_names_and_labels_that_were_seen(engine: Subject):
    """tests/data/real-engine/0.5.14-metrics.txt."""
    task = engine.later("POST", "/generate", {**LONG, "rid": "running"})
    assert await waits(task, 1)
    text = (await engine.get("/metrics")).text
    await engine.post("/abort_request", {"rid": "running"})
    await task
    seen = _series((RECORDED / "0.5.14-metrics.txt").read_text())
    if not engine.target.real:
        # Counted from the first that is aborted.
        assert _series(text) <= seen
        assert "sglang:num_running_reqs{" in text
        return
    assert {"sglang:num_running_reqs", "sglang:generation_tokens_total"} <= {
        name.partition("{")[0] for name in _series(text)
    }


def _series(text: str) -> set[str]:
    """Names with the names of their labels."""
    found = set()
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, labels = line.partition("{")
            keys = [each.partition("=")[0] for each in labels.partition("}")[0].split(",")]
            found.add(f"{name}{{{','.join(sorted(keys))}}}")
    # Buckets were not recorded: they are the sums and counts that have one more label.
    return {s for s in found if not s.startswith("sglang:num_aborted") and "_bucket{" not in s}
