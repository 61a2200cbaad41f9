"""
Close codes by name: what ends a connection, and whether its client comes back.

Plain data, for applications, tests and other programs. The wire protocol has the texts beside them.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["CloseCode"]


class CloseCode(IntEnum):
    """
    Why a connection ended. A client comes back by itself where `reconnects`. Codes from 4000 are the application's own.

    `conn.disconnect(CloseCode.FORCE_RECONNECT)`
    """

    SHUTDOWN = 3001
    """The worker ends; another one takes the client."""
    SERVER_ERROR = 3004
    """Something failed inside."""
    CONNECTION_EXPIRED = 3005
    """The token's time was over, and no other one came."""
    SLOW = 3008
    """The client read too slowly, and too much waited for it."""
    INSUFFICIENT_STATE = 3010
    """Publications were lost; the client recovers them when it is back."""
    FORCE_RECONNECT = 3011
    """The application, or an operator, sends the client round once."""
    NO_PONG = 3012
    """The client did not answer a ping."""
    TOO_MANY_REQUESTS = 3013
    """The client sent more than its rate allows."""
    INVALID_TOKEN = 3500
    """The token is not one of ours."""
    BAD_REQUEST = 3501
    """The client does not follow the protocol."""
    STALE = 3502
    """The client sent no `connect` in time."""
    FORCE_DISCONNECT = 3503
    """The application, or an operator, ended it for good."""
    ROOM_LIMIT = 3505
    """The client is in as many rooms as it may be."""
    PERMISSION_DENIED = 3507
    """The application does not admit the client."""
    NOT_AVAILABLE = 3508
    """The application has no handler for what the client sent."""

    @property
    def reconnects(self) -> bool:
        """Whether a client comes back by itself."""
        return self < 3500 or 4000 <= self < 4500
