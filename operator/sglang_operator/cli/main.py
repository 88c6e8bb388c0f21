"""``kubectl sglang``: the console script ``kubectl-sglang``, which kubectl finds by its name.

Each command is a module of its name, imported when the command runs: ``lint`` in an editor or a
commit hook has to answer at once.
"""

import gc
import sys
from importlib import import_module

import click

# What --help and the shell tell of each.
COMMANDS = {
    "convert": "A ROLL config as SGLangInference objects.",
    "lint": "Everything that is wrong with objects or ROLL configs.",
    "render": "The exact pods and command lines of a pool.",
    "plan": "Does it fit these GPUs, how many sequences, and which knob to turn.",
    "diff": "What a changed object would do to a live pool.",
    "status": "What is wrong with pools, and what to do next.",
    "map": "Which engine is where: nodes × GPUs, as a picture.",
    "wait": "Until pools are Ready, or cannot be.",
    "logs": "All engines of a pool as one log, the last failure first.",
    "rollout": "How far a change has come; hold it, let it go on, start anew, undo it.",
    "doctor": "Can this cluster run pools? With what to do if not.",
    "weights": "The transaction on a pool's weights, by hand.",
    "completion": "Completion for a shell.",
}


_GARBAGE = 50_000  # new objects before garbage is looked for


def load(name: str) -> click.Command:
    """The command of this name, from its module."""
    found: click.Command = import_module(f"sglang_operator.cli.{name}").command
    return found


class _Commands(click.Group):
    """Knows commands by name and short help, and imports the one that runs."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(command.name) if command and command.name else command, rest


@click.group(
    cls=_Commands,
    commands=[click.Command(name, short_help=text) for name, text in COMMANDS.items()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 well, 1 as each command says, 2 an error.",
)
@click.version_option(package_name="sglang-operator", prog_name="kubectl sglang")
def cli() -> None:
    """Pools of SGLang engines for reinforcement learning, before and on a cluster."""


def main() -> None:
    """The console script."""
    # What is imported stays: to look through it for garbage, often at the start and once more at
    # the end, takes a tenth of a short command's time.
    gc.set_threshold(_GARBAGE)
    try:
        cli(prog_name="kubectl sglang", complete_var="_KUBECTL_SGLANG_COMPLETE")
    finally:
        gc.freeze()


def complete() -> None:
    """The console script ``kubectl_complete-sglang``: what kubectl asks at the tab key.

    The last argument is the word that is being written.  Each line is a word and what it does;
    ``:4`` tells the shell to offer no file names (kubectl's protocol, that of cobra).
    """
    from click.shell_completion import ShellComplete

    *words, incomplete = sys.argv[1:] or [""]
    for item in ShellComplete(cli, {}, "kubectl sglang", "").get_completions(words, incomplete):
        click.echo(f"{item.value}\t{item.help or ''}".rstrip("\t"))
    click.echo(":4")


if __name__ == "__main__":
    main()
