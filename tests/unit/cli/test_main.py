"""``kubectl sglang``: which commands there are, and what is imported for them."""

import os
import subprocess
import sys

import pytest

from sglang_operator.cli import main
from tests.unit.cli.runner import run


@pytest.mark.parametrize("name", main.COMMANDS)
def test_each_command_is_the_module_of_its_name(name):
    assert main.load(name).name == name
    assert run(name, "--help").output.startswith(f"Usage: cli {name} ")


def test_the_groups_help_has_each_command_with_what_it_does():
    shown = " ".join(run("--help").output.split())
    for name, text in main.COMMANDS.items():
        assert f" {name} {text}" in shown


def test_help_and_completion_of_names_import_no_command():
    code = (
        "import sys; from click.testing import CliRunner; from sglang_operator.cli import main\n"
        "assert CliRunner().invoke(main.cli, ['--help']).exit_code == 0\n"
        "sys.argv = ['kubectl_complete-sglang', 'stat']; main.complete()\n"
        "print([name for name in main.COMMANDS if f'sglang_operator.cli.{name}' in sys.modules])\n"
        "print([name for name in ('rich', 'msgspec', 'yaml', 'aiohttp') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["[]", "[]"]


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["ren"], "render\tThe exact pods and command lines of a pool."),
        (["lint", "--str"], "--strict\tExit with 1 if there are warnings."),
        (["weights", "com"], "commit\tContinue the engines, and open their gates."),
        (["map", "-o", "sv"], "svg"),
    ],
)
def test_words_of_each_level_are_completed(monkeypatch, capsys, words, completed):
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-sglang", *words])
    main.complete()
    assert capsys.readouterr().out == f"{completed}\n:4\n"


def test_a_command_that_there_is_not_is_an_error():
    outcome = run("statu")
    assert outcome.exit_code == 2
    assert "No such command 'statu'" in outcome.output


def test_commands_need_neither_kopf_nor_the_kubernetes_client():
    code = (
        "import sys\n"
        "from sglang_operator.cli import doctor, logs, main, map, rollout, status, wait\n"
        "from sglang_operator.view import grid, text, svg, page\n"
        "assert not {'kopf', 'kubernetes', 'aiohttp'} & {*sys.modules}, 'heavy'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_completion_speaks_kubectls_protocol(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-sglang", "stat"])
    main.complete()
    assert capsys.readouterr().out == (
        "status\tWhat is wrong with pools, and what to do next.\n:4\n"
    )


def test_what_is_imported_is_not_looked_through_for_garbage_again_and_again():
    code = (
        "import atexit, gc, sys; from sglang_operator.cli import main\n"
        "looks = []; gc.callbacks.append(lambda phase, _: looks.append(phase))\n"
        "atexit.register(lambda: print(looks.count('start'), gc.get_freeze_count() > 10_000))\n"
        "sys.argv = ['kubectl-sglang', 'lint', '--help']; main.main()"
    )
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=here, capture_output=True, text=True, check=True)
    looks, frozen = done.stdout.split()[-2:]
    assert int(looks) <= 3
    assert frozen == "True"
