"""`realtime where`: whether a user is connected, and by which workers."""

from __future__ import annotations

import json

import click

from realtime.cli.remote import Remote, remote_command, show, table


@remote_command
@click.argument("user")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def where(remote: Remote, user: str, as_json: bool) -> int:
    """
    Show where USER is connected, on all machines. The exit status is 1 for nowhere.

    \b
    Example:
      realtime where alice
    """
    found = remote.call("connections", user=user)["connections"]
    if as_json:
        click.echo(json.dumps(found, sort_keys=True))
    else:
        lines = table("connection", "address", "node", "slot", "rooms")
        for connection, place in sorted(found.items()):
            lines.add_row(connection, place["address"], place["node"], str(place["slot"]), " ".join(place["channels"]))
        show(lines if found else f"{user} is not connected")
    return 0 if found else 1
