"""`realtime tail`: follow a room, line by line. Reads a stream of the API until it ends."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

import click

from realtime.cli.remote import Remote, on_one_line, remote_command


@remote_command
@click.argument("room")
@click.option("--json", "as_json", is_flag=True, help="Print each event as JSON.")
def tail(remote: Remote, room: str, as_json: bool) -> None:
    """
    Print what is published in ROOM, its joins and leaves, until Ctrl-C. Members of the room do not see this client.

    \b
    Example:
      realtime tail chat:lobby
    """

    def print_event(event: dict[str, Any]) -> None:
        if as_json:
            click.echo(json.dumps(event))
        elif "pub" in event:
            user = event["pub"].get("info", {}).get("user", "")
            click.echo(f"{time.strftime('%H:%M:%S')} {user + ': ' if user else ''}{on_one_line(event['pub']['data'])}")
        elif "join" in event:
            click.echo(f"{time.strftime('%H:%M:%S')} + {event['join']['info']['user'] or 'anonymous'} joined")
        elif "leave" in event:
            click.echo(f"{time.strftime('%H:%M:%S')} - {event['leave']['info']['user'] or 'anonymous'} left")

    remote.follow(f"/api/tail?channel={quote(room, safe='')}", print_event)
    click.echo("the server ended the stream", err=True)
