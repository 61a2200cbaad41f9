"""
The members of a room, for clients, handlers and programs that request them.

Runs in the worker, as a part of the hub. The broker knows the members of all workers. In a room with watchers on this
worker the answer must agree with the joins and leaves that they got: so it comes by way of the room's presence view. It
never changes the members.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from realtime.broker.base import ClientInfo, ConnectionId, MemberCounts, Room
from realtime.rooms.census import LARGE, Census, Censuses, MemberSource
from realtime.rooms.delivery import LocalRoom, Shell
from realtime.rooms.presence_view import PresenceView


class PresenceReader:
    """The answers of one worker."""

    def __init__(
        self, broker: MemberSource, rooms: Mapping[Room, LocalRoom], shell: Shell, *, large: int = LARGE
    ) -> None:
        """
        Args:
            broker: knows the members of all workers.
            rooms: those with members here; read at each request.
            shell: performs what an answer makes necessary, and knows whether the broker can be reached.
            large: above so many members an answer may be a second old.
        """
        self._rooms = rooms
        self._shell = shell
        self._large = large
        self._censuses = Censuses(broker, large=large)

    async def all(self, room: Room) -> Mapping[ConnectionId, ClientInfo]:
        """Return every member of a room, on all workers, as `census` does."""
        return (await self.census(room)).members

    async def census(self, room: Room) -> Census:
        """
        Return every member of a room, on all workers, in agreement with the joins and leaves that were sent before.

        Members in the answer that the watchers here do not know yet are announced to them: the client that requested
        it knows them now, and has to get their leaves. In a large room the answer is what was sent last, or up to a
        second old.

        Raises:
            BrokerUnavailable: the members are not known now.
        """
        local, view = self._view(room)
        if local is None or view is None:
            return await self._censuses.take(room)
        if self._shell.is_linked and view.is_large(self._large):
            return view.census()
        with view.listening() as arrivals:
            answer = (await self._censuses.take(room, anew=True)).members
        members = arrivals.applied_to(answer)
        if local.machine.presence_view is view:  # else everyone has left, and the room has begun anew
            now_s = asyncio.get_running_loop().time()
            for change in view.show(members):
                self._shell.perform(local, local.machine.change(change, now_s))
        return Census(members)

    async def counts(self, room: Room) -> MemberCounts:
        """
        Count the members of a room, on all workers; of a large room as `census` has them.

        Raises:
            BrokerUnavailable: the members are not known now.
        """
        _, view = self._view(room)
        if view is not None and self._shell.is_linked and view.is_large(self._large):
            return view.census().counts
        return await self._censuses.counts(room)

    def _view(self, room: Room) -> tuple[LocalRoom | None, PresenceView | None]:
        """Return the room and its view, where there is one that answers may come from."""
        local = self._rooms.get(room)
        view = None if local is None else local.machine.presence_view
        return local, view if view is not None and view.is_loaded else None
