"""
`Certificates`: the TLS context of new handshakes, which follows its files.

Runs in the worker. A certificate is renewed while the server runs. Each new handshake asks here for the context, and at
most once a second the two files are looked at. If they have changed, a new context is made of them. It never touches a
connection that exists: that one keeps the context of its handshake, and its session.

Theory of operation
===================

**When have the files changed?** A `stat` of both, through links, is compared with the one of the last reading. That
covers a file that is written in place, a file that is renamed over the old one, and the directory link that Kubernetes
swaps: in each case inode, size or time differ. The kernel's clock for files is coarse, so a second write can leave
the same time behind. Until the files are `SETTLED_S` old, they are therefore read, and their bytes compared.

**What if they are no pair?** Renewing writes two files, and a handshake can come in between: the key does not belong to
the certificate yet, or one file is half written. Then the context so far stays, and one line says which file and why.
The same pair is not tried again. Whatever is written next differs, and is.

Invariant: `_context` is always made of a whole and matching pair, because a pair is read into a context of its own.
Reading into the old one would leave the new certificate there with the old key.

**When the process dies:** nothing is stored. The next worker reads the files at its start. If they are no pair then, it
cannot boot, and its reason names them; the workers that have the old pair go on.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from realtime.errors import SettingsError
from realtime.log_lines import log
from realtime.settings import Settings
from realtime.transport.tls import server_context

CHECK_S: Final = 1.0  # between two looks at the files: two `stat` a second cost nothing beside one handshake
SETTLED_S: Final = 2.0  # far above the tick of a kernel's clock (4 ms), and the whole seconds of old file systems

LOADED: Final = "= certificate read anew"
KEPT: Final = "certificate not read anew"  # the one before stays in use

logger = logging.getLogger("realtime.tls")

_State = tuple[int, int, int, int]  # device, inode, size, time of the last change


@dataclass(frozen=True, slots=True)
class _Seen:
    """Both files as they were at one moment: by `stat`, and by their bytes."""

    states: tuple[_State | None, ...]  # None where there is no file
    digest: bytes


class Certificates:
    """The certificate and key of the settings. `context` gives the TLS context of them as they are now."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Read the files, if the settings name any.

        Args:
            clock: seconds, on a clock that never goes back.
            wall_clock: Unix time, which the files' times are compared with.

        Raises:
            SettingsError: they are no certificate and its key.
        """
        self._settings = settings
        self._clock, self._wall_clock = clock, wall_clock
        names = (settings.certfile, settings.keyfile)
        self._paths = tuple(Path(settings.directory, each) for each in names if each is not None)
        self._seen = self._look()  # before reading: what changes meanwhile is then noticed by the next look
        self._context = server_context(settings)
        self._checked_at = clock()

    def context(self) -> ssl.SSLContext | None:
        """
        Return the context for a handshake that begins now; None where no certificate is configured.

        Do not keep it: the next handshake may need another one.
        """
        if self._context is not None and self._clock() - self._checked_at >= CHECK_S:
            self._checked_at = self._clock()
            self._check()
        return self._context

    def _check(self) -> None:
        """Make a new context, if the files have changed. A pair that is none leaves the old one in use."""
        if self._states() == self._seen.states and self._is_settled():
            return
        seen = self._look()
        is_new, self._seen = seen.digest != self._seen.digest, seen
        if not is_new:
            return  # touched, or replaced by the same
        try:
            context = server_context(self._settings)
        except SettingsError as error:
            log(logger, logging.WARNING, KEPT, reason=error.problem)
            return
        assert context is not None, "a context is only replaced where the settings name two files"
        self._context = context
        log(logger, logging.INFO, LOADED, certfile=self._paths[0], keyfile=self._paths[1])

    def _states(self) -> tuple[_State | None, ...]:
        return tuple(_state(each) for each in self._paths)

    def _is_settled(self) -> bool:
        """Return whether both files are so old that another write would have given them another time."""
        newest = max((each[3] for each in self._seen.states if each is not None), default=0)
        return self._wall_clock() - newest / 1e9 >= SETTLED_S

    def _look(self) -> _Seen:
        """Read both files. A file that cannot be read has its reason for its content: each change of it counts."""
        states = self._states()
        digest = hashlib.sha256()
        for path in self._paths:
            content = _content(path)
            digest.update(len(content).to_bytes(8, "big") + content)  # the size, so that no two pairs look the same
        return _Seen(states, digest.digest())


def _state(path: Path) -> _State | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        return f"! {error.strerror}".encode()
