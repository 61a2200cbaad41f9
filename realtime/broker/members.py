"""
The members of this worker at Redis, and what becomes of those whose worker is dead.

Runs in the worker. Members stand in one hash per room, with the worker that owns them, and once more in a set per
worker, by which they are found when that worker is dead. A worker holds one lease, whatever the number of its members,
and looks at all leases each time it takes its own: what has ended is removed by whoever is first. A worker that finds
its own lease removed, because it was stopped or cut off for a while, registers its members again. Their joins are told
wherever nobody was there by that id any more: whom watchers know already they are not told of
(realtime/rooms/presence_view.py).

**Ghosts.** A replica that was promoted may not have heard of the latest removals, and then shows members who have left.
After each new link a worker compares whom the servers hold as its own with whom it has; the rest leave as the members
of a dead worker do. In a cluster the set of a worker and a room's members are at two nodes, of which one may fail and
the other not: who was removed stands in the set for as long as a replica can be behind.

There is no task and no timer here: the broker (redis.py) says when a link is new, and when the lease is due. Who else
is in a room is not known here: that Redis is asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from realtime.broker import scripts
from realtime.broker.base import ClientInfo, ConnectionId, Departed, Room, WorkerId
from realtime.broker.commands import Commands
from realtime.broker.keys import HOME, Keys, tag_of
from realtime.broker.links import Link, Nodes, Route
from realtime.broker.resp import CommandFailed

LEASE_S: Final = 6.0
LEFT_S: Final = 180.0  # no replica of a cluster is elected that lost its master longer ago (10 timeouts and a ping)
LEFT_MAX: Final = 100_000  # who left, and would be found in LEFT_S; of more, those who left first are not
FORGET_BATCH: Final = 500  # of those, in one command
BATCH: Final = 5000  # members for whom something is asked at once: a connection holds no more than `resp.WAITING_MAX`

_pack = msgspec.msgpack.encode
_info = msgspec.msgpack.Decoder(ClientInfo).decode
logger = logging.getLogger("realtime.broker.redis")


class Members:
    """Whom this worker has, and its lease. It reaps the members of others."""

    def __init__(
        self,
        worker: WorkerId,
        keys: Keys,
        nodes: Nodes,
        commands: Commands,
        departed: Callable[[Sequence[Departed]], None],
    ) -> None:
        """`departed` is told whom this worker removed or took over, when their worker no longer had them."""
        self._worker = worker
        self._keys, self._nodes, self._commands = keys, nodes, commands
        self._departed = departed
        self._own: dict[tuple[Room, ConnectionId], tuple[ClientInfo, bool, bool]] = {}  # announced, lasting
        self._loose: set[tuple[Room, ConnectionId]] = set()  # of those members
        self._left: dict[tuple[Room, ConnectionId], float] = {}  # when, of those who stand in this worker's set still
        self._underway: set[tuple[Room, ConnectionId]] = set()  # being inherited or removed: no members, and no ghosts
        self._is_doubtful = False  # the servers may hold as this worker's whom it does not have

    def __len__(self) -> int:
        return len(self._own)

    # Coming and going

    async def add(self, room: Room, info: ClientInfo, *, announce: bool, quietly: bool, lasting: bool) -> None:
        """
        Have this member, and register it. When that fails, this worker does not have it.

        Raises:
            BrokerUnavailable: it may be registered, or not.
        """
        key = (room, ConnectionId(info.connection_id))
        self._own[key] = (info, announce, lasting)
        self._loose.discard(key)
        self._left.pop(key, None)
        try:
            await self._register_one(self._nodes.route, room, info, announce, lasting, again=quietly)
        except BaseException as error:
            self._own.pop(key, None)
            if isinstance(error, CommandFailed):
                raise self._commands.refused(tag_of(room), error) from error
            raise

    def release(self, room: Room, client: ConnectionId) -> None:
        if (room, client) in self._own:
            self._loose.add((room, client))

    async def remove(self, room: Room, client: ConnectionId, *, announce: bool, mine: bool) -> int | None:
        """
        Have this member no longer, and remove it, or with `mine` only where it is this worker's still. Return how many
        are left in the room, or None where this call did not remove it.

        Raises:
            BrokerUnavailable: it may be removed, or not.
        """
        self._own.pop((room, client), None)
        self._loose.discard((room, client))
        self._underway.add((room, client))
        try:
            found = await self._remove(room, client, "1" if announce else "0", self._worker if mine else "")
        finally:
            self._underway.discard((room, client))
        self._note_left(room, client)
        return None if found is None else found[1]

    async def _remove(self, room: Room, client: str, announce: str, owner: str) -> tuple[ClientInfo, int] | None:
        found = await self._commands.run(
            tag_of(room), scripts.MEMBER_REMOVE, 1, self._keys.members(room), client, self._keys.channel(room),
            announce, owner, self._nodes.publishing,
        )  # fmt: skip
        return None if found is None else (_info(found[0]), int(found[1]))

    def _note_left(self, room: Room, client: ConnectionId) -> None:
        """Note who was removed, to be taken out of this worker's set in good time, unless it is a member again."""
        if (room, client) not in self._own:
            self._left[room, client] = time.monotonic()

    async def _forget_left(self, route: Route) -> None:
        """Take out of this worker's set who left so long ago that no replica shows them again."""
        before = time.monotonic() - (0.0 if route.is_one else LEFT_S)  # one server loses both or none
        surplus = len(self._left) - LEFT_MAX
        due = [key for number, (key, at) in enumerate(self._left.items()) if at <= before or number < surplus]
        for begin in range(0, len(due), FORGET_BATCH):
            batch = [key for key in due[begin : begin + FORGET_BATCH] if self._left.pop(key, None) is not None]
            entries = [_pack([room, client, lasting]) for room, client in batch for lasting in (False, True)]
            if entries:
                await route.ask(HOME, "SREM", self._keys.owned(self._worker), *entries)

    # The lease

    async def enter(self, route: Route, fresh: Callable[[Link], bool]) -> None:
        """Take the lease by this way, and register the members at the links that are fresh."""
        self._is_doubtful = True  # the next `renew` sees to it
        had_lease, _ = await self._take_lease(route)
        was_away = not had_lease or fresh(route.link(HOME))
        await self._register(route, lambda link: was_away or fresh(link))

    async def renew(self, route: Route) -> None:
        """
        Take the lease again, and do what is due then: reap those whose lease has ended, remove ghosts, forget who left.

        Raises:
            BrokerUnavailable: not everything was done; the next time goes on.
            CommandFailed: likewise.
        """
        had_lease, ended = await self._take_lease(route)
        if not had_lease:
            logger.warning("= the lease had ended: %d members are registered again", len(self._own))
            await self._register(route, lambda _: True)
        for worker in ended:
            await self.reap(WorkerId(worker))
        if self._is_doubtful:
            await self._reconcile()
        await self._forget_left(route)

    async def give_up(self) -> None:
        """Remove this worker's members, and its lease; lasting ones are found when that has run out."""
        owned = [each for each in await self._owned_by(self._worker) if each[:2] not in self._left]
        ending = [(room, client) for room, client, lasting in owned if not lasting]
        for begin in range(0, len(ending), BATCH):
            await asyncio.gather(*[self._remove(*each, "?", self._worker) for each in ending[begin : begin + BATCH]])
        if not any(lasting for _, _, lasting in owned):
            await self._end(self._worker)

    async def _take_lease(self, route: Route) -> tuple[bool, list[str]]:
        """Return whether this worker was not taken for dead, and the workers that are to be."""
        had, ended = await route.run(HOME, scripts.LEASE, 1, self._keys.leases, self._worker, int(LEASE_S * 1000))
        return bool(had), [worker.decode() for worker in ended]

    async def _end(self, worker: str) -> None:
        """Have the servers know no more of a worker: neither its set nor its lease."""
        await asyncio.gather(
            self._commands.ask(HOME, "DEL", self._keys.owned(worker)),
            self._commands.ask(HOME, "ZREM", self._keys.leases, worker),
        )

    # Registering

    async def _register(self, route: Route, at: Callable[[Link], bool]) -> None:
        """Register the members of this worker again whose servers are meant."""
        meant = [key for key in self._own if at(route.link(tag_of(key[0])))]
        for begin in range(0, len(meant), BATCH):
            await asyncio.gather(
                *[
                    self._register_one(route, key[0], *self._own[key], again=True)
                    for key in meant[begin : begin + BATCH]
                    if key in self._own  # who left meanwhile is not there again
                ]
            )

    async def _register_one(
        self, route: Route, room: Room, info: ClientInfo, announce: bool, lasting: bool, *, again: bool
    ) -> None:
        packed = _pack(info)
        # First where it is found when this worker is dead; then where it is seen.
        owned = route.ask(HOME, "SADD", self._keys.owned(self._worker), _pack([room, info.connection_id, lasting]))
        if not route.is_one:
            await owned
        how = 0 if not again else 2 if (room, ConnectionId(info.connection_id)) in self._loose else 1
        added = route.run(
            tag_of(room),
            scripts.MEMBER_ADD,
            1,
            self._keys.members(room),
            info.connection_id,
            b"%b %d %b" % (self._worker.encode(), announce, packed),
            self._keys.channel(room),
            packed if announce else b"",
            how,
            self._nodes.publishing,
            self._worker,
        )
        await (asyncio.gather(owned, added) if route.is_one else added)

    # The dead, and ghosts

    async def reap(self, worker: WorkerId) -> None:
        """
        Remove every member of a dead worker, and that worker's lease. Lasting ones are this worker's from then on.

        Raises:
            BrokerUnavailable: not all of that was done; who is left is found again.
        """
        owned = await self._owned_by(worker)
        await self._bury_all(owned, worker)
        await self._end(worker)

    async def _reconcile(self) -> None:
        """Let those leave whom the servers hold as this worker's, and who are not."""
        self._is_doubtful = False
        try:
            owned = await self._owned_by(self._worker)
            ghosts = [each for each in owned if each[:2] not in self._own and each[:2] not in self._underway]
            await self._bury_all(ghosts, self._worker)
        except BaseException:
            self._is_doubtful = True
            raise
        for room, client, _ in ghosts:
            self._note_left(room, client)

    async def _owned_by(self, worker: str) -> list[tuple[Room, ConnectionId, bool]]:
        """Return where a worker has members, whom, and whether they last."""
        owned = await self._commands.ask(HOME, "SMEMBERS", self._keys.owned(worker))
        found = [msgspec.msgpack.decode(each, type=tuple[str, str, bool]) for each in owned]
        return [(Room(room), ConnectionId(client), lasting) for room, client, lasting in found]

    async def _bury_all(self, owned: Sequence[tuple[Room, ConnectionId, bool]], worker: str) -> None:
        """
        Remove or take over members that a worker has no longer. `departed` is told of those with whom this call did,
        also where others fail.

        Raises:
            BrokerUnavailable: not with all; those are found again by the next who tries.
        """
        for begin in range(0, len(owned), BATCH):
            burying = [self._bury(*each, worker) for each in owned[begin : begin + BATCH]]
            done = await asyncio.gather(*burying, return_exceptions=True)
            departed = [each for each in done if isinstance(each, Departed)]
            if departed:
                self._departed(departed)
            for each in done:
                if isinstance(each, BaseException):
                    raise each

    async def _bury(self, room: Room, client: ConnectionId, lasting: bool, worker: str) -> Departed | None:
        """Remove or take over one. Return None where another was faster, or it is this worker's own and came again."""
        key = (room, client)
        if worker == self._worker and (key in self._own or key in self._underway):
            return None
        if not lasting:
            found = await self._remove(room, client, "?", worker)
            return None if found is None else Departed(room, found[0])
        self._underway.add(key)
        try:
            return await self._inherit(room, client, worker)
        finally:
            self._underway.discard(key)

    async def _inherit(self, room: Room, client: ConnectionId, worker: str) -> Departed | None:
        """Take over a dead worker's member, or what this one does not know. Return None where another was faster."""
        if worker != self._worker:  # else nobody would find it after us
            await self._commands.ask(HOME, "SADD", self._keys.owned(self._worker), _pack([room, client, True]))
        found = await self._commands.run(
            tag_of(room), scripts.MEMBER_INHERIT, 1, self._keys.members(room), client, worker, self._worker
        )
        if found is None:
            self._note_left(room, client)
            return None
        announce, info = found[0] == b"1", _info(found[1])
        self._own[room, client] = (info, announce, True)
        self._left.pop((room, client), None)
        return Departed(room, info, announce, inherited=True)


def read_members(words: list[bytes]) -> dict[ConnectionId, ClientInfo]:
    """Read the hash of a room's members, or a page of it."""
    pairs = zip(words[::2], words[1::2], strict=True)
    return {ConnectionId(client.decode()): _info(value.split(b" ", 2)[2]) for client, value in pairs}
