"""``completion``: a script for each shell that asks this program."""

import pytest

from tests.unit.cli.runner import run


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_the_program_by_its_own_variable(shell):
    outcome = run("completion", shell)
    assert outcome.exit_code == 0, outcome.output
    assert f"_KUBECTL_SGLANG_COMPLETE={shell}_complete" in outcome.output
    assert "kubectl-sglang" in outcome.output
