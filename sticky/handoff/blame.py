"""
The rules by which clients are refused whose requests crash workers.

Pure, used in the primary; `key_of` in workers as well. A client whose request crashes its worker comes back, and takes
down one worker after another. A key here is a sticky id or a client address. A key is suspected of a crash when one of
its requests was in flight then (journal.py). A key at three crashes within a minute is refused for a minute. Most
clients in flight at one crash are not at the next, so three crashes tell them apart.

Sometimes several keys were in flight at the same three crashes. Then only those with one connection each time are
refused: behind a key with many connections are many people.

It holds no socket and no clock, and it never reads the journal.
"""

from __future__ import annotations

import itertools
import signal
from collections import Counter, deque
from collections.abc import Mapping
from ipaddress import IPv6Network
from typing import Final

from sticky.handoff.journal import record
from sticky.keys.affinity import UNIX_PEER, Affinity
from sticky.keys.hashing import Hashing

CRASHES: Final = 3
WITHIN_S: Final = 60.0
REFUSED_S: Final = 60.0
CRASHES_MAX: Final = 64  # crashes that are remembered; the oldest is forgotten first
REFUSED_MAX: Final = 1_024  # keys that are refused at once; above it the oldest may come again

REFUSED_LINE: Final = (
    'key refused key="%s" for_s=%g reason="its requests were in flight at %d crashes of workers within %g s"'
)

# Signals that a person, a service manager or the kernel's memory limit sends. No request causes them.
_REQUESTED: Final = frozenset(
    (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGXCPU, signal.SIGXFSZ)
)


def is_crash(code: int, *, was_retired: bool, was_killed: bool) -> bool:
    """
    Return whether a worker that served has crashed.

    Args:
        code: its exit status, negative for a signal.
        was_retired: the primary had sent it DRAIN: for a reload, an operator, or a limit of its life.
        was_killed: the primary killed it: it hung, or took too long to end.
    """
    if was_killed or (code < 0 and -code in _REQUESTED):
        return False
    return code < 0 or not was_retired


class Blame:
    """The crashes of the last minute, and the keys that they got refused. Keys are as `journal.record` writes them."""

    def __init__(self) -> None:
        self._crashes: deque[tuple[float, Mapping[bytes, int]]] = deque(maxlen=CRASHES_MAX)
        self.refused: dict[bytes, float] = {}
        """The refused keys, and until when."""
        self.suspected: set[bytes] = set()
        """Keys that one more crash gets refused, or did until a minute ago."""

    def crashed(self, in_flight: Mapping[bytes, int], now: float) -> list[bytes]:
        """
        Note a crash. Return the keys that are refused from now on.

        Args:
            in_flight: the keys that were in flight, and how many connections each had.
        """
        while self._crashes and now - self._crashes[0][0] > WITHIN_S:
            self._crashes.popleft()
        assert not self._crashes or self._crashes[-1][0] <= now, "the oldest crash is the first to be forgotten"
        self._crashes.append((now, in_flight))
        suspects = {}
        self.suspected.clear()
        counts = Counter(itertools.chain.from_iterable(crash for _, crash in self._crashes))
        self.suspected.update(key for key, count in counts.items() if count >= CRASHES - 1)
        for key in in_flight:
            times = [crash[key] for _, crash in self._crashes if key in crash][-CRASHES:]
            if len(times) == CRASHES and not self.refuses(key, now):
                suspects[key] = max(times)
        found = list(suspects) if len(suspects) == 1 else [key for key, most in suspects.items() if most == 1]
        assert self.suspected.issuperset(found), "a key is suspected before it is refused"
        for key in found:
            self.refused.pop(key, None)
            self.refused[key] = now + REFUSED_S
        while len(self.refused) > REFUSED_MAX:
            del self.refused[next(iter(self.refused))]
        return found

    def refuses(self, key: bytes, now: float) -> bool:
        """Return whether a key is refused now."""
        until = self.refused.get(key)
        if until is None:
            return False
        if now < until:
            return True
        del self.refused[key]
        return False

    def suspects(self, key: bytes) -> bool:
        """Return whether one more crash gets a key refused. Call `is_active` before: it forgets old crashes."""
        return key in self.suspected

    def is_active(self, now: float) -> bool:
        """Return whether any key is refused or suspected. Most of the time none is, and no handoff need be checked."""
        if self._crashes and now - self._crashes[-1][0] > WITHIN_S:
            self.suspected.clear()
            self.refused = {key: until for key, until in self.refused.items() if until > now}
        return bool(self.refused or self.suspected)


def key_of(affinity: Affinity, address: str, sticky_id: str | None) -> bytes:
    """
    Return the key of a request: of its sticky id, else of its client address, for IPv6 of the /64.

    It is empty for the address of a trusted proxy, behind which any client may be. A query id is no such key: a client
    whose worker crashed gets another one.
    """
    if sticky_id is not None and not affinity.is_query_id(sticky_id):
        return record(b"s" + sticky_id.encode())
    if address == UNIX_PEER:
        return b""
    if affinity.settings.trusted and affinity.trusts(address):
        return b""
    if ":" in address:
        try:
            address = str(IPv6Network((address.partition("%")[0], 64), strict=False))
        except ValueError:
            return b""
    return record(b"c" + address.encode())


def describe_key(key: bytes, hashing: Hashing) -> str:
    """Return a key as the log shows it. An application's sticky id may be a secret: only its beginning is shown."""
    text = key[1:].decode("utf-8", "replace")
    if key[:1] == b"c":
        return f"client {text}"
    return f"sticky id {text}" if hashing.slot_of(text) is not None else f"sticky id {text[:8]}…"
