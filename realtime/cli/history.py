"""`realtime history`: the publications that a room keeps. Calls the API, once."""

from __future__ import annotations

import json
import time

import click

from realtime.cli.remote import Remote, on_one_line, remote_command, show, table


@remote_command
@click.argument("room")
@click.option("--limit", "-n", default=20, show_default=True, help="How many; -1 for all that are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one publication a line.")
def history(remote: Remote, room: str, limit: int, as_json: bool) -> None:
    """
    Show the latest publications of ROOM, oldest first.

    \b
    Example:
      realtime history chat:lobby -n 5
    """
    page = remote.call("history", channel=room, limit=limit, reverse=True)
    publications = list(reversed(page["publications"]))
    if as_json:
        for each in publications:
            click.echo(json.dumps(each))
        return
    lines = table("offset", "time", "user", "data")
    for each in publications:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.get("time", 0) / 1000))
        lines.add_row(str(each.get("offset", "")), at, each.get("info", {}).get("user", ""), on_one_line(each["data"]))
    show(lines if publications else "the room keeps no publications")
