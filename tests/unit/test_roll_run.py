"""How ``make roll`` judges ROLL's flows, and that the documentation says what its last run saw."""

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sglang_operator.testing.realnode import requirements
from tests.roll import __main__ as command
from tests.roll import flows, plane, report, source
from tests.roll.flows import FLOWS, Flow
from tests.roll.inside import drive, memory

ROOT = Path(__file__).parents[2]
# Those with strategy_name: sglang at the commit that was read.
EXAMPLES = (
    "qwen2.5-7B-rlvr-offpolicy/rlvr_config.yaml",
    "qwen2.5-7B-rlvr_megatron/rlvr_config_async.yaml",
    "qwen3-30BA3B-rlvr_megatron/rlvr_config_ppu_sglang.yaml",
    "qwen3-30BA3B-rlvr_megatron/rlvr_config_sglang.yaml",
    "qwen3-vl-30BA3B-rlvr_megatron/rlvr_megatron_80GB_sglang.yaml",
    "qwen3-vl-30BA3B-video-rlvr/video_r1_sglang.yaml",
)
RIGHT = Flow(name="right", example="a.yaml", ids={"actor_infer": [0, 1]})
REFUSED = Flow(
    name="refused", example="a.yaml", ids={"actor_infer": [0]}, ends="refused", says="ids overlap"
)
TOLD = Flow(name="told", example="a.yaml", ids={"actor_infer": [0]}, ends="told", says="2 engines")
PLANE = Flow(name="plane", example="a.yaml", ids={"actor_infer": [0, 1]}, plane=True)
STORY = Flow(name="story", example="a.yaml", ids={"actor_infer": [0]}, story="grows")
ENDED = {"ended": "right", "answers": {"right": RIGHT.answers}, "modules": {}}


def raised(error: str, **more: object) -> dict[str, object]:
    return {"ended": "raised", "error": error, "answers": {}, "modules": {}, **more}


def test_whatever_was_run_last_of_the_flows_came_out_as_it_should():
    run = json.loads((ROOT / report.RUN).read_text())
    ends = {flow.name: flow.ends for flow in FLOWS}
    assert run["flows"]
    assert [(each["flow"], each["ended"]) for each in run["flows"]] == [
        (each["flow"], ends[each["flow"]]) for each in run["flows"]
    ]


def test_every_flow_was_run():
    run = json.loads((ROOT / report.RUN).read_text())
    assert [each["flow"] for each in run["flows"]] == [flow.name for flow in FLOWS]
    assert [each["example"] for each in run["flows"]] == [flow.example for flow in FLOWS]
    assert run["commit"] == source.WANTED


def test_each_of_rolls_own_examples_for_sglang_ends_right_or_is_refused():
    """Six of them, of which only those that share ids or have videos are refused."""
    run = json.loads((ROOT / report.RUN).read_text())
    seen = {(each["example"], each["ended"]) for each in run["flows"]}
    for example in EXAMPLES:
        assert (example, "refused" if "video" in example else "right") in seen


def test_an_example_for_sglang_that_no_flow_is_made_of_is_told(tmp_path):
    written = {
        "new/a.yaml": "actor_infer:\n  strategy_args:\n    strategy_name: sglang\n",
        "new/b.yaml": "strategy_args: {}\nx:\n  strategy_name: 'sglang'  # quoted\n",
        "new/vllm.yaml": "    strategy_name: vllm\n    # strategy_name: sglang\n",
        FLOWS[0].example: "    strategy_name: sglang\n",
    }
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert flows.left_out(tmp_path) == ["new/a.yaml", "new/b.yaml"]


def test_the_page_starts_an_example_of_roll_that_was_seen_to_end_right():
    run = json.loads((ROOT / report.RUN).read_text())
    right = {each["example"] for each in run["flows"] if each["ended"] == "right"}
    page = (ROOT / "operator/docs/how-to/roll.md").read_text()
    started = re.findall(r"--config_path (\S+) --config_name (\S+)", page)
    assert started
    assert {f"{folder}/{name}.yaml" for folder, name in started} <= right


def test_a_run_of_some_flows_keeps_what_was_seen_of_the_others():
    first, second = FLOWS[:2]
    before = report.kept("8eb27cc2", [report.judge(first, ENDED)])
    after = report.kept("8eb27cc2", [report.judge(second, ENDED)], before)
    assert [each["flow"] for each in after["flows"]] == [first.name, second.name]
    of_another = report.kept("00000000", [report.judge(second, ENDED)], before)
    assert [each["flow"] for each in of_another["flows"]] == [second.name]


@pytest.mark.parametrize(
    ("flow", "found", "good"),
    [
        (RIGHT, ENDED, True),
        (RIGHT, {**ENDED, "answers": {"right": RIGHT.answers, "wrong": 1}}, False),
        (RIGHT, {**ENDED, "answers": {"right": RIGHT.answers - 1}}, False),  # a prompt is lost
        (RIGHT, {**ENDED, "answers": {}}, False),  # nothing was asked
        (RIGHT, raised("Unsupported: ids overlap"), False),
        (REFUSED, raised("Unsupported: ids overlap"), True),
        (REFUSED, raised("AssertionError"), False),  # no words
        (REFUSED, raised("Unsupported: ids overlap", answers={"right": 1}), False),  # too late
        (REFUSED, ENDED, False),
        (PLANE, {**ENDED, "pool": {"gates": ["Open", "Open"]}}, True),
        (PLANE, {**ENDED, "pool": {"gates": ["Open", "Closed"]}}, False),
        (TOLD, raised("NotReady: 2 engines", answers={"right": TOLD.answers}), True),
        (TOLD, raised("NotReady: 2 engines"), False),  # at the start
        (TOLD, raised("NotReady: 2 engines", answers={"right": 8, "wrong": 1}), False),
        (TOLD, raised("KeyError", answers={"right": TOLD.answers}), False),
        (TOLD, {**ENDED, "answers": {"right": 8}}, False),  # nobody noticed
        (STORY, ENDED, False),  # its moment never came
        (STORY, {**ENDED, "told": "an engine came"}, True),
    ],
)
def test_a_flow_ends_right_from_right_weights_or_is_refused_at_the_start_in_words(
    flow, found, good
):
    assert report.judge(flow, found).good == good


@pytest.mark.parametrize(
    ("held", "good"),
    [
        ({"turns": 6, "moments": 0}, True),
        ({"turns": 6, "moments": 1}, False),
        ({"turns": 0, "moments": 0}, False),  # nobody has written anything down
    ],
)
def test_a_colocated_flow_ends_right_if_trainer_and_engines_take_turns(held, good):
    flow = Flow(name="shared", example="a.yaml", ids={"actor_infer": [0, 1]}, shared=True)
    assert report.judge(flow, {**ENDED, "memory": held}).good == good


def test_beside_a_trainer_that_trains_last_engines_sleep_in_the_end():
    flow = Flow(name="both", example="a", ids=RIGHT.ids, shared=True, plane=True)
    found = {**ENDED, "memory": {"turns": 6, "moments": 0}}
    assert report.judge(flow, {**found, "pool": {"gates": ["Closed", "Closed"]}}).good
    assert not report.judge(flow, {**found, "pool": {"gates": ["Open", "Open"]}}).good


def held(who, *states, at, ids=(0,), phase="", process=""):
    line = {"at": at, "who": who, "process": process or who, "ids": list(ids)}
    return json.dumps({**line, "holds": list(states), "phase": phase})


UPDATE = "actor_train/model_update"


@pytest.mark.parametrize(
    ("lines", "moments"),
    [
        ([held("engine", at=1), held("trainer", "model_params", at=2)], 0),
        ([held("engine", "weights", at=1), held("trainer", "model_params", at=2)], 1),
        # In an update the trainer has its parameters, and the engine its weights.
        ([held("engine", "weights", at=1), held("trainer", "model_params", at=2, phase=UPDATE)], 0),
        ([held("engine", "kv_cache", at=1), held("trainer", "x", at=2, phase=UPDATE)], 1),
        ([held("engine", "weights", at=1, ids=[1]), held("trainer", "x", at=2)], 0),
        ([held("trainer", "x", at=1, ids=[0, 1]), held("engine", "w", at=2, ids=[0, 1])], 2),
        # One moment, however often it is written down before it is over.
        (
            [
                held("engine", "weights", at=1),
                held("trainer", "x", at=2),
                held("trainer", "x", "y", at=3),
                held("trainer", at=4),
                held("trainer", "x", at=5),
            ],
            2,
        ),
        ([held("trainer", "x", at=2), held("trainer", at=3), held("engine", "w", at=1)], 1),
    ],
)
def test_memory_of_one_gpu_that_trainer_and_engine_hold_together_is_counted(lines, moments):
    counted = memory.counted(lines)
    assert counted["moments"] == moments
    assert counted["turns"]


def test_a_stand_in_in_any_flow_is_not_counted_as_rolls_own():
    first = report.judge(RIGHT, {**ENDED, "modules": {"roll.a": "real", "roll.b": "real"}})
    second = report.judge(RIGHT, {**ENDED, "modules": {"roll.b": "stand-in"}})
    assert report.modules([first, second]) == (["roll.a"], ["roll.b"])


def test_a_clone_without_a_work_tree_is_read_at_its_commit(tmp_path):
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    tree, bare = tmp_path / "tree", tmp_path / "bare"
    for folder in ("roll", "examples"):
        (tree / folder).mkdir(parents=True)
        (tree / folder / "a.py").write_text("A = 1\n")
    git("init", "-q", str(tree))
    who = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    git("-C", str(tree), "add", ".")
    git("-C", str(tree), *who, "commit", "-q", "-m", "one")
    git("clone", "-q", "--bare", str(tree), str(bare))
    commit = git("-C", str(tree), "rev-parse", "HEAD")[:8]
    with source.checkout(bare) as found:
        assert (found.commit, (found.path / "roll/a.py").read_text()) == (commit, "A = 1\n")
    (tree / "roll/a.py").write_text("A = 2\n")
    with source.checkout(tree) as found:
        assert (found.commit, found.path) == (f"{commit}+changes", tree)


def test_a_folder_that_is_none_of_roll_is_refused_with_what_to_give(tmp_path):
    with pytest.raises(ValueError, match="ROLL_SOURCE"), source.checkout(tmp_path):
        pass


def test_on_the_real_control_plane_roll_has_the_role_of_its_page_and_no_other():
    for each in plane._rights(joins=True):
        assert each["metadata"]["name"] == plane.ROLE
    role, binding = plane._rights()
    assert (role["kind"], role["metadata"]["name"]) == ("Role", binding["roleRef"]["name"])
    resources = [(rule["resources"], rule["resourceNames"]) for rule in role["rules"]]
    lease, registry = f"{plane.POOL}-weights", f"{plane.POOL}-engines"
    assert resources == [(["leases"], [lease]), (["configmaps"], [registry])]


def test_where_there_can_be_no_containers_the_real_control_plane_is_said_to_be_left_out(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "examples").mkdir()
    monkeypatch.setattr(requirements, "missing", lambda: "a real node needs root")
    monkeypatch.setattr(command, "_run", lambda *_: ENDED)
    options = argparse.Namespace(only="real control plane", write=False)
    assert command._all(options, source.Source(tmp_path, "8eb27cc2")) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "not run" in line]
    assert len(told) == sum(flow.plane for flow in FLOWS)
    assert all(each.endswith("on a real control plane: a real node needs root") for each in told)


# As ``inside.drive`` on a machine that is too busy to end what it started.
STUCK = """#!/bin/sh
trap '' TERM
sleep 600 & echo $! > "$STARTED"
echo the last word
wait; wait
"""


def test_a_flow_that_does_not_end_is_cut_with_what_it_started_and_others_go_on(
    tmp_path, monkeypatch
):
    python, started = tmp_path / "python", tmp_path / "started"
    python.write_text(STUCK)
    python.chmod(0o755)
    monkeypatch.setenv("STARTED", str(started))
    monkeypatch.setattr(command, "END_SECONDS", 0.2)
    options = argparse.Namespace(python=str(python), seconds=1.0, logs=tmp_path)
    found = command._run(options, RIGHT, source.Source(tmp_path, "8eb27cc2"))
    assert found["error"] == "ended after 1 s (--seconds); the last that it said: the last word\n"
    assert not report.judge(RIGHT, found).good
    child = Path("/proc", started.read_text().strip(), "stat")
    deadline = time.monotonic() + 30
    while child.exists() and child.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


# As ``inside.job``: the third ends without a word, and the fourth not by itself.
JOB = """#!/bin/sh
case $ROLL_JOB in
  2) exit 1;;
  3) touch "$4/begun"; exec sleep 600;;
esac
echo "{\\"ended\\": \\"right\\", \\"job\\": $ROLL_JOB, \\"process\\": $$}" > "$4/ended.json"
"""


def test_each_job_is_a_process_that_ends_lets_go_or_is_killed(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(JOB)
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    jobs = drive.Jobs(RIGHT, tmp_path)
    first, second = jobs.run(), jobs.run()
    assert (first["job"], second["job"]) == (0, 1)
    assert first["process"] != second["process"]
    assert jobs.run() == {"ended": "lost", "error": "code=1"}
    killed = threading.Thread(target=kill_once_begun, args=(jobs, tmp_path / "begun"))
    killed.start()
    assert jobs.run()["ended"] == "killed"
    killed.join()


def kill_once_begun(jobs: drive.Jobs, begun: Path) -> None:
    while not begun.exists():
        time.sleep(0.01)
    jobs.kill()
