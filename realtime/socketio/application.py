"""
The realtime application below an `AsyncServer`: its connections and events call the server's handlers.

Runs in the worker, on its event loop. It differs from an application of `realtime.App` in what stock clients of
python-socketio are used to: a handler that raises gives no acknowledgement, and neither does an event that nothing
handles. It keeps nothing of a client but in `conn.state`, which moves with the connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from realtime.application.app import Application
from realtime.errors import ClientError, Disconnect, Reject
from realtime.log_lines import log
from realtime.rooms.event_rooms import MAIN
from realtime.session.connection import Connection
from realtime.session.events import encode_values
from realtime.socketio.calling import CONNECT, DISCONNECT
from realtime.socketio.environ import environ_of, keep_headers
from realtime.socketio.exceptions import REJECTED, ConnectionRefusedError
from realtime.socketio.handlers import Handlers
from realtime.socketio.reasons import reason_of

EVENT_FAILED: Final = "event failed"  # its traceback follows

logger = logging.getLogger("realtime.socketio")


class RefusedClient(Reject):
    """A client that a `connect` handler refuses. It gets the message, and data only where the handler gave some."""

    is_bare = True


class ServedApplication(Application):
    """
    What serves an `AsyncServer`. Rooms can be declared on it, for clients of all protocols.

    Attributes:
        handlers: of the server.
        leaving: connections that have ended, by id, while their `disconnect` handler runs.
    """

    is_socketio = True

    def __init__(self, *, in_order: bool) -> None:
        """
        Args:
            in_order: one event of a client is handled after the other.
        """
        super().__init__()
        self.handlers: Final = Handlers()
        self.leaving: Final[dict[str, Connection]] = {}
        self._locks: dict[str, asyncio.Lock] | None = {} if in_order else None  # by connection id

    async def connect(self, conn: Connection, data: bytes | None) -> bytes | None:
        """
        Admit a client, or refuse it.

        Raises:
            RefusedClient: the handler says so.
        """
        keep_headers(conn)
        answer = await super().connect(conn, data)
        found = self.handlers.find(CONNECT, conn.namespace or MAIN)
        if found is None:
            return answer
        auth = None if data is None else msgspec.json.decode(data)
        try:
            accepted = await found(conn.id, environ_of(conn), auth)
        except ConnectionRefusedError as error:
            raise RefusedClient(error.message, data=error.data) from None
        if accepted is False:
            raise RefusedClient(REJECTED)
        return answer

    async def disconnect(self, conn: Connection, code: int, reason: str) -> None:
        """Learn that an admitted client is gone."""
        if self._locks is not None:
            self._locks.pop(conn.id, None)
        await super().disconnect(conn, code, reason)
        found = self.handlers.find(DISCONNECT, conn.namespace or MAIN)
        if found is not None:
            self.leaving[conn.id] = conn
            try:
                await found(conn.id, reason_of(reason))
            finally:
                del self.leaving[conn.id]

    @property
    def has_end_hook(self) -> bool:
        """Whether anything is to be called for connections that end."""
        return super().has_end_hook or self.handlers.have_disconnect or self._locks is not None

    async def take_event(self, conn: Connection, name: str, args: Sequence[Any], *, wants_answer: bool) -> bytes | None:
        """Run the handler of an event. Return the arguments of its acknowledgement; None gives none."""
        found = self.handlers.find(name, conn.namespace)
        if found is None:
            return None
        try:
            if self._locks is None:
                value = await found(conn.id, *args)
            else:
                async with self._locks.setdefault(conn.id, asyncio.Lock()):  # the first to wait is the first to go on
                    value = await found(conn.id, *args)
            return encode_values(arguments(value), lambda: f"the answer to event {name!r}") if wants_answer else None
        except (ClientError, Disconnect):
            raise  # what this package's own applications raise means the same here
        except Exception:  # noqa: BLE001 - logged with its traceback
            log(logger, logging.ERROR, EVENT_FAILED, connection=conn.id, name=name, exc_info=True)
            return None


def arguments(data: Any) -> tuple[Any, ...]:
    """Return what a value is as arguments of an event: a tuple is several, None is none, and anything else is one."""
    return data if isinstance(data, tuple) else () if data is None else (data,)
