"""
What the application hears of those who leave: at least once, also after a crash, and nothing of those who come back.

Runs in the worker, beside the hub. For everybody of whose end the application wants to hear, a *record* lies at the
broker until the handler has returned: a lasting member of a private room, which another worker inherits when this one
is gone, and with it the duty. So a handler can be called twice, and is never forgotten.

**Grace.** In a room with `grace_s`, somebody whose connection broke is *away*: still present, and found under the
user's name by whatever worker the next connection comes to. That one continues the membership under the id that others
know, so nobody hears of a leave or a join. Who does not come back in time has left. Only users with a name come back.

    enter ──▶ present ──connection broke──▶ away ──came back──▶ present
                 └────left, or no grace───┐   └────grace over─┐
                                          ▼                   ▼
                                        left: leave told, on_leave, on_empty, record removed

**A limit.** The memberships of a worker that was killed are away as soon as another has taken them over, and who is
back sooner is somebody new: others hear of a join, and after the grace of the old one's leave. On one machine that is a
matter of milliseconds, of a second or two where thousands have to be taken over; where the primary died as well, of the
lease. Until then nothing tells such a membership from another tab of the same user, for clients do not say who they
were; and where it is known that the worker is dead, to find the user's old membership would be to read all members of
the room for each who comes. An index written when somebody enters, rather than when the connection breaks, would do
for a death that is known, at the price of one more entry at the broker for each member.

It never decides who may enter, and never speaks to a client.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from realtime.broker.base import Broker, ClientInfo, ConnectionId, Departed, Room
from realtime.errors import BrokerAway, BrokerFull, BrokerUnavailable
from realtime.rooms.local_room import RoomOptions
from realtime.rooms.presence import Presence

SECOND_LOOK_S: Final = 5.0  # after which a worker that took over a membership has registered it, or is dead

_LEAVE, _AWAY, _EMPTY, _END = "\0l:", "\0a:", "\0e:", "\0d:"  # what the private rooms of records begin with
AWAY: Final = "is away, and may come back"
REPLACED: Final = "has ended, and its user has another connection"
_IS_AWAY: Final = b"1"  # the chan_info of a connection's record once that connection has ended

logger = logging.getLogger("realtime.departures")


class Hooks(Protocol):
    """What the application wants to hear. Called once for each end, and again where a worker died meanwhile."""

    @property
    def hears_ends(self) -> bool:
        """Whether it wants to hear of connections that end."""

    @property
    def end_grace_s(self) -> float:
        """For how long nothing is said of a user who may come back."""

    async def leave(self, room: Room, info: ClientInfo) -> None: ...

    async def empty(self, room: Room) -> None: ...

    async def lost(self, info: ClientInfo) -> None:
        """Learn of a connection that ended with its worker. `info.conn_info` is what was given to `admit`."""


class Silent:
    """Nothing is to be heard."""

    hears_ends = False
    end_grace_s = 0.0

    async def leave(self, room: Room, info: ClientInfo) -> None: ...

    async def empty(self, room: Room) -> None: ...

    async def lost(self, info: ClientInfo) -> None: ...


@dataclass(eq=False, slots=True)
class _Away:
    """Somebody who may come back: who, the end of the grace, and the entry at the broker by which they are found."""

    info: ClientInfo
    timer: asyncio.TimerHandle
    indexed: asyncio.Task[None]


class Departures:
    """The departures that this worker sees to."""

    def __init__(
        self,
        broker: Broker,
        presence: Presence,
        options_of: Callable[[Room], RoomOptions | None],
        hooks: Hooks,
        *,
        worker: str,
        spawn: Callable[[Coroutine[Any, Any, object]], None],
    ) -> None:
        self._broker = broker
        self._presence = presence
        self._options_of = options_of
        self._hooks = hooks
        self._worker = worker
        self._spawn = spawn
        self._here: set[tuple[Room, ConnectionId]] = set()  # in rooms with grace
        self._away: dict[Room, dict[ConnectionId, _Away]] = {}  # by the room of the index in which they are found
        self._owed: dict[tuple[Room, ConnectionId], None] = {}  # records to be removed as soon as the broker is back
        self._unlooked: dict[Room, None] = {}  # rooms of which it is not known whether they are empty
        self._ending = asyncio.Event()
        self._is_alone = False

    # Coming

    async def enter(self, room: Room, options: RoomOptions, info: ClientInfo) -> ClientInfo:
        """
        Make a client present, where its room has presence, and keep a record of it, where somebody wants to hear of its
        end. Return whom others see: itself, or whom it was before its connection broke. The caller owes `leave`.

        Raises:
            BrokerUnavailable: it is not present, and the caller owes nothing.
        """
        lasting = _has_grace(options, info)
        before = await self._resume(room, info) if lasting else None
        shown = info if before is None else msgspec.structs.replace(info, connection_id=before)
        is_new = before is None  # and nothing has been done yet
        try:
            if options.has_leave_hooks:
                await self._broker.add_member(Room(_LEAVE + room), shown, announce=False, lasting=True)
                is_new = False
            if options.presence:
                resumed = before is not None
                announce = options.join_leave
                await self._presence.add(room, shown, announce=announce, quietly=resumed, lasting=lasting)
        except BaseException as error:
            if not (is_new and isinstance(error, (BrokerAway, BrokerFull))):
                self._undo(room, options, shown)
            raise
        if lasting:
            self._here.add((room, ConnectionId(shown.connection_id)))
        return shown

    async def _resume(self, room: Room, info: ClientInfo) -> ConnectionId | None:
        """Take over one of the user's memberships that are away. Return its id, or None where there is none."""
        index = _away_room(room, info.user)
        if underway := [away.indexed for away in self._away.get(index, {}).values()]:
            await asyncio.wait(underway)  # they are not this client's alone: its end is not theirs
        for client in await self._broker.members(index):
            if await self._broker.remove_member(index, client, announce=False) is not None:  # of several who try, one
                self._forget_away(index, client)
                return client
        return None

    def _forget_away(self, index: Room, client: ConnectionId) -> _Away | None:
        away = self._away.get(index, {}).pop(client, None)
        if away is not None:
            away.timer.cancel()
            if not self._away[index]:
                del self._away[index]
        return away

    # Going

    def leave(self, room: Room, options: RoomOptions, info: ClientInfo, *, away: bool) -> None:
        """
        End a membership: at once, or, where the connection is only broken (`away`), after the grace of the room. Does
        not wait; the rest follows on the side.
        """
        self._here.discard((room, ConnectionId(info.connection_id)))
        if away and _has_grace(options, info):
            self._begin_grace(room, options, info)
            return
        self._owe_presence(room, options, info)
        self._spawn(self._finish(room, options, info))

    def _begin_grace(self, room: Room, options: RoomOptions, info: ClientInfo) -> None:
        index, client = _away_room(room, info.user), ConnectionId(info.connection_id)
        if (room, client) in self._here or client in self._away.get(index, {}):
            return
        if options.presence:
            self._broker.loosen(room, client)
        if options.has_leave_hooks:
            self._broker.loosen(Room(_LEAVE + room), client)
        loop = asyncio.get_running_loop()
        indexed = loop.create_task(self._index(index, info))
        timer = loop.call_later(options.grace_s, lambda: self._spawn(self._end_grace(room, options, index, client)))
        self._away.setdefault(index, {})[client] = _Away(info, timer, indexed)

    async def _index(self, index: Room, info: ClientInfo) -> None:
        """Let whoever comes back find its membership, also on another worker."""
        try:
            await self._broker.add_member(index, info, announce=False, lasting=True)
            logger.debug("= %s %s", info.connection_id, AWAY)
        except BrokerUnavailable as error:
            logger.debug("- nobody finds %s, who is away: %s", info.connection_id, error)

    async def _end_grace(self, room: Room, options: RoomOptions, index: Room, client: ConnectionId) -> None:
        away = self._away.get(index, {}).get(client)
        if away is None:
            return
        await asyncio.wait([away.indexed])
        try:
            is_left = await self._broker.remove_member(index, client, announce=False) is not None
        except BrokerUnavailable:
            is_left = True  # nobody can have come back
            self._owed[index, client] = None
        if self._forget_away(index, client) is None or (room, client) in self._here:
            return  # back, and here
        if is_left:
            # Whoever took it over has it, though a broker that lost everything has the entry by which it was found
            # from this worker again.
            self._owe_presence(room, options, away.info, mine=True)
            if not await self._presence.pay(room, client):
                await self._finish(room, options, away.info)
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(SECOND_LOOK_S, lambda: self._spawn(self._look_again(room, options, away.info)))

    async def _look_again(self, room: Room, options: RoomOptions, info: ClientInfo) -> None:
        """End a membership that another worker took, should that one have died before it had it."""
        client = ConnectionId(info.connection_id)
        if (room, client) in self._here or client in self._away.get(_away_room(room, info.user), {}):
            return
        name, announce = (room, options.join_leave) if options.presence else (Room(_LEAVE + room), False)
        try:
            left = await self._broker.remove_member(name, client, announce=announce, mine=True)
        except BrokerUnavailable:
            return
        if left is not None:
            await self._finish(room, options, info, left=None if options.presence else left)

    def _owe_presence(self, room: Room, options: RoomOptions, info: ClientInfo, *, mine: bool = False) -> None:
        if options.presence:
            self._presence.owe(room, ConnectionId(info.connection_id), announce=options.join_leave, mine=mine)

    async def _finish(self, room: Room, options: RoomOptions, info: ClientInfo, *, left: int | None = None) -> None:
        """
        Make absent who has left, tell the application, and remove the record. `left`: it is removed already, and so
        many others were there then.
        """
        client = ConnectionId(info.connection_id)
        if options.presence:
            await self._presence.pay(room, client)
        if not options.has_leave_hooks:
            return
        await _told(self._hooks.leave(room, info), f"on_leave of {room}")
        if options.hears_empty:
            record = ClientInfo("", self._worker)
            try:
                await self._broker.add_member(Room(_EMPTY + room), record, announce=False, lasting=True)
            except BrokerUnavailable:
                self._unlooked[room] = None
        if left is None:
            left = await self._remove(Room(_LEAVE + room), client)
        if not options.hears_empty:
            return
        if (Room(_LEAVE + room), client) in self._owed:
            self._unlooked[room] = None
            return
        if left == 0:  # of those who leave at once, one is the last
            await _told(self._hooks.empty(room), f"on_empty of {room}")
        await self._remove(Room(_EMPTY + room), ConnectionId(self._worker))

    async def _look_if_empty(self, room: Room, record: ConnectionId) -> None:
        """Do what a worker that is gone, or this one while the broker was away, could not do after a leave."""
        try:
            counts = await self._broker.member_counts(Room(_LEAVE + room))
        except BrokerUnavailable:
            self._unlooked[room] = None
            return
        self._unlooked.pop(room, None)
        if not counts.clients:
            await _told(self._hooks.empty(room), f"on_empty of {room}")
        await self._remove(Room(_EMPTY + room), record)

    # Connections

    async def admit(self, info: ClientInfo) -> None:
        """
        Keep a record of a connection, where the application wants to hear of its end. `info.conn_info` is what the
        worker that inherits it is to know. While the broker is away there is none: then a crash is not heard of.
        """
        if not self._hooks.hears_ends:
            return
        try:
            await self._broker.add_member(_end_room(info.user), info, announce=False, lasting=True)
        except BrokerUnavailable as error:
            logger.warning("! %s: would it end with its worker, nobody would hear of it: %s", info.connection_id, error)

    def ended(self, user: str, client: ConnectionId, tell: Callable[[], Awaitable[None]], *, away: bool) -> None:
        """
        Have the application told of the end of a connection: at once, or, where it is only broken (`away`), unless its
        user is connected when the grace is over.
        """
        if self._hooks.hears_ends:
            grace_s = self._hooks.end_grace_s if away and user else 0.0
            self._spawn(self._tell_end(ClientInfo(user, client, None, _IS_AWAY), tell, grace_s))

    def not_admitted(self, user: str, client: ConnectionId) -> None:
        """Undo `admit` for a connection that ended before it was told that it is admitted."""
        if self._hooks.hears_ends:
            self._spawn(self._remove(_end_room(user), client))

    async def _tell_end(self, info: ClientInfo, tell: Callable[[], Awaitable[None]], grace_s: float) -> None:
        room = _end_room(info.user)
        is_back = grace_s > 0 and await self._is_back(room, info, grace_s)
        if is_back is None:
            return  # the record stays, for another worker
        if is_back:
            logger.debug("= %s %s", info.connection_id, REPLACED)
        else:
            await _told(tell(), "on_disconnect")
        await self._remove(room, ConnectionId(info.connection_id))

    async def _is_back(self, room: Room, info: ClientInfo, grace_s: float) -> bool | None:
        """Wait for the end of the grace. Return whether the user has a connection then, None where this worker ends."""
        try:
            await self._broker.add_member(room, info, announce=False, lasting=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._ending.wait()
                if not self._is_alone:
                    return None
            records = await self._broker.members(room)
        except BrokerUnavailable:
            return False
        return any(each.chan_info != _IS_AWAY for each in records.values())

    async def close(self) -> None:
        """Wait for nobody any more: who is away is another worker's, and where there is no other, has left."""
        try:
            self._is_alone = len(await self._broker.workers()) <= 1
        except BrokerUnavailable:
            self._is_alone = False
        self._ending.set()
        for index, group in list(self._away.items()):
            for client, away in list(group.items()):
                away.timer.cancel()
                room = _room_of(index)
                options = self._options_of(room)
                if self._is_alone and options is not None:
                    self._spawn(self._end_grace(room, options, index, client))

    # From other workers

    def departed(self, departed: Sequence[Departed]) -> None:
        """Take over what a worker that is gone owed."""
        for each in departed:
            if not each.inherited:
                continue  # whoever is to hear of it has a record
            name, record = each.room, ConnectionId(each.info.connection_id)
            if name.startswith(_EMPTY):
                self._spawn(self._look_if_empty(Room(name.removeprefix(_EMPTY)), record))
            elif name.startswith(_END):
                self._inherit_connection(each.info)
            else:
                self._inherit_member(_room_of(name), name, each.info)

    def _inherit_connection(self, info: ClientInfo) -> None:
        grace_s = self._hooks.end_grace_s if info.user else 0.0
        marked = msgspec.structs.replace(info, chan_info=_IS_AWAY)
        self._spawn(self._tell_end(marked, lambda: self._hooks.lost(info), grace_s))

    def _inherit_member(self, room: Room, record: Room, info: ClientInfo) -> None:
        options = self._options_of(room)
        if options is None:  # this version does not know it
            self._spawn(self._remove(record, ConnectionId(info.connection_id)))
        elif record.startswith(_AWAY) and (room, ConnectionId(info.connection_id)) in self._here:
            self._spawn(
                self._remove(record, ConnectionId(info.connection_id))
            )  # it came back here, and a server forgot that
        elif _has_grace(options, info):
            self._begin_grace(room, options, info)
        else:
            self._owe_presence(room, options, info)
            self._spawn(self._finish(room, options, info))

    # What is owed

    async def _remove(self, record: Room, client: ConnectionId) -> int | None:
        """Remove a record, now or when the broker is back. Return how many others are left, where it was this call."""
        try:
            left = await self._broker.remove_member(record, client, announce=False)
        except BrokerUnavailable:
            self._owed[record, client] = None
            return None
        self._owed.pop((record, client), None)
        return left

    def _undo(self, room: Room, options: RoomOptions, info: ClientInfo) -> None:
        """Remove what may have come of a failed `enter`."""
        client = ConnectionId(info.connection_id)
        if options.has_leave_hooks:
            self._spawn(self._remove(Room(_LEAVE + room), client))
        if options.presence:
            self._owe_presence(room, options, info)
            self._spawn(self._presence.pay(room, client))

    async def pay_all(self) -> None:
        """Do what could not be done while the broker was away."""
        for record, client in list(self._owed):
            await self._remove(record, client)
        for room in list(self._unlooked):
            await self._look_if_empty(room, ConnectionId(self._worker))

    @property
    def owed(self) -> int:
        """How many records wait for the broker."""
        return len(self._owed) + len(self._unlooked)

    @property
    def away(self) -> int:
        """How many may come back."""
        return sum(map(len, self._away.values()))


async def _told(telling: Awaitable[None], what: str) -> None:
    """Wait for a handler. One that fails was called; it is not called again."""
    try:
        await telling
    except Exception:
        logger.exception("! %s failed", what)


def _has_grace(options: RoomOptions, info: ClientInfo) -> bool:
    return options.grace_s > 0 and info.user != "" and (options.presence or options.has_leave_hooks)


def _away_room(room: Room, user: str) -> Room:
    """Return where a user's memberships of a room are that are away. A length divides the names: both hold anything."""
    return Room(f"{_AWAY}{len(user)}:{user}{room}")


def _end_room(user: str) -> Room:
    return Room(_END + user)


def _room_of(name: Room) -> Room:
    """Return the room of whose member this is a record, or the presence itself."""
    if name.startswith(_LEAVE):
        return Room(name.removeprefix(_LEAVE))
    if name.startswith(_AWAY):
        length, _, rest = name.removeprefix(_AWAY).partition(":")
        return Room(rest[int(length) :])
    return name
