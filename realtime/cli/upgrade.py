"""
`realtime upgrade`: replace the primary by one with the code of today, and wait until it serves.

Asks the primary over the control socket; the keeper does the work, so a command that is interrupted stops no upgrade.
"""

from __future__ import annotations

import time
from typing import Any

import click

from realtime.cli.options import GroupedCommand, settings_options
from realtime.cli.servers import control_socket
from realtime.errors import RealtimeError
from realtime.settings import resolve
from sticky.process.control import ControlFailed, send_request

POLL_S = 0.1
DEADLINE_S = 90.0  # longer than the keeper waits for a successor


class UpgradeFailed(RealtimeError):
    """The primary of before serves on."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"nothing was replaced, and the server serves on: {self.reason}"


@click.command(cls=GroupedCommand)
@settings_options(["control", "user"])
def upgrade(config: str | None, **given: Any) -> None:
    """
    Replace the server's primary by one with the code, the interpreter and the settings of today.

    No connection is closed or refused. Workers keep their code: `realtime reload` replaces them, best after this.
    If the new version does not start, the old one serves on, and this command says why.

    \b
    Examples:
      pip install --upgrade realtime-cluster && realtime upgrade && realtime reload
    """
    path = control_socket(resolve(given, config=config))
    before = send_request(path, {"command": "status"})["pid"]
    send_request(path, {"command": "upgrade"})
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        try:
            status = send_request(path, {"command": "status"})
        except ControlFailed:
            continue  # between the two
        if status["pid"] != before:
            click.echo(f"upgraded (primary {before} -> {status['pid']})")
            return
        if status["upgrade"]["failed"] is not None:
            raise UpgradeFailed(status["upgrade"]["failed"])
    raise UpgradeFailed("no successor has taken over in time")
