"""
The journal of a worker: what is in flight in it, in memory that the primary reads when the worker has crashed.

Used in workers, which write it, and in the primary, which reads it. A crash in native code leaves no time to send a
message. So a worker has a byte for each of its connections, in a memory file that both processes hold. The begin and
the end of a request set and clear bits of that byte, which costs less than 100 ns. The key of a connection is written
once, when it is adopted.

    offset 0         the bytes: one for each of `ENTRIES` connections
    offset ENTRIES   the keys: `KEY_BYTES` for each connection, of which the first is the length

The worker maps the file. The primary reads it (`pread`) once, after the worker's end. It checks every length, so
nothing that a worker writes can hurt the primary. The journal is bounded: connections above `ENTRIES` are not noted.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import mmap
import os
import re
from collections import Counter
from hashlib import blake2b
from typing import Final

from sticky.loop.timers import LoopTimers, Timers

ENTRIES: Final = 65_536  # connections: one process rarely has more descriptors. Only pages that are used take memory.
KEY_BYTES: Final = 64  # the first is a length
SIZE: Final = ENTRIES * (1 + KEY_BYTES)
IN_FLIGHT_MAX: Final = 4_096  # entries that are read; among more than that no suspect can be found

# Bits of an entry's byte. 0: the entry is free. OPEN alone: its connection is idle.
ADOPTING: Final = 1
REQUEST: Final = 2
MESSAGE: Final = 4
ENDING: Final = 8
OPEN: Final = 16

ENDING_S: Final = 0.005  # from the end of a message: what an application does at once after it is done by then


class Mark:
    """One connection's entry. The entry is free again when this object is deleted."""

    __slots__ = ("at", "journal", "key")

    def __init__(self, journal: Journal, at: int, key: bytes) -> None:
        """
        Args:
            journal: whose entry it is.
            at: its place there. Where each message passes, `journal.states[at]` is changed in place.
            key: of the connection.
        """
        self.journal = journal
        self.at = at
        self.key = key

    def begin(self, bit: int = REQUEST) -> None:
        """Note that something is in flight on this connection. You must call `end`. Noting it twice changes nothing."""
        self.journal.states[self.at] |= bit

    def end(self, bit: int = REQUEST) -> None:
        """Note that it is over."""
        self.journal.states[self.at] &= ~bit

    def end_soon(self) -> None:
        """Note that a request is over, `ENDING_S` later: what it started may still crash."""
        self.journal.end_soon(self)

    def rename(self, key: bytes) -> None:
        """Set the key anew: the next request on this connection is another client's."""
        if key != self.key and self is not NO_MARK:
            self.key = key
            self.journal.write(self.at, key)

    def __del__(self) -> None:
        self.journal.free(self.at)


class Journal:
    """The worker's side of the file."""

    def __init__(self, memory: mmap.mmap | None = None, timers: Timers | None = None) -> None:
        """
        Args:
            memory: shared with the primary. None where there is none: then everything is noted in vain.
            timers: the running event loop's unless given.
        """
        self._timers = timers or LoopTimers()
        self.states: mmap.mmap | bytearray = bytearray(1) if memory is None else memory
        self._is_shared = memory is not None
        self._used = 0  # entries that were ever used
        self._free: list[int] = []
        self._ending: dict[Mark, float] = {}  # when ENDING is over, in that order
        if memory is not None:
            os.register_at_fork(after_in_child=self._leave)

    @classmethod
    def from_fd(cls, fd: int | None, timers: Timers | None = None) -> Journal:
        """Map a file that `create` made. The descriptor is closed, for the mapping stays without it."""
        if fd is None:
            return cls()
        try:
            return cls(mmap.mmap(fd, SIZE), timers)
        except (OSError, ValueError):
            return cls()
        finally:
            os.close(fd)

    def _leave(self) -> None:
        """In a child of the worker: detach, so that the child's copies of marks do not change the worker's entries."""
        self.states = bytearray(ENTRIES)
        self._is_shared = False

    def open(self, key: bytes) -> Mark:
        """Make the entry of a connection. You keep its mark. An entry without a key is not read until `rename`."""
        if self._is_shared:
            if self._free:
                at = self._free.pop()
            elif self._used < ENTRIES:
                at = self._used
                self._used += 1
            else:
                return NO_MARK
            assert self.states[at] == 0, "only a free entry is taken"
            assert len(self._free) < self._used <= ENTRIES, "the entry that was taken is not free any more"
            self.write(at, key)
            self.states[at] = OPEN
            return Mark(self, at, key)
        return NO_MARK

    def write(self, at: int, key: bytes) -> None:
        """Write the key of an entry. Call this before a request of that key is noted as in flight."""
        if self._is_shared:
            text = record(key)
            assert len(text) < KEY_BYTES, "a longer one would overwrite the next entry"
            begin = ENTRIES + at * KEY_BYTES
            self.states[begin : begin + 1 + len(text)] = bytes((len(text),)) + text

    def free(self, at: int) -> None:
        """Free an entry. Only `Mark` calls this, when it is deleted."""
        if self._is_shared:
            assert at < self._used, "only an entry that was taken can be freed"
            self.states[at] = 0
            self._free.append(at)

    def end_soon(self, mark: Mark) -> None:
        """As `Mark.end_soon`. One timer serves all marks, and runs only while there are some."""
        mark.begin(ENDING)
        mark.end()
        if not self._ending:
            self._timers.after(ENDING_S, self._sweep)
        self._ending.pop(mark, None)
        self._ending[mark] = self._timers.now() + ENDING_S

    def _sweep(self) -> None:
        now = self._timers.now()
        for mark, over_at in list(self._ending.items()):
            if over_at > now:
                break
            del self._ending[mark]
            mark.end(ENDING)
        if self._ending:
            self._timers.after(ENDING_S, self._sweep)


NO_JOURNAL: Final = Journal()
NO_MARK: Final = Mark(NO_JOURNAL, 0, b"")
"""Of a connection above `ENTRIES`, and of all in a worker without a primary."""


def record(key: bytes) -> bytes:
    """Return a key as the file has it: a long one as its digest."""
    if len(key) < KEY_BYTES:
        return key
    return key[:1] + b"#" + blake2b(key, digest_size=16).hexdigest().encode()


# The primary's side


def create() -> int | None:
    """Make the memory file of one worker; None where that is not possible. The caller owns the descriptor."""
    try:
        fd = os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:
        return None
    try:
        os.truncate(fd, SIZE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(fd)
        return None
    return fd


def in_flight(fd: int) -> Counter[bytes]:
    """
    Return the keys that were in flight in a worker that has ended, as `record` writes them.

    The count of a key is the number of its connections there, in flight or not. An unreadable file has no keys.
    """
    found: Counter[bytes] = Counter()
    with contextlib.suppress(OSError):
        states = os.pread(fd, ENTRIES, 0).rstrip(b"\0")
        entries = os.pread(fd, len(states) * KEY_BYTES, ENTRIES)
        # Neither 0 nor OPEN alone: something is in flight.
        busy = itertools.islice(re.finditer(rb"[^\x00\x10]", states), IN_FLIGHT_MAX)
        keys = {_key_at(entries, each.start()) for each in busy} - {b""}
        if keys:
            found.update(key for at, state in enumerate(states) if state and (key := _key_at(entries, at)) in keys)
    return found


def _key_at(entries: bytes, at: int) -> bytes:
    """Return the key of an entry, or nothing where its length is wrong."""
    begin = at * KEY_BYTES
    size = entries[begin] if begin < len(entries) else 0
    return entries[begin + 1 : begin + 1 + size] if size < KEY_BYTES else b""
