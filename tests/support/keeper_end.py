"""
A primary's link to its keeper, without a keeper's process: `link` is the primary's end, and a test has the other end.

What the primary sends is kept in a real `Store`, as the keeper keeps it. `successor` makes the next primary's link,
which finds all of that. Nothing here runs by itself: `receive` returns the lines that have come.
"""

from __future__ import annotations

import os
import socket
from types import TracebackType

from sticky.keeper.lines import AGAIN, DIRECTORY, FIRST, KEEPER_FD, receive, send
from sticky.keeper.store import Store
from sticky.process.keeper_link import KeeperLink


class KeeperEnd:
    """The keeper's end of a link, and what is kept. Use it as a context manager, which closes both ends."""

    def __init__(self, directory: str, *, store: Store | None = None) -> None:
        """
        Args:
            directory: the control directory, which exists.
            store: what an earlier primary has left; None for the first primary.
        """
        self.store = Store() if store is None else store
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for line, fd in self.store.messages():
            assert send(self._sock, line, fd), "a test keeps few things"
        assert send(self._sock, f"START {FIRST if store is None else AGAIN}")
        os.environ |= {KEEPER_FD: str(theirs.detach()), DIRECTORY: directory}
        link = KeeperLink.from_environment()
        assert link is not None, "the variables above name the link"
        self.link = link

    def receive(self) -> list[str]:
        """Return the lines that the primary has sent, and keep what they say is to be kept."""
        lines = []
        while (received := receive(self._sock)) is not None:
            line, fd = received
            lines.append(line)
            word, _, rest = line.partition(" ")
            name, _, text = rest.partition(" ")
            if word == "PUT":
                assert fd is not None, "PUT has a descriptor"
                self.store.put(name, fd)
            elif word == "SET":
                self.store.set(name, text)
            elif word == "DROP":
                self.store.drop(name)
        return lines

    def successor(self) -> KeeperEnd:
        """End this primary's link, and return that of the next primary. Its owner has the store from then on."""
        self.receive()
        directory = self.link.directory
        self.link.close()
        self._sock.close()
        return KeeperEnd(directory, store=self.store)

    def __enter__(self) -> KeeperEnd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.link.close()
        self._sock.close()
        self.store.clear()
