"""What an engine says of itself, and requests to generate."""

import asyncio
import json
import time
from pathlib import Path

from sglang_operator.engine import schema
from tests.contract.contract import contract
from tests.contract.subject import LONG, TOKENS, Subject, waits

# Which versions have the metrics of the dashboards, read in their collectors.
METRICS = Path(__file__).parents[1] / "data" / "sglang-metrics.json"
# Endpoints that came or went; whether a version has one is in the schemas, out of the wheels.
CHANGING = {
    "/model_info": "GET",
    "/server_info": "GET",
    "/ready": "GET",
    "/get_load": "GET",
    "/pause_generation": "POST",
    "/abort_request": "POST",
    "/update_weight_version": "POST",
    "/destroy_weights_update_group": "POST",
    "/update_weights_from_ipc": "POST",
    "/weights_checker": "POST",
    "/begin_weight_update": "POST",
}


@contract(shared=True)
async def test_endpoints_appear_and_disappear_with_the_version(engine: Subject):
    """explanation/sglang.md, Health: /ready is a 404 before 0.5.20."""
    there = schema.nearest(engine.target.version).endpoints
    for path, method in CHANGING.items():
        # Without a body: a command that is there answers that it wants one, and does nothing.
        if path in there and method == "POST" and path in ("/pause_generation", "/weights_checker"):
            continue
        answer = await engine.call(method, path)
        assert (answer.status != 404) == (path in there), path
    assert (await engine.get("/no_such_path")).json == {"detail": "Not Found"}


@contract(shared=True)
async def test_it_says_which_model_it_serves(engine: Subject):
    """http_server.py of each version."""
    info = await engine.versioned_info()
    assert info["is_generation"] is True
    assert info["model_path"] == info["tokenizer_path"]
    assert ("weight_version" in info) == engine.target.since("0.5.2")
    if engine.target.since("0.5.6"):
        assert info["architectures"] == ["Qwen2ForCausalLM"]
        assert (await engine.get("/get_model_info")).json == info  # the older name stays


@contract(shared=True)
async def test_it_says_with_which_arguments_it_runs(engine: Subject):
    """http_server.py of each version; slime takes the number of GPUs from it."""
    path = "/server_info" if engine.target.since("0.5.6") else "/get_server_info"
    info = (await engine.get(path)).json
    assert info["version"] == str(engine.target.version)
    assert (info["tp_size"], info["pp_size"]) == (1, 1)
    assert info["skip_tokenizer_init"] is True
    assert info["load_format"] == "dummy"
    assert info["internal_states"]
    if engine.target.since("0.4.10.post2"):
        usage = info["internal_states"][0]["memory_usage"]
        assert {"weight", "kvcache", "token_capacity", "graph"} <= usage.keys()
        assert usage["weight"] > 0


@contract(shared=True)
async def test_the_weight_version_had_an_endpoint_for_some_time(engine: Subject):
    """Wheels of 0.5.2 to 0.5.23: answers until 0.5.7, a 404 with a text after, gone from 0.5.21."""
    answer = await engine.get("/get_weight_version")
    if engine.target.since("0.5.2") and not engine.target.since("0.5.9"):
        assert answer.json == {"weight_version": "default"}
    else:
        assert answer.status == 404
    if engine.target.since("0.5.9") and not engine.target.since("0.5.21"):
        assert "Please use '/model_info' instead" in answer.json["message"]


@contract(shared=True)
async def test_an_answer_holds_tokens_and_where_they_came_from(engine: Subject):
    """tokenizer_manager.py of each version; without a tokenizer there is no text."""
    answer = await engine.generate({**TOKENS, "rid": "r-1"})
    assert answer.status == 200
    found = answer.json
    assert len(found["output_ids"]) == 4
    assert "text" not in found
    meta = found["meta_info"]
    assert meta["id"] == "r-1"
    assert meta["finish_reason"] == {"type": "length", "length": 4}
    assert (meta["prompt_tokens"], meta["completion_tokens"]) == (3, 4)
    assert ("weight_version" in meta) == engine.target.since("0.5.2")


@contract(shared=True)
async def test_several_samples_come_as_a_list(engine: Subject):
    """sampling_params.n: io_struct.py; ROLL's num_return_sequences."""
    sampling = {"max_new_tokens": 4, "n": 3}
    found = (await engine.generate({**TOKENS, "sampling_params": sampling})).json
    assert [len(each["output_ids"]) for each in found] == [4, 4, 4]
    assert len({each["meta_info"]["id"] for each in found}) == 3


@contract(shared=True)
async def test_several_samples_have_names_that_no_client_gave(engine: Subject):
    """tokenizer_manager.py: regenerate_rid; to abort them by the request's name does nothing."""
    sampling = {"max_new_tokens": 4, "n": 2}
    body = {**TOKENS, "sampling_params": sampling, "rid": "samples-1"}
    found = (await engine.generate(body)).json
    assert not [each for each in found if each["meta_info"]["id"].startswith("samples-1")]


@contract(shared=True)
async def test_logprobs_come_with_their_tokens(engine: Subject):
    """tokenizer_manager.py: logprob, token and no text, of each generated token; ROLL asks."""
    plain = (await engine.generate(TOKENS)).json["meta_info"]
    assert "output_token_logprobs" not in plain
    found = (await engine.generate({**TOKENS, "return_logprob": True})).json
    told = found["meta_info"]["output_token_logprobs"]
    assert [(token, text) for _, token, text in told] == [(i, None) for i in found["output_ids"]]
    assert all(logprob <= 0 for logprob, _, _ in told)
    assert found["meta_info"]["input_token_logprobs"] == []


@contract(shared=True)
async def test_a_batch_of_prompts_comes_as_a_list(engine: Subject):
    """io_struct.py: input_ids may be a list of lists."""
    body = {**TOKENS, "input_ids": [[5, 6], [7, 8, 9]]}
    found = (await engine.generate(body)).json
    assert [each["meta_info"]["prompt_tokens"] for each in found] == [2, 3]


@contract(shared=True)
async def test_a_stream_ends_with_done(engine: Subject):
    """http_server.py: server-sent events."""
    answer = await engine.generate({**TOKENS, "stream": True})
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    last = json.loads(events[-2])
    assert last["meta_info"]["finish_reason"]["type"] == "length"
    assert last["meta_info"]["completion_tokens"] == 4


@contract(shared=True)
async def test_text_is_refused_without_a_tokenizer(engine: Subject):
    """tokenizer_manager.py: skip_tokenizer_init, which is ROLL's default."""
    answer = await engine.generate({"text": "hello"})
    assert answer.status == 400
    assert "cannot accept text prompts" in answer.json["error"]["message"]


@contract(shared=True)
async def test_json_that_does_not_fit_is_refused(engine: Subject):
    """http_server.py: SGLang's own handler makes 400 of FastAPI's 422, from 0.4.10."""
    wanted = 400 if engine.target.since("0.4.10") else 422
    for path, body in (
        ("/update_weights_from_disk", {}),
        ("/init_weights_update_group", {"master_address": "127.0.0.1"}),
        ("/release_memory_occupation", None),
    ):
        assert (await engine.post(path, body)).status == wanted, path


@contract(shared=True)
async def test_a_request_can_be_aborted(engine: Subject):
    """schedule_batch.py: FINISH_ABORT; the answer is 200."""
    task = engine.later("POST", "/generate", {**LONG, "rid": "long-1"})
    assert await waits(task, 0.3)
    assert (await engine.post("/abort_request", {"rid": "long-1"})).status == 200
    answer = await task
    assert answer.status == 200
    assert answer.json["meta_info"]["finish_reason"]["type"] == "abort"
    assert answer.json["meta_info"]["completion_tokens"] < 4000


@contract(shared=True, since="0.4.10")
async def test_all_requests_can_be_aborted(engine: Subject):
    """io_struct.py: abort_all, from 0.4.10."""
    tasks = [engine.later("POST", "/generate", LONG) for _ in range(3)]
    assert await waits(tasks[0], 0.3)
    assert (await engine.post("/abort_request", {"abort_all": True})).status == 200
    for task in tasks:
        assert (await task).json["meta_info"]["finish_reason"]["type"] == "abort"


@contract(shared=True)
async def test_the_cache_is_flushed_only_while_nothing_runs(engine: Subject):
    """http_server.py: 400 while requests run."""
    answer = await engine.post("/flush_cache", None)
    assert answer.status == 200
    assert answer.text.startswith("Cache flushed.\n")
    task = engine.later("POST", "/generate", {**LONG, "rid": "long-2"})
    assert await waits(task, 0.3)
    refused = await engine.post("/flush_cache", None)
    assert refused.status == 400
    if engine.target.since("0.5.14"):
        assert refused.text == "Flush cache failed.\n"
    await engine.post("/abort_request", {"rid": "long-2"})
    await task


@contract(shared=True)
async def test_health_generates_a_token_and_takes_a_second(engine: Subject):
    """explanation/sglang.md: 200 after 1.0 s; a constant in 0.4.6."""
    answer = await engine.get("/health")
    assert answer.status == 200
    assert (answer.seconds >= 0.99) == engine.target.since("0.4.10")
    answer = await engine.get("/health_generate")
    assert answer.status == 200
    assert answer.seconds >= 0.99


@contract(environment={"SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false"})
async def test_the_switch_makes_health_answer_at_once_from_0_5_6(engine: Subject):
    """explanation/sglang.md (0.5.14); without effect in 0.5.5.post3 (wheel: no ``.get()``)."""
    answer = await engine.get("/health")
    assert answer.status == 200
    at_once = engine.target.since("0.5.6") or not engine.target.since("0.4.10")
    assert (answer.seconds < 0.9) == at_once
    assert (await engine.get("/health_generate")).seconds >= 0.99


@contract()
async def test_load_can_be_asked_for_by_version(engine: Subject):
    """http_server.py and v1_loads.py: /get_load until 0.5.20, /v1/loads from 0.5.9.

    Without --enable-metrics: its middleware answers 500 for /v1/loads under FastAPI 0.165.
    """
    if "/get_load" in schema.nearest(engine.target.version).endpoints:
        load = (await engine.get("/get_load")).json[0]
        assert load["num_reqs"] == 0
        assert load["num_waiting_reqs"] == 0
    answer = await engine.get("/v1/loads")
    assert (answer.status == 200) == engine.target.since("0.5.9")
    if answer.status == 200:
        load = answer.json["loads"][0]
        assert (load["num_running_reqs"], load["num_waiting_reqs"]) == (0, 0)
        assert load["max_total_num_tokens"] > 0


@contract(shared=True)
async def test_metrics_have_sglang_s_names(engine: Subject):
    """metrics collector of each version; --enable-metrics."""
    await engine.generate()
    async with asyncio.timeout(30):
        while "sglang:generation_tokens_total{" not in (
            text := (await engine.get("/metrics")).text
        ):
            await asyncio.sleep(0.1)
    for name in ("num_running_reqs", "num_queue_reqs", "token_usage", "num_requests_total"):
        assert f"\nsglang:{name}{{" in text, name
    for name, kind in json.loads(METRICS.read_text()).items():  # what the dashboards ask for
        if str(engine.target.version) in kind["versions"]:
            assert f"\n{name}{'_bucket' if kind['histogram'] else ''}{{" in text, name
    assert 'model_name="' in text


@contract(shared=True)
async def test_a_client_that_goes_away_is_noticed(engine: Subject):
    """tokenizer_manager.py: is_disconnected is looked at while waiting."""
    task = engine.later("POST", "/generate", LONG)
    assert await waits(task, 0.3)
    task.cancel()
    begun = time.monotonic()
    while (await engine.post("/flush_cache", None)).status != 200:
        assert time.monotonic() - begun < 20
        await asyncio.sleep(0.1)
