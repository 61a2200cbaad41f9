"""
Tokens of a client: what they say, and how wrong ones are answered.

Runs in the worker, inside a session's command. A token is verified by auth/tokens.py; here its claims are compared with
the session, and every failure becomes what the client may get to know of it. A wrong token is counted, and its answer
waits a little, by the client's address. Nothing here changes a session.
"""

from __future__ import annotations

import logging
from typing import TypeVar

from realtime import codes
from realtime.auth.credentials import SUBSCRIPTION_TOKEN, TOKEN
from realtime.auth.tokens import ConnectionClaims, SubscriptionClaims, channels_of
from realtime.broker.base import Room
from realtime.errors import ClientError, Disconnect, TokenExpired, TokenInvalid
from realtime.log_lines import log
from realtime.session.base import Services
from realtime.session.state import Identity

Wrong = TypeVar("Wrong", ClientError, Disconnect)

logger = logging.getLogger("realtime.session")


async def of_connection(services: Services, identity: Identity, token: str) -> ConnectionClaims | None:
    """
    Return what a connection token says, or None for a client without one where those are welcome.

    Raises:
        ClientError: it has expired: the client fetches another.
        Disconnect: it is wrong, or there has to be one.
        TokenUnverified: that cannot be found out now.
    """
    if not token:
        if not services.limits.anonymous:
            log(
                logger,
                logging.INFO,
                "x connect refused",
                connection=identity.id,
                address=identity.address,
                reason="it has no token, and --anonymous is off",
            )
            raise codes.PROTOCOL.error()
        return None
    try:
        return await services.tokens.verify_connection(token)
    except TokenExpired:
        raise codes.TOKEN_EXPIRED.error() from None
    except TokenInvalid as error:
        raise await _wrong(services, identity, TOKEN, error, codes.INVALID_TOKEN.error()) from None


async def of_refresh(services: Services, identity: Identity, token: str) -> ConnectionClaims:
    """
    Return what a newer token of the same client says.

    Raises:
        Disconnect: it has expired, it is wrong or another user's, or it gives other rooms: then the client connects
            again, and gets those.
        TokenUnverified: that cannot be found out now.
    """
    try:
        claims = await services.tokens.verify_connection(token)
    except TokenExpired:
        raise codes.CONNECTION_EXPIRED.error() from None
    except TokenInvalid as error:
        raise await _wrong(services, identity, TOKEN, error, codes.INVALID_TOKEN.error()) from None
    if claims.user != identity.user:
        raise await _wrong(services, identity, TOKEN, "it is another user's", codes.INVALID_TOKEN.error())
    if set(claims.channels) != set(channels_of(identity.claims or {})):
        raise codes.INSUFFICIENT_STATE.error()
    return claims


async def of_subscription(services: Services, identity: Identity, room: Room, token: str) -> SubscriptionClaims:
    """
    Return what a subscription token says of this client and this room.

    Raises:
        ClientError: it has expired, or it is wrong.
        Disconnect: it is for another room, user or connection.
        TokenUnverified: that cannot be found out now.
    """
    try:
        claims = await services.tokens.verify_subscription(token)
    except TokenExpired:
        raise codes.TOKEN_EXPIRED.error() from None
    except TokenInvalid as error:
        denied = codes.PERMISSION_DENIED.error()
        raise await _wrong(services, identity, SUBSCRIPTION_TOKEN, error, denied) from None
    if claims.channel != room or claims.user != identity.user or claims.client not in (None, "", identity.id):
        why = "it is for another room, user or connection"
        raise await _wrong(services, identity, SUBSCRIPTION_TOKEN, why, codes.INVALID_TOKEN.error())
    return claims


async def _wrong(services: Services, identity: Identity, what: str, why: object, error: Wrong) -> Wrong:
    """Count a wrong token, and return the error when it is time to answer."""
    most_s = services.limits.connect_s / 2  # a client that connects must not be stale by then
    await services.wrong.slow(what, identity.address, why, most_s=most_s)
    return error
