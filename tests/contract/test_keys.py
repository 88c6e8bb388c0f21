"""API keys: srt/utils/auth.py, and add_api_key_middleware before 0.5.8."""

from tests.contract.contract import contract
from tests.contract.subject import Subject

COMMAND = "/flush_cache"


async def _may(engine: Subject, path: str, key: str = "") -> bool:
    answer = await (engine.post if path == COMMAND else engine.get)(path, body=None, key=key)
    if answer.status == 401:
        assert answer.json == {"error": "Unauthorized"}
    return answer.status == 200


async def _open_to_probes(engine: Subject) -> None:
    assert await _may(engine, "/health")
    if engine.target.since("0.5.20"):
        assert await _may(engine, "/ready")
    assert (await engine.get("/metrics")).status == 200


@contract(arguments=["--api-key=abc", "--enable-metrics"])
async def test_with_an_api_key_only_probes_and_metrics_are_open(engine: Subject):
    """explanation/sglang.md, Weights."""
    await _open_to_probes(engine)
    for path in ("/get_model_info", COMMAND):
        assert not await _may(engine, path)
        assert not await _may(engine, path, "wrong")
        assert await _may(engine, path, "abc")


@contract(since="0.5.8", arguments=["--admin-api-key=adm", "--enable-metrics"])
async def test_with_an_admin_key_alone_only_commands_need_it(engine: Subject):
    """explanation/sglang.md: release without a key 401; everything else is open."""
    await _open_to_probes(engine)
    assert await _may(engine, "/model_info")
    assert (await engine.generate()).status == 200
    assert not await _may(engine, COMMAND)
    assert await _may(engine, COMMAND, "adm")
    answer = await engine.post("/release_memory_occupation", {})
    assert answer.status == 401


@contract(since="0.5.8", arguments=["--api-key=abc", "--admin-api-key=adm", "--enable-metrics"])
async def test_with_both_keys_each_opens_its_own(engine: Subject):
    """auth.py: the api key is not accepted for commands."""
    await _open_to_probes(engine)
    assert await _may(engine, "/model_info", "abc")
    assert not await _may(engine, "/model_info", "adm")
    assert await _may(engine, COMMAND, "adm")
    assert not await _may(engine, COMMAND, "abc")


@contract(since="0.5.8", arguments=["--admin-api-key=adm"])
async def test_keys_are_in_the_log_and_in_the_server_s_information(engine: Subject):
    """explanation/sglang.md, Weights: both keys, in clear."""
    assert "adm" in engine.log
    assert (await engine.get("/server_info")).json["admin_api_key"] == "adm"
