"""
This worker's members at Redis, its lease, and the members of dead workers.

Runs in the worker. It has no task and no timer: the broker (redis.py) calls it when a link is new and when the lease is
due. It does not know the members of other workers; Redis does.

Theory of operation
===================

**Where a member is stored.** Each member has two entries:

- in the hash of its room: connection id -> owner, announce flag, info. This entry makes it present.
- in the set of its worker (*owned*): room, connection id, lasting flag. This entry only lets others find it.

In a cluster the two are on different nodes, so there is no transaction over both.

Invariant 1: the entry in the owned set is written before the entry in the room, and removed after it. Each present
member of a dead worker is therefore found. An owned entry without a member is harmless: every script checks the owner
in the room's hash before it changes anything.

**Leases.** A worker holds one lease, whatever the number of its members. Whenever it renews its lease, it reads the
leases that have expired, and reaps those workers. Several workers may reap the same one at the same time. The scripts
make each member the success of exactly one of them. A worker whose own lease was removed registers all its members
again. That happens after it was stopped or cut off. Their joins are announced only where the member was not present,
so watchers do not see a join twice (realtime/rooms/presence_view.py).

**States of a member, as this worker sees it:**

- *registered*: in `_own`, and after a fault registered again.
- *in grace*: in `_own` and `_in_grace`. Another worker may take it over. After a fault it is registered again only
  where no other worker owns it.
- *in progress*: in `_in_progress`, being inherited or removed. It is neither a member nor stale.
- *left*: in `_left`. The room's entry is removed, the owned entry still exists.

Invariant 2: no member is both in `_own` and in `_left`, and every member in `_in_grace` is in `_own`.

**Stale members.** A promoted replica may lack the latest removals, and then shows members that have left. After each
new link, `renew` compares the owned set with `_own`, and reaps the rest as members of a dead worker. The nodes of the
two entries can fail independently. A removed member therefore stays in the owned set for `LEFT_S`, as long as a
replica can lag behind.

**When the process dies:**

- after the owned entry, before the room's entry: the member was never present. The entry goes with the reaped worker.
- after both entries: the lease expires, and another worker reaps the member, or inherits it if it is lasting.
- after the room's entry was removed: the member has left, and its leave was published by the same script.
- while it inherits: before MEMBER_INHERIT, the dead worker still owns the member. After it, the member is in the owned
  set of this worker. Either way, the next reaping finds it.
- while it reaps: the dead worker's set and lease are removed last, so another worker starts again.
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
from realtime.broker.commands import RedisCommands
from realtime.broker.keys import HOME, RedisKeys, tag_of
from realtime.broker.links import Nodes, RedisLink, Route
from realtime.broker.redis_connection import CommandFailed
from realtime.log_lines import log

LEASE_S: Final = 6.0
LEFT_S: Final = 180.0  # a cluster elects no replica that lost its master longer ago (10 timeouts and a ping)
LEFT_MAX: Final = 100_000  # removed members kept for LEFT_S; with more, the earliest are no longer checked
FORGET_BATCH: Final = 500  # removed members per SREM command
BATCH: Final = 5000  # members with a command in flight: a connection takes at most `resp.WAITING_MAX`

# How lua/member_add.lua treats a member that is already present.
_ANNOUNCE: Final = 0
_ANNOUNCE_IF_NEW: Final = 1
_LEAVE_TO_OTHER_OWNER: Final = 2

_Owned = tuple[Room, ConnectionId, bool]  # an entry of an owned set: where, which member, whether it is lasting


class _OwnedEntry(msgspec.Struct, frozen=True, array_like=True):
    """An entry of an owned set as it is read. Fields of a later release may follow."""

    room: str
    connection_id: str
    lasting: bool


_pack = msgspec.msgpack.encode
_owned_entry = msgspec.msgpack.Decoder(_OwnedEntry).decode
_info = msgspec.msgpack.Decoder(ClientInfo).decode
logger = logging.getLogger("realtime.broker.redis")


class Members:
    """The members of this worker, and its lease. It also reaps the members of others."""

    def __init__(
        self,
        worker: WorkerId,
        keys: RedisKeys,
        nodes: Nodes,
        commands: RedisCommands,
        on_departed: Callable[[Sequence[Departed]], None],
    ) -> None:
        """`on_departed` gets the members that this worker reaped or inherited."""
        self._worker = worker
        self._keys, self._nodes, self._commands = keys, nodes, commands
        self._on_departed = on_departed
        self._own: dict[tuple[Room, ConnectionId], tuple[ClientInfo, bool, bool]] = {}  # info, announce, lasting
        self._in_grace: set[tuple[Room, ConnectionId]] = set()
        self._left: dict[tuple[Room, ConnectionId], float] = {}  # when it was removed, by the monotonic clock
        self._in_progress: set[tuple[Room, ConnectionId]] = set()
        self._needs_resync = False  # the owned set at Redis may differ from `_own`

    def __len__(self) -> int:
        return len(self._own)

    # Adding and removing

    async def add(self, room: Room, info: ClientInfo, *, announce: bool, quietly: bool, lasting: bool) -> None:
        """
        Register a member of this worker. When that fails, it is no member of this worker.

        Raises:
            BrokerUnavailable: the member may or may not be registered.
        """
        key = (room, ConnectionId(info.connection_id))
        self._own[key] = (info, announce, lasting)
        self._in_grace.discard(key)
        self._left.pop(key, None)
        try:
            await self._register_one(self._nodes.route, room, info, announce, lasting, again=quietly)
        except BaseException as error:
            self._own.pop(key, None)
            self._in_grace.discard(key)  # released meanwhile (invariant 2)
            if isinstance(error, CommandFailed):
                raise self._commands.refused(tag_of(room), error) from error
            raise

    def release(self, room: Room, connection_id: ConnectionId) -> None:
        """Let another worker take over a member: registering again leaves it to an owner that took it meanwhile."""
        if (room, connection_id) in self._own:
            self._in_grace.add((room, connection_id))

    async def remove(self, room: Room, connection_id: ConnectionId, *, announce: bool, mine: bool) -> int | None:
        """
        Remove a member; with `mine`, only where this worker still owns it.

        Return how many members the room still has, or None where this call removed nothing.

        Raises:
            BrokerUnavailable: the member may or may not be removed. It is no member of this worker any more.
        """
        self._own.pop((room, connection_id), None)
        self._in_grace.discard((room, connection_id))
        self._in_progress.add((room, connection_id))
        try:
            found = await self._remove(room, connection_id, "1" if announce else "0", self._worker if mine else "")
        finally:
            self._in_progress.discard((room, connection_id))
        self._note_left(room, connection_id)
        return None if found is None else found[1]

    async def _remove(self, room: Room, connection_id: str, announce: str, owner: str) -> tuple[ClientInfo, int] | None:
        """Remove a member at Redis. Return its info, and how many are left; None where it was none, or another's."""
        found = await self._commands.run(
            tag_of(room), scripts.MEMBER_REMOVE, 1, self._keys.members(room), connection_id, self._keys.channel(room),
            announce, owner, self._nodes.publishing,
        )  # fmt: skip
        return None if found is None else (_info(found[0]), int(found[1]))

    def _note_left(self, room: Room, connection_id: ConnectionId) -> None:
        """Note a removed member, whose owned entry must be removed later. It may be a member again by now."""
        if (room, connection_id) not in self._own:
            self._left[room, connection_id] = time.monotonic()

    async def _forget_left(self, route: Route) -> None:
        """Remove the owned entries of members that left so long ago that no replica can still show them."""
        before = time.monotonic() - (0.0 if route.is_one else LEFT_S)  # one server loses both entries or none
        surplus = len(self._left) - LEFT_MAX
        due = [key for number, (key, at) in enumerate(self._left.items()) if at <= before or number < surplus]
        for begin in range(0, len(due), FORGET_BATCH):
            batch = [key for key in due[begin : begin + FORGET_BATCH] if self._left.pop(key, None) is not None]
            assert not any(key in self._own for key in batch), "add() removes a key from _left before it registers it"
            entries = [_pack([*key, lasting]) for key in batch for lasting in (False, True)]
            if entries:
                await route.request(HOME, "SREM", self._keys.owned(self._worker), *entries)

    # The lease

    async def enter(self, route: Route, fresh: Callable[[RedisLink], bool]) -> None:
        """Take the lease by this route, and register the members whose link is fresh. The next `renew` must follow."""
        self._needs_resync = True  # `renew` does it, when the route is open for all
        had_lease, _ = await self._take_lease(route)
        needs_all = not had_lease or fresh(route.link(HOME))
        await self._register(route, lambda link: needs_all or fresh(link))

    async def renew(self, route: Route) -> None:
        """
        Renew the lease, and do what is due: reap dead workers, reap stale members, forget removed members.

        Raises:
            BrokerUnavailable: not everything was done; the next call goes on.
            CommandFailed: likewise.
        """
        had_lease, expired = await self._take_lease(route)
        if not had_lease:
            log(
                logger,
                logging.WARNING,
                "= lease lost",
                members=len(self._own),
                reason="it ended; its members register again",
            )
            await self._register(route, lambda _: True)
        for worker in expired:
            await self.reap(WorkerId(worker))
        if self._needs_resync:
            await self._reap_stale()
        await self._forget_left(route)

    async def close(self) -> None:
        """
        Remove this worker's members and its lease.

        With lasting members, the lease stays until it expires: another worker then inherits them.
        """
        owned = [each for each in await self._owned_by(self._worker) if each[:2] not in self._left]
        ending = [(room, connection_id) for room, connection_id, lasting in owned if not lasting]
        for begin in range(0, len(ending), BATCH):
            await asyncio.gather(*[self._remove(*each, "?", self._worker) for each in ending[begin : begin + BATCH]])
        if not any(lasting for _, _, lasting in owned):
            await self._end(self._worker)

    async def _take_lease(self, route: Route) -> tuple[bool, list[str]]:
        """Return whether this worker still had its lease, and the workers whose lease has expired."""
        had, expired = await route.run(HOME, scripts.LEASE, 1, self._keys.leases, self._worker, int(LEASE_S * 1000))
        return bool(had), [worker.decode() for worker in expired]

    async def _end(self, worker: str) -> None:
        """Remove a worker's owned set and its lease."""
        await asyncio.gather(
            self._commands.request(HOME, "DEL", self._keys.owned(worker)),
            self._commands.request(HOME, "ZREM", self._keys.leases, worker),
        )

    # Registering

    async def _register(self, route: Route, at: Callable[[RedisLink], bool]) -> None:
        """Register this worker's members again, where `at` returns true for their link."""
        chosen = [key for key in self._own if at(route.link(tag_of(key[0])))]
        for begin in range(0, len(chosen), BATCH):
            await asyncio.gather(
                *[
                    self._register_one(route, key[0], *self._own[key], again=True)
                    for key in chosen[begin : begin + BATCH]
                    if key in self._own  # removed meanwhile
                ]
            )

    async def _register_one(
        self, route: Route, room: Room, info: ClientInfo, announce: bool, lasting: bool, *, again: bool
    ) -> None:
        """
        Register one member, its owned entry first (invariant 1). A worker that dies in between leaves an entry without
        a member, which reaping removes. The other order would leave a member that no worker owns.
        """
        packed = _pack(info)
        # Invariant 1: the owned entry first. One server keeps that order; in a cluster the reply must be awaited.
        owned = route.request(HOME, "SADD", self._keys.owned(self._worker), _pack([room, info.connection_id, lasting]))
        if not route.is_one:
            await owned
        mode = _ANNOUNCE_IF_NEW if again else _ANNOUNCE
        if again and (room, ConnectionId(info.connection_id)) in self._in_grace:
            mode = _LEAVE_TO_OTHER_OWNER
        added = route.run(
            tag_of(room),
            scripts.MEMBER_ADD,
            1,
            self._keys.members(room),
            info.connection_id,
            b"%b %d %b" % (self._worker.encode(), announce, packed),
            self._keys.channel(room),
            packed if announce else b"",
            mode,
            self._nodes.publishing,
            self._worker,
        )
        await (asyncio.gather(owned, added) if route.is_one else added)

    # Dead workers, and stale members

    async def reap(self, worker: WorkerId) -> None:
        """
        Remove every member of a dead worker, and its lease. This worker inherits the lasting members.

        Raises:
            BrokerUnavailable: not everything was done; the next reaping finds the rest.
        """
        owned = await self._owned_by(worker)
        await self._reap_all(owned, worker)
        await self._end(worker)

    async def _reap_stale(self) -> None:
        """Reap the members that Redis shows as this worker's and that are not."""
        self._needs_resync = False
        try:
            owned = await self._owned_by(self._worker)
            stale = [each for each in owned if each[:2] not in self._own and each[:2] not in self._in_progress]
            await self._reap_all(stale, self._worker)
        except BaseException:
            self._needs_resync = True
            raise
        for room, connection_id, _ in stale:
            self._note_left(room, connection_id)

    async def _owned_by(self, worker: str) -> list[_Owned]:
        """Return the owned set of a worker."""
        owned = await self._commands.request(HOME, "SMEMBERS", self._keys.owned(worker))
        found = [_owned_entry(each) for each in owned]
        return [(Room(each.room), ConnectionId(each.connection_id), each.lasting) for each in found]

    async def _reap_all(self, owned: Sequence[_Owned], worker: str) -> None:
        """
        Remove or inherit members that `worker` no longer has.

        `on_departed` gets those with which this call succeeded, even if others fail.

        Raises:
            BrokerUnavailable: some are left; the next reaping finds them.
        """
        for begin in range(0, len(owned), BATCH):
            reaping = [self._reap_one(*each, worker) for each in owned[begin : begin + BATCH]]
            done = await asyncio.gather(*reaping, return_exceptions=True)
            departed = [each for each in done if isinstance(each, Departed)]
            if departed:
                self._on_departed(departed)
            for each in done:
                if isinstance(each, BaseException):
                    raise each

    async def _reap_one(self, room: Room, connection_id: ConnectionId, lasting: bool, worker: str) -> Departed | None:
        """Remove or inherit one. Return None where another worker was faster, or where it is a member again."""
        key = (room, connection_id)
        if worker == self._worker and (key in self._own or key in self._in_progress):
            return None
        if not lasting:
            found = await self._remove(room, connection_id, "?", worker)
            return None if found is None else Departed(room, found[0])
        self._in_progress.add(key)
        try:
            return await self._inherit(room, connection_id, worker)
        finally:
            self._in_progress.discard(key)

    async def _inherit(self, room: Room, connection_id: ConnectionId, worker: str) -> Departed | None:
        """Inherit a lasting member: of a dead worker, or a stale one. Return None where another worker was faster."""
        if worker != self._worker:  # invariant 1: the owned entry of a stale member exists already
            await self._commands.request(
                HOME, "SADD", self._keys.owned(self._worker), _pack([room, connection_id, True])
            )
        found = await self._commands.run(
            tag_of(room), scripts.MEMBER_INHERIT, 1, self._keys.members(room), connection_id, worker, self._worker
        )
        if found is None:
            self._note_left(room, connection_id)
            return None
        announce, info = found[0] == b"1", _info(found[1])
        assert info.connection_id == connection_id, "a member is registered under its own id"
        self._own[room, connection_id] = (info, announce, True)
        self._left.pop((room, connection_id), None)
        return Departed(room, info, announce, inherited=True)


def read_members(words: list[bytes]) -> dict[ConnectionId, ClientInfo]:
    """Read a room's hash of members, or a page of it."""
    pairs = zip(words[::2], words[1::2], strict=True)
    return {ConnectionId(key.decode()): _info(value.split(b" ", 2)[2]) for key, value in pairs}
