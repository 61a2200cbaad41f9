"""
`realtime bench [URL]`: load a server with clients, and report what they got and when.

The command alone: the load is in realtime/loadtest/, which knows nothing of settings. It runs in a process that serves
nothing.
"""

from __future__ import annotations

import asyncio
import json
import resource
import secrets
import signal
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import click
import uvloop
from rich.console import Console

from realtime.auth.tokens import sign
from realtime.cli.descriptors import raise_descriptor_limit
from realtime.cli.options import GroupedCommand, settings_options
from realtime.cli.remote import server_address
from realtime.errors import SettingsError
from realtime.loadtest.errors import WrongPlan
from realtime.loadtest.marks import Marker
from realtime.loadtest.outcome import Live, Outcome
from realtime.loadtest.plan import CLIENTS_MAX, SECONDS_MAX, Endpoint, Plan
from realtime.loadtest.report import as_json as numbers
from realtime.loadtest.report import as_text, title
from realtime.loadtest.run import Load
from realtime.loadtest.screen import Screen
from realtime.settings import Settings, resolve

TOKEN_S: Final = 3600  # longer than connecting and publishing can take
OWN_FILES: Final = 64  # descriptors of this process beside its connections
DIRTY: Final = 1


@click.command(cls=GroupedCommand)
@click.argument("url", required=False, metavar="[URL]")
@click.option(
    "--clients", "-c", default=100, show_default=True, metavar="N", help=f"Connections; at most {CLIENTS_MAX:,}."
)
@click.option("--rooms", default=1, show_default=True, metavar="N", help="Rooms they are spread over.")
@click.option("--room", default="bench:{n}", show_default=True, metavar="NAME", help="Their names; {n} is the number.")
@click.option("--rate", default=20.0, show_default=True, metavar="N", help="Publications a second in each room.")
@click.option(
    "--seconds", default=10.0, show_default=True, metavar="N", help=f"How long is published; at most {SECONDS_MAX:g}."
)
@click.option("--size", default=128, show_default=True, metavar="BYTES", help="Data of a publication.")
@click.option(
    "--data",
    default='{"text": "{text}"}',
    show_default=True,
    metavar="JSON",
    help="What it looks like, for handlers that look at it; {text} is filled in.",
)
@click.option("--connect-rate", default=200.0, show_default=True, metavar="N", help="Connections begun a second.")
@click.option("--token", metavar="TOKEN", help="What every client connects with.")
@click.option(
    "--secret-from-settings",
    is_flag=True,
    help="Sign a token for each client, as `realtime token` does: its user is bench-0, bench-1, …",
)
@click.option("--cafile", metavar="FILE", help="Trust the authorities in this file, for https and wss.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@settings_options(["own_prefix", "token_hmac_secret", "token_audience", "token_issuer"])
def bench(
    url: str | None,
    token: str | None,
    secret_from_settings: bool,
    cafile: str | None,
    as_json: bool,
    config: str | None,
    clients: int,
    rooms: int,
    room: str,
    rate: float,
    seconds: float,
    size: int,
    data: str,
    connect_rate: float,
    **given: Any,
) -> int:
    """
    Load the server at URL with clients that join rooms, publish and listen.

    Without URL it is the server of the settings: `url`, else the first address of `bind`. Publications are sent when
    they are due, and latency counts from then, so a server that stands still shows. The exit status is 0 when every
    client got every publication once and in order, 1 when not.

    \b
    Examples:
      realtime bench                               the server of realtime.toml, else http://127.0.0.1:8000
      realtime bench https://chat.example.com --clients 2000 --rooms 20 --room 'chat:{n}' --rate 2
      realtime bench wss://chat.example.com --secret-from-settings --seconds 60 --json
    """
    settings = resolve(given, config=config)
    try:
        address = Endpoint.parse(url or server_address(settings).url, below=settings.own_prefix)
        plan = Plan(address, clients, rooms, room, rate, seconds, size, data, connect_rate)
        marker = Marker(secrets.token_hex(4), data, size)
        tls = trust(plan.address, cafile)
    except WrongPlan as error:
        raise click.UsageError(str(error)) from None
    if token and secret_from_settings:
        raise click.UsageError("--token and --secret-from-settings: one of them is enough")
    token_of = signer(settings) if secret_from_settings else lambda client: token or ""
    allow_connections(plan.clients)
    outcome = run(plan, marker, token_of, tls, quiet=as_json)
    if as_json:
        click.echo(json.dumps(numbers(outcome), ensure_ascii=False))
    else:
        out = Console(highlight=False)
        out.print(as_text(outcome, out.width), soft_wrap=not out.is_terminal)
    if not outcome.balance.published and outcome.is_interrupted:
        raise KeyboardInterrupt
    return 0 if outcome.is_clean else DIRTY


def trust(address: Endpoint, cafile: str | None) -> ssl.SSLContext | None:
    """
    Return what a client trusts; None where there is no TLS.

    Raises:
        WrongPlan: the file cannot be read, holds no certificates, or has no use.
    """
    if not address.secure:
        if cafile:
            raise WrongPlan(f"--cafile: {address} has no certificate: it is for https and wss")
        return None
    try:
        return ssl.create_default_context(cafile=cafile)
    except (OSError, ssl.SSLError) as error:
        raise WrongPlan(f"--cafile: {cafile!r} cannot be used ({error.strerror or error})") from None


def signer(settings: Settings) -> Callable[[int], str]:
    """
    Return what signs a client's token with the settings' secret.

    Raises:
        SettingsError: they have none.
    """
    secret = settings.token_hmac_secret
    if secret is None:
        problem = "there is no secret to sign with: set REALTIME_TOKEN_HMAC_SECRET, as for the server"
        raise SettingsError("token_hmac_secret", "--token-hmac-secret", problem)
    now = int(time.time())
    claims: dict[str, Any] = {"iat": now, "exp": now + TOKEN_S}
    claims |= {"aud": settings.token_audience} if settings.token_audience else {}
    claims |= {"iss": settings.token_issuer} if settings.token_issuer else {}
    return lambda client: sign(claims | {"sub": f"bench-{client}", "jti": secrets.token_hex(8)}, secret)


def allow_connections(clients: int) -> None:
    """
    Raise the limit of open files, and check that it is enough for so many clients.

    Raises:
        click.UsageError: it is not.
    """
    files = raise_descriptor_limit()
    if files != resource.RLIM_INFINITY and files < clients + OWN_FILES:
        problem = (
            f"--clients: this process may open {files} files: raise `ulimit -Hn`, or use fewer than {files - OWN_FILES}"
        )
        raise click.UsageError(problem)


def run(
    plan: Plan, marker: Marker, token_of: Callable[[int], str], tls: ssl.SSLContext | None, *, quiet: bool
) -> Outcome:
    """
    Run the load in an event loop of its own; Ctrl-C ends it early.

    Raises:
        LoadRefused: the server refuses the first client.
    """
    if not quiet:
        Console(highlight=False).print(title(plan), end="\n\n", soft_wrap=True)
    terminal = Console(stderr=True)
    coloured = terminal.color_system is not None and not terminal.no_color
    with Screen(sys.stderr, width=terminal.width, coloured=coloured) as screen:
        return uvloop.run(_run(plan, marker, token_of, tls, screen.show))


async def _run(
    plan: Plan,
    marker: Marker,
    token_of: Callable[[int], str],
    tls: ssl.SSLContext | None,
    show: Callable[[Live], None],
) -> Outcome:
    load = Load(plan, marker, token_of=token_of, tls=tls, show=show)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, load.stop)
    loop.add_signal_handler(signal.SIGTERM, load.stop)
    return await load.run()
