"""`realtime scale WORKERS`: have so many workers from now on."""

from __future__ import annotations

from typing import Any

import click

from realtime.cli.options import GroupedCommand, settings_options
from realtime.cli.servers import control_socket
from realtime.settings import resolve
from sticky.control import send_request

MOST = 512


@click.command(cls=GroupedCommand)
@click.argument("workers", metavar="WORKERS", type=click.IntRange(1, MOST))
@settings_options(["control", "user"])
def scale(workers: int, config: str | None, **given: Any) -> None:
    """
    Have WORKERS workers from now on, until the server ends.

    Only the clients that have to move do: those of the slots that go, or a fair share for those that come.

    \b
    Examples:
      realtime scale 8
    """
    path = control_socket(resolve(given, config=config))
    before = send_request(path, {"command": "status"})["wanted"]
    send_request(path, {"command": "scale", "workers": workers})
    click.echo(f"from {before} to {workers} workers")
