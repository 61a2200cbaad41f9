"""`realtime completion SHELL`: print the script that completes `realtime …` in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", metavar="SHELL", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """
    Print the script that completes commands and options in a SHELL: bash, zsh or fish.

    \b
    Examples:
      realtime completion bash >> ~/.bashrc
      realtime completion fish > ~/.config/fish/completions/realtime.fish
    """
    made_by = get_completion_class(shell)
    assert made_by is not None, "click knows each of SHELLS"
    click.echo(made_by(ctx.find_root().command, {}, "realtime", "_REALTIME_COMPLETE").source())
