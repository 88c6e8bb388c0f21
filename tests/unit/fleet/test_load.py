"""How an engine of each version is asked for its work, and what a hang looks like from outside."""

import asyncio
from typing import Any

import pytest

from sglang_operator.ask.engines import Question, Topic
from sglang_operator.engine import versions
from sglang_operator.fleet import wording
from sglang_operator.fleet.client import EngineClient, EngineRequestError, EngineUnreachableError
from sglang_operator.fleet.poller import Poller
from sglang_operator.observed.model import Stuck
from sglang_operator.observed.progress import Load
from tests.unit.fleet.engines import Answer, an_engine, eventually
from tests.unit.fleet.test_poller import KEY

RANK = {"num_running_reqs": 2, "num_waiting_reqs": 1, "num_used_tokens": 500, "timestamp": 7.5}
IDLE = {"num_running_reqs": 0, "num_waiting_reqs": 0, "num_used_tokens": 0, "timestamp": 8.0}
OLD_RANK = {"dp_rank": 0, "num_reqs": 3, "num_waiting_reqs": 1, "num_tokens": 500}


def features(version: str) -> versions.Features:
    return versions.features(versions.parse(version))


def load(version: str, answers: dict[str, Answer]) -> Load:
    """What is learnt of an engine that answers these paths like this; others with 404."""

    patience = 1.0 if None in answers.values() else 30.0  # with one that never answers

    async def run() -> Load:
        async with (
            EngineClient(user_agent="test", timeout=patience) as client,
            an_engine() as engine,
        ):
            engine.answers = answers
            return await wording.load(client, engine.url, features(version))

    return asyncio.run(run())


def test_from_0_5_20_the_http_server_tells_it_all():
    told: dict[str, Answer] = {"/v1/loads": {"loads": [RANK]}, "/ready": {}}
    seen = load("0.5.20", told)
    assert (seen.busy, seen.moves) == (True, False)
    told["/v1/loads"] = {"loads": [RANK, {**RANK, "timestamp": 9.0}]}
    assert load("0.5.20", told).mark != seen.mark
    told["/v1/loads"] = {"loads": [IDLE]}
    assert load("0.5.20", told).busy is False


@pytest.mark.parametrize("ranks", [[{}] * 100_000, {"loads": [{}] * 100_000}], ids=["old", "new"])
def test_a_load_of_more_ranks_than_there_are_gpus_is_not_understood(ranks):
    """What is built of an answer takes ten times its text, and is kept for each engine."""
    with pytest.raises(EngineRequestError, match="larger than"):
        load("0.5.20", {"/v1/loads": ranks, "/ready": {}})


def test_numbers_that_no_engine_has_are_numbers():
    huge: dict[str, Answer] = {
        "/v1/loads": {"loads": [{**RANK, "num_reqs": 10**400}]},
        "/ready": {},
    }
    assert load("0.5.20", huge).busy
    less: dict[str, Answer] = {
        "/v1/loads": {"loads": [{**RANK, "num_reqs": -(10**400)}]},
        "/ready": {},
    }
    assert load("0.5.20", less).mark != load("0.5.20", huge).mark


def test_a_paused_engine_says_so_from_0_5_20():
    assert load("0.5.23", {"/v1/loads": {"loads": [RANK]}, "/ready": 503}).moves


@pytest.mark.parametrize(
    ("version", "info", "path", "told"),
    [
        ("0.5.14", "/server_info", "/v1/loads", {"loads": [RANK]}),
        ("0.5.7", "/server_info", "/get_load", [OLD_RANK]),
        ("0.5.5.post3", "/get_server_info", "/get_load", [OLD_RANK]),
        ("0.5.2", "/get_server_info", "/get_load", {"load": 500}),
    ],
)
def test_before_a_scheduler_that_answers_does_not_hang_whatever_it_works_on(
    version, info, path, told
):
    seen = load(version, {path: told, info: {"version": version}})
    assert (seen.busy, seen.moves) == (True, True)


def test_a_silent_scheduler_behind_a_server_that_answers_hangs():
    told: dict[str, Answer] = {
        "/v1/loads": {"loads": [RANK]},
        "/server_info": None,
        "/model_info": {},
    }
    seen = load("0.5.14", told)
    assert (seen.busy, seen.moves) == (True, False)


def test_where_the_scheduler_tells_the_load_its_silence_is_all_there_is():
    seen = load("0.5.7", {"/get_load": None, "/model_info": {}})
    assert seen == Load()


def test_an_engine_whose_server_is_silent_too_is_the_probes_business():
    with pytest.raises(EngineUnreachableError):
        load("0.5.7", {"/get_load": None, "/model_info": None})


def test_no_version_is_asked_to_generate():
    async def run(version: str) -> list[str]:
        async with EngineClient(user_agent="test", timeout=30.0) as client, an_engine() as engine:
            paths = ("/v1/loads", "/get_load", "/server_info", "/get_server_info", "/ready")
            engine.answers.update((path, {}) for path in paths)
            await wording.load(client, engine.url, features(version))
            return [path for _, path, _ in engine.asked]

    for version in versions.ROLL_VERSIONS:
        if not versions.features(version).load_path:
            continue
        asked = asyncio.run(run(str(version)))
        assert asked
        assert not {path for path in asked if "health" in path or "generate" in path}


def test_a_hang_becomes_a_report_and_ends_with_the_next_token():
    async def run() -> None:
        woken: list[Any] = []
        async with EngineClient(user_agent="test", timeout=0.2) as client, an_engine() as engine:
            engine.answers = {"/v1/loads": {"loads": [RANK]}, "/ready": {}}
            poller = Poller(client, lambda key, urgent: woken.append(key))
            question = Question(
                instance="0a1b2c3d",
                topic=Topic.LOAD,
                url=engine.url,
                features=features("0.5.20"),
                every=0.02,
            )

            def since() -> Stuck | None:
                report = poller.reports(KEY).get("0a1b2c3d")
                return report.stuck if report else None

            poller.ask(KEY, [question], ["0a1b2c3d"])
            first = await eventually(since, "it stands still")
            before = engine.times("/ready")
            await eventually(lambda: engine.times("/ready") > before + 2, "more looks")
            assert since() == first
            assert len(woken) == 1
            engine.answers["/v1/loads"] = {"loads": [{**RANK, "num_used_tokens": 501}]}
            await eventually(lambda: since() is None, "it moves")
            await eventually(since, "it stands still again")
            # A trainer syncs: nothing is asked, nothing is held against the engine afterwards.
            poller.ask(KEY, [], ["0a1b2c3d"])
            assert since() is None
            await poller.close()

    asyncio.run(run())
