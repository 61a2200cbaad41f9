"""
The codes that this server sends, each with its text and what a client does about it.

Runs in the worker. Tables only (Centrifuge client protocol, section 8). A client gets a code and this text, never what
went wrong inside. The protocol has more codes; docs/reference/codes.md says why the server does not send them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from realtime.errors import ClientError, Disconnect


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """An answer to one command."""

    code: int
    message: str
    temporary: bool = False

    def error(self) -> ClientError:
        """Return the exception that becomes this answer."""
        return ClientError(self.code, self.message, temporary=self.temporary)


@dataclass(frozen=True, slots=True)
class DisconnectCode:
    """The end of a connection."""

    code: int
    reason: str

    @property
    def reconnects(self) -> bool:
        """Whether a client comes back by itself."""
        return self.code < 3500 or 4000 <= self.code < 4500 or self.code >= 5000

    def error(self) -> Disconnect:
        """Return the exception that becomes this end."""
        return Disconnect(self.code, self.reason)


@dataclass(frozen=True, slots=True)
class UnsubscribeCode:
    """The end of a subscription. From 2500 on a client subscribes again by itself."""

    code: int
    reason: str


INTERNAL: Final = ErrorCode(100, "internal server error", temporary=True)
UNAVAILABLE: Final = ErrorCode(100, "temporarily unavailable", temporary=True)  # the broker is away; ours to word
UNKNOWN_ROOM: Final = ErrorCode(102, "unknown channel")
PERMISSION_DENIED: Final = ErrorCode(103, "permission denied")
METHOD_NOT_FOUND: Final = ErrorCode(104, "method not found")
ALREADY_SUBSCRIBED: Final = ErrorCode(105, "already subscribed")
LIMIT_EXCEEDED: Final = ErrorCode(106, "limit exceeded")
BAD_REQUEST: Final = ErrorCode(107, "bad request")
NOT_AVAILABLE: Final = ErrorCode(108, "not available")
TOKEN_EXPIRED: Final = ErrorCode(109, "token expired")
TOO_MANY_REQUESTS: Final = ErrorCode(111, "too many requests", temporary=True)
UNRECOVERABLE: Final = ErrorCode(112, "unrecoverable position")

_FOR_GOOD: Final = (1000, 1005)  # a client that says goodbye (RFC 6455, section 7.4.1: normal, and without a code)


def comes_back(code: int) -> bool:
    """Say whether a client whose connection ended with this code may come back by itself (protocol, section 8.2)."""
    return not (code in _FOR_GOOD or 3500 <= code < 4000 or 4500 <= code < 5000)


SHUTDOWN: Final = DisconnectCode(3001, "shutdown")
SERVER_ERROR: Final = DisconnectCode(3004, "internal server error")
CONNECTION_EXPIRED: Final = DisconnectCode(3005, "connection expired")
SLOW: Final = DisconnectCode(3008, "slow")
INSUFFICIENT_STATE: Final = DisconnectCode(3010, "insufficient state")
FORCE_RECONNECT: Final = DisconnectCode(3011, "force reconnect")
NO_PONG: Final = DisconnectCode(3012, "no pong")
TOO_MANY_REQUESTS_END: Final = DisconnectCode(3013, "too many requests")
INVALID_TOKEN: Final = DisconnectCode(3500, "invalid token")
PROTOCOL: Final = DisconnectCode(3501, "bad request")
STALE: Final = DisconnectCode(3502, "stale")
FORCED: Final = DisconnectCode(3503, "force disconnect")
ROOM_LIMIT: Final = DisconnectCode(3505, "channel limit")
DENIED: Final = DisconnectCode(3507, "permission denied")
NO_HANDLER: Final = DisconnectCode(3508, "not available")

UNSUBSCRIBED: Final = UnsubscribeCode(2000, "server unsubscribe")
UNSUBSCRIBED_INSUFFICIENT: Final = UnsubscribeCode(2500, "insufficient state")
UNSUBSCRIBED_EXPIRED: Final = UnsubscribeCode(2501, "subscription expired")

_ENDS: Final = [each for each in list(globals().values()) if isinstance(each, DisconnectCode)]
assert len({each.code for each in _ENDS}) == len(_ENDS), "a code has one reason"
assert all(each.reconnects is comes_back(each.code) for each in _ENDS), "clients and departures go by one rule"
assert all(len(each.reason) <= 32 for each in _ENDS), "as reasons of applications: a close frame has 123 bytes for it"
