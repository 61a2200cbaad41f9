"""
Joins an answer's head with the beginning of its body, so that both leave in one segment.

Runs in the worker, between uvicorn's cycle of a request and its connection's transport. uvicorn writes the head by
itself, and uvloop sends each write at once (0.19 to 0.22.1 joined those of one turn, 0.23 does not): two system calls
for each answer, two wake-ups of the client, and a client that reads once gets the head alone. So the head waits here
for what is written next, and for nothing longer than the end of the turn. It never waits for the application.
"""

from __future__ import annotations

import asyncio
from typing import Any


class JoiningTransport:
    """A connection's transport as its answers see it. A writer that bypasses it calls `flush` first."""

    __slots__ = ("_head", "_holds", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._holds = False
        self._head = b""

    def hold(self) -> None:
        """
        Let what is written next wait for what is written after it. The caller must write, within this turn of the
        loop, what it has called this for.
        """
        self._holds = True

    def write(self, data: bytes) -> None:
        """Write it, behind the head that waits if there is one; or let it wait as the head."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.writelines((head, data))
        elif self._holds and data:
            self._holds, self._head = False, data
            self._loop.call_soon(self.flush)  # where no body follows in this turn, the head leaves alone
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write what waits."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def close(self) -> None:
        """Write what waits, and close."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        """Be the transport in everything else: uvicorn's cycles ask it for addresses, and whether it closes."""
        return getattr(self._transport, name)
