"""`realtime publish`: publish in a room, from a shell or a script. Calls the API, once."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from realtime.cli.remote import Remote, remote_command


@remote_command
@click.argument("room")
@click.argument("data", required=False)
@click.option("--tag", "tags", multiple=True, metavar="NAME=TEXT", help="A tag. Can be given several times.")
@click.option("--idempotency-key", default="", metavar="KEY", help="The same key within 300 s publishes once.")
def publish(remote: Remote, room: str, data: str | None, tags: tuple[str, ...], idempotency_key: str) -> None:
    """
    Publish DATA into ROOM; without DATA, what stands on standard input. What is no JSON is taken as text.

    \b
    Examples:
      realtime publish chat:lobby '{"text": "hello"}'
      date | realtime publish chat:lobby
    """
    text = data if data is not None else sys.stdin.read().rstrip("\n")
    value: Any
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    pairs = dict(tag.partition("=")[::2] for tag in tags)
    result = remote.call("publish", channel=room, data=value, tags=pairs, idempotency_key=idempotency_key)
    click.echo(f"published as {result['offset']} of {result['epoch']}" if result["offset"] else "published")
