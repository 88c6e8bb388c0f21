"""The command ``completion``: the script that completes words in a shell."""

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that completes kubectl-sglang in this shell.

    For "kubectl sglang" itself nothing is needed: kubectl's own completion asks the program
    kubectl_complete-sglang, which is installed beside this one.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, "kubectl-sglang", "_KUBECTL_SGLANG_COMPLETE").source())
