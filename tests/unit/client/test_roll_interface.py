"""The strategy and what stands in for ROLL's module, against ROLL's interface as its source has it.

The interface is in tests/data/roll-interface.json, of the last run of ``make roll``.
"""

import inspect

import pytest

from sglang_operator.client import roll_stand_in
from tests.roll import interface
from tests.roll_interface import TABLE, methods

OWN = methods(interface.OURS, "SgLangStrategy")
NOT_OF_POOLS = {"add_lora"}  # ROLL's own strategy for SGLang has it as little


def test_everything_that_rolls_worker_calls_is_there(roll):
    asked = set(TABLE["asked"]) - NOT_OF_POOLS
    made = vars(roll.OperatorPoolStrategy(_worker()))
    lacking = {name for name in asked if not hasattr(roll.OperatorPoolStrategy, name)}
    assert lacking - set(made) == set()


@pytest.mark.parametrize("name", sorted(OWN))
def test_a_method_takes_what_that_of_rolls_own_strategy_takes(roll, name):
    method = getattr(roll.OperatorPoolStrategy, name)
    taken = inspect.signature(method).parameters.values()
    named = [each.name for each in taken if each.kind is each.POSITIONAL_OR_KEYWORD][1:]
    wanted = [each for each in OWN[name]["parameters"] if not each.startswith("*")]
    inherited = name not in vars(roll.OperatorPoolStrategy)
    assert inherited or named[: len(wanted)] == wanted
    awaited = inspect.iscoroutinefunction(inspect.unwrap(method))
    assert inherited or awaited == OWN[name]["async"]


def test_what_other_processes_take_of_rolls_module_is_there_with_its_parameters(roll):
    taken = {name for names in TABLE["taken"].values() for name in names}
    for name in taken - {"SgLangStrategy"}:
        wanted = TABLE["modules"][interface.OURS][name]["parameters"]
        assert list(inspect.signature(getattr(roll_stand_in, name)).parameters) == wanted
    assert roll_stand_in.SgLangStrategy is roll.OperatorPoolStrategy


def _worker():
    from tests.unit.client.test_roll import worker

    return worker(0, 1, False, "10.0.0.1")
