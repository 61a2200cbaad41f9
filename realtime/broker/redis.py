"""
The broker of many machines: the contract through Redis (6.2 or newer) or a compatible server.

Runs in the worker. It does not know which server has which keys. nodes.py does for one server or for the master that
sentinels name; cluster.py does for a cluster. Members, and the members of dead workers, are in members.py.

Theory of operation
===================

**Keys.** All keys of a room share one hash tag, so one script can use them in a cluster. Keys that belong to no room
have a tag of their own (keys.py).

**Publishing.** lua/publish.lua stores a publication and sends it to the subscribers in one atomic step. A reply
therefore means that both happened. A lost reply leaves open whether they did. A command that may have run is never sent
again.

**States of the link:**

- *open*: calls are sent. `_nodes.route` returns the route.
- *lost*: every call raises at once. The listener got `on_link_lost`.
- *open again*: the channels in `_rooms` are subscribed and the members registered. Only then the listener gets
  `on_link_restored`.

A cluster can also lose a part; rooms of that part get `on_gap`.

Invariant: a room is in `_rooms` from before its SUBSCRIBE is sent until `unsubscribe` is called. A reconnect therefore
never forgets a room, and a message of any other channel is dropped.

**Health.** An open socket proves nothing, so each round publishes a probe and receives it again. A link (links.py)
without a probe for `PROBE_LOST_S` is cut. A server that answers may still refuse writes: each round also writes, and
`statistics` shows the refusal until a write succeeds.

**When a process dies:**

- The worker: its connections and subscriptions end. Its members stay until its lease expires or another worker reaps
  them. A publication in flight is stored and sent, or neither.
- Redis, restarted empty: streams begin again under new epochs. The workers register their members again.
- Redis, replaced by a replica: streams keep their offsets and get a new epoch, because acknowledged writes may be lost
  (run ids, links.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final

from realtime.broker import formats, scripts
from realtime.broker.address import RedisLocation, Topology, parse_url
from realtime.broker.base import (
    UNUSED_STREAM_S,
    BrokerListener,
    ClientInfo,
    ConnectionId,
    Departed,
    History,
    IgnoredEvents,
    MemberCounts,
    MembersPage,
    Position,
    Published,
    PublishRequest,
    RawPublication,
    Retention,
    Room,
    WorkerId,
)
from realtime.broker.cluster import ClusterNodes
from realtime.broker.commands import RedisCommands
from realtime.broker.keys import HOME, RedisKeys, tag_of
from realtime.broker.links import Nodes, RedisLink, Route
from realtime.broker.members import Members, read_members
from realtime.broker.nodes import FixedServer, Sentinels, SingleNode
from realtime.broker.payload import CANNOT_READ, JOIN, StoredPayload, pack_payload, read_message
from realtime.broker.peers import Peers
from realtime.broker.redis_connection import CommandFailed
from realtime.broker.stream_entries import meta_ms, new_epoch, read_entries
from realtime.broker.unreadable import Unreadable
from realtime.errors import BrokerUnavailable
from realtime.log_lines import log
from realtime.timing.rate import Rate

ROUND_S: Final = 2.0  # between two rounds, each of which renews the lease and sends a probe
PROBE_LOST_S: Final = 6.0  # three rounds
CLOSE_S: Final = 2.0  # to remove this worker's members when it ends

logger = logging.getLogger("realtime.broker.redis")


class RedisBroker:
    """
    The contract, through Redis. It is also the `NodesOwner` of its nodes.

    The nodes call `enter`, `on_lost`, `on_restored`, `on_gap` and `on_message`. Other modules use the contract alone.
    """

    def __init__(self, url: str, worker: WorkerId, *, prefix: str = "rt") -> None:
        """
        Make the broker, without connecting.

        Raises:
            SettingsError: `url` is no Redis URL.
        """
        self._keys = RedisKeys(prefix)
        self._nodes = self._make_nodes(parse_url(url), worker)
        self._commands = RedisCommands(self._nodes)
        self._members = Members(worker, self._keys, self._nodes, self._commands, self._notify_departed)
        self._listener: BrokerListener = IgnoredEvents()
        self._rooms: dict[bytes, Room] = {}  # by channel
        self._tasks: set[asyncio.Task[None]] = set()
        self._peers = Peers(worker, self._keys, f"{self._nodes.shown}, prefix {prefix}", formats.REDIS)
        self._unreadable = Unreadable()
        self._counts = dict.fromkeys(("published", "received", "links_lost", "gaps", "reaped"), 0)

    def _make_nodes(self, location: RedisLocation, worker: WorkerId) -> Nodes:
        """Return the servers as the URL describes them: one, one behind sentinels, or a cluster."""
        name = f"realtime-{worker}"
        if location.topology is Topology.CLUSTER:
            return ClusterNodes(location, self, name=name, keys=self._keys, worker=worker)
        probe = self._keys.probe(worker, HOME).encode()
        if location.topology is Topology.SENTINEL:
            sentinels = Sentinels(location.seeds, location.service, location.login)
            return SingleNode(sentinels, self, name=name, probe=probe)
        return SingleNode(FixedServer(location.login), self, name=name, probe=probe)

    @property
    def in_order(self) -> bool:
        """Whether two commands of this worker run in the order of the calls."""
        return not isinstance(self._nodes, ClusterNodes)  # a redirected command is sent again, behind later ones

    # The servers

    async def start(self, listener: BrokerListener) -> None:
        """
        Connect, and begin the rounds. There is no second try: a wrong address must end the start with its reason.

        Raises:
            BrokerUnavailable: as the contract says.
            IncompatibleFormat: another release is in use there, which does not understand this one.
        """
        assert not self._tasks, "a broker is started once"
        self._listener = listener
        await self._nodes.start()
        try:
            await self._peers.started(self._nodes.route)
        except BaseException:
            await self.close()
            raise
        self._spawn(self._rounds())

    def channels(self) -> Iterable[bytes]:
        return self._rooms.keys()

    async def enter(self, route: Route, fresh: Callable[[RedisLink], bool]) -> None:
        await self._peers.before_lease(route)
        await self._members.enter(route, fresh)

    def on_lost(self) -> None:
        """Count a lost link, and notify the listener: what arrives until `on_restored` is incomplete."""
        self._counts["links_lost"] += 1
        self._listener.on_link_lost()

    def on_restored(self) -> None:
        self._listener.on_link_restored()

    def on_gap(self, channels: Iterable[bytes]) -> None:
        """Notify the listener of a gap. A room that was unsubscribed meanwhile has no listener any more."""
        rooms = [room for channel in channels if (room := self._rooms.get(channel)) is not None]
        if rooms:
            self._counts["gaps"] += 1
            self._listener.on_gap(rooms)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a task that `close` cancels and awaits."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """Forget a task that ended, and log an error that no caller awaits."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log(logger, logging.ERROR, "broker task failed", task=task.get_coro(), exc_info=error)

    async def close(self) -> None:
        """
        End the rounds, remove this worker's members within `CLOSE_S`, and close the links.

        If removing fails, the lease stays until it expires, and another worker reaps the members.
        """
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if tuple(self._nodes.links):
            try:
                async with asyncio.timeout(CLOSE_S):
                    await self._members.close()
            except (BrokerUnavailable, CommandFailed, TimeoutError) as error:
                log(logger, logging.WARNING, "members not removed", reason=error)  # they stay until the lease expires
        await self._nodes.close()
        self._listener = IgnoredEvents()

    # Rounds: the probe, and the lease

    async def _rounds(self) -> None:
        """Probe every link and renew the lease, each `ROUND_S`, until cancelled."""
        while True:
            await asyncio.sleep(ROUND_S)
            for link in tuple(self._nodes.links):
                if time.monotonic() - link.probed_at > PROBE_LOST_S:
                    log(logger, logging.ERROR, "- broker link silent", server=link.address.shown, within_s=PROBE_LOST_S)
                    link.abort()
                else:
                    link.send_probe(self._nodes.publishing)
            self._nodes.recheck()
            # A task of its own: a reply that never comes must not stop the rounds, which detect that.
            self._spawn(self._round())

    async def _round(self) -> None:
        """Renew the lease once. Failures are only logged, because the next round tries again."""
        try:
            await self._members.renew(self._nodes.route)
            await self._peers.renew(self._nodes.route)
        except CommandFailed as error:
            log(logger, logging.DEBUG, "- lease not renewed", reason=self._commands.refused(HOME, error))
        except BrokerUnavailable as error:
            log(logger, logging.DEBUG, "- lease not renewed", reason=error.problem)

    def on_message(self, channel: bytes, text: bytes) -> None:
        """Decode a pub/sub message and pass it to the listener."""
        room = self._rooms.get(channel)
        listener = self._listener
        if room is None:
            return
        try:
            kind, about = read_message(text)
        except CANNOT_READ as error:
            self._unreadable.note("message in a room", error)
            return
        if isinstance(about, RawPublication):
            self._counts["received"] += 1
            listener.on_publication(room, about)
        elif kind == JOIN:
            listener.on_join(room, about)
        else:
            listener.on_leave(room, about)

    # The contract: rooms

    async def subscribe(self, room: Room) -> None:
        """Subscribe at the server of the room. A failed call leaves nothing behind that a reconnect would restore."""
        channel = self._keys.channel(room).encode()
        self._nodes.route  # noqa: B018 - raises where there is none
        self._rooms[channel] = room  # before SUBSCRIBE is sent: a message may arrive together with its confirmation
        try:
            await self._nodes.subscribe(channel)
        except BaseException as error:
            self._rooms.pop(channel, None)
            if isinstance(error, CommandFailed):
                raise BrokerUnavailable(self._nodes.shown, error.text) from error
            raise

    async def unsubscribe(self, room: Room) -> None:
        """Unsubscribe. The room is forgotten even if this fails, so that no reconnect subscribes it again."""
        channel = self._keys.channel(room).encode()
        if self._rooms.pop(channel, None) is not None:
            await self._nodes.unsubscribe(channel)
        else:
            self._nodes.route  # noqa: B018 - raises where there is none

    async def publish(self, request: PublishRequest) -> Published:
        """
        Publish by one script: idempotency key, epoch, next offset, stream entry and PUBLISH happen together or not at
        all. So the order of offsets is the order in which subscribers receive, and an answer means that all of it
        happened.
        """
        room, retention, key = request.room, request.retention, request.idempotency_key
        tags = dict(request.tags) if request.tags else None
        # The script stores the payload and publishes it unchanged. Offset and epoch stand beside it in both places.
        payload = pack_payload(
            StoredPayload(request.data, request.info, tags, int(time.time() * 1000), request.exclude)
        )
        meta = self._keys.meta(room)
        seen_key = self._keys.idempotency(room, key) if key is not None else meta
        # Without history only one key is named. While a hash slot moves, each further key could mean a TRYAGAIN.
        is_kept = retention.size > 0
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
            meta_ms(retention),
            new_epoch(),
            int(request.idempotency_ttl_s * 1000) if key is not None else 0,
            self._nodes.publishing,
        )
        self._counts["published"] += 1
        return Published(Position(epoch.decode(), int(offset)), duplicate=bool(seen))

    async def position(self, room: Room, *, retention: Retention) -> Position:
        """Return the top of a stream by the script that also creates one: reading and creating are one atomic step."""
        return (await self.history(room, retention=retention, create=True)).top

    async def positions(self, rooms: Sequence[Room]) -> Mapping[Room, Position]:
        """
        Return the tops of several streams. A room whose node is unreachable is absent, as one without a stream.

        Raises:
            BrokerUnavailable: no node answered.
        """
        route = self._nodes.route
        requests = [self._position(route, room) for room in rooms]
        found = await asyncio.gather(*requests, return_exceptions=not route.is_one)
        errors = [each for each in found if isinstance(each, BaseException)]
        if errors and len(errors) == len(rooms):
            raise errors[0]
        # One node of a cluster may be unreachable. The positions of other nodes are still valid proof.
        return {room: each for room, each in zip(rooms, found, strict=True) if isinstance(each, Position)}

    async def _position(self, route: Route, room: Room) -> Position | None:
        """Return the top of a stream. Return None where there is none, or where its run id is not trusted."""
        tag = tag_of(room)
        epoch, offset, run_id = await self._commands.request(tag, "HMGET", self._keys.meta(room), "e", "o", "r")
        if epoch is None or not route.link(tag).trusts_run(run_id):
            return None
        if offset == b"0":
            await self._commands.request(tag, "PEXPIRE", self._keys.meta(room), int(UNUSED_STREAM_S * 1000))
        return Position(epoch.decode(), int(offset))

    async def history(
        self,
        room: Room,
        *,
        retention: Retention,
        since: Position | None = None,
        limit: int = 0,
        reverse: bool = False,
        create: bool = False,
    ) -> History:
        """
        Read a page and the top of a stream in one script: a page and a top of two moments would prove nothing. With
        `create`, the script creates the stream where there is none, so that its epoch is known before the first
        publication.
        """
        # Offsets are the ids of stream entries, so the page is a range of ids: inclusive, hence the step by one.
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
            meta_ms(retention),
            new_epoch(),
            retention.size,
            min(int(UNUSED_STREAM_S * 1000), meta_ms(retention)) if create else 0,
        )
        name = epoch.decode()
        publications = read_entries(entries, name, self._unreadable)
        return History(publications, Position(name, int(top)))

    async def forget_history(self, room: Room) -> None:
        """Delete the stream of publications. The key of the position is another one, and stays."""
        await self._commands.request(tag_of(room), "DEL", self._keys.stream(room))

    # The contract: members

    async def add_member(
        self, room: Room, info: ClientInfo, *, announce: bool, quietly: bool = False, lasting: bool = False
    ) -> None:
        await self._members.add(room, info, announce=announce, quietly=quietly, lasting=lasting)

    def release(self, room: Room, connection_id: ConnectionId) -> None:
        self._members.release(room, connection_id)

    async def remove_member(
        self, room: Room, connection_id: ConnectionId, *, announce: bool, mine: bool = False
    ) -> int | None:
        return await self._members.remove(room, connection_id, announce=announce, mine=mine)

    async def members(self, room: Room) -> Mapping[ConnectionId, ClientInfo]:
        return read_members(await self._commands.request(tag_of(room), "HGETALL", self._keys.members(room)))

    async def member_counts(self, room: Room) -> MemberCounts:
        """Count the members. All are read, because Redis cannot count the different users of a hash."""
        members = await self.members(room)
        return MemberCounts(len(members), len({info.user for info in members.values()}))

    async def workers(self) -> Sequence[WorkerId]:
        """Return the workers with a lease, by the clock of the server that wrote the leases."""
        (seconds, micros), leases = await asyncio.gather(
            self._commands.request(HOME, "TIME"),
            self._commands.request(HOME, "ZRANGE", self._keys.leases, "0", "-1", "WITHSCORES"),
        )
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        names = zip(leases[::2], leases[1::2], strict=True)
        return [WorkerId(name.decode()) for name, until_ms in names if float(until_ms) > now_ms]

    async def members_page(self, room: Room, *, cursor: str = "", limit: int = 1000) -> MembersPage:
        """Return a page by HSCAN, which may repeat members but misses none that is present all the time."""
        after, words = await self._commands.request(
            tag_of(room), "HSCAN", self._keys.members(room), cursor or "0", "COUNT", max(limit, 1)
        )
        return MembersPage(read_members(words), "" if after == b"0" else after.decode())

    async def allow(self, room: Room, subject: str, rate: Rate) -> bool:
        """
        Count against a rate that all workers share, by the clock of Redis. One number is stored for each subject, and
        it expires when everything is paid off.
        """
        key = self._keys.rate(room, subject)
        return bool(
            await self._commands.run(tag_of(room), scripts.ALLOW, 1, key, rate.interval_s * 1000, rate.period_s * 1000)
        )

    async def reap(self, worker: WorkerId) -> None:
        await self._members.reap(worker)

    def _notify_departed(self, departed: Sequence[Departed]) -> None:
        """Count reaped members and notify the listener. Their leaves were published by the scripts already."""
        self._counts["reaped"] += len(departed)
        self._listener.on_departed(departed)

    def statistics(self) -> Mapping[str, int | float | str | bool]:
        """Return the counts of this worker, and what its links say of the servers."""
        return {
            "kind": "redis",
            "link": "up" if self._nodes.is_whole else "down",
            "refuses": next((each.refuses for each in self._nodes.links if each.refuses), ""),
            "nodes": sum(1 for _ in self._nodes.links),
            "rooms": len(self._rooms),
            "own_members": len(self._members),
            "format": formats.FORMAT,
            "unreadable": self._unreadable.count,
            **self._counts,
        }
