"""`realtime disconnect`: close a user's connections, on whichever worker they are. Calls the API, once."""

from __future__ import annotations

import click

from realtime.cli.remote import Remote, remote_command


@remote_command
@click.argument("user")
@click.option("--connection", default="", metavar="ID", help="Only the connection with this id.")
@click.option("--stream", default="", metavar="ID", help="Only the connection with this stream id (its `session`).")
@click.option(
    "--code", default=3503, show_default=True, help="Close code: 3503 for good; after 3011 clients reconnect."
)
@click.option("--reason", default="force disconnect", show_default=True, help="The reason that the clients get.")
def disconnect(remote: Remote, user: str, connection: str, stream: str, code: int, reason: str) -> None:
    """
    Disconnect USER everywhere.

    \b
    Examples:
      realtime disconnect mallory
      realtime disconnect alice --code 3011 --reason "force reconnect"
    """
    disconnect = {"code": code, "reason": reason}
    remote.call("disconnect", user=user, client=connection, session=stream, disconnect=disconnect)
    click.echo(f"every worker closes the connections of {user}")
