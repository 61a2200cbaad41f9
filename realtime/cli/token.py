"""
`realtime token`: sign a token that a client can connect or subscribe with, for trials and scripts.

It calls no server: the secret is in the settings of the server, which are read here.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

import click
import jwt

from realtime.cli.options import GroupedCommand, settings_options
from realtime.errors import SettingsError
from realtime.settings import resolve
from realtime.settings.quantities import Seconds, seconds_text

LIFETIME = Seconds(0, 366 * 86400)
RESERVED = ("sub", "exp", "iat", "jti", "aud", "iss", "channel", "client", "info", "roles")


@click.command(cls=GroupedCommand)
@click.option("--user", "-u", default="", metavar="USER", help="The user (`sub`); anonymous without it.")
@click.option(
    "--ttl", default="1h", metavar="SECONDS", show_default=True, help="How long it is good for; 0 is for ever."
)
@click.option("--channel", metavar="ROOM", help="Make a subscription token, for this room alone.")
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="A role of the user. Can be given several times.")
@click.option("--info", metavar="JSON", help="What others see of the user in presence, joins and publications.")
@click.option(
    "--claim",
    "claims",
    multiple=True,
    metavar="NAME=JSON",
    help="Another claim; a value that is not JSON is a text. Can be given several times.",
)
@settings_options(["token_hmac_secret", "token_audience", "token_issuer"])
def token(
    user: str,
    ttl: str,
    channel: str | None,
    roles: tuple[str, ...],
    info: str | None,
    claims: tuple[str, ...],
    config: str | None,
    **given: Any,
) -> None:
    """
    Sign a token for a client and print it.

    The secret, audience and issuer come from the same settings as the server's, so this server accepts it.

    \b
    Examples:
      export REALTIME_TOKEN_HMAC_SECRET=$(openssl rand -hex 32)
      realtime token --user alice
      realtime token --user alice --ttl 5m --role staff --info '{"name": "Alice"}'
      realtime token --user alice --channel chat:staff
    """
    settings = resolve(given, config=config)
    if settings.token_hmac_secret is None:
        problem = "there is no secret to sign with: set REALTIME_TOKEN_HMAC_SECRET, as for the server"
        raise SettingsError("token_hmac_secret", "--token-hmac-secret", problem)
    ttl_s = _lifetime(ttl)
    now = int(time.time())
    body: dict[str, Any] = {"sub": user, "iat": now, "jti": secrets.token_hex(8)}
    body |= {"exp": now + max(1, round(ttl_s))} if ttl_s else {}
    body |= {"channel": channel} if channel is not None else {}
    body |= {"roles": list(roles)} if roles else {}
    body |= {"info": _json("--info", info)} if info is not None else {}
    body |= {"aud": settings.token_audience} if settings.token_audience else {}
    body |= {"iss": settings.token_issuer} if settings.token_issuer else {}
    body |= dict(_claim(each) for each in claims)
    click.echo(jwt.encode(body, settings.token_hmac_secret, algorithm="HS256"))
    kind = f"subscription token for {channel}" if channel is not None else "connection token"
    until = f"good for {seconds_text(ttl_s)}" if ttl_s else "good for ever"
    click.echo(f"{kind} of {user or 'an anonymous client'}, {until}", err=True)


def _lifetime(text: str) -> float:
    """
    Read `--ttl`, in the same forms as a time of the settings.

    Raises:
        click.UsageError: it is none.
    """
    try:
        return float(LIFETIME.parse(text))
    except ValueError:
        raise click.UsageError(f"--ttl: {text!r} is not {LIFETIME.allowed}") from None


def _claim(text: str) -> tuple[str, Any]:
    """
    Read a `--claim`. The claims of RESERVED are refused: two places for one claim could contradict each other.

    Raises:
        click.UsageError: it has no name or no `=`, or is a claim of RESERVED.
    """
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.UsageError(f"--claim: {text!r} is not NAME=JSON")
    if name in RESERVED:
        raise click.UsageError(f"--claim: {name!r} has its own option, or is set by this command")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _json(flag: str, text: str) -> Any:
    """
    Read JSON.

    Raises:
        click.UsageError: it is none.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{flag}: {text!r} is not JSON ({error})") from None
