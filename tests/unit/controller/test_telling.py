"""What cannot be written is told, and costs no more than itself."""

import asyncio
import logging
from typing import Any

import orjson
import pytest

from sglang_operator.controller import telling
from sglang_operator.kube import paths
from sglang_operator.kube.decoding import Unread, UnreadError
from sglang_operator.kube.errors import (
    ApiError,
    ApiUnreachableError,
)
from sglang_operator.observed.wire import Meta
from tests.unit.controller import fake_api

KEY = ("rl", "pool")
UID, OTHER = "uid-of-this-pool", "uid-of-another"
WORDS = "failed to create typed patch object (rl/pool; sglang-operator.dev/v1alpha1, Kind=X): "
UNDECLARED = ApiError(
    500,
    "",
    f"{WORDS}errors:\n  .status.placement: field not declared in schema\n"
    "  .status.engines.inService: field not declared in schema",
    None,
)
ONE = ApiError(500, "", f"{WORDS}.status.placement: field not declared in schema", None)
TYPE = ApiError(
    500, "", f"{WORDS}.status.replicas: expected numeric (int or float), got string", None
)
INVALID = ApiError(
    422,
    "Invalid",
    'X "a" is invalid: [status.weights.history[0].version: Too long, status.tuning: Required]',
    None,
)
STATUS = {
    "placement": "Count",
    "replicas": 3,
    "engines": {"up": 1, "inService": 1},
    "weights": {"phase": "Idle", "history": [1]},
    "tuning": {},
}


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (UNDECLARED, {**STATUS, "engines": {"up": 1}}),
        (ONE, STATUS),
        (TYPE, {k: v for k, v in STATUS.items() if k != "replicas"} | {"placement": "Count"}),
        (
            INVALID,
            {k: v for k, v in STATUS.items() if k != "tuning"} | {"weights": {"phase": "Idle"}},
        ),
    ],
)
def test_exactly_the_fields_that_are_refused_are_left_out(error, left):
    declared = telling.Declared()
    assert declared.learn(error, STATUS, UID)
    expected = dict(left)
    if "placement" in error.message:
        expected.pop("placement")
    assert declared.known(STATUS, UID) == expected
    assert not declared.learn(error, STATUS, UID), "a second time there is nothing new to leave out"


@pytest.mark.parametrize(
    "error",
    [
        ApiError(403, "Forbidden", "status.placement: no", None),
        ApiError(500, "InternalError", "etcdserver: request timed out", None),
        ApiError(422, "Invalid", "metadata.name: Invalid", None),
        ApiError(422, "Invalid", "status.nothing.of.this: Invalid", None),
        ApiError(
            422,
            "Invalid",
            'admission webhook "policy.team-a.example" denied the request: status.tuning: not here',
            None,
        ),
        ApiError(
            422,
            "Invalid",
            "X \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: "
            "status.tuning: field not declared in schema",
            None,
        ),
    ],
)
def test_other_refusals_leave_nothing_out(error):
    declared = telling.Declared()
    assert not declared.learn(error, STATUS, UID)
    assert declared.known(STATUS, UID) == STATUS


QUOTED = ApiError(
    422,
    "Invalid",
    'X "a" is invalid: status.tuning: Invalid value: "status.placement: '
    'field not declared in schema"',
    None,
)


@pytest.mark.parametrize(
    ("error", "common"), [(ONE, True), (TYPE, False), (INVALID, False), (QUOTED, False)]
)
def test_only_a_field_that_nobody_knows_is_left_out_of_every_status(error, common):
    declared = telling.Declared()
    assert declared.learn(error, STATUS, UID)
    assert declared.known(STATUS, UID) != STATUS
    assert (declared.known(STATUS, OTHER) != STATUS) is common


def test_what_was_refused_is_tried_again_in_time(monkeypatch):
    declared = telling.Declared()
    declared.learn(ONE, STATUS, UID)
    monkeypatch.setattr(telling, "LEFT_OUT_SECONDS", 0.0)
    assert declared.known(STATUS, UID) == STATUS


def writes(api: fake_api.Api) -> int:
    return sum(path.endswith("pool/status") for method, path in api.seen if method == "PATCH")


def test_an_older_definition_costs_the_field_and_not_the_status(caplog):
    """And the operator is quiet once it has told what it can."""

    async def story() -> tuple[fake_api.Json, int, int]:
        api = fake_api.Api()
        request = api.request

        async def older(method: str, path: str, **rest: Any) -> bytes:
            sent = orjson.loads(rest.get("body") or b"{}")
            if path.endswith("pool/status") and "placement" in sent["status"]:
                api.seen.append((method, path))
                raise UNDECLARED
            return await request(method, path, **rest)

        api.request = older  # type: ignore[method-assign]
        async with fake_api.operator(api) as room:
            api.make(*KEY)
            await api.until(lambda: api.reason(*KEY) == "PoolReady")
            before = writes(api)
            await asyncio.sleep(0.3)
            assert room.reconciler is not None
            return api.pool(*KEY)["status"], writes(api) - before, room.reconciler.window_size

    status, later, window = asyncio.run(story())
    assert "placement" not in status
    assert "inService" not in status["engines"]
    assert status["engines"]["up"] == 1
    assert later <= 2
    assert window == 64
    told = [r for r in caplog.records if "takes no status.placement" in r.getMessage()]
    assert len(told) == 1


@pytest.mark.parametrize(
    "error",
    [
        ApiError(403, "Forbidden", "may not patch sglanginferences/status", None),
        ApiError(404, "NotFound", "the server could not find the requested resource", None),
        ApiError(409, "Conflict", "changed", None),
        ApiError(413, "RequestEntityTooLarge", "too large", None),
        ApiError(422, "Invalid", "spec: Invalid", None),
        ApiError(500, "InternalError", "etcd", None),
        ApiError(307, "Redirect", "elsewhere", None),
        ApiUnreachableError("refused"),
        UnreadError(Unread(metadata=Meta(), why="it is nested too deep")),
    ],
    ids=str,
)
def test_a_status_that_cannot_be_written_is_logged_with_its_cause(error, caplog):
    async def story() -> None:
        api = fake_api.Api()
        api.fails = lambda method, path: (
            error if method == "PATCH" and path.endswith("pool/status") else None
        )
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: "the status is not written" in caplog.text)
            api.fails = lambda method, path: None
            await api.until(lambda: api.reason(*KEY) == "PoolReady")

    with caplog.at_level(logging.WARNING):
        asyncio.run(story())
    (line, *_) = [r for r in caplog.records if "the status is not written" in r.getMessage()]
    assert f"rl/pool: the status is not written: {error}; next try in" in line.getMessage()


def test_the_status_of_a_pool_that_is_gone_is_nothing_to_tell(caplog):
    async def story() -> None:
        api = fake_api.Api()
        path = paths.pool(*KEY)

        def fails(method: str, asked: str) -> Exception | None:
            if method == "PATCH" and asked == f"{path}/status":
                api.objects.pop(path, None)
            return None

        api.fails = fails
        async with fake_api.operator(api):
            api.make(*KEY)
            await api.until(lambda: path not in api.objects)
            await asyncio.sleep(0.1)

    asyncio.run(story())
    assert "the status is not written" not in caplog.text
