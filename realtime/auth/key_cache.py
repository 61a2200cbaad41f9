"""
The key set in a file, for the other workers of this machine and for their successors.

Runs in the worker. The worker that fetched a set writes it. A worker that starts, or lacks a key, reads it. During an
outage of the key server, a reload or a crash thus costs no client its login, even when all workers are new.

The file is in the primary's own directory (mode 0700), has mode 0600, and holds public keys alone. It is removed with
the primary. It is never required: a failed read or write is logged. This module decides nothing about keys.
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

from realtime.log_lines import log

FILE_MAX: Final = 1024**2  # bytes; a fetched set is no larger (key_server.SIZE_MAX)

logger = logging.getLogger("realtime.auth")


class _CachedKeys(msgspec.Struct):
    """The content of the file. `fetched_at_s` is Unix time."""

    url: str
    fetched_at_s: float
    keys: list[dict[str, str]]


class KeyCache:
    """The file. `load` and `save` do not raise."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        """
        Args:
            path: of the file; its directory must exist.
            now: returns Unix time.
        """
        self._path = path
        self._now = now
        self._seen: tuple[int, int] | None = None  # inode and time of the file that was read or written last

    def load(self, url: str) -> tuple[float, list[dict[str, str]]] | None:
        """
        Return the age in seconds of the keys of a URL, and the keys.

        Return None where there are none, or where the file has not changed since the last call.
        """
        try:
            # Keys from a file that another user can write or replace by a link would let that user sign tokens.
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                found = os.fstat(fd)
                if self._seen == (found.st_ino, found.st_mtime_ns):
                    return None
                self._seen = (found.st_ino, found.st_mtime_ns)
                if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
                    raise ValueError("it is not this user's own file")
                cached = msgspec.json.decode(file.read(FILE_MAX), type=_CachedKeys)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
            log(logger, logging.WARNING, "key cache not read", path=self._path, reason=error)
            return None
        return (max(self._now() - cached.fetched_at_s, 0.0), cached.keys) if cached.url == url else None

    def save(self, url: str, keys: Sequence[dict[str, str]]) -> None:
        """Write the keys that were just fetched. The file is replaced atomically, so no worker reads half of it."""
        part = self._path.with_name(
            f"{self._path.name}.{os.getpid()}"
        )  # one per worker, as workers save at the same time
        text = msgspec.json.encode(_CachedKeys(url, self._now(), list(keys)))
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(text)
                file.flush()
                found = os.fstat(fd)
            part.replace(self._path)
            self._seen = (found.st_ino, found.st_mtime_ns)
        except OSError as error:
            log(logger, logging.WARNING, "key cache not written", path=self._path, reason=error.strerror)
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
