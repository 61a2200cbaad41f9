"""
The broker of many machines: the contract through Redis (6.2 or newer) or whatever speaks the same.

Runs in the worker. Which server has what is for others to know: one server or the master that sentinels name
(nodes.py), or all nodes of a cluster (cluster.py). Every room keeps its keys under one hash tag, and what belongs to no
room has a tag of its own (keys.py). What is published is one script (lua/publish.lua), so an answer means that it
happened. What becomes of members, and of workers that are dead, is in members.py.

**Health** is proved by a probe that is published and seen again: an open socket proves nothing. A link (links.py) on
which no probe came back for `PROBE_LOST_S` is cut. A server that answers may still refuse to write: each round writes
as well, and what was refused stands in the statistics until that succeeds.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from realtime.broker import scripts
from realtime.broker.address import Kind, Where, parse
from realtime.broker.base import (
    UNBORN_S,
    BrokerListener,
    ClientInfo,
    ConnectionId,
    Departed,
    History,
    MemberCounts,
    MembersPage,
    Position,
    Publication,
    Published,
    PublishRequest,
    Retention,
    Room,
    WorkerId,
)
from realtime.broker.cluster import Cluster
from realtime.broker.commands import Commands
from realtime.broker.keys import HOME, Keys, tag_of
from realtime.broker.links import Link, Nodes, Route
from realtime.broker.members import Members, read_members
from realtime.broker.nodes import Fixed, OneNode, Sentinels
from realtime.broker.resp import CommandFailed
from realtime.errors import BrokerUnavailable
from realtime.timing.rate import Rate

ROUND_S: Final = 2.0  # how often the lease is taken, and a probe sent
PROBE_LOST_S: Final = 6.0

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
        self._keys = Keys(prefix)
        self._nodes = self._make_nodes(parse(url), worker)
        self._commands = Commands(self._nodes)
        self._members = Members(worker, self._keys, self._nodes, self._commands, self._departed)
        self._listener: BrokerListener | None = None
        self._rooms: dict[bytes, Room] = {}  # by channel
        self._tasks: set[asyncio.Task[None]] = set()
        self._counts = dict.fromkeys(("published", "received", "links_lost", "gaps", "reaped"), 0)

    def _make_nodes(self, where: Where, worker: WorkerId) -> Nodes:
        name = f"realtime-{worker}"
        if where.kind is Kind.CLUSTER:
            return Cluster(where, self, name=name, probe=partial(self._keys.probe, worker))
        probe = self._keys.probe(worker, HOME).encode()
        if where.kind is Kind.SENTINEL:
            return OneNode(Sentinels(where.seeds, where.service, where.login), self, name=name, probe=probe)
        return OneNode(Fixed(where.login), self, name=name, probe=probe)

    @property
    def in_order(self) -> bool:
        return not isinstance(self._nodes, Cluster)  # what another node has by now is sent again, behind others

    # The servers

    async def start(self, listener: BrokerListener) -> None:
        self._listener = listener
        await self._nodes.start()
        self._spawn(self._rounds())

    def channels(self) -> Iterable[bytes]:
        return self._rooms.keys()

    async def enter(self, route: Route, fresh: Callable[[Link], bool]) -> None:
        await self._members.enter(route, fresh)

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
                    await self._members.give_up()
            except (BrokerUnavailable, CommandFailed, TimeoutError) as error:
                logger.warning("! members of this worker stay until its lease ends: %s", error)
        await self._nodes.close()
        self._listener = None

    # Rounds: the probe, and the lease

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
            await self._members.renew(self._nodes.route)
        except CommandFailed as error:
            logger.debug("- a round failed: %s", self._commands.refused(HOME, error))
        except BrokerUnavailable as error:
            logger.debug("- a round failed: %s", error.problem)

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
        channel = self._keys.channel(room).encode()
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
        channel = self._keys.channel(room).encode()
        if self._rooms.pop(channel, None) is not None:
            await self._nodes.unsubscribe(channel)
        else:
            self._nodes.route  # noqa: B018 - raises where there is none

    async def publish(self, request: PublishRequest) -> Published:
        room, retention, key = request.room, request.retention, request.idempotency_key
        tags = dict(request.tags) if request.tags else None
        payload = _pack(Stored(request.data, request.info, tags, int(time.time() * 1000), request.exclude))
        meta = self._keys.meta(room)
        seen_key = self._keys.seen(room, key) if key is not None else meta
        is_kept = retention.size > 0  # else no other key is named: a slot that moves would have it wait for keys
        epoch, offset, seen = await self._commands.run(
            tag_of(room),
            scripts.PUBLISH,
            3,
            self._keys.stream(room) if is_kept else seen_key,
            meta if is_kept else seen_key,
            seen_key,
            self._keys.channel(room),
            payload,
            retention.size,
            int(retention.ttl_s * 1000),
            _meta_ms(retention),
            _new_epoch(),
            int(request.idempotency_ttl_s * 1000) if key is not None else 0,
            self._nodes.publishing,
        )
        self._counts["published"] += 1
        return Published(Position(epoch.decode(), int(offset)), duplicate=bool(seen))

    async def position(self, room: Room, *, retention: Retention) -> Position:
        return (await self.history(room, retention=retention, begin=True)).top

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
        tag = tag_of(room)
        epoch, offset, of_life = await self._commands.ask(tag, "HMGET", self._keys.meta(room), "e", "o", "r")
        if epoch is None or not route.link(tag).has_life(of_life):
            return None
        if offset == b"0":
            await self._commands.ask(tag, "PEXPIRE", self._keys.meta(room), int(UNBORN_S * 1000))
        return Position(epoch.decode(), int(offset))

    async def history(
        self,
        room: Room,
        *,
        retention: Retention,
        since: Position | None = None,
        limit: int = 0,
        reverse: bool = False,
        begin: bool = False,
    ) -> History:
        first = "+" if reverse else "-"
        if since is not None:
            first = str(max(since.offset - 1, 0) if reverse else since.offset + 1)
        epoch, top, entries = await self._commands.run(
            tag_of(room),
            scripts.HISTORY,
            2,
            self._keys.stream(room),
            self._keys.meta(room),
            max(limit, 0),
            first,
            int(reverse),
            _meta_ms(retention),
            _new_epoch(),
            retention.size,
            min(int(UNBORN_S * 1000), _meta_ms(retention)) if begin else 0,
        )
        name = epoch.decode()
        publications = [_publication(fields[1], name, int(id.partition(b"-")[0])) for id, fields in entries]
        return History(publications, Position(name, int(top)))

    async def forget_history(self, room: Room) -> None:
        await self._commands.ask(tag_of(room), "DEL", self._keys.stream(room))

    # The contract: members

    async def add_member(
        self, room: Room, info: ClientInfo, *, announce: bool, quietly: bool = False, lasting: bool = False
    ) -> None:
        await self._members.add(room, info, announce=announce, quietly=quietly, lasting=lasting)

    def release(self, room: Room, client: ConnectionId) -> None:
        self._members.release(room, client)

    async def remove_member(
        self, room: Room, client: ConnectionId, *, announce: bool, mine: bool = False
    ) -> int | None:
        return await self._members.remove(room, client, announce=announce, mine=mine)

    async def members(self, room: Room) -> Mapping[ConnectionId, ClientInfo]:
        return read_members(await self._commands.ask(tag_of(room), "HGETALL", self._keys.members(room)))

    async def member_counts(self, room: Room) -> MemberCounts:
        members = await self.members(room)
        return MemberCounts(len(members), len({info.user for info in members.values()}))

    async def workers(self) -> Sequence[WorkerId]:
        (seconds, micros), leases = await asyncio.gather(
            self._commands.ask(HOME, "TIME"),
            self._commands.ask(HOME, "ZRANGE", self._keys.leases, "0", "-1", "WITHSCORES"),
        )
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        names = zip(leases[::2], leases[1::2], strict=True)
        return [WorkerId(name.decode()) for name, until_ms in names if float(until_ms) > now_ms]

    async def members_page(self, room: Room, *, cursor: str = "", limit: int = 1000) -> MembersPage:
        after, words = await self._commands.ask(
            tag_of(room), "HSCAN", self._keys.members(room), cursor or "0", "COUNT", max(limit, 1)
        )
        return MembersPage(read_members(words), "" if after == b"0" else after.decode())

    async def allow(self, room: Room, who: str, rate: Rate) -> bool:
        key = self._keys.allowed(room, who)
        return bool(
            await self._commands.run(tag_of(room), scripts.ALLOW, 1, key, rate.interval_s * 1000, rate.period_s * 1000)
        )

    async def reap(self, worker: WorkerId) -> None:
        await self._members.reap(worker)

    def _departed(self, departed: Sequence[Departed]) -> None:
        self._counts["reaped"] += len(departed)
        if self._listener is not None:
            self._listener.on_departed(departed)

    def statistics(self) -> Mapping[str, int | float | str | bool]:
        return {
            "kind": "redis",
            "link": "up" if self._nodes.is_whole else "down",
            "refuses": next((each.refuses for each in self._nodes.links if each.refuses), ""),
            "nodes": sum(1 for _ in self._nodes.links),
            "rooms": len(self._rooms),
            "own_members": len(self._members),
            **self._counts,
        }


def _publication(payload: bytes, epoch: str, offset: int) -> Publication:
    stored = _stored(payload)
    return Publication(stored.data, offset, epoch, stored.info, stored.tags, stored.time_ms, stored.exclude)


def _meta_ms(retention: Retention) -> int:
    return int(max(retention.meta_ttl_s, retention.ttl_s) * 1000)


def _new_epoch() -> str:
    return secrets.token_hex(4)  # no colon: the message's parts are divided by one
