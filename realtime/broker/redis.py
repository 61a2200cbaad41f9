"""
The broker of many machines: the contract through Redis (6.2 or newer) or whatever speaks the same.

Runs in the worker. Two connections make one link: commands on one, pub/sub on the other; when either is lost, both are
given up, every call fails at once, and the link is taken up again with a pause of at most a second. Every room keeps
its keys under one hash tag. What is published is one script (lua/publish.lua), so an answer means that it happened.

**Health** is proved by a probe that is published and seen again: an open socket proves nothing. A link on which no
probe came back for `PROBE_LOST_S` is cut.

**Members** stand in one hash per room, with the worker that owns them, and once more in a set per worker, by which they
are found when that worker is dead. A worker holds one lease, whatever the number of its members, and looks at all
leases each time it takes its own: what has ended is removed by whoever is first. A worker that finds its own lease
removed, because it was stopped or cut off for a while, registers its members again. Whoever removed it left a note, so
that their joins are told again just where their leaves had been; without a note Redis lost everything, and nobody left.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from realtime.broker import scripts
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
from realtime.broker.resp import Address, CommandFailed, Connection, Word
from realtime.errors import BrokerUnavailable
from realtime.rate import Rate

LEASE_S: Final = 6.0
ROUND_S: Final = 2.0  # how often the lease is taken, and a probe sent
PROBE_LOST_S: Final = 6.0
REAPED_S: Final = 86400  # for so long a worker that is taken for dead may come back
PAUSES_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)

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
    """The contract, through one Redis."""

    def __init__(self, url: str, worker: WorkerId, *, prefix: str = "rt") -> None:
        """
        Raises:
            SettingsError: it is no Redis URL.
        """
        self._address = Address.parse(url)
        self._worker = worker
        self._prefix = prefix
        self._commands: Connection | None = None
        self._events: Connection | None = None
        self._listener: BrokerListener | None = None
        self._rooms: dict[bytes, Room] = {}  # by channel
        self._members: dict[tuple[Room, ClientId], tuple[ClientInfo, bool, bool]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._life = ""  # of the server: its process
        self._seen_at = 0.0  # when a probe came back last
        self._closing = False
        self._counts = dict.fromkeys(("published", "received", "links_lost", "reaped"), 0)

    # Names

    def _key(self, room: Room, kind: str) -> str:
        """Return a key of a room. The hash tag holds no brace of the room's own: a tag ends at the first."""
        tag = room.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
        return f"{self._prefix}:{{{tag}}}:{kind}"

    def _channel(self, room: Room) -> str:
        return self._key(room, "c")

    def _owned(self, worker: str) -> str:
        return f"{self._prefix}:w:{worker}"

    def _reaped(self, worker: str) -> str:
        return f"{self._prefix}:reaped:{worker}"

    @property
    def _leases(self) -> str:
        return f"{self._prefix}:leases"

    @property
    def _probe(self) -> str:
        return f"{self._prefix}:probe:{self._worker}"

    # The link

    async def start(self, listener: BrokerListener) -> None:
        self._listener = listener
        await self._connect()
        self._spawn(self._rounds())

    async def _connect(self) -> None:
        """Take up the link, with everything that this worker has at the broker."""
        name = f"realtime-{self._worker}"
        commands = await Connection.connect(self._address, name=name, on_lost=self._lost)
        events = None
        try:
            events = await Connection.connect(self._address, name=name, on_lost=self._lost, on_push=self._push)
            channels = [self._probe.encode(), *self._rooms]
            await asyncio.gather(*[events.ask("SUBSCRIBE", channel) for channel in channels])
            self._life = await self._find_life(commands)
            await self._take_lease(commands)
            await self._register(commands)
            if commands.is_lost or events.is_lost:  # before they are ours: nobody else would see it
                raise BrokerUnavailable(self._address.shown, "the connection was lost")
        except BaseException as error:
            commands.close()
            if events is not None:
                events.close()
            if isinstance(error, CommandFailed):
                raise BrokerUnavailable(self._address.shown, error.text) from error
            raise
        self._commands, self._events = commands, events
        self._seen_at = time.monotonic()

    async def _find_life(self, commands: Connection) -> str:
        """
        Return what tells this server's process from any other: what another one has may lack what was acknowledged
        last, because it was a replica, or because the disk lagged behind.
        """
        try:
            info = await commands.ask("INFO", "server")
        except CommandFailed as error:
            logger.warning("! %s: a failover would not be noticed: %s", self._address.shown, error.text)
            return ""
        lines = (line.partition(b":") for line in info.splitlines())
        return next((value.decode() for name, _, value in lines if name == b"run_id"), "")

    def _lost(self, connection: Connection) -> None:
        """One half of the link is gone: give up the other, and take up a new one."""
        if self._closing or connection not in (self._commands, self._events):
            return
        halves, self._commands, self._events = (self._commands, self._events), None, None
        for half in halves:
            if half is not None:
                half.close()
        self._counts["links_lost"] += 1
        assert self._listener is not None, "started"
        self._listener.on_link_lost()
        self._spawn(self._return())

    async def _return(self) -> None:
        attempt = 0
        while not self._closing:
            await asyncio.sleep(PAUSES_S[min(attempt, len(PAUSES_S) - 1)])
            attempt += 1
            try:
                await self._connect()
            except BrokerUnavailable as error:
                logger.debug("- not back: %s", error)
                continue
            assert self._listener is not None, "started"
            self._listener.on_link_restored()
            return

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("! %s failed", task.get_coro(), exc_info=error)

    async def close(self) -> None:
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._commands is not None:
            try:
                async with asyncio.timeout(2):
                    await self._give_up()
            except (BrokerUnavailable, CommandFailed, TimeoutError) as error:
                logger.warning("! members of this worker stay until its lease ends: %s", error)
        for half in (self._commands, self._events):
            if half is not None:
                half.close()
        self._commands = self._events = self._listener = None

    async def _ask(self, *words: Word) -> Any:
        try:
            return await self._link().ask(*words)
        except CommandFailed as error:
            raise BrokerUnavailable(self._address.shown, error.text) from error

    async def _run(self, script: scripts.Script, keys: int, *arguments: Word) -> Any:
        try:
            return await script.run(self._link(), keys, *arguments)
        except CommandFailed as error:
            raise BrokerUnavailable(self._address.shown, error.text) from error

    def _link(self) -> Connection:
        if self._commands is None:
            raise BrokerUnavailable(self._address.shown, "there is no link now")
        return self._commands

    # Rounds: the lease, the probe, the dead

    async def _rounds(self) -> None:
        while True:
            await asyncio.sleep(ROUND_S)
            commands = self._commands
            if commands is None:
                continue
            if time.monotonic() - self._seen_at > PROBE_LOST_S:
                logger.error("! %s: no probe came back for %g s: the link is cut", self._address.shown, PROBE_LOST_S)
                commands.close()
                continue
            # On the side: a reply that never comes must not end the rounds that would notice.
            self._spawn(self._round(commands))

    async def _round(self, commands: Connection) -> None:
        try:
            commands.ask("PUBLISH", self._probe, "b").add_done_callback(_heard)
            had_lease, ended = await self._take_lease(commands)
            if not had_lease:
                logger.warning("= the lease had ended: %d members are registered again", len(self._members))
                await self._register(commands)
            for worker in ended:
                await self.reap(WorkerId(worker))
        except (BrokerUnavailable, CommandFailed) as error:
            logger.debug("- a round failed: %s", _why(error))

    async def _take_lease(self, commands: Connection) -> tuple[bool, list[str]]:
        had, ended = await scripts.LEASE.run(commands, 1, self._leases, self._worker, int(LEASE_S * 1000))
        return bool(had), [worker.decode() for worker in ended]

    async def _register(self, commands: Connection) -> None:
        """Register every member of this worker again. Joins are told again only where leaves had been."""
        reaped = bool(await commands.ask("DEL", self._reaped(self._worker)))
        await asyncio.gather(
            *[
                self._register_one(commands, room, info, announce, lasting, tell=reaped, again=True)
                for (room, _), (info, announce, lasting) in self._members.items()
            ]
        )

    async def _register_one(
        self,
        commands: Connection,
        room: Room,
        info: ClientInfo,
        announce: bool,
        lasting: bool,
        *,
        tell: bool,
        again: bool = False,
    ) -> None:
        packed = _pack(info)
        # First where it is found when this worker is dead; then where it is seen.
        owned = commands.ask("SADD", self._owned(self._worker), _pack([room, info.client, lasting]))
        added = scripts.MEMBER_ADD.run(
            commands,
            1,
            self._key(room, "m"),
            info.client,
            b"%b %d %b" % (self._worker.encode(), announce, packed),
            self._channel(room),
            packed if announce and tell else b"",
            int(again),
        )
        await asyncio.gather(owned, added)

    def _push(self, message: list[Any]) -> None:
        """Take what pub/sub brings."""
        channel, text = message[1], message[2]
        room = self._rooms.get(channel)
        listener = self._listener
        if room is None or listener is None:
            if channel == self._probe.encode():
                self._seen_at = time.monotonic()
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
        events = self._events
        if events is None:
            raise BrokerUnavailable(self._address.shown, "there is no link now")
        self._rooms[channel] = room
        try:
            await events.ask("SUBSCRIBE", channel)
        except BaseException as error:
            self._rooms.pop(channel, None)
            if isinstance(error, CommandFailed):
                raise BrokerUnavailable(self._address.shown, error.text) from error
            raise

    async def unsubscribe(self, room: Room) -> None:
        channel = self._channel(room).encode()
        was_subscribed = self._rooms.pop(channel, None) is not None
        if self._events is None:
            raise BrokerUnavailable(self._address.shown, "there is no link now")
        if was_subscribed:
            await self._events.ask("UNSUBSCRIBE", channel)

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
        epoch, offset, seen = await self._run(
            scripts.PUBLISH,
            3,
            self._key(room, "s"),
            meta,
            self._key(room, f"i:{idempotency_key}") if idempotency_key is not None else meta,
            self._channel(room),
            payload,
            retention.size,
            int(retention.ttl_s * 1000),
            _meta_ms(retention),
            _new_epoch(),
            int(idempotency_ttl_s * 1000) if idempotency_key is not None else 0,
            self._life,
        )
        self._counts["published"] += 1
        return Published(Position(epoch.decode(), int(offset)), duplicate=bool(seen))

    async def position(self, room: Room, *, retention: Retention) -> Position:
        return (await self.history(room, retention=retention)).top

    async def positions(self, rooms: Sequence[Room]) -> Mapping[Room, Position]:
        life = self._life.encode()
        asked = [self._ask("HMGET", self._key(room, "o"), "e", "o", "r") for room in rooms]
        found = await asyncio.gather(*asked)
        return {
            room: Position(epoch.decode(), int(offset))
            for room, (epoch, offset, of_life) in zip(rooms, found, strict=True)
            if epoch is not None and of_life == life  # another life's stream proves nothing
        }

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
            self._life,
        )
        name = epoch.decode()
        publications = [_publication(fields[1], name, int(id.partition(b"-")[0])) for id, fields in entries]
        return History(publications, Position(name, int(top)))

    async def forget_history(self, room: Room) -> None:
        await self._ask("DEL", self._key(room, "s"))

    # The contract: members

    async def add_member(
        self, room: Room, info: ClientInfo, *, announce: bool, quietly: bool = False, lasting: bool = False
    ) -> None:
        key = (room, ClientId(info.client))
        self._members[key] = (info, announce, lasting)
        try:
            await self._register_one(self._link(), room, info, announce, lasting, tell=not quietly)
        except BaseException as error:
            self._members.pop(key, None)
            if isinstance(error, CommandFailed):
                raise BrokerUnavailable(self._address.shown, error.text) from error
            raise

    async def remove_member(self, room: Room, client: ClientId, *, announce: bool, mine: bool = False) -> bool:
        self._members.pop((room, client), None)
        found = await self._remove(room, client, "1" if announce else "0", self._worker if mine else "")
        await self._ask("SREM", self._owned(self._worker), *[_pack([room, client, each]) for each in (False, True)])
        return found is not None

    async def _remove(self, room: Room, client: str, announce: str, owner: str) -> ClientInfo | None:
        found = await self._run(
            scripts.MEMBER_REMOVE, 1, self._key(room, "m"), client, self._channel(room), announce, owner
        )
        return None if found is None else _info(found)

    async def members(self, room: Room) -> Mapping[ClientId, ClientInfo]:
        return _members(await self._ask("HGETALL", self._key(room, "m")))

    async def member_counts(self, room: Room) -> MemberCounts:
        members = await self.members(room)
        return MemberCounts(len(members), len({info.user for info in members.values()}))

    async def workers(self) -> Sequence[WorkerId]:
        (seconds, micros), leases = await asyncio.gather(
            self._ask("TIME"), self._ask("ZRANGE", self._leases, "0", "-1", "WITHSCORES")
        )
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        names = zip(leases[::2], leases[1::2], strict=True)
        return [WorkerId(name.decode()) for name, until_ms in names if float(until_ms) > now_ms]

    async def members_page(self, room: Room, *, cursor: str = "", limit: int = 1000) -> MembersPage:
        after, words = await self._ask("HSCAN", self._key(room, "m"), cursor or "0", "COUNT", max(limit, 1))
        return MembersPage(_members(words), "" if after == b"0" else after.decode())

    async def allow(self, room: Room, who: str, rate: Rate) -> bool:
        key = self._key(room, f"l:{who}")
        return bool(await self._run(scripts.ALLOW, 1, key, rate.interval_s * 1000, rate.period_s * 1000))

    async def reap(self, worker: WorkerId) -> None:
        departed = await self._remove_owned(worker)
        self._counts["reaped"] += len(departed)
        if departed and self._listener is not None:
            self._listener.on_departed(departed)

    async def _owned_by(self, worker: str) -> list[tuple[Room, ClientId, bool]]:
        """Return where a worker has members, whom, and whether they last."""
        owned = await self._ask("SMEMBERS", self._owned(worker))
        found = [msgspec.msgpack.decode(each, type=tuple[str, str, bool]) for each in owned]
        return [(Room(room), ClientId(client), lasting) for room, client, lasting in found]

    async def _remove_owned(self, worker: str) -> list[Departed]:
        """Remove every member of a dead worker, and its lease. Return those whom this call removed, or took over."""
        owned = await self._owned_by(worker)
        departed = await asyncio.gather(
            *[(self._inherit if lasting else self._bury)(room, client, worker) for room, client, lasting in owned]
        )
        if owned:
            await self._ask("SET", self._reaped(worker), "", "EX", REAPED_S)
        await asyncio.gather(self._ask("DEL", self._owned(worker)), self._ask("ZREM", self._leases, worker))
        return [each for each in departed if each is not None]

    async def _bury(self, room: Room, client: ClientId, worker: str) -> Departed | None:
        """Remove a dead worker's member. Return None where another was faster."""
        info = await self._remove(room, client, "?", worker)
        return None if info is None else Departed(room, info)

    async def _inherit(self, room: Room, client: ClientId, worker: str) -> Departed | None:
        """Take over a dead worker's member. Return None where another was faster."""
        mine = self._owned(self._worker)
        await self._ask("SADD", mine, _pack([room, client, True]))  # else nobody would find it after us
        found = await self._run(scripts.MEMBER_INHERIT, 1, self._key(room, "m"), client, worker, self._worker)
        if found is None:
            if (room, client) not in self._members:
                await self._ask("SREM", mine, _pack([room, client, True]))
            return None
        announce, info = found[0] == b"1", _info(found[1])
        self._members[room, client] = (info, announce, True)
        return Departed(room, info, announce, inherited=True)

    async def _give_up(self) -> None:
        """Remove this worker's members, and its lease; lasting ones are found when that has run out."""
        owned = await self._owned_by(self._worker)
        await asyncio.gather(
            *[self._remove(room, client, "?", self._worker) for room, client, lasting in owned if not lasting]
        )
        if not any(lasting for _, _, lasting in owned):
            await asyncio.gather(
                self._ask("DEL", self._owned(self._worker)), self._ask("ZREM", self._leases, self._worker)
            )

    def statistics(self) -> Mapping[str, int | float | str | bool]:
        return {
            "kind": "redis",
            "link": "up" if self._commands is not None else "down",
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


def _why(error: Exception) -> str:
    return error.problem if isinstance(error, BrokerUnavailable) else str(error)


def _heard(future: asyncio.Future[Any]) -> None:
    """Look at what became of a probe, so that asyncio does not call its failure unseen."""
    if not future.cancelled():
        future.exception()
