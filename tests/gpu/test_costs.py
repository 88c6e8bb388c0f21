"""What the operator adds: to a start, against the server alone; to a sync, against a bare loop."""

import itertools
import statistics
import time
from pathlib import Path

import pytest

from sglang_operator.testing import ports
from sglang_operator.testing.gpu import pool, story
from tests.gpu import starts

pytestmark = pytest.mark.gpu1

SHARE = 0.02  # of a start
SYNC_SECONDS = 0.1  # of a sync's p50
SYNCS = 15
START_SECONDS = 400.0


def test_the_operators_share_of_a_start_is_small(room, figures, tmp_path):
    """The latest start of the run, whose kernels were compiled before, and a bare one after it."""
    engine = room.engine()
    if len(room.started) < 2:  # the first one may have compiled
        engine = room.another_engine()
    moments = room.started[-1]
    bare = bare_start(room, engine, tmp_path / "bare.log")
    inside = moments["healthy"] - moments["container"]
    own = starts.own(moments)
    figures |= {
        "pool": starts.laps(moments),
        "bare": bare,
        "the engine in its container, against the bare one": round(inside / bare["healthy"], 3),
        "asked to ready, against the bare one": round(moments["ready"] / bare["healthy"], 3),
        "the operator's own, s": own,
        "the operator's own, share": round(own / moments["ready"], 4),
        "every start": [starts.laps(each) for each in room.started],
    }
    if not room.stand_in:  # which starts in less than the loop takes to look
        assert own <= SHARE * moments["ready"]


def bare_start(room, engine, log):
    """The same command line and environment on the same card, as a process of this machine."""
    pid, command = min(
        (pid, command)
        for pid, command in room.processes(engine).items()
        if "sglang.launch_server" in command
    )
    port = ports.free()
    base = str(room.ground.models / "base")
    argv = starts.argument(command.split(), model_path=base, host="127.0.0.1", port=str(port))
    kernels = room.ground.kernels()
    variables = {
        key: value.replace("/cache", kernels, 1) if value.startswith("/cache") else value
        for key, value in starts.environment(pid).items()
    }
    if not room.stand_in:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(room.cards(engine))
    url, begun = f"http://127.0.0.1:{port}/health", time.monotonic()
    with starts.bare(argv, variables, log) as process:

        def up(status):
            assert process.poll() is None, log.read_text()[-3000:]
            return status == 200

        looks = {
            "listening": lambda: starts.answers(url) > 0,
            "healthy": lambda: up(starts.answers(url)),
        }
        return starts.follow(looks, START_SECONDS, begun)


def test_the_operators_share_of_a_sync_is_a_tenth_of_a_second_at_most(room, figures):
    """Both update from the same disk, pause, empty the cache, label and go on."""
    engine = room.engine()
    with room.client() as client:
        step = room.sync(client)
        version, folder = f"step-{step}", room.folder(step)
        parts: list[dict[str, float]] = []
        bare: list[float] = []
        for _ in range(SYNCS):
            marks = {"start": time.monotonic()}
            with client.sync(version) as sync:
                marks["begin"] = time.monotonic()
                sync.update_weights_from_disk(folder)
                marks["update"] = time.monotonic()
            marks["commit"] = time.monotonic()
            client.wait_synced(version, 60)
            marks["gates"] = time.monotonic()
            parts.append({b: marks[b] - marks[a] for a, b in itertools.pairwise(marks)})
            begun = time.monotonic()
            bare_sync(engine.url, folder, version)
            bare.append(time.monotonic() - begun)
    whole = statistics.median(sum(each.values()) for each in parts)
    loop = statistics.median(bare)
    figures |= {
        "syncs": SYNCS,
        "p50, ms": {
            key: round(1000 * statistics.median(each[key] for each in parts), 1) for key in parts[0]
        },
        "whole p50, ms": round(1000 * whole, 1),
        "bare loop p50, ms": round(1000 * loop, 1),
        "against the bare loop": round(whole / loop, 2),
        "the operator's own p50, ms": round(1000 * (whole - loop), 1),
    }
    room.check_answers(step)
    if not room.stand_in:  # where more than the operator shares the processors
        assert whole - loop <= SYNC_SECONDS


def bare_sync(url, folder, version):
    """What a trainer without the operator sends."""
    story.ask(f"{url}/pause_generation", {"mode": "abort"})
    story.get(f"{url}/flush_cache", {})
    update = {"model_path": folder, "load_format": "auto", "flush_cache": False}
    assert story.ask(f"{url}/update_weights_from_disk", update)["success"]
    label = {"new_version": version, "abort_all_requests": False}
    story.ask(f"{url}/update_weight_version", label)
    story.get(f"{url}/continue_generation", {})


def test_an_engine_as_rendered_has_its_card_and_no_privileges(room, figures):
    engine = room.engine()
    pid = pool.victim(room.processes(engine))
    assert pool.privileged(Path(f"/proc/{pid}/status").read_text()) is None
    assert len(room.cards(engine)) == 1
    figures["cards"] = len(room.cards(engine))
