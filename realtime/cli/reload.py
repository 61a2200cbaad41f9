"""`realtime reload`: have every worker replaced by one with the code of now, and wait until it is done."""

from __future__ import annotations

import time
from typing import Any

import click

from realtime.cli.options import GroupedCommand, settings_options
from realtime.cli.servers import control_socket
from realtime.errors import RealtimeError
from realtime.settings import resolve
from sticky.control import send_request

POLL_S = 0.1


class ReloadGivenUp(RealtimeError):
    """The new version does not boot."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"the new version does not boot, and the workers that were serving go on:\n{self.why.rstrip()}"


@click.command(cls=GroupedCommand)
@click.option("--no-wait", is_flag=True, help="Do not wait for the new workers.")
@settings_options(["control", "user"])
def reload(no_wait: bool, config: str | None, **given: Any) -> None:
    """
    Replace every worker, one after the other, without refusing anybody.

    The application's code is read anew; settings are not: they are the primary's. Clients are told to come back, and
    get what they missed. The exit status is 1 when the new version does not boot; the old workers then go on.

    \b
    Examples:
      realtime reload && echo deployed
      realtime reload --no-wait
    """
    path = control_socket(resolve(given, config=config))
    send_request(path, {"command": "reload"})
    if no_wait:
        return
    left = None
    while True:
        answer = send_request(path, {"command": "status"})
        if answer["reload"]["failed"]:
            raise ReloadGivenUp(answer["reload"]["failed"])
        if answer["reload"]["left"] != left:
            left = answer["reload"]["left"]
            click.echo(f"{answer['wanted'] - left} of {answer['wanted']} workers are new", err=True)
        if not left:
            return
        time.sleep(POLL_S)
