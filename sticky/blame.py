"""
Whose requests crash workers: a client whose request does so comes back, and takes down one worker after another.

Pure; used in the primary, but for `key_of`, which workers call as well. A key is a sticky id or a client address. It is
suspected of a crash when something of it was in flight then (journal.py), and refused for a while when it was at three
crashes within a minute. Most clients that are in flight at one crash are not at the next, so three tell them apart.
Where several keys were in flight at the same three, only those are refused that had one connection each time: behind a
key with many are many people.
"""

from __future__ import annotations

import itertools
import signal
from collections import Counter, deque
from collections.abc import Mapping
from ipaddress import IPv6Network
from typing import Final

from sticky.affinity import UNIX_PEER, Affinity
from sticky.hashing import Hashing
from sticky.journal import record

CRASHES: Final = 3
WITHIN_S: Final = 60.0
REFUSED_S: Final = 60.0
CRASHES_MAX: Final = 64  # that are remembered: the oldest are forgotten first
REFUSED_MAX: Final = 1_024  # keys; above it the oldest may come again

REFUSED_LINE: Final = "! %s is refused for %g s: its requests were in flight at %d crashes of workers within %g s"

# Signals that a person, a service manager or the kernel's memory limit sends. No request does.
_ASKED: Final = frozenset(
    (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGXCPU, signal.SIGXFSZ)
)


def is_crash(code: int, *, was_told: bool, was_killed: bool) -> bool:
    """
    Whether a worker that served has crashed.

    Args:
        code: its exit status, negative for a signal.
        was_told: it was asked to end: a reload, an operator, a limit of its life.
        was_killed: the primary killed it: it hung, or took too long to end.
    """
    if was_killed or (code < 0 and -code in _ASKED):
        return False
    return code < 0 or not was_told


class Blame:
    """Crashes of the last minute, and whom they got refused. Keys are as `journal.record` writes them."""

    def __init__(self) -> None:
        self._crashes: deque[tuple[float, Mapping[bytes, int]]] = deque(maxlen=CRASHES_MAX)
        self.refused: dict[bytes, float] = {}  # until when
        self.suspected: set[bytes] = set()
        """Keys that one more crash gets refused, or did until a minute ago."""

    def crashed(self, in_flight: Mapping[bytes, int], now: float) -> list[bytes]:
        """
        Note a crash: which keys were in flight, and how many connections each had. Return the keys that are refused
        from here on.
        """
        while self._crashes and now - self._crashes[0][0] > WITHIN_S:
            self._crashes.popleft()
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
        for key in found:
            self.refused.pop(key, None)
            self.refused[key] = now + REFUSED_S
        while len(self.refused) > REFUSED_MAX:
            del self.refused[next(iter(self.refused))]
        return found

    def refuses(self, key: bytes, now: float) -> bool:
        """Whether a key is refused now."""
        until = self.refused.get(key)
        if until is None:
            return False
        if now < until:
            return True
        del self.refused[key]
        return False

    def suspects(self, key: bytes) -> bool:
        """Whether one more crash gets a key refused. Ask `is_active` first, which forgets what is long past."""
        return key in self.suspected

    def is_active(self, now: float) -> bool:
        """Whether anybody is refused or suspected. Nobody is, most of the time, and need not be asked about."""
        if self._crashes and now - self._crashes[-1][0] > WITHIN_S:
            self.suspected.clear()
            self.refused = {key: until for key, until in self.refused.items() if until > now}
        return bool(self.refused or self.suspected)


def key_of(affinity: Affinity, address: str, sticky_id: str | None) -> bytes:
    """
    Return by whom a request is known: its sticky id, or its client address, of IPv6 the /64. Nothing where that is the
    address of a proxy of ours, behind which anybody is.
    """
    if sticky_id is not None:
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


def named(key: bytes, hashing: Hashing) -> str:
    """Say whose key it is, for the log: of a sticky id that an application made only how it begins."""
    text = key[1:].decode("utf-8", "replace")
    if key[:1] == b"c":
        return f"client {text}"
    return f"sticky id {text}" if hashing.slot_of(text) is not None else f"sticky id {text[:8]}…"
