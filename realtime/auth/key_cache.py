"""
The key set in a file, for the other workers of this machine, and for those that come after.

Runs in the worker. Whoever has fetched a set writes it; a worker that starts, or lacks a key, reads it. So a reload, or
a crash, while the key server is away costs nobody a login, also where no other worker is left to ask. The file lies in
the primary's own directory (mode 0700), has mode 0600, holds public keys alone, and goes with the primary. It never
says what a key is good for, and is never needed: what cannot be read or written is logged.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

FILE_MAX: Final = 1024**2  # bytes; a set that was fetched has no more

logger = logging.getLogger("realtime.auth")


class _Kept(msgspec.Struct):
    """What the file holds. `fetched_at_s` is Unix time."""

    url: str
    fetched_at_s: float
    keys: list[dict[str, str]]


class KeyCache:
    """The file. `load` and `save` do not raise."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        """
        Args:
            path: of the file; its directory is there.
            now: Unix time.
        """
        self._path = path
        self._now = now
        self._seen: tuple[int, int] | None = None  # which file was read or written last

    def load(self, url: str) -> tuple[float, list[dict[str, str]]] | None:
        """
        Return how many seconds ago the keys of a URL were fetched, and those keys; None where there are none, or none
        since the last time.
        """
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                found = os.fstat(fd)
                if self._seen == (found.st_ino, found.st_mtime_ns):
                    return None
                self._seen = (found.st_ino, found.st_mtime_ns)
                if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
                    raise ValueError("it is not this user's own file")
                kept = msgspec.json.decode(file.read(FILE_MAX), type=_Kept)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
            logger.warning("! %s is not read: %s", self._path, error)
            return None
        return (max(self._now() - kept.fetched_at_s, 0.0), kept.keys) if kept.url == url else None

    def save(self, url: str, keys: Sequence[dict[str, str]]) -> None:
        """Write what was just fetched, in one step: nobody reads half a file."""
        part = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        text = msgspec.json.encode(_Kept(url, self._now(), list(keys)))
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(text)
                file.flush()
                found = os.fstat(fd)
            part.replace(self._path)
            self._seen = (found.st_ino, found.st_mtime_ns)
        except OSError as error:
            logger.warning("! %s is not written: %s", self._path, error.strerror)
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
