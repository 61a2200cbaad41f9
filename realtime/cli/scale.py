"""`realtime scale WORKERS`: change the number of workers. Asks the primary over the control socket, once."""

from __future__ import annotations

from typing import Any

import click

from realtime.cli.options import GroupedCommand, settings_options
from realtime.cli.servers import control_socket
from realtime.settings import resolve
from sticky.process.control import send_request

MOST = 512


@click.command(cls=GroupedCommand)
@click.argument("workers", metavar="WORKERS", type=click.IntRange(1, MOST))
@settings_options(["control", "user"])
def scale(workers: int, config: str | None, **given: Any) -> None:
    """
    Change the number of workers to WORKERS, until the server ends.

    Only these clients move: those of removed slots, or a fair share for added slots.

    \b
    Examples:
      realtime scale 8
    """
    path = control_socket(resolve(given, config=config))
    before = send_request(path, {"command": "status"})["wanted"]
    send_request(path, {"command": "scale", "workers": workers})
    click.echo(f"from {before} to {workers} workers")
