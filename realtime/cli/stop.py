"""`realtime stop`: end the server that runs here, and wait until it is gone."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import click

from realtime.cli.options import GroupedCommand, settings_options
from realtime.cli.servers import control_socket
from realtime.settings import resolve
from sticky.process.control import send_request

POLL_S = 0.05


@click.command(cls=GroupedCommand)
@click.option("--now", is_flag=True, help="Cut every connection instead of draining.")
@settings_options(["control", "user"])
def stop(now: bool, config: str | None, **given: Any) -> None:
    """
    Stop the server that runs here: it accepts nothing more, has its clients reconnect elsewhere, and ends.

    With --lame-duck it first serves on for that time. A second `realtime stop` cuts this short.

    \b
    Examples:
      realtime stop
      realtime stop --now
    """
    path = control_socket(resolve(given, config=config))
    status = send_request(path, {"command": "status"})
    pid, keeper = status["pid"], status.get("keeper")  # a primary of the release before has none
    send_request(path, {"command": "stop", "now": now})
    while _runs(pid) or (keeper is not None and _runs(keeper["pid"])):
        time.sleep(POLL_S)
    click.echo(f"stopped (primary {pid})")


def _runs(pid: int) -> bool:
    """Return whether the process runs: it is there, and no zombie that its parent has still to collect."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
    except PermissionError:
        return True
