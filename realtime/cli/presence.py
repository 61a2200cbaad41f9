"""`realtime presence`: the members of a room. Calls the API, once."""

from __future__ import annotations

import json

import click

from realtime.cli.remote import Remote, on_one_line, remote_command, show, table


@remote_command
@click.argument("room")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def presence(remote: Remote, room: str, as_json: bool) -> None:
    """
    Show the members of ROOM, on all machines.

    \b
    Example:
      realtime presence chat:lobby
    """
    found = remote.call("presence", channel=room)["presence"]
    if as_json:
        click.echo(json.dumps(found, sort_keys=True))
        return
    lines = table("user", "connection", "info")
    for connection, info in sorted(found.items(), key=lambda each: (each[1]["user"], each[0])):
        lines.add_row(info["user"] or "-", connection, on_one_line(info["conn_info"]) if "conn_info" in info else "")
    show(lines if found else "the room has no members")
