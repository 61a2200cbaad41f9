"""
The file with the process id of the server: the keeper's, or the primary's where it has none.

Runs in the primary, which writes it before it gives privileges up. Another process's file is never removed.

The number in it stays the same in an upgrade and after a crash of the primary, because the keeper lives on: a service
manager that reads the file once is right for as long as the server runs.
"""

from __future__ import annotations

import contextlib
import os

from sticky.errors import SettingsError


class PidFile:
    """One such file, or none."""

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else os.path.abspath(path)
        self._is_written = False

    @property
    def path(self) -> str:
        """Where it is; "" where there is none."""
        return self._path or ""

    def write(self, pid: int) -> None:
        """
        Write it, where there is one.

        Raises:
            SettingsError: it cannot be written.
        """
        if self._path is None:
            return
        try:
            with open(self._path, "w", encoding="ascii") as file:
                file.write(f"{pid}\n")
        except OSError as error:
            raise SettingsError("pid_file", f"{self._path} cannot be written: {error.strerror}") from error
        self._is_written = True

    def remove(self) -> None:
        """Remove it, if this process has written it."""
        if self._path is not None and self._is_written:
            with contextlib.suppress(OSError):  # its directory is another user's, when this process changed its user
                os.unlink(self._path)
