"""Every step has a bound, and a failed one says which it was and what can be seen."""

import io
import json
import signal
import time

import pytest
from rich.console import Console

from sglang_operator.client import NotReady
from sglang_operator.testing import errors
from sglang_operator.testing.gpu import steps


@pytest.fixture
def shown():
    return io.StringIO()


@pytest.fixture
def story(shown):
    return steps.Steps(Console(file=shown, width=100))


def test_a_step_is_timed_and_shown_with_what_was_seen(story, shown):
    with story.step("the pool is Ready", 5) as step:
        step.seen = "1/1"
        step.figures = {"bytes": 7}
    Console(file=shown).print(story.table())
    assert "1 the pool is Ready" in shown.getvalue()
    assert "1/1" in shown.getvalue()
    (row,) = story.report({"card": "NVIDIA H200"})["steps"]
    assert row["step"] == "the pool is Ready"
    assert row["bytes"] == 7
    assert 0 <= row["seconds"] < 5


def test_a_step_that_does_not_end_is_ended(story, monkeypatch):
    monkeypatch.setattr(steps, "GRACE_SECONDS", 0.0)
    begun = time.monotonic()
    with (
        pytest.raises(errors.KitError, match=r"step 1, for ever, failed .* no end after 0.1 s"),
        story.step("for ever", 0.1),
    ):
        time.sleep(30)
    assert time.monotonic() - begun < 20
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("error", [errors.WaitTimeoutError("late"), NotReady("late"), OSError(5)])
def test_a_failed_step_is_named_with_the_engine_s_last_words(story, error):
    story.diagnosis = lambda: "engine: torch.OutOfMemoryError"
    with story.step("first", 5):
        pass
    with pytest.raises(errors.KitError) as told, story.step("second", 5):
        raise error
    assert str(told.value).startswith("step 2, second, failed after 0.0 s: ")
    assert str(told.value).endswith("engine: torch.OutOfMemoryError")
    assert [step.title for step in story.done] == ["first"]
    assert story.report({})["failed"] == "second"


def test_a_plane_that_is_gone_does_not_hide_why_the_step_failed(story):
    def gone():
        raise errors.PlaneError("not running")

    story.diagnosis = gone
    with pytest.raises(errors.KitError) as told, story.step("first", 5):
        raise errors.KitError("the cause")
    assert "the cause" in str(told.value)
    assert "nothing more can be seen: not running" in str(told.value)


def test_the_report_is_a_file_with_the_facts_of_the_run(story, tmp_path):
    with story.step("first", 5):
        pass
    story.write(tmp_path / "report.json", {"card": "NVIDIA H200", "stand_in": False})
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["card"] == "NVIDIA H200"
    assert len(report["date"]) == 10
    assert [row["step"] for row in report["steps"]] == ["first"]
    assert report["failed"] is None
