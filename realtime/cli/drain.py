"""
`realtime drain SLOT`: replace the worker of one slot, and wait until the old one is gone.

Asks the primary over the control socket; it never signals a worker itself.
"""

from __future__ import annotations

import time
from typing import Any

import click

from realtime.cli.options import GroupedCommand, settings_options
from realtime.cli.reload import ReloadGivenUp
from realtime.cli.servers import control_socket
from realtime.settings import resolve
from sticky.process.control import send_request

POLL_S = 0.1


@click.command(cls=GroupedCommand)
@click.argument("slot", type=click.IntRange(0))
@click.option("--no-wait", is_flag=True, help="Do not wait until the old worker is gone.")
@settings_options(["control", "user"])
def drain(slot: int, no_wait: bool, config: str | None, **given: Any) -> None:
    """
    Replace the worker of SLOT: when its successor is ready, it has its clients reconnect, and ends.

    The exit status is 1 when the successor fails to start; the old worker then keeps serving.

    \b
    Examples:
      realtime drain 2
    """
    path = control_socket(resolve(given, config=config))
    before = [each["pid"] for each in send_request(path, {"command": "status"})["workers"] if each["slot"] == slot]
    send_request(path, {"command": "drain", "slot": slot})
    while not no_wait:
        answer = send_request(path, {"command": "status"})
        if answer["reload"]["failed"]:
            raise ReloadGivenUp(answer["reload"]["failed"])
        if not any(each["pid"] in before for each in answer["workers"]):
            break
        time.sleep(POLL_S)
    if not no_wait:
        click.echo(f"slot {slot} has another worker")
