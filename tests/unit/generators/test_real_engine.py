"""The page of what ran on a real GPU says what its report says, and nothing that did not run."""

import json
from typing import Any

import pytest

from generators import real_engine

REPORT: dict[str, Any] = {
    "date": "2026-11-28",
    "card": "NVIDIA H200",
    "cards": 2,
    "driver": "580.1",
    "stand_in": False,
    "image": "lmsysorg/sglang:v0.5.14",
    "sglang": "0.5.14",
    "torch": "2.11.0+cu130",
    "kubernetes": "1.37.2",
    "model": "written by the demo",
    "config": {"mem_fraction_static": 0.3},
    "failed": None,
    "steps": [
        {"step": "the pool is Ready", "seconds": 125.7, "seen": "2/2"},
        {
            "step": "the client syncs step-2",
            "seconds": 0.1,
            "seen": "a | b",
            "begin": 0.01,
            "update": 0.05,
            "commit": 0.012,
            "gates": 0.008,
        },
        {
            "step": "the engines sleep",
            "seconds": 1.15,
            "seen": "",
            "used_before": 43 << 30,
            "used_after": 1 << 30,
        },
    ],
}


def test_the_page_has_every_figure_of_the_report():
    lines = real_engine.page(REPORT).splitlines()
    assert "| GPU | 2 × NVIDIA H200, driver 580.1 |" in lines
    assert "| SGLang | 0.5.14, torch 2.11.0+cu130 |" in lines
    assert "| the pool is Ready | 125.70 | 2/2 |" in lines
    assert "| the client syncs step-2 | 50 | 30 |" in lines  # the engine's, and what is around it
    assert "| the engines sleep | 43.0 | 1.0 |" in lines
    assert any("2026-11-28" in line for line in lines)


def test_a_broadcast_is_on_the_page_or_among_what_was_not_run():
    assert "broadcasts by NCCL" in real_engine.page(REPORT)
    sync = {"step": 5, "begin": 0.02, "group": 1.07, "update": 0.5, "commit": 0.02, "gates": 0.01}
    broadcast = {"step": "a trainer broadcasts", "seconds": 3.0, "seen": "", "syncs": [sync]}
    text = real_engine.page({**REPORT, "steps": [*REPORT["steps"], broadcast]})
    assert "| step-5 by NCCL, with 1070 ms for its group | 500 | 50 |" in text.splitlines()
    assert "broadcasts by NCCL" not in text


def test_a_bar_in_what_was_seen_ends_no_cell():
    assert "| the client syncs step-2 | 0.10 | a \\| b |" in real_engine.page(REPORT).splitlines()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stand_in": True}, "of stand-ins"),
        ({"failed": "the engines sleep"}, "failed at: the engines sleep"),
    ],
)
def test_what_did_not_run_on_a_gpu_or_to_its_end_makes_no_page(change, told, tmp_path, monkeypatch):
    monkeypatch.setattr(real_engine, "PAGE", tmp_path / "page")
    monkeypatch.setattr(real_engine, "DATA", tmp_path / "kept.json")
    monkeypatch.setattr(real_engine, "SUITE", tmp_path / "suite.json")
    report = tmp_path / "report.json"
    report.write_text(json.dumps({**REPORT, **change}))
    with pytest.raises(ValueError, match=told):
        real_engine.page({**REPORT, **change})
    assert real_engine.main([str(report)]) == 1
    assert list(tmp_path.iterdir()) == [report]


def test_a_report_is_kept_and_the_page_can_be_made_of_it_again(tmp_path, monkeypatch):
    monkeypatch.setattr(real_engine, "PAGE", tmp_path / "page")
    monkeypatch.setattr(real_engine, "DATA", tmp_path / "kept.json")
    monkeypatch.setattr(real_engine, "SUITE", tmp_path / "suite.json")
    report = tmp_path / "report.json"
    report.write_text(json.dumps(REPORT))
    assert real_engine.main([str(report)]) == 0
    assert json.loads((tmp_path / "kept.json").read_text()) == REPORT
    report.unlink()
    assert real_engine.main([]) == 0
    assert (tmp_path / "page").read_text() == real_engine.page(REPORT)


def test_the_page_in_the_tree_is_that_of_the_report_in_the_tree():
    assert real_engine.PAGE.exists() == real_engine.DATA.exists()
    if real_engine.DATA.exists():
        report = json.loads(real_engine.DATA.read_text())
        suites = {f: json.loads(f.read_text()) for f in real_engine.FOLDER.glob("suite*.json")}
        suite = suites.pop(real_engine.SUITE, None)
        others = [suites[file] for file in sorted(suites)]
        assert real_engine.PAGE.read_text() == real_engine.page(report, suite, others)


SYNCS = "test_weights.py::test_a_sync_under_each_pause_leaves_whole_weights"
SUITE: dict[str, Any] = {
    **{key: value for key, value in REPORT.items() if key not in ("steps", "failed")},
    "tests": [
        {
            "test": f"{SYNCS}[abort-tensor]",
            "outcome": "passed",
            "reason": "",
            "seconds": 2.5,
            "figures": {"seconds": {"begin": 0.02, "update": 0.01}, "before": 43 << 30},
        },
        {
            "test": "test_pairs.py::test_an_engine_of_two_gpus_syncs_and_answers",
            "outcome": "skipped",
            "reason": "2 GPUs are needed, there is 1",
            "seconds": 0.0,
            "figures": {},
        },
    ],
}


def test_the_page_has_each_test_its_figures_and_why_one_did_not_run():
    lines = real_engine.page(REPORT, SUITE).splitlines()
    sync = "a sync under each pause leaves whole weights (abort-tensor)"
    assert f"| {sync} | passed | 2.5 |" in lines
    assert f"| {sync} | seconds | begin 0.02, update 0.01 |" in lines
    assert f"| {sync} | before | 43.00 GiB |" in lines
    two = "an engine of two gpus syncs and answers"
    assert f"| {two} | skipped | 2 GPUs are needed, there is 1 |" in lines


def test_tests_of_another_version_are_kept_beside_and_stand_under_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(real_engine, "PAGE", tmp_path / "page")
    monkeypatch.setattr(real_engine, "DATA", tmp_path / "kept.json")
    monkeypatch.setattr(real_engine, "SUITE", tmp_path / "suite.json")
    given = {"demo": REPORT, "one": SUITE, "other": {**SUITE, "sglang": "0.5.13"}}
    files = [tmp_path / name for name in given]
    for file, report in zip(files, given.values(), strict=True):
        file.write_text(json.dumps(report))
    assert real_engine.main([str(file) for file in files]) == 0
    kept = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("suite*")}
    assert {name: each["sglang"] for name, each in kept.items()} == {
        "suite.json": "0.5.14",
        "suite-0.5.13.json": "0.5.13",
    }
    lines = (tmp_path / "page").read_text().splitlines()
    assert [line for line in lines if line.startswith("## The tests")] == [
        "## The tests",
        "## The tests, SGLang 0.5.13",
    ]
    assert len(lines) == len(set(filter(lambda line: line.startswith("## "), lines))) + sum(
        not line.startswith("## ") for line in lines
    ), "no two headings are alike"


def test_what_a_test_has_run_is_no_more_among_what_was_not():
    without, with_it = real_engine.page(REPORT), real_engine.page(REPORT, SUITE)
    assert "- updates from tensors by CUDA IPC" in without
    assert "- updates from tensors by CUDA IPC" not in with_it
    assert "- engines of more than one GPU;" in with_it  # which was skipped


def test_tests_on_stand_ins_make_no_page():
    with pytest.raises(ValueError, match="of stand-ins"):
        real_engine.page(REPORT, {**SUITE, "stand_in": True})


def test_the_tests_report_is_kept_beside_the_demos(tmp_path, monkeypatch):
    for name, file in (("PAGE", "page"), ("DATA", "demo.json"), ("SUITE", "suite.json")):
        monkeypatch.setattr(real_engine, name, tmp_path / file)
    for name, content in (("a", REPORT), ("b", SUITE)):
        (tmp_path / name).write_text(json.dumps(content))
    assert real_engine.main([str(tmp_path / "b")]) == 1  # the page begins with the demo's
    assert real_engine.main([str(tmp_path / "b"), str(tmp_path / "a")]) == 0
    assert (tmp_path / "page").read_text() == real_engine.page(REPORT, SUITE)
    assert json.loads((tmp_path / "suite.json").read_text()) == SUITE
