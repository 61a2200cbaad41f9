"""
What the application has to do when members and connections are gone.

Runs in the worker. `App` implements `Hooks`; departures.py and connection_ends.py call them. Nothing here decides.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Protocol

from realtime.broker.base import ClientInfo, Room
from realtime.log_lines import log

logger = logging.getLogger("realtime.departures")


class Hooks(Protocol):
    """The handlers. Each is called once for each end, and again where a worker died meanwhile."""

    @property
    def has_end_hook(self) -> bool:
        """Whether there is a handler for connections that end."""

    @property
    def end_grace_s(self) -> float:
        """How long a user whose connection broke may take to come back before that handler is called."""

    async def leave(self, room: Room, info: ClientInfo) -> None: ...

    async def empty(self, room: Room) -> None: ...

    async def lost(self, info: ClientInfo) -> None:
        """Take the end of a connection that ended with its worker. `info.conn_info` is what `admit` was given."""


class NoHooks:
    """No handlers."""

    has_end_hook = False
    end_grace_s = 0.0

    async def leave(self, room: Room, info: ClientInfo) -> None: ...

    async def empty(self, room: Room) -> None: ...

    async def lost(self, info: ClientInfo) -> None: ...


async def call(handler: Awaitable[None], name: str, **fields: str) -> None:
    """
    Await a handler. One that fails was called: the error is logged, and it is not called again.

    Args:
        handler: the call.
        name: of the handler.
        fields: for the log: the room and the connection.
    """
    try:
        await handler
    except Exception:  # noqa: BLE001 - logged with its traceback
        log(logger, logging.ERROR, "handler failed", handler=name, exc_info=True, **fields)
