"""`realtime emit`: send an event to clients of Socket.IO, from a shell or a script. Calls the API, once."""

from __future__ import annotations

import json
from typing import Any

import click

from realtime.cli.remote import Remote, remote_command


@remote_command
@click.argument("room")
@click.argument("event")
@click.argument("args", metavar="[JSON]...", nargs=-1)
@click.option("--namespace", default="/", metavar="NAME", help="Of the clients.  [default: /]")
@click.option("--except", "excluded", multiple=True, metavar="ROOM", help="Not to those in this room, or of this id.")
def emit(
    remote: Remote, room: str, event: str, args: tuple[str, ...], namespace: str, excluded: tuple[str, ...]
) -> None:
    """
    Send EVENT to the clients of Socket.IO in ROOM, with each JSON as an argument. What is no JSON is taken as text.
    ROOM may be the id of one client, and "" is all clients.

    \b
    Examples:
      realtime emit lobby said '{"text": "hello"}'
      realtime emit "" alert "the server restarts" --namespace /admin
    """
    remote.call(
        "emit",
        event=event,
        args=[_value(each) for each in args],
        rooms=[room] if room else [],
        namespace=namespace,
        **{"except": list(excluded)},
    )
    click.echo("emitted")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
