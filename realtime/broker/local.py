"""
The broker of one machine, in a worker: the contract over a Unix socket to local_server.py.

Runs in the worker. There is one pipelined link. Commands of one turn of the event loop leave in one write, and answers
are matched by their order. When a caller is cancelled, its place in that order stays and is skipped.

A command has no timer of its own, because one costs as much as everything else that a worker does for a command. The
link has one timer, and checks the command that has waited longest.

When the link is lost, every call fails at once. The link is reopened with growing pauses. Then rooms are subscribed and
members registered again, and only after that the listener is notified.

What the broker must know of this worker is stored here as well: the subscribed rooms in `_rooms`, the members in
`_members`. Each call changes these first. A failed `subscribe` or `add_member` takes its change back; a failed
`unsubscribe` or `remove_member` does not, so what was removed stays removed. A reconnect therefore restores what the
callers were promised, and no more. A call in flight when the link was lost may have happened. Registering again repeats
it without harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from realtime.broker import formats
from realtime.broker.base import (
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
from realtime.broker.framing import Framed
from realtime.broker.local_server import (
    DEPARTED,
    FAILED,
    JOIN,
    LEAVE,
    PUBLICATION,
    REFUSED,
    REPLY,
    STATE,
)
from realtime.errors import BrokerAway, BrokerFull, BrokerUnavailable, IncompatibleFormat
from realtime.log_lines import log
from realtime.timing.rate import Rate

START_S: Final = 5.0  # for the first connection
PAUSES_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5)
TIMEOUT_S: Final = 10.0  # for one command; a broker on this machine that needs longer hangs
GOODBYE_S: Final = 2.0
ADVICE: Final = "stop the server and start it again, for a reload leaves the local broker as it is"

logger = logging.getLogger("realtime.broker.local")


class LocalLink(Framed):
    """
    The socket to the broker's process, while there is one.

    Invariant: `waiting` has one place for each command without an answer, in the order in which they were sent. A place
    is removed only by its answer or by the end of the link.
    """

    def __init__(self, broker: LocalBroker) -> None:
        super().__init__()
        self.broker = broker
        self.is_lost = False
        # One entry for each command without an answer, in the order in which the commands were sent.
        self.waiting: deque[tuple[float, asyncio.Future[msgspec.Raw]]] = deque()  # since when, on the loop's clock
        self._watch: asyncio.TimerHandle | None = None
        self._reason = "the link was lost"

    def request(self, *message: Any) -> asyncio.Future[msgspec.Raw]:
        """Send a command. The future gets its answer, or raises `BrokerUnavailable`."""
        if self.is_lost:
            raise BrokerAway(self.broker.address, self._reason)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[msgspec.Raw] = loop.create_future()
        self.send(message)  # first: a message that cannot be encoded raises here, and must have no place in `waiting`
        self.waiting.append((loop.time(), future))
        if self._watch is None:
            self._watch = loop.call_later(TIMEOUT_S, self._check)
        return future

    def _check(self) -> None:
        """Close the link if a command has waited for `TIMEOUT_S`. The broker's process then counts as dead."""
        self._watch = None
        if not self.waiting or self.is_lost:
            return
        loop = asyncio.get_running_loop()
        left_s = self.waiting[0][0] + TIMEOUT_S - loop.time()
        if left_s > 0:
            self._watch = loop.call_later(left_s, self._check)
        else:
            self._reason = f"no answer within {TIMEOUT_S:g} s"
            self.transport.abort()

    def received(self, message: list[msgspec.Raw]) -> None:
        """Give an answer to the command that has waited longest, or pass an event to the broker."""
        kind = msgspec.msgpack.decode(message[0], type=int)
        if kind in (REPLY, FAILED, REFUSED):
            assert self.waiting, "local_server.py answers each command exactly once"
            _, future = self.waiting.popleft()
            if future.done():  # the caller was cancelled; its place is skipped
                return
            if kind == REPLY:
                future.set_result(message[1])
            elif kind == REFUSED:
                self.broker.refused += 1
                future.set_exception(BrokerFull(self.broker.address, msgspec.msgpack.decode(message[1], type=int)))
            else:
                future.set_exception(BrokerUnavailable(self.broker.address, "it failed; see its log"))
        else:
            self.broker.handle_event(kind, message[1:])

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail every command without an answer, then start to reconnect. Whether they happened is unknown."""
        assert not self.is_lost, "asyncio calls this once for each connection"
        self.is_lost = True
        if self._watch is not None:
            self._watch.cancel()
        error = BrokerUnavailable(self.broker.address, self._reason)
        for _, future in self.waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # retrieved, so that asyncio logs nothing when the caller is gone
        self.waiting.clear()
        self.broker.link_lost(self)


class LocalBroker:
    """
    The contract, through the local broker's process.

    Invariant: `_link` is set only when all rooms and members are in force at its end. A call through `_link` therefore
    never finds a broker that lacks something of this worker.
    """

    in_order = True

    def __init__(self, path: str, worker: WorkerId) -> None:
        self.address = f"unix:{path}"
        self._path = path
        self._worker = worker
        self._link: LocalLink | None = None
        self._listener: BrokerListener = IgnoredEvents()
        self._rooms: set[Room] = set()
        self._members: dict[tuple[Room, ConnectionId], tuple[ClientInfo, bool, bool]] = {}
        self._in_grace: set[tuple[Room, ConnectionId]] = set()  # a subset of the members
        self._reconnecting: asyncio.Task[None] | None = None
        self._closing = False
        self.refused = 0  # calls of this worker for which the broker had no memory
        self._state: dict[str, int] = {}  # the statistics that the broker sent last
        self._counts = dict.fromkeys(("published", "received", "links_lost"), 0)

    # The link

    async def start(self, listener: BrokerListener) -> None:
        """Connect. The primary starts the broker's process together with the workers, so wait for its socket."""
        self._listener = listener
        deadline = time.monotonic() + START_S
        while True:
            try:
                self._link = await self._connect()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    problem = f"no answer ({error.strerror or error}): is the local broker running there?"
                    raise BrokerUnavailable(self.address, problem) from error
            await asyncio.sleep(PAUSES_S[0])

    async def _connect(self) -> LocalLink:
        """
        Open a link, and put everything in force that this worker has at the broker.

        Raises:
            OSError, TimeoutError, BrokerUnavailable: that failed; the link is closed again.
            IncompatibleFormat: it is the broker of a release that this one does not understand.
        """
        _, link = await asyncio.get_running_loop().create_unix_connection(lambda: LocalLink(self), self._path)
        try:
            # One write carries everything, so that reconnecting costs one round trip, whatever the number of rooms.
            answers = [link.request("hello", self._worker)]
            answers += [link.request("subscribe", room) for room in self._rooms]
            answers += [
                link.request("add_member", key[0], info, announce, True, lasting, key in self._in_grace)
                for key, (info, announce, lasting) in self._members.items()
            ]
            hello, *_ = await asyncio.wait_for(asyncio.gather(*answers), TIMEOUT_S)
            theirs = formats.unpack(msgspec.msgpack.decode(hello, type=bytes | None))
            if not formats.understand(theirs, formats.LOCAL):
                raise IncompatibleFormat(f"the local broker at {self.address}", str(theirs), str(formats.LOCAL), ADVICE)
            if link.is_lost:  # `link_lost` ignored it, because it was not yet `self._link`
                raise BrokerUnavailable(self.address, "the link was lost")
        except BaseException:
            link.transport.abort()
            raise
        return link

    def link_lost(self, link: LocalLink) -> None:
        """Note that a link ended, and start to reconnect. Every call fails until then."""
        if link is not self._link or self._closing:
            return
        self._link = None
        assert self._reconnecting is None or self._reconnecting.done(), "it opened the link that is lost now"
        self._counts["links_lost"] += 1
        self._listener.on_link_lost()
        self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect())

    async def _reconnect(self) -> None:
        """Try to connect until it succeeds. There is no limit: the primary restarts the broker's process."""
        assert self._link is None, "link_lost() cleared it"
        attempt = 0
        while not self._closing:
            await asyncio.sleep(PAUSES_S[min(attempt, len(PAUSES_S) - 1)])
            attempt += 1
            try:
                self._link = await self._connect()
            except IncompatibleFormat as error:  # it had died, and was started with new code
                log(
                    logger,
                    logging.ERROR if attempt == 1 else logging.DEBUG,
                    "local broker not understood",
                    reason=error,
                )
                continue
            except (OSError, TimeoutError, BrokerUnavailable) as error:
                log(logger, logging.DEBUG, "- broker not connected", server=self.address, reason=error)
                continue
            self._listener.on_link_restored()
            return

    async def close(self) -> None:
        """End the link with a goodbye, so that the broker removes this worker's members at once."""
        self._closing = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.gather(self._reconnecting, return_exceptions=True)
        if self._link is not None:
            with contextlib.suppress(BrokerUnavailable, TimeoutError):
                await asyncio.wait_for(self._link.request("goodbye"), GOODBYE_S)
            self._link.transport.close()
            self._link = None
        self._listener = IgnoredEvents()

    def _request(self, *message: Any) -> asyncio.Future[msgspec.Raw]:
        """
        Send a command on the open link.

        Raises:
            BrokerAway: there is no link, so the command was not sent.
        """
        if self._link is None:
            raise BrokerAway(self.address, "there is no link now")
        return self._link.request(*message)

    def handle_event(self, kind: int, raw: list[msgspec.Raw]) -> None:
        """Decode an event and pass it to the listener."""
        listener = self._listener
        if kind == DEPARTED:
            self._notify_departed(msgspec.msgpack.decode(raw[0], type=list[Departed]))
            return
        if kind == STATE:
            self._state = msgspec.msgpack.decode(raw[0], type=dict[str, int])
            return
        room = Room(msgspec.msgpack.decode(raw[0], type=str))
        if room not in self._rooms:
            return  # this worker unsubscribed meanwhile
        if kind == PUBLICATION:
            self._counts["received"] += 1
            listener.on_publication(room, msgspec.msgpack.decode(raw[1], type=RawPublication))
        elif kind == JOIN:
            listener.on_join(room, msgspec.msgpack.decode(raw[1], type=ClientInfo))
        else:
            assert kind == LEAVE, "local_server.py sends no other kind of event"
            listener.on_leave(room, msgspec.msgpack.decode(raw[1], type=ClientInfo))

    # The contract

    async def subscribe(self, room: Room) -> None:
        """Subscribe at the broker. A failed call leaves nothing that a reconnect would subscribe again."""
        self._rooms.add(room)  # before the answer, because events may arrive together with it
        try:
            await self._request("subscribe", room)
        except BaseException:
            self._rooms.discard(room)
            raise

    async def unsubscribe(self, room: Room) -> None:
        """Unsubscribe. The room is forgotten even where this fails, so that no reconnect subscribes it again."""
        self._rooms.discard(room)  # even if the command fails: events of the room are dropped from now on
        await self._request("unsubscribe", room)

    async def publish(self, request: PublishRequest) -> Published:
        """
        Publish. Whether it happened is unknown when the link ends before the answer; an idempotency key makes a second
        try safe.
        """
        # The time is this worker's. The broker adds offset and epoch, in the order in which commands arrive.
        raw = await self._request(
            "publish",
            request.room,
            request.publication(int(time.time() * 1000)),
            request.retention,
            request.idempotency_key,
            float(request.idempotency_ttl_s),
        )
        self._counts["published"] += 1
        return msgspec.msgpack.decode(raw, type=Published)

    async def position(self, room: Room, *, retention: Retention) -> Position:
        return msgspec.msgpack.decode(await self._request("position", room, retention), type=Position)

    async def positions(self, rooms: Sequence[Room]) -> Mapping[Room, Position]:
        found = msgspec.msgpack.decode(await self._request("positions", list(rooms)), type=dict[str, Position])
        return {Room(room): position for room, position in found.items()}

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
        raw = await self._request("history", room, retention, since, limit, reverse, create)
        return msgspec.msgpack.decode(raw, type=History)

    async def forget_history(self, room: Room) -> None:
        await self._request("forget_history", room)

    async def add_member(
        self, room: Room, info: ClientInfo, *, announce: bool, quietly: bool = False, lasting: bool = False
    ) -> None:
        """
        Register a member, and keep what a reconnect has to register again. A failed call keeps nothing, so the caller
        must schedule the removal itself.
        """
        # Before the answer: if the link is lost meanwhile, the reconnect must register the member or this call fail.
        self._members[room, ConnectionId(info.connection_id)] = (info, announce, lasting)
        self._in_grace.discard((room, ConnectionId(info.connection_id)))
        try:
            await self._request("add_member", room, info, announce, quietly, lasting, False)
        except BaseException:
            self._members.pop((room, ConnectionId(info.connection_id)), None)
            self._in_grace.discard((room, ConnectionId(info.connection_id)))  # released meanwhile
            raise

    def release(self, room: Room, connection_id: ConnectionId) -> None:
        """Let another worker take over a member. From then on a reconnect does not take it back from that worker."""
        if (room, connection_id) in self._members:
            self._in_grace.add((room, connection_id))

    async def remove_member(
        self, room: Room, connection_id: ConnectionId, *, announce: bool, mine: bool = False
    ) -> int | None:
        """Remove a member. It is no member of this worker any more, whatever the broker answers."""
        self._members.pop((room, connection_id), None)
        self._in_grace.discard((room, connection_id))
        return msgspec.msgpack.decode(
            await self._request("remove_member", room, connection_id, announce, mine), type=int | None
        )

    async def members(self, room: Room) -> Mapping[ConnectionId, ClientInfo]:
        found = msgspec.msgpack.decode(await self._request("members", room), type=dict[str, ClientInfo])
        return {ConnectionId(name): info for name, info in found.items()}

    async def member_counts(self, room: Room) -> MemberCounts:
        return msgspec.msgpack.decode(await self._request("member_counts", room), type=MemberCounts)

    async def members_page(self, room: Room, *, cursor: str = "", limit: int = 1000) -> MembersPage:
        return msgspec.msgpack.decode(await self._request("members_page", room, cursor, limit), type=MembersPage)

    async def workers(self) -> Sequence[WorkerId]:
        return msgspec.msgpack.decode(await self._request("workers"), type=list[WorkerId])

    async def reap(self, worker: WorkerId) -> None:
        """Have a dead worker reaped. The answer has the departed members, so no other listener gets them."""
        self._notify_departed(msgspec.msgpack.decode(await self._request("reap", worker), type=list[Departed]))

    def _notify_departed(self, departed: list[Departed]) -> None:
        """Note inherited members as this worker's own, so that a reconnect registers them. Then notify the listener."""
        for each in departed:
            if each.inherited:
                self._members[each.room, ConnectionId(each.info.connection_id)] = (each.info, each.announce, True)
        if departed:
            self._listener.on_departed(departed)

    async def allow(self, room: Room, subject: str, rate: Rate) -> bool:
        return msgspec.msgpack.decode(await self._request("allow", room, subject, rate), type=bool)

    def statistics(self) -> Mapping[str, int | float | str | bool]:
        """Return this worker's counts, and the state that the broker sent last: its memory is one for all workers."""
        return {
            "kind": "local",
            "link": "up" if self._link is not None else "down",
            "rooms": len(self._rooms),
            "own_members": len(self._members),
            **self._counts,
            "refused": self.refused,
            "refuses": "it is full (--broker-memory)" if self._state.get("is_full") else "",
            **{f"all_{name}": count for name, count in self._state.items() if name != "is_full"},
        }
