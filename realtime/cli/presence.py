"""`realtime presence`: who is in a room."""

from __future__ import annotations

import json

import click

from realtime.cli.remote import Remote, remote_options, show, table, told


@click.command()
@click.argument("room")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@remote_options
def presence(remote: Remote, room: str, as_json: bool) -> None:
    """
    Show who is in ROOM, on all machines.

    \b
    Example:
      realtime presence chat:lobby
    """
    found = remote.call("presence", channel=room)["presence"]
    if as_json:
        click.echo(json.dumps(found, sort_keys=True))
        return
    lines = table("user", "client", "info")
    for client, info in sorted(found.items(), key=lambda each: (each[1]["user"], each[0])):
        lines.add_row(info["user"] or "-", client, told(info["conn_info"]) if "conn_info" in info else "")
    show(lines if found else "nobody is there")
