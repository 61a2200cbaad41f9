"""
Which tokens are revoked, though they would still be good.

Pure: what was revoked and a time in, a verdict out. Runs in the worker; bus.py and revocation_sync.py see to it that
all workers know the same. A token is revoked by its own id (`jti`), or with all tokens of its user that were issued
before a moment (`iat`; one that does not say when counts as older than any). Nothing here is kept for longer than it
says, and no more than `MOST` of each kind: then the oldest is forgotten, with a line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import msgspec

MOST: Final = 10_000  # of each kind; a user who logs out needs one for as long as a token lives
KEPT_S: Final = 30 * 86400.0  # where nothing else is said; a token that lives longer is good again after it

logger = logging.getLogger("realtime.auth")


class Revocation(msgspec.Struct, frozen=True, array_like=True):
    """
    What is revoked until `until_s`: the token of id `token`, or else all tokens of `user` from before `before_s`. Times
    are Unix time.
    """

    until_s: float
    token: str = ""
    user: str = ""
    before_s: float = 0.0


class Revoked:
    """All that is revoked."""

    def __init__(self) -> None:
        self._tokens: dict[str, Revocation] = {}
        self._users: dict[str, Revocation] = {}

    def __len__(self) -> int:
        return len(self._tokens) + len(self._users)

    def __iter__(self) -> Any:
        yield from self._tokens.values()
        yield from self._users.values()

    def add(self, revocation: Revocation, now_s: float) -> None:
        """Refuse what this revokes. Harmless when it is known; what is over by now is forgotten."""
        if revocation.until_s <= now_s:
            return
        kind, key = (self._tokens, revocation.token) if revocation.token else (self._users, revocation.user)
        known = kind.pop(key, None)
        if known is not None:
            until_s, before_s = max(known.until_s, revocation.until_s), max(known.before_s, revocation.before_s)
            revocation = msgspec.structs.replace(revocation, until_s=until_s, before_s=before_s)
        kind[key] = revocation
        if len(kind) > MOST:
            self._forget(kind, now_s)

    def _forget(self, kind: dict[str, Revocation], now_s: float) -> None:
        for key in [key for key, each in kind.items() if each.until_s <= now_s]:
            del kind[key]
        if len(kind) > MOST:
            del kind[next(iter(kind))]
            logger.warning("! more than %d revocations: the oldest is forgotten", MOST)

    def covers(self, claims: Mapping[str, Any], now_s: float) -> bool:
        """Say whether a token that says `claims` is revoked."""
        token, user = claims.get("jti"), claims.get("sub", "")
        if isinstance(token, str) and (found := self._tokens.get(token)) is not None and now_s < found.until_s:
            return True
        found = self._users.get(user) if isinstance(user, str) else None
        if found is None or now_s >= found.until_s:
            return False
        issued = claims.get("iat")
        return isinstance(issued, bool) or not isinstance(issued, int | float) or not issued >= found.before_s
