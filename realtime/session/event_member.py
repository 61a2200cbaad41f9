"""
Events of one client, and the rooms that the application has it enter.

Runs in the worker, on its event loop. `EventMember` is a part of the session, between timed_member.py and session.py.
It sends events, awaits acknowledgements, and brings the client into rooms by the names that the application uses:
declared rooms, and rooms of events. It decodes no message, and knows no packet: the dialect writes events.

**While `on_connect` runs** the client is in the rooms of events already that the handler has it enter: what is emitted
there waits in its transport until the client is admitted. A declared room is entered with the answer, as by
`conn.subscribe`: no member sees a client that is refused.
"""

from __future__ import annotations

import asyncio
from typing import Any

from realtime import codes
from realtime.broker.base import Room
from realtime.errors import ConnectionEnded
from realtime.rooms.event_rooms import event_room, find_room, is_event_room
from realtime.session.entry import subscribed
from realtime.session.state import Phase, Subscription
from realtime.session.target import Emitter
from realtime.session.timed_member import TimedMember


class EventMember(TimedMember):
    """A client that gets events, and is in rooms of events."""

    __slots__ = ()

    @property
    def emitter(self) -> Emitter:
        """What sends events to others."""
        return self.services.application

    def send_event(self, event: bytes, *, is_volatile: bool = False) -> None:
        """
        Send an event, as `events.encode_event` gives it.

        Args:
            event: with its arguments.
            is_volatile: only if the client can take it at once.
        """
        if not is_volatile or self.takes_now:
            self.write(self.dialect.event(event))

    @property
    def takes_now(self) -> bool:
        """Whether the client can take a message at once."""
        return self.is_open and self.dialect.takes_now(self.transport)

    async def call(self, event: bytes, timeout_s: float) -> list[Any]:
        """
        Send an event that the client is to acknowledge, and return the arguments of its acknowledgement.

        Raises:
            TimeoutError: no acknowledgement came in time.
            ConnectionEnded: the client has gone, or goes meanwhile.
            NoAcknowledgements: its wire protocol has none.
        """
        if not self.is_open:
            raise ConnectionEnded(self.connection_id)
        answer = self.dialect.request(self, event)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise TimeoutError(f"connection {self.connection_id} did not acknowledge within {timeout_s:g} s") from None
        finally:
            answer.cancel()

    # Rooms

    async def join(self, name: str) -> None:
        """
        Bring the client into a room, by the application's name for it. Harmless where the client is in it.

        A declared room asks its `on_subscribe`, as where the client itself subscribes.

        Raises:
            UnknownChannel: the client's protocol has declared rooms alone, and this is none (102).
            ClientError: `on_subscribe` refuses, or the client is in too many rooms (106).
            BrokerUnavailable: the room cannot be entered now.
        """
        room = find_room(self.services.application, self.state.identity.namespace, name)
        if room in self.state.granted or room in self.state.subscriptions:
            return
        if room in self.entering:
            self.entering[room] = None  # also if it was to be left again
            return
        if self.state.phase is Phase.CONNECTING and not is_event_room(room):
            await self.services.application.subscribe(self.connection, room, None)
            await self.enter(room)
        elif self.is_open:
            self._check_room_limit(room)
            await self._join(room)

    async def join_all(self) -> None:
        """Bring the client into the room of all connections of its namespace."""
        await self._join(event_room(self.state.identity.namespace, ""))

    async def _join(self, room: Room) -> None:
        """Enter a room now, and notify the client where its protocol has that."""
        options = self.options_of(room)
        self.entering[room] = None  # before the first await: a second call finds it
        try:
            data = await self.services.application.subscribe(self.connection, room, None)
            # Lost publications end a connection in such a room (`notify_lost`): it could not enter again by itself.
            entry = await self._enter(Subscription(room, server_side=True), options, since=None)
            try:
                if self.is_open:
                    self.write(self.dialect.subscribed(subscribed(entry, entry.pending.commit(), data)))
                    self._activate(entry)
            finally:
                self.services.hub.cancel(entry.pending)  # harmless for a member
        finally:
            self._entered(room)

    async def part(self, name: str) -> None:
        """
        Take the client out of a room. Harmless where it is not in it.

        Raises:
            UnknownChannel: as `join`.
        """
        room = find_room(self.services.application, self.state.identity.namespace, name)
        await self.exit(room, codes.UNSUBSCRIBED.code, codes.UNSUBSCRIBED.reason)
