"""`realtime disconnect`: end a user's connections, on whichever worker they are."""

from __future__ import annotations

import click

from realtime.cli.remote import Remote, remote_options


@click.command()
@click.argument("user")
@click.option("--client", default="", metavar="ID", help="Only this connection.")
@click.option("--session", default="", metavar="ID", help="Only the connection whose connect result had this session.")
@click.option("--code", default=3503, show_default=True, help="3503: for good; 3011: it may come back.")
@click.option("--reason", default="force disconnect", show_default=True, help="What the client is told.")
@remote_options
def disconnect(remote: Remote, user: str, client: str, session: str, code: int, reason: str) -> None:
    """
    Disconnect USER everywhere.

    \b
    Examples:
      realtime disconnect mallory
      realtime disconnect alice --code 3011 --reason "force reconnect"
    """
    told = {"code": code, "reason": reason}
    remote.call("disconnect", user=user, client=client, session=session, disconnect=told)
    click.echo(f"every worker was told to end the connections of {user}")
