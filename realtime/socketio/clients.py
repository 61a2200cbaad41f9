"""
Clients of an `AsyncServer` by their ids: rooms, sessions, requests, and their end.

Runs in the worker. It is the lower half of `AsyncServer`: what concerns one client that this worker serves. It keeps
nothing: all of a client is in its connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Final

from realtime.application.emitting import CONNECTION_ID
from realtime.rooms.event_rooms import MAIN
from realtime.session.connection import Connection
from realtime.session.registry import LocalSession
from realtime.socketio.application import ServedApplication
from realtime.socketio.environ import environ_of

SESSION: Final = "socketio session"
"""Under this key of `conn.state` is what `save_session` keeps."""


through_broker: Final[ContextVar[bool]] = ContextVar("realtime_socketio_through_broker", default=False)
"""Whether the task has emitted something that goes through the broker."""


class Clients:
    """The clients of a server."""

    app: ServedApplication

    # Clients and rooms

    async def enter_room(self, sid: str, room: str, namespace: str | None = None) -> None:
        """
        Put a client into a room. Where another worker serves it, this returns before it is in it.

        Args:
            sid: the client's id.
            room: any name. A room that is declared on `app` asks its `on_subscribe`.
            namespace: of the client; "/" unless given.

        Raises:
            KeyError: there is no such client.
            ClientError: the declared room refuses it, or it is in too many rooms.
            BrokerUnavailable: another worker serves it, which cannot be reached.
        """
        here = self._session(sid, namespace or MAIN)
        if here is not None:
            await here.connection.enter(str(room))
            return
        elsewhere = self.app.namespace(namespace or MAIN).to(str(sid))
        is_known = CONNECTION_ID.fullmatch(sid) and self.app.has_namespace(namespace or MAIN)
        if not is_known or not await elsewhere.connections():
            raise KeyError(f"no worker serves a client {sid!r} in namespace {namespace or MAIN!r}")
        await elsewhere.enter(str(room))

    async def leave_room(self, sid: str, room: str, namespace: str | None = None) -> None:
        """
        Take a client out of a room. Harmless where it is not in it, or is gone. Where another worker serves it, this
        returns before it has left.

        Args:
            sid: the client's id.
            room: the room's name.
            namespace: of the client; "/" unless given.

        Raises:
            BrokerUnavailable: another worker serves it, which cannot be reached.
        """
        here = self._session(sid, namespace or MAIN)
        if here is not None:
            await self._settle()  # what was emitted to the room before is for this client too
            await here.connection.leave(str(room))
        elif CONNECTION_ID.fullmatch(sid) and self.app.has_namespace(namespace or MAIN):
            await self.app.namespace(namespace or MAIN).to(sid).leave(str(room))

    async def close_room(self, room: str, namespace: str | None = None) -> None:
        """
        Take all clients out of a room, on all workers. They get what was emitted to it before.

        Args:
            room: the room's name.
            namespace: of the clients; "/" unless given.

        Raises:
            BrokerUnavailable: some workers may not have done it.
        """
        if self.app.has_namespace(namespace or MAIN):
            await self.app.namespace(namespace or MAIN).to(str(room)).leave(str(room))

    def rooms(self, sid: str, namespace: str | None = None) -> list[str]:
        """
        Return the rooms that a client is in, its own id among them; none where this worker serves no such client.

        Args:
            sid: the client's id.
            namespace: of the client; "/" unless given.
        """
        try:
            connection = self._connection(sid, namespace)
        except KeyError:
            return []
        return [connection.id, *sorted(connection.rooms)]

    async def disconnect(self, sid: str, namespace: str | None = None, ignore_queue: bool = False) -> None:
        """
        Put a client out of a namespace. It does not come back by itself. Harmless where there is no such client.

        Args:
            sid: the client's id.
            namespace: of the client; "/" unless given.
            ignore_queue: without effect.

        Raises:
            BrokerUnavailable: another worker serves it, which cannot be reached.
        """
        here = self._session(sid, namespace or MAIN)
        if here is not None:
            await self._settle()  # what was emitted before comes before the end
            here.connection.disconnect()
        elif CONNECTION_ID.fullmatch(sid) and self.app.has_namespace(namespace or MAIN):
            await self.app.namespace(namespace or MAIN).to(sid).disconnect()

    def get_environ(self, sid: str, namespace: str | None = None) -> dict[str, Any]:
        """
        Return a client's first request, in the form of WSGI.

        Args:
            sid: the client's id.
            namespace: of the client; "/" unless given.

        Raises:
            KeyError: this worker serves no such client.
        """
        return environ_of(self._connection(sid, namespace))

    def transport(self, sid: str, namespace: str | None = None) -> str:
        """
        Return how a client is connected: "polling" or "websocket".

        Args:
            sid: the client's id.
            namespace: of the client; "/" unless given.

        Raises:
            KeyError: this worker serves no such client.
        """
        return self._connection(sid, namespace).transport

    # Sessions

    async def get_session(self, sid: str, namespace: str | None = None) -> dict[str, Any]:
        """
        Return a client's session: the same dict each time, which is kept where it is changed in place.

        Args:
            sid: the client's id.
            namespace: of the client; "/" unless given.

        Raises:
            KeyError: this worker serves no such client.
        """
        session: dict[str, Any] = self._connection(sid, namespace).state.setdefault(SESSION, {})
        return session

    async def save_session(self, sid: str, session: dict[str, Any], namespace: str | None = None) -> None:
        """
        Keep a client's session. It moves with the client to another worker, so it is plain data.

        Args:
            sid: the client's id.
            session: what to keep.
            namespace: of the client; "/" unless given.

        Raises:
            KeyError: this worker serves no such client.
            TypeError: something in it could not move; the text names it.
        """
        self._connection(sid, namespace).state[SESSION] = session

    @asynccontextmanager
    async def session(self, sid: str, namespace: str | None = None) -> AsyncIterator[dict[str, Any]]:
        """
        Return a client's session for an `async with` block, and keep it at the end of the block.

        Args:
            sid: the client's id.
            namespace: of the client; "/" unless given.

        Raises:
            KeyError, TypeError: as `save_session`.
        """
        session = await self.get_session(sid, namespace)
        yield session
        await self.save_session(sid, session, namespace)

    # Inside

    async def _settle(self) -> None:
        """
        Have what this task has emitted by the broker reach the clients of this worker first. Redis does not say when
        that is so: there it may come behind.
        """
        if through_broker.get():
            await asyncio.sleep(0)
            self.app.hub.delivery.write_out()

    def _session(self, sid: str, namespace: str) -> LocalSession | None:
        """Return the session of a client in a namespace, where this worker serves it."""
        found = self.app.bus.session(sid)
        return found if found is not None and (found.connection.namespace or MAIN) == namespace else None

    def _connection(self, sid: str, namespace: str | None) -> Connection:
        """
        Return the connection of a client, also while its `disconnect` handler runs.

        Raises:
            KeyError: this worker serves no such client.
        """
        found = self._session(sid, namespace or MAIN)
        connection = self.app.leaving.get(sid) if found is None else found.connection
        if connection is None:
            raise KeyError(f"this worker serves no client {sid!r} in namespace {namespace or MAIN!r}")
        return connection
