"""What only the fake has: faults on demand, several nodes, other ranks."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from sglang_operator.engine import diagnosis
from sglang_operator.testing import ports
from sglang_operator.testing.engine import rendezvous, weights
from sglang_operator.testing.engine.process import FakeEngine

QUICK: dict[str, Any] = {"load_seconds": 0.0, "warm_up_seconds": 0.0, "drain_poll_seconds": 0.05}


def ask(url: str, body: object = None, timeout: float = 10) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=timeout) as answer:
        text = answer.read()
    return json.loads(text) if text else None


GENERATE = {"text": "hi", "sampling_params": {"max_new_tokens": 2}}


def test_faults_can_be_injected_while_it_runs():
    port = ports.free()
    with FakeEngine(control_port=port, **QUICK) as engine:
        engine.wait_ready()
        control = f"http://127.0.0.1:{port}"
        assert ask(f"{control}/state")["weights"]["state"] == "whole"
        ask(f"{control}/fault", {"fault": "hang"})
        with pytest.raises((TimeoutError, urllib.error.URLError)):
            ask(f"{engine.url}/generate", GENERATE, timeout=0.5)
        assert ask(f"{control}/state")["requests"] > 0
        ask(f"{control}/fault", {"fault": "resume"})
        assert ask(f"{engine.url}/generate", GENERATE)["output_ids"]
        ask(f"{control}/fault", {"fault": "slow", "seconds": 0.3})
        begun = time.monotonic()
        ask(f"{engine.url}/get_model_info")
        assert time.monotonic() - begun >= 0.3
        ask(f"{control}/fault", {"fault": "unreadable"})
        read = f"{engine.url}/update_weights_from_disk", {"model_path": "/checkpoints/1"}
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(*read)
        with caught.value as answer:
            assert "Failed to get weights iterator" in answer.read().decode()
        ask(*read)
        assert ask(f"{control}/state")["weights"]["stamp"] == "/checkpoints/1"
        ask(f"{control}/fault", {"fault": "crash", "error": "torch.OutOfMemoryError: CUDA out of"})
        assert engine.wait() == 137
        assert "torch.OutOfMemoryError: CUDA out of" in engine.log


def raw(path: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: engine\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def test_an_answer_tells_of_the_weights_that_its_tokens_came_from():
    """Not of those at the time at which it is put together: a bucket may be quicker than that."""
    control, port = ports.free(), ports.free()
    long = {"text": "hi", "sampling_params": {"max_new_tokens": 3000}, "stream": True}
    bucket = [weights.bucket(weights.names(2)[:3], "step-1")]
    with FakeEngine(version="0.5.7", port=port, control_port=control, **QUICK) as engine:
        engine.wait_ready()
        asking = urllib.request.Request(f"{engine.url}/generate", data=json.dumps(long).encode())
        with urllib.request.urlopen(asking, timeout=30) as stream:
            stream.readline()  # of its first tokens
            ask(f"{engine.url}/pause_generation", {"mode": "retract"})
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(  # at once
                    raw("/abort_request", {"rid": "", "abort_all": True})
                    + raw(
                        "/update_weights_from_tensor",
                        {"serialized_named_tensors": bucket, "flush_cache": False},
                    )
                )
                events = [json.loads(line[6:]) for line in stream if line.startswith(b"data: {")]
        assert ask(f"http://127.0.0.1:{control}/state")["weights"]["state"] == "torn"
    assert events[-1]["meta_info"]["finish_reason"]["type"] == "abort"
    assert events[-1]["output_ids"]
    assert events[-1]["fake_weights"]["state"] == "whole"


def test_a_fault_that_is_not_known_names_those_that_are():
    port = ports.free()
    with FakeEngine(control_port=port, **QUICK) as engine:
        engine.wait_ready()
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(f"http://127.0.0.1:{port}/fault", {"fault": "flood"})
        with caught.value as answer:
            assert "crash, exit, kill, hang, resume, slow, unreadable" in answer.read().decode()


def nodes(
    stack: ExitStack,
    follower_control: int = 0,
    leader_control: int = 0,
    leader: str = "127.0.0.1",
    **settings: object,
) -> list[FakeEngine]:
    """The follower and the leader of one engine; the follower's address is 127.0.0.1."""
    where = f"{leader}:{ports.free()}"
    shared = ["--nnodes=2", f"--dist-init-addr={where}", "--tp-size=2"]
    given: dict[str, Any] = {**QUICK, **settings}
    controls = {1: follower_control, 0: leader_control}
    return [
        stack.enter_context(
            FakeEngine([*shared, f"--node-rank={rank}"], control_port=control, **given)
        )
        for rank, control in controls.items()
    ]


def status(engine: FakeEngine, path: str = "/health", timeout: float = 5) -> int | None:
    """What it answers; None if nothing listens."""
    try:
        with urllib.request.urlopen(f"{engine.url}{path}", timeout=timeout) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except ConnectionError:
        return None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionRefusedError):
            return None
        raise


def until(found: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_engine_of_two_nodes_is_up_when_both_are():
    with ExitStack() as stack:
        follower, leader = nodes(stack)
        leader.wait_ready()
        follower.wait_listening()
        assert ask(f"{follower.url}/health") is None  # 200, and nothing more
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(f"{follower.url}/get_model_info")
        caught.value.close()
        assert ask(f"{leader.url}/generate", GENERATE)["output_ids"]


@pytest.mark.parametrize("killed", [0, 1])
def test_the_nodes_of_an_engine_die_together(killed: int):
    with ExitStack() as stack:
        engines = nodes(stack)
        engines[1].wait_ready()
        engines[killed].process.kill()
        assert engines[1 - killed].wait() == 137


def test_a_leader_alone_does_not_listen():
    where = f"--dist-init-addr=127.0.0.1:{ports.free()}"
    with FakeEngine(["--tp-size=2", "--nnodes=2", "--node-rank=0", where], **QUICK) as leader:
        until(lambda: "server_args" in leader.log)
        time.sleep(0.5)
        assert status(leader) is None
        assert leader.process.poll() is None


def test_nobody_listens_before_the_weights_are_there_and_followers_are_well_first():
    """As seen with 0.5.14: a follower does not know of its leader's warm-up."""
    with ExitStack() as stack:
        follower, leader = nodes(stack, load_seconds=1.5, warm_up_seconds=3.0)
        until(lambda: "server_args" in follower.log and "server_args" in leader.log)
        time.sleep(0.3)
        assert (status(follower), status(leader)) == (None, None)
        until(lambda: status(follower) == 200 and status(leader) == 503)
        assert status(follower, "/model_info") == 404
        leader.wait_ready()
        assert status(leader) == 200


def test_a_follower_ends_after_its_leader_has_drained():
    control = ports.free()
    with ExitStack() as stack:
        follower, leader = nodes(stack, token_seconds=0.05, leader_control=control)
        leader.wait_ready()
        longer = {**GENERATE, "sampling_params": {"max_new_tokens": 20}}
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(ask, f"{leader.url}/generate", longer)
            until(lambda: ask(f"http://127.0.0.1:{control}/state")["requests"] > 0)
            leader.terminate()
            assert follower.process.poll() is None
            assert len(asked.result()["output_ids"]) == 20
        assert leader.wait() == 137
        assert follower.wait() == 3


def test_what_is_asked_of_a_leader_whose_follower_is_gone_has_no_answer():
    with ExitStack() as stack:
        follower, leader = nodes(stack, crash_seconds=1.0)
        leader.wait_ready()
        follower.process.terminate()
        assert follower.wait() == 143
        until(lambda: "closed by peer" in leader.log)
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            ask(f"{leader.url}/generate", GENERATE)
        assert leader.wait() == 137


def test_a_leader_hangs_when_a_follower_s_scheduler_alone_is_killed_at_its_own_address():
    """Seen with 0.5.14 in one network namespace, for as long as it was watched."""
    control = ports.free()
    with ExitStack() as stack:
        follower, leader = nodes(stack, follower_control=control, crash_seconds=0.2)
        leader.wait_ready()
        follower.wait_listening()
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(f"http://127.0.0.1:{control}/fault", {"fault": "hang"})
        caught.value.close()
        ask(f"http://127.0.0.1:{control}/fault", {"fault": "kill-scheduler"})
        assert follower.wait() == 3
        with pytest.raises(TimeoutError):
            ask(f"{leader.url}/generate", GENERATE, timeout=1.0)
        assert leader.process.poll() is None


def test_a_leader_at_another_address_ends_before_the_follower_whose_scheduler_is_killed():
    """Seen with 0.5.14 in two pods (suite.json): NCCL tells it at once."""
    control, state = ports.free(), ports.free()
    with ExitStack() as stack:
        follower, leader = nodes(
            stack,
            follower_control=control,
            leader_control=state,
            leader="127.0.0.2",
            crash_seconds=60.0,
            token_seconds=0.05,
        )
        leader.wait_ready()
        follower.wait_listening()
        with ThreadPoolExecutor() as pool:
            longer = {**GENERATE, "sampling_params": {"max_new_tokens": 2000}}
            asked = pool.submit(ask, f"{leader.url}/generate", longer, timeout=30)
            until(lambda: ask(f"http://127.0.0.1:{state}/state")["requests"] > 0)
            ask(f"http://127.0.0.1:{control}/fault", {"fault": "kill-scheduler"})
            with pytest.raises((urllib.error.URLError, ConnectionError)):
                asked.result()
        code = leader.wait()
        with pytest.raises(subprocess.TimeoutExpired):
            follower.wait(0.5)
        told = diagnosis.diagnose(leader.log, code, "Error")
        assert (code, told.reason) == (137, "NCCLFailed")
        assert "remote process exited or there was a network error" in told.message


def test_a_follower_ends_before_a_leader_whose_scheduler_failed():
    control = ports.free()
    with ExitStack() as stack:
        follower, leader = nodes(stack, crash_seconds=2.0, leader_control=control)
        leader.wait_ready()
        follower.wait_listening()
        ask(f"http://127.0.0.1:{control}/fault", {"fault": "crash"})
        assert follower.wait() == 137
        assert leader.process.poll() is None
        assert leader.wait() == 137


def test_who_is_left_takes_a_while_to_notice():
    with ExitStack() as stack:
        follower, leader = nodes(stack, peer_seconds=1.0)
        leader.wait_ready()
        follower.process.kill()
        time.sleep(0.3)
        assert leader.process.poll() is None
        assert leader.wait() == 137


@pytest.mark.parametrize(("version", "ends"), [("0.5.14", True), ("0.5.23", False)])
def test_sigterm_ends_a_follower_or_waits_for_its_leader(version: str, ends: bool):
    with ExitStack() as stack:
        follower, leader = nodes(stack, version=version, peer_seconds=60.0)
        leader.wait_ready()
        follower.wait_listening()
        follower.terminate()
        if ends:
            assert follower.wait() == 143
        else:
            time.sleep(0.5)
            assert follower.process.poll() is None
            assert "SIGTERM received on node_rank 1" in follower.log


def test_a_follower_waits_for_a_leader_that_says_nothing():
    with socket.create_server(("127.0.0.1", 0)) as leader:
        where = f"--dist-init-addr=127.0.0.1:{leader.getsockname()[1]}"
        leader.settimeout(30)
        ranks = ["--tp-size=2", "--nnodes=2", "--node-rank=1"]
        with FakeEngine([*ranks, where], **QUICK) as follower:
            connection, _ = leader.accept()
            with connection:
                assert connection.makefile().readline() == "1\n"
                time.sleep(0.3)
                assert follower.process.poll() is None, follower.log


def test_two_engines_of_two_gpus_take_four_ranks_of_a_trainer_s_group():
    names = weights.names(2)
    with ExitStack() as stack:
        engines = [
            stack.enter_context(FakeEngine(["--tp-size=2", "--load-format=dummy"], **QUICK))
            for _ in range(2)
        ]
        trainer = stack.enter_context(rendezvous.Trainer(5))
        for engine in engines:
            engine.wait_ready()
        where = {"master_address": trainer.host, "master_port": trainer.port, "world_size": 5}
        joining = [
            _in_thread(f"{engine.url}/init_weights_update_group", {**where, "rank_offset": offset})
            for engine, offset in zip(engines, (1, 3), strict=True)
        ]
        trainer.wait(10)
        assert all(join()["success"] for join in joining)
        body = {"names": names, "dtypes": ["bf16"] * len(names), "shapes": [[1]] * len(names)}
        updates = [
            _in_thread(f"{engine.url}/update_weights_from_distributed", body) for engine in engines
        ]
        trainer.broadcast(names, "step-1")
        assert all(update()["success"] for update in updates)
        told = [ask(f"{engine.url}/generate", GENERATE)["fake_weights"] for engine in engines]
        assert told[0] == told[1]
        assert (told[0]["state"], told[0]["stamp"]) == ("whole", "step-1")


def test_a_group_names_the_ranks_that_are_missing():
    with rendezvous.Trainer(3) as trainer, pytest.raises(TimeoutError, match=r"\[1, 2\]"):
        trainer.wait(0.1)


def _in_thread(url: str, body: object) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(1)
    future = pool.submit(ask, url, body)
    pool.shutdown(wait=False)
    return lambda: future.result(10)
