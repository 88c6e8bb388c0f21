"""``map``: the picture of GPUs in each form (how it is drawn: tests/unit/view)."""

import json

import pytest
import yaml

from sglang_operator.cli import options
from tests.unit.cli.fake_kubectl import cluster
from tests.unit.cli.runner import run
from tests.unit.view.drawn_cluster import guide


@pytest.fixture(autouse=True)
def _answered(monkeypatch):
    monkeypatch.setattr(options, "cluster", lambda given: cluster(guide()))


def test_a_terminal_gets_letters_and_a_legend():
    shown = run("map", "--title", "our GPUs")
    assert shown.exit_code == 0, shown.output
    assert "our GPUs" in shown.output and "actor-infer" in shown.output


@pytest.mark.parametrize(("form", "begin"), [("svg", "<svg "), ("html", "<!doctype html>")])
def test_documents_are_whole_and_alone(form, begin):
    text = run("map", "-o", form).stdout
    assert text.lower().startswith(begin)
    assert text.rstrip().endswith(f"</{form}>")


def test_programs_get_the_same_as_json_and_as_yaml():
    (read,) = {
        json.dumps(yaml.safe_load(run("map", "-o", form).stdout)) for form in ("json", "yaml")
    }
    assert "actor-infer" in read


def test_the_picture_of_ids_comes_when_it_is_asked_for():
    with_ids, without = (
        json.loads(run("map", "-o", "json", f).stdout) for f in ("--ids", "--no-ids")
    )
    assert len(with_ids["grids"]) == len(without["grids"]) + 1
