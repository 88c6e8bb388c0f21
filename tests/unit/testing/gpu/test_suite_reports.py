"""The report of ``make gpu``: runs are added up, and nothing that ran is lost to a skip."""

import json
import time

import pytest

from tests.gpu import load, reports, starts

FACTS = {
    "card": "NVIDIA H200",
    "cards": 1,
    "driver": "580",
    "stand_in": False,
    "sglang": "0.5.14",
    "torch": "2.11.0",
    "kubernetes": "1.37.2",
}


def result(test, outcome="passed", **figures):
    return {"test": test, "outcome": outcome, "reason": "", "seconds": 1.0, "figures": figures}


def test_a_later_run_adds_its_tests_and_replaces_what_it_ran_again(tmp_path):
    file = tmp_path / "suite.json"
    reports.add(file, FACTS, [result("a", step=1), result("b")])
    reports.add(file, {**FACTS, "cards": 2}, [result("a", step=2), result("c", "failed")])
    said = json.loads(file.read_text())
    assert said["cards"] == 2
    assert [(each["test"], each["outcome"]) for each in said["tests"]] == [
        ("a", "passed"),
        ("b", "passed"),
        ("c", "failed"),
    ]
    assert said["tests"][0]["figures"] == {"step": 2}


def test_a_skip_takes_the_place_of_nothing_that_ran():
    before = reports.merged(None, FACTS, [result("a"), result("b", "skipped")])
    after = reports.merged(before, FACTS, [result("a", "skipped"), result("b")])
    assert {each["test"]: each["outcome"] for each in after["tests"]} == {
        "a": "passed",
        "b": "passed",
    }


def test_figures_of_two_machines_are_not_put_together():
    before = reports.merged(None, FACTS, [result("a")])
    with pytest.raises(ValueError, match="of card 'NVIDIA H200', this run of 'NVIDIA H100'"):
        reports.merged(before, {**FACTS, "card": "NVIDIA H100"}, [result("a")])


def test_an_answer_of_two_steps_or_of_anothers_label_is_torn():
    def reply(label, tokens):
        return load.Reply(status=200, seconds=0.1, prompt=[5], tokens=tokens, label=label)

    assert load.torn(reply("step-3", [8, 11, 14]), known=True) is None
    assert load.torn(reply("step-3", [8, 11, 15]), known=True) == (
        "step-3, with the tokens of the steps [3, 4]"
    )
    assert load.torn(reply("step-4", [8, 11]), known=True)
    assert load.torn(reply("unsynced", [8, 11]), known=False) == "the label is 'unsynced'"
    assert load.torn(reply("step-4", [8, 11]), known=False) is None


def test_the_operators_own_part_of_a_start_is_what_others_wait_for():
    moments = dict(zip(starts.MOMENTS, (0.0, 0.2, 1.5, 30.0, 45.0, 47.0, 47.3), strict=True))
    assert starts.own(moments) == 0.5
    assert starts.laps(moments)["noticed"] == 2.0


def test_a_command_line_gets_other_values():
    argv = ["python3", "-m", "sglang.launch_server", "--port=30000", "--tp-size=2"]
    assert starts.argument(argv, port="1", model_path="/m") == [
        *argv[:3],
        "--tp-size=2",
        "--port=1",
        "--model-path=/m",
    ]


def test_moments_are_found_in_their_order():
    seen = iter([False, True, True])
    looks = {"pod": lambda: next(seen), "ready": lambda: next(seen)}
    assert list(starts.follow(looks, 5.0, time.monotonic())) == ["pod", "ready"]
