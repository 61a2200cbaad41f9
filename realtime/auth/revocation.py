"""
Revoked tokens: those that are refused although they have not expired.

Pure: revocations, claims and a time in, a verdict out. Runs in the worker. bus.py and revocation_sync.py bring the
revocations to all workers.

A token is revoked by its own id (`jti`), or together with all tokens of its user that were issued before a moment
(`iat`). A token without `iat` counts as older than any moment. A revocation is stored until the time that it names. At
most `MOST` of each kind are stored; then the oldest is dropped, with a line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from realtime.log_lines import log

MOST: Final = 10_000  # of each kind; each user that logs out needs one for the lifetime of a token
KEPT_S: Final = 30 * 86400.0  # default lifetime of a revocation; a token that lives longer is good again after it

logger = logging.getLogger("realtime.auth")


class Revocation(msgspec.Struct, frozen=True, array_like=True):
    """
    One revocation, in force until `until_s`.

    It revokes the token of id `token`, or else all tokens of `user` issued before `before_s`. Times are Unix time.
    """

    until_s: float
    token: str = ""
    user: str = ""
    before_s: float = 0.0


class Revoked:
    """All revocations that are in force."""

    def __init__(self) -> None:
        self._tokens: dict[str, Revocation] = {}
        self._users: dict[str, Revocation] = {}

    def __len__(self) -> int:
        return len(self._tokens) + len(self._users)

    def __iter__(self) -> Any:
        """Go through all revocations that are known, also those that have ended."""
        yield from self._tokens.values()
        yield from self._users.values()

    def add(self, revocation: Revocation, now_s: float) -> None:
        """Put a revocation in force. A known one is extended; one that has ended is ignored."""
        if revocation.until_s <= now_s:
            return
        kind, key = (self._tokens, revocation.token) if revocation.token else (self._users, revocation.user)
        known = kind.pop(key, None)  # removed first, so that an extended revocation counts as the youngest
        if known is not None:
            until_s, before_s = max(known.until_s, revocation.until_s), max(known.before_s, revocation.before_s)
            revocation = msgspec.structs.replace(revocation, until_s=until_s, before_s=before_s)
        kind[key] = revocation
        if len(kind) > MOST:
            self._forget(kind, now_s)
        assert len(kind) <= MOST, "each kind is bounded: clients cause revocations"

    def _forget(self, kind: dict[str, Revocation], now_s: float) -> None:
        """Remove revocations that have ended, and if there are still too many, the oldest."""
        for key in [key for key, each in kind.items() if each.until_s <= now_s]:
            del kind[key]
        if len(kind) > MOST:
            del kind[next(iter(kind))]
            log(logger, logging.WARNING, "revocation lost", most=MOST, reason="there are more: the oldest is forgotten")
            assert len(kind) == MOST, "one revocation is added at a time"

    def covers(self, claims: Mapping[str, Any], now_s: float) -> bool:
        """Return whether a token with these claims is revoked."""
        token, user = claims.get("jti"), claims.get("sub", "")
        if isinstance(token, str) and (found := self._tokens.get(token)) is not None and now_s < found.until_s:
            return True
        found = self._users.get(user) if isinstance(user, str) else None
        if found is None or now_s >= found.until_s:
            return False
        # Without a usable `iat`, nothing proves that the token is newer. `not >=` also covers NaN.
        issued = claims.get("iat")
        return isinstance(issued, bool) or not isinstance(issued, int | float) or not issued >= found.before_s
