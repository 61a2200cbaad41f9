"""
`realtime reload`: replace every worker by one with the present code, and wait until it is done.

Asks the primary over the control socket, which does the work; a command that is interrupted stops no reload.
"""

from __future__ import annotations

import time
from typing import Any

import click

from realtime.cli.options import GroupedCommand, settings_options
from realtime.cli.servers import control_socket
from realtime.errors import RealtimeError
from realtime.settings import resolve
from sticky.process.control import send_request

POLL_S = 0.1


class ReloadGivenUp(RealtimeError):
    """The new code fails to start."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"the new code fails to start, and the old workers keep serving:\n{self.why.rstrip()}"


@click.command(cls=GroupedCommand)
@click.option("--no-wait", is_flag=True, help="Do not wait for the new workers.")
@settings_options(["control", "user"])
def reload(no_wait: bool, config: str | None, **given: Any) -> None:
    """
    Replace every worker, one after the other. No client is refused.

    The application's code is read anew; settings are not, for the primary keeps them. Clients reconnect, and get what
    they missed. The exit status is 1 when the new code fails to start; the old workers then keep serving.

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
