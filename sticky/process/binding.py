"""
What the server is found by: its listeners, and its pid file.

Runs in the primary. Binding comes first, and then the privileges are given up that it may have needed. With a keeper,
the listeners of an earlier primary are taken over, and every listener is kept for the next one. It never accepts.

**Which file goes with which process.** A Unix listener's file and the pid file belong to the server, and not to one
primary of it. They are removed when the server stops. They stay in an upgrade, and when a primary crashes: the next one
finds the listener at the keeper, and a client that connects meanwhile waits in its backlog.
"""

from __future__ import annotations

import os
import socket
from typing import Final

from sticky.accept import listen
from sticky.process import privileges
from sticky.process.keeper_link import KeeperLink
from sticky.process.pid_file import PidFile
from sticky.settings import ClusterSettings

_LISTENER: Final = "listener:"  # then a number and the address: the name under which a listener is kept


class Binding:
    """The listeners and the pid file of one primary."""

    def __init__(self, settings: ClusterSettings, keeper: KeeperLink) -> None:
        self._settings = settings
        self._keeper = keeper
        self._pid_file = PidFile(settings.pid_file)
        self.listeners: list[socket.socket] = []

    def bind(self) -> None:
        """
        Bind every address, write the pid file, then become the user of the settings. You must call `close` at the end.

        Raises:
            SettingsError: one of them is not possible.
        """
        # Looked up first: a user that does not exist ends the start before an address is taken from another server.
        identity = privileges.find(self._settings.user, self._settings.group)
        if self._settings.umask is not None:
            os.umask(self._settings.umask)
        self.listeners = listen.bind_all(self._settings.binds, self._take_listener)
        for name, listener in zip(self._names(), self.listeners, strict=True):
            self._keeper.put(name, listener.fileno())
        self.write_pid()
        self._keeper.set("pid-file", self._pid_file.path)
        identity.assume()
        self._keeper.become()

    def _names(self) -> list[str]:
        """Return the names under which the listeners are kept."""
        return [f"{_LISTENER}{number}:{address}" for number, address in enumerate(self._settings.binds)]

    def _take_listener(self, address: str) -> socket.socket | None:
        """Return the listener of an earlier primary for an address; None where it had none."""
        for name in self._keeper.kept.names(_LISTENER):
            if name.split(":", 2)[2] == address and (fd := self._keeper.kept.take(name)) is not None:
                return socket.socket(fileno=fd)
        return None

    def write_pid(self) -> None:
        """Write the pid file anew: the keeper may be another one. Raises SettingsError where that is not possible."""
        self._pid_file.write(self._keeper.pid or os.getpid())

    def addresses(self) -> list[str]:
        """Return the addresses of the listeners that are open."""
        return [listen.address_of(each) for each in self.listeners if each.fileno() >= 0]

    def unlink(self) -> None:
        """Have no other process find or keep the listeners: the server stops. Whoever has one closes it next."""
        for name in self._names():
            self._keeper.drop(name)
        for listener in self.listeners:
            if listener.fileno() >= 0:
                listen.unlink(listener)

    def close(self, *, is_released: bool) -> None:
        """
        Close the listeners.

        Args:
            is_released: a successor has the files. They stay.
        """
        for listener in self.listeners:
            if listener.fileno() >= 0 and not is_released:
                listen.unlink(listener)
            listener.close()
        if not is_released:
            self._pid_file.remove()
