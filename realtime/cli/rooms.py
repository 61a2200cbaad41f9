"""`realtime rooms`: the rooms that have members now. Calls the API, once."""

from __future__ import annotations

import json

import click

from realtime.cli.remote import Remote, remote_command, show, table


@remote_command
@click.argument("pattern", default="")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rooms(remote: Remote, pattern: str, as_json: bool) -> None:
    """
    Show the rooms that have members, on all machines; only those that match PATTERN (such as 'chat:*') where given.

    \b
    Example:
      realtime rooms 'chat:*'
    """
    found = remote.call("channels", pattern=pattern)["channels"]
    if as_json:
        click.echo(json.dumps(found, sort_keys=True))
        return
    lines = table("room", "connections")
    for room, about in sorted(found.items(), key=lambda each: (-each[1]["num_clients"], each[0])):
        lines.add_row(room, str(about["num_clients"]))
    show(lines if found else "no room has members")
