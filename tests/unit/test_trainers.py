"""The run of other trainers' own modules: what of it needs none of them."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from sglang_operator.children import trainer_registry
from tests.trainers import __main__ as command
from tests.trainers import report, running
from tests.trainers.inside import flows, standins

ROOT = Path(__file__).parents[2]


def test_the_page_says_what_the_last_runs_saw_and_nothing_else():
    assert (ROOT / report.PAGE).read_text() == report.page(ROOT)


def test_the_page_is_roll_s_too_once_that_was_run(tmp_path):
    (tmp_path / "tests/data").mkdir(parents=True)
    assert report.roll(tmp_path) == ("", "")
    flow = {"flow": "a flow", "example": "e.yaml", "ended": "right", "told": ""}
    run = {"commit": "8eb27cc2", "flows": [flow], "real": ["roll"], "stand-in": ["sglang"]}
    (tmp_path / "tests/data/roll-run.json").write_text(json.dumps(run))
    page = report.page(tmp_path)
    assert page.count("# Trainers, and what was run of them") == 1
    assert "| ROLL | 8eb27cc2 |" in page
    assert "| a flow | `e.yaml` | ends right |" in page


@pytest.mark.parametrize("name", running.TRAINERS)
def test_every_trainer_was_run_at_the_commit_that_its_flows_were_written_against(name):
    (run,) = (run for run in report.kept(ROOT) if run["trainer"] == name)
    assert run["commit"] == running.TRAINERS[name]
    assert not report.unexpected(run)
    assert run["real"] > 20


def test_without_a_checkout_it_says_how_to_give_one(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["trainers"])
    for name in running.TRAINERS:
        monkeypatch.delenv(f"{name.upper()}_SOURCE", raising=False)
    assert command.main() == 1
    assert "make trainers SLIME_SOURCE=" in capsys.readouterr().out


def test_a_folder_that_is_no_checkout_of_it_is_refused(tmp_path):
    with (
        pytest.raises(ValueError, match="holds no package slime"),
        running.checkout(tmp_path, "slime"),
    ):
        pass


def test_a_flow_that_ends_otherwise_than_it_is_known_to_is_unexpected():
    def cannot():
        raise flows.CannotError("as it is known")

    def fails():
        raise KeyError("text")

    rows = flows.run([("a", lambda: "told"), ("b", cannot), ("c", fails)])
    assert [row["ended"] for row in rows] == ["works", "cannot", "fails"]
    assert report.unexpected({"rows": rows}) == ["c"]


def test_a_refusal_in_other_words_is_no_refusal():
    with pytest.raises(AssertionError):
        flows.refused(lambda: None, "words")
    with pytest.raises(AssertionError):
        flows.refused(lambda: 1 / 0, "words")
    assert flows.refused(lambda: 1 / 0, "division") == "division"


def test_only_packages_that_are_named_and_absent_are_stood_in_for(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    absent = standins.install("absent_package", "json")
    try:
        module = importlib.import_module("absent_package.part")
        assert isinstance(module.Anything, type)
        assert absent.names == {"absent_package"}
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("another_absent_package")
    finally:
        for name in [name for name in sys.modules if name.startswith("absent_package")]:
            del sys.modules[name]


def test_the_engines_are_the_pools_and_listen_on_the_loopback():
    pool = running.planned("miles")
    line = running.arguments(pool)
    assert "--host=127.0.0.1" in line
    assert not any(item.startswith("--skip-tokenizer-init") for item in line)
    assert set(pool.argv) - set(line) >= {"--host=$(SGLANG_OPERATOR_POD_IP)"}


def test_the_form_is_the_registrys_at_these_addresses():
    urls = ["http://127.0.0.1:5", "http://127.0.0.1:6"]
    pool = running.planned("slime")
    assert running.form(pool, trainer_registry.SLIME_KEY, urls) == "127.0.0.1:5 127.0.0.1:6"
    assert running.form(pool, trainer_registry.AREAL_KEY, urls) == "127.0.0.1:5,127.0.0.1:6"
