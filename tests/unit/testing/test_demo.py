"""How the demo ends, without a cluster."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sglang_operator.testing import demo, errors


class Plane:
    """One whose operator has died, which ``check`` tells with the end of its log."""

    kind = "kwok"
    kubeconfig = tools = Path("/plane")

    def check(self):
        raise errors.PlaneError("sglang-operator ended with exit code 1; the end of its log:")


class Operator:
    pid = None
    log = Path("/plane/logs/sglang-operator.log")

    def __init__(self, *, permitted):
        self.permitted = permitted

    def is_permitted(self):
        return self.permitted


def stay(*, permitted):
    shown = io.StringIO()
    plane: Any = Plane()
    operator: Any = Operator(permitted=permitted)
    demo._stay(plane, operator, Console(file=shown))
    return shown.getvalue()


def test_an_operator_whose_roles_were_deleted_ends_the_demo_in_one_line():
    shown = stay(permitted=False)
    assert shown.splitlines()[-1] == "ending: the operator's account or its roles were deleted"
    assert "tail -f /plane/logs/sglang-operator.log" in shown


def test_an_operator_that_died_of_something_else_is_told_with_its_log():
    with pytest.raises(errors.PlaneError, match="the end of its log"):
        stay(permitted=True)
