"""`realtime inspect SLOT`: what a worker does now, each thread and task. Asks the primary, which asks the worker."""

from __future__ import annotations

from typing import Any

import click

from realtime.cli.options import GroupedCommand, settings_options
from realtime.cli.servers import control_socket
from realtime.settings import resolve
from sticky.process.control import send_request


@click.command(cls=GroupedCommand)
@click.argument("slot", type=click.IntRange(0))
@settings_options(["control", "user"])
def inspect(slot: int, config: str | None, **given: Any) -> None:
    """
    Show what the worker of SLOT is doing: where its threads are, and what each of its tasks waits for.

    The worker goes on meanwhile. One whose event loop stands still cannot answer; the stacks of its threads then go to
    the server's log. For a debugger: `realtime serve --inspect SLOT`, and breakpoint() in the code.

    \b
    Examples:
      realtime inspect 0
    """
    click.echo(
        send_request(control_socket(resolve(given, config=config)), {"command": "inspect", "slot": slot})["text"]
    )
