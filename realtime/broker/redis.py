"""
The broker of many machines: the contract through Redis (6.2 or newer) or whatever speaks the same.

Runs in the worker. Which server has what is for others to know: one server or the master that sentinels name
(nodes.py), or all nodes of a cluster (cluster.py). Every room keeps its keys under one hash tag, and what belongs to no
room has a tag of its own. What is published is one script (lua/publish.lua), so an answer means that it happened.

**Health** is proved by a probe that is published and seen again: an open socket proves nothing. A link (links.py) on
which no probe came back for `PROBE_LOST_S` is cut.

**Members** stand in one hash per room, with the worker that owns them, and once more in a set per worker, by which they
are found when that worker is dead. A worker holds one lease, whatever the number of its members, and looks at all
leases each time it takes its own: what has ended is removed by whoever is first. A worker that finds its own lease
removed, because it was stopped or cut off for a while, registers its members again. Whoever removed it left a note, so
that their joins are told again just where their leaves had been; without a note Redis lost everything, and nobody left.

**Ghosts.** A replica that was promoted may not have heard of the latest removals, and then shows members who have left.
After each new link a worker compares whom the servers hold as its own with whom it has; the rest leave as the members
of a dead worker do. In a cluster the set of a worker and a room's members are at two nodes, of which one may fail and
the other not: who was removed stands in the set for as long as a replica can be behind.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from realtime.broker import scripts
from realtime.broker.address import Kind, Where, parse
from realtime.broker.base import (
    BrokerListener,
    ClientId,
    ClientInfo,
    Departed,
    History,
    MemberCounts,
    MembersPage,
    Position,
    Publication,
    Published,
    Retention,
    Room,
    WorkerId,
)
from realtime.broker.cluster import Cluster
from realtime.broker.links import Link, Nodes, Route
from realtime.broker.nodes import Fixed, OneNode, Sentinels
from realtime.broker.resp import CommandFailed, Word
from realtime.errors import BrokerUnavailable
from realtime.rate import Rate

LEASE_S: Final = 6.0
ROUND_S: Final = 2.0  # how often the lease is taken, and a probe sent
PROBE_LOST_S: Final = 6.0
REAPED_S: Final = 86400  # for so long a worker that is taken for dead may come back
LEFT_S: Final = 180.0  # no replica of a cluster is elected that lost its master longer ago (10 timeouts and a ping)
LEFT_MAX: Final = 100_000  # who left, and would be found in LEFT_S; of more, those who left first are not
FORGET_BATCH: Final = 500  # of those, in one command
BATCH: Final = 5000  # members for whom something is asked at once: a connection holds no more than `resp.WAITING_MAX`
HOME: Final = "~"  # the hash tag of what belongs to no room

_pack = msgspec.msgpack.encode
logger = logging.getLogger("realtime.broker.redis")


class Stored(msgspec.Struct, frozen=True, array_like=True):
    """A publication as it lies in Redis; its position is the entry's."""

    data: bytes
    info: ClientInfo | None
    tags: dict[str, str] | None
    time_ms: int
    exclude: str = ""


_stored = msgspec.msgpack.Decoder(Stored).decode
_info = msgspec.msgpack.Decoder(ClientInfo).decode


class RedisBroker:
    """The contract, through Redis. As `Keeper` it is asked by its `Nodes` what has to be in force there."""

    def __init__(self, url: str, worker: WorkerId, *, prefix: str = "rt") -> None:
        """
        Raises:
            SettingsError: it is no Redis URL.
        """
        self._worker = worker
        self._prefix = prefix
        self._nodes = self._make_nodes(parse(url))
        self._listener: BrokerListener | None = None
        self._rooms: dict[bytes, Room] = {}  # by channel
        self._members: dict[tuple[Room, ClientId], tuple[ClientInfo, bool, bool]] = {}
        self._loose: set[tuple[Room, ClientId]] = set()  # of those members
        self._left: dict[tuple[Room, ClientId], float] = {}  # when, of those who stand in this worker's set still
        self._underway: set[tuple[Room, ClientId]] = set()  # being inherited or removed: no members, and no ghosts
        self._is_doubtful = False  # the servers may hold as this worker's whom it does not have
        self._tasks: set[asyncio.Task[None]] = set()
        self._counts = dict.fromkeys(("published", "received", "links_lost", "gaps", "reaped"), 0)

    def _make_nodes(self, where: Where) -> Nodes:
        name = f"realtime-{self._worker}"
        if where.kind is Kind.CLUSTER:
            return Cluster(where, self, name=name, probe=self._probe)
        probe = self._probe(HOME).encode()
        if where.kind is Kind.SENTINEL:
            return OneNode(Sentinels(where.seeds, where.service, where.login), self, name=name, probe=probe)
        return OneNode(Fixed(where.login), self, name=name, probe=probe)

    @property
    def in_order(self) -> bool:
        return not isinstance(self._nodes, Cluster)  # what another node has by now is sent again, behind others

    # Names

    @staticmethod
    def _tag(room: Room) -> str:
        """Return what a room's keys are hashed by. It holds no brace of the room's own, and is not empty."""
        return room.replace("%", "%25").replace("{", "%7B").replace("}", "%7D") or "%"

    def _key(self, room: Room, kind: str) -> str:
        return f"{self._prefix}:{{{self._tag(room)}}}:{kind}"

    def _channel(self, room: Room) -> str:
        return self._key(room, "c")

    def _owned(self, worker: str) -> str:
        return f"{self._prefix}:{{{HOME}}}:w:{worker}"

    def _reaped(self, worker: str) -> str:
        return f"{self._prefix}:{{{HOME}}}:reaped:{worker}"

    @property
    def _leases(self) -> str:
        return f"{self._prefix}:{{{HOME}}}:leases"

    def _probe(self, tag: str) -> str:
        return f"{self._prefix}:{{{tag}}}:probe:{self._worker}"

    # The servers

    async def start(self, listener: BrokerListener) -> None:
        self._listener = listener
        await self._nodes.start()
        self._spawn(self._rounds())

    def channels(self) -> Iterable[bytes]:
        return self._rooms.keys()

    async def enter(self, route: Route, fresh: Callable[[Link], bool]) -> None:
        self._is_doubtful = True  # the next round sees to it
        had_lease, _ = await self._take_lease(route)
        await self._register(route, lambda link: not had_lease or fresh(link), was_away=fresh(route.link(HOME)))

    def on_lost(self) -> None:
        self._counts["links_lost"] += 1
        assert self._listener is not None, "started"
        self._listener.on_link_lost()

    def on_restored(self) -> None:
        assert self._listener is not None, "started"
        self._listener.on_link_restored()

    def on_gap(self, channels: Iterable[bytes]) -> None:
        rooms = [room for channel in channels if (room := self._rooms.get(channel)) is not None]
        if rooms and self._listener is not None:
            self._counts["gaps"] += 1
            self._listener.on_gap(rooms)

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("! %s failed", task.get_coro(), exc_info=error)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None and tuple(self._nodes.links):
            try:
                async with asyncio.timeout(2):
                    await self._give_up()
            except (BrokerUnavailable, CommandFailed, TimeoutError) as error:
                logger.warning("! members of this worker stay until its lease ends: %s", error)
        await self._nodes.close()
        self._listener = None

    async def _ask(self, tag: str, *words: Word) -> Any:
        try:
            return await self._nodes.route.ask(tag, *words)
        except CommandFailed as error:
            raise self._refused(tag, error) from error

    async def _run(self, tag: str, script: scripts.Script, keys: int, *arguments: Word) -> Any:
        try:
            return await self._nodes.route.run(tag, script, keys, *arguments)
        except CommandFailed as error:
            raise self._refused(tag, error) from error

    def _refused(self, tag: str, error: CommandFailed) -> BrokerUnavailable:
        """Return what the caller is told. A server that takes no writes any more is another's replica now."""
        if error.code == "READONLY":
            self._nodes.doubt(self._nodes.route.link(tag))
        return BrokerUnavailable(self._nodes.shown, error.text)

    # Rounds: the lease, the probe, the dead

    async def _rounds(self) -> None:
        while True:
            await asyncio.sleep(ROUND_S)
            for link in tuple(self._nodes.links):
                if time.monotonic() - link.seen_at > PROBE_LOST_S:
                    logger.error("! %s: no probe came back for %g s: the link is cut", link.address.shown, PROBE_LOST_S)
                    link.cut()
                else:
                    link.probe_by(self._nodes.publishing)
            self._nodes.doubt()
            # On the side: a reply that never comes must not end the rounds that would notice.
            self._spawn(self._round())

    async def _round(self) -> None:
        try:
            route = self._nodes.route
            had_lease, ended = await self._take_lease(route)
            if not had_lease:
                logger.warning("= the lease had ended: %d members are registered again", len(self._members))
                await self._register(route, lambda _: True, was_away=True)
            for worker in ended:
                await self.reap(WorkerId(worker))
            if self._is_doubtful:
                await self._reconcile()
            await self._forget_left(route)
        except CommandFailed as error:
            logger.debug("- a round failed: %s", self._refused(HOME, error))
        except BrokerUnavailable as error:
            logger.debug("- a round failed: %s", error.problem)

    async def _take_lease(self, route: Route) -> tuple[bool, list[str]]:
        had, ended = await route.run(HOME, scripts.LEASE, 1, self._leases, self._worker, int(LEASE_S * 1000))
        return bool(had), [worker.decode() for worker in ended]

    async def _register(self, route: Route, at: Callable[[Link], bool], *, was_away: bool) -> None:
        """
        Register the members of this worker again whose servers are meant. Joins are told again only where leaves had
        been; `was_away`: leaves may have been.
        """
        reaped = was_away and bool(await route.ask(HOME, "DEL", self._reaped(self._worker)))
        meant = [key for key in self._members if was_away or at(route.link(self._tag(key[0])))]
        for begin in range(0, len(meant), BATCH):
            await asyncio.gather(
                *[
                    self._register_one(route, key[0], *self._members[key], tell=reaped, again=True)
                    for key in meant[begin : begin + BATCH]
                    if key in self._members  # who left meanwhile is not there again
                ]
            )

    async def _register_one(
        self, route: Route, room: Room, info: ClientInfo, announce: bool, lasting: bool, *, tell: bool,
        again: bool = False,
    ) -> None:  # fmt: skip
        packed = _pack(info)
        # First where it is found when this worker is dead; then where it is seen.
        owned = route.ask(HOME, "SADD", self._owned(self._worker), _pack([room, info.client, lasting]))
        if not route.is_one:
            await owned
        how = 0 if not again else 2 if (room, ClientId(info.client)) in self._loose else 1
        added = route.run(
            self._tag(room),
            scripts.MEMBER_ADD,
            1,
            self._key(room, "m"),
            info.client,
            b"%b %d %b" % (self._worker.encode(), announce, packed),
            self._channel(room),
            packed if announce and tell else b"",
            how,
            self._nodes.publishing,
            self._worker,
        )
        await (asyncio.gather(owned, added) if route.is_one else added)

    def on_message(self, channel: bytes, text: bytes) -> None:
        """Take what pub/sub brings."""
        room = self._rooms.get(channel)
        listener = self._listener
        if room is None or listener is None:
            return
        kind = text[:2]
        if kind == b"p:":
            _, epoch, offset, payload = text.split(b":", 3)
            self._counts["received"] += 1
            listener.on_publication(room, _publication(payload, epoch.decode(), int(offset)))
        elif kind == b"j:":
            listener.on_join(room, _info(text[2:]))
        elif kind == b"l:":
            listener.on_leave(room, _info(text[2:]))

    # The contract: rooms

    async def subscribe(self, room: Room) -> None:
        channel = self._channel(room).encode()
        self._nodes.route  # noqa: B018 - raises where there is none
        self._rooms[channel] = room
        try:
            await self._nodes.subscribe(channel)
        except BaseException as error:
            self._rooms.pop(channel, None)
            if isinstance(error, CommandFailed):
                raise BrokerUnavailable(self._nodes.shown, error.text) from error
            raise

    async def unsubscribe(self, room: Room) -> None:
        channel = self._channel(room).encode()
        if self._rooms.pop(channel, None) is not None:
            await self._nodes.unsubscribe(channel)
        else:
            self._nodes.route  # noqa: B018 - raises where there is none

    async def publish(
        self,
        room: Room,
        data: bytes,
        *,
        retention: Retention,
        info: ClientInfo | None = None,
        tags: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        idempotency_ttl_s: float = 300.0,
        exclude: str = "",
    ) -> Published:
        payload = _pack(Stored(data, info, dict(tags) if tags else None, int(time.time() * 1000), exclude))
        meta = self._key(room, "o")
        seen_key = self._key(room, f"i:{idempotency_key}") if idempotency_key is not None else meta
        is_kept = retention.size > 0  # else no other key is named: a slot that moves would have it wait for keys
        epoch, offset, seen = await self._run(
            self._tag(room),
            scripts.PUBLISH,
            3,
            self._key(room, "s") if is_kept else seen_key,
            meta if is_kept else seen_key,
            seen_key,
            self._channel(room),
            payload,
            retention.size,
            int(retention.ttl_s * 1000),
            _meta_ms(retention),
            _new_epoch(),
            int(idempotency_ttl_s * 1000) if idempotency_key is not None else 0,
            self._nodes.publishing,
        )
        self._counts["published"] += 1
        return Published(Position(epoch.decode(), int(offset)), duplicate=bool(seen))

    async def position(self, room: Room, *, retention: Retention) -> Position:
        return (await self.history(room, retention=retention)).top

    async def positions(self, rooms: Sequence[Room]) -> Mapping[Room, Position]:
        route = self._nodes.route
        asked = [self._position(route, room) for room in rooms]
        found = await asyncio.gather(*asked, return_exceptions=not route.is_one)
        errors = [each for each in found if isinstance(each, BaseException)]
        if errors and len(errors) == len(rooms):
            raise errors[0]
        # Of several nodes one may be away: what is there can be proved nevertheless, and the rest cannot.
        return {room: each for room, each in zip(rooms, found, strict=True) if isinstance(each, Position)}

    async def _position(self, route: Route, room: Room) -> Position | None:
        """Return the top of a stream, None where there is none or where it is another life's, which proves nothing."""
        tag = self._tag(room)
        epoch, offset, of_life = await self._ask(tag, "HMGET", self._key(room, "o"), "e", "o", "r")
        if epoch is None or not route.link(tag).has_life(of_life):
            return None
        return Position(epoch.decode(), int(offset))

    async def history(
        self,
        room: Room,
        *,
        retention: Retention,
        since: Position | None = None,
        limit: int = 0,
        reverse: bool = False,
    ) -> History:
        begin = "+" if reverse else "-"
        if since is not None:
            begin = str(max(since.offset - 1, 0) if reverse else since.offset + 1)
        epoch, top, entries = await self._run(
            self._tag(room),
            scripts.HISTORY,
            2,
            self._key(room, "s"),
            self._key(room, "o"),
            max(limit, 0),
            begin,
            int(reverse),
            _meta_ms(retention),
            _new_epoch(),
            retention.size,
        )
        name = epoch.decode()
        publications = [_publication(fields[1], name, int(id.partition(b"-")[0])) for id, fields in entries]
        return History(publications, Position(name, int(top)))

    async def forget_history(self, room: Room) -> None:
        await self._ask(self._tag(room), "DEL", self._key(room, "s"))

    # The contract: members

    async def add_member(
        self, room: Room, info: ClientInfo, *, announce: bool, quietly: bool = False, lasting: bool = False
    ) -> None:
        key = (room, ClientId(info.client))
        self._members[key] = (info, announce, lasting)
        self._loose.discard(key)
        self._left.pop(key, None)
        try:
            await self._register_one(self._nodes.route, room, info, announce, lasting, tell=not quietly)
        except BaseException as error:
            self._members.pop(key, None)
            if isinstance(error, CommandFailed):
                raise self._refused(self._tag(room), error) from error
            raise

    def loosen(self, room: Room, client: ClientId) -> None:
        if (room, client) in self._members:
            self._loose.add((room, client))

    async def remove_member(self, room: Room, client: ClientId, *, announce: bool, mine: bool = False) -> int | None:
        self._members.pop((room, client), None)
        self._loose.discard((room, client))
        self._underway.add((room, client))
        try:
            found = await self._remove(room, client, "1" if announce else "0", self._worker if mine else "")
        finally:
            self._underway.discard((room, client))
        self._note_left(room, client)
        return None if found is None else found[1]

    def _note_left(self, room: Room, client: ClientId) -> None:
        """Note who was removed, to be taken out of this worker's set in good time, unless it is a member again."""
        if (room, client) not in self._members:
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
                await route.ask(HOME, "SREM", self._owned(self._worker), *entries)

    async def _remove(self, room: Room, client: str, announce: str, owner: str) -> tuple[ClientInfo, int] | None:
        found = await self._run(
            self._tag(room), scripts.MEMBER_REMOVE, 1, self._key(room, "m"), client, self._channel(room), announce,
            owner, self._nodes.publishing,
        )  # fmt: skip
        return None if found is None else (_info(found[0]), int(found[1]))

    async def members(self, room: Room) -> Mapping[ClientId, ClientInfo]:
        return _members(await self._ask(self._tag(room), "HGETALL", self._key(room, "m")))

    async def member_counts(self, room: Room) -> MemberCounts:
        members = await self.members(room)
        return MemberCounts(len(members), len({info.user for info in members.values()}))

    async def workers(self) -> Sequence[WorkerId]:
        (seconds, micros), leases = await asyncio.gather(
            self._ask(HOME, "TIME"), self._ask(HOME, "ZRANGE", self._leases, "0", "-1", "WITHSCORES")
        )
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        names = zip(leases[::2], leases[1::2], strict=True)
        return [WorkerId(name.decode()) for name, until_ms in names if float(until_ms) > now_ms]

    async def members_page(self, room: Room, *, cursor: str = "", limit: int = 1000) -> MembersPage:
        after, words = await self._ask(
            self._tag(room), "HSCAN", self._key(room, "m"), cursor or "0", "COUNT", max(limit, 1)
        )
        return MembersPage(_members(words), "" if after == b"0" else after.decode())

    async def allow(self, room: Room, who: str, rate: Rate) -> bool:
        key = self._key(room, f"l:{who}")
        return bool(
            await self._run(self._tag(room), scripts.ALLOW, 1, key, rate.interval_s * 1000, rate.period_s * 1000)
        )

    async def reap(self, worker: WorkerId) -> None:
        owned = await self._owned_by(worker)
        await self._bury_all(owned, worker)
        if owned:
            await self._ask(HOME, "SET", self._reaped(worker), "", "EX", REAPED_S)
        await asyncio.gather(self._ask(HOME, "DEL", self._owned(worker)), self._ask(HOME, "ZREM", self._leases, worker))

    async def _reconcile(self) -> None:
        """Let those leave whom the servers hold as this worker's, and who are not."""
        self._is_doubtful = False
        try:
            owned = await self._owned_by(self._worker)
            ghosts = [each for each in owned if each[:2] not in self._members and each[:2] not in self._underway]
            await self._bury_all(ghosts, self._worker)
        except BaseException:
            self._is_doubtful = True
            raise
        for room, client, _ in ghosts:
            self._note_left(room, client)

    async def _owned_by(self, worker: str) -> list[tuple[Room, ClientId, bool]]:
        """Return where a worker has members, whom, and whether they last."""
        owned = await self._ask(HOME, "SMEMBERS", self._owned(worker))
        found = [msgspec.msgpack.decode(each, type=tuple[str, str, bool]) for each in owned]
        return [(Room(room), ClientId(client), lasting) for room, client, lasting in found]

    async def _bury_all(self, owned: Sequence[tuple[Room, ClientId, bool]], worker: str) -> None:
        """
        Remove or take over members that a worker has no longer. The listener is told of those with whom this call did,
        also where others fail.

        Raises:
            BrokerUnavailable: not with all; those are found again by the next who tries.
        """
        for begin in range(0, len(owned), BATCH):
            burying = [self._bury(*each, worker) for each in owned[begin : begin + BATCH]]
            done = await asyncio.gather(*burying, return_exceptions=True)
            departed = [each for each in done if isinstance(each, Departed)]
            self._counts["reaped"] += len(departed)
            if departed and self._listener is not None:
                self._listener.on_departed(departed)
            for each in done:
                if isinstance(each, BaseException):
                    raise each

    async def _bury(self, room: Room, client: ClientId, lasting: bool, worker: str) -> Departed | None:
        """Remove or take over one. Return None where another was faster, or it is this worker's own and came again."""
        key = (room, client)
        if worker == self._worker and (key in self._members or key in self._underway):
            return None
        if not lasting:
            found = await self._remove(room, client, "?", worker)
            return None if found is None else Departed(room, found[0])
        self._underway.add(key)
        try:
            return await self._inherit(room, client, worker)
        finally:
            self._underway.discard(key)

    async def _inherit(self, room: Room, client: ClientId, worker: str) -> Departed | None:
        """Take over a dead worker's member, or what this one does not know. Return None where another was faster."""
        if worker != self._worker:  # else nobody would find it after us
            await self._ask(HOME, "SADD", self._owned(self._worker), _pack([room, client, True]))
        found = await self._run(
            self._tag(room), scripts.MEMBER_INHERIT, 1, self._key(room, "m"), client, worker, self._worker
        )
        if found is None:
            self._note_left(room, client)
            return None
        announce, info = found[0] == b"1", _info(found[1])
        self._members[room, client] = (info, announce, True)
        self._left.pop((room, client), None)
        return Departed(room, info, announce, inherited=True)

    async def _give_up(self) -> None:
        """Remove this worker's members, and its lease; lasting ones are found when that has run out."""
        owned = [each for each in await self._owned_by(self._worker) if each[:2] not in self._left]
        ending = [(room, client) for room, client, lasting in owned if not lasting]
        for begin in range(0, len(ending), BATCH):
            await asyncio.gather(*[self._remove(*each, "?", self._worker) for each in ending[begin : begin + BATCH]])
        if not any(lasting for _, _, lasting in owned):
            await asyncio.gather(
                self._ask(HOME, "DEL", self._owned(self._worker)), self._ask(HOME, "ZREM", self._leases, self._worker)
            )

    def statistics(self) -> Mapping[str, int | float | str | bool]:
        return {
            "kind": "redis",
            "link": "up" if self._nodes.is_whole else "down",
            "nodes": sum(1 for _ in self._nodes.links),
            "rooms": len(self._rooms),
            "own_members": len(self._members),
            **self._counts,
        }


def _publication(payload: bytes, epoch: str, offset: int) -> Publication:
    stored = _stored(payload)
    return Publication(stored.data, offset, epoch, stored.info, stored.tags, stored.time_ms, stored.exclude)


def _members(words: list[bytes]) -> dict[ClientId, ClientInfo]:
    """Read a hash of members, or a page of one."""
    pairs = zip(words[::2], words[1::2], strict=True)
    return {ClientId(client.decode()): _info(value.split(b" ", 2)[2]) for client, value in pairs}


def _meta_ms(retention: Retention) -> int:
    return int(max(retention.meta_ttl_s, retention.ttl_s) * 1000)


def _new_epoch() -> str:
    return secrets.token_hex(4)  # no colon: the message's parts are divided by one
