"""
The broker of one machine, as a worker holds it: the contract over a Unix socket to local_server.py.

Runs in the worker. One link, pipelined: commands of one turn leave in one write, and answers are matched by their
order, so that a caller who was cancelled leaves a place that is skipped, never one that another gets. A command has no
timer of its own (one costs as much as all else that a worker does for it): the link has one, and looks at the command
that has waited longest. When the link is lost every call fails at once; it is taken up again with a growing pause, then
rooms are subscribed and members registered again before the listener is told.
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

from realtime.broker.base import (
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
from realtime.errors import BrokerAway, BrokerFull, BrokerUnavailable
from realtime.timing.rate import Rate

START_S: Final = 5.0  # for the first connection
PAUSES_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5)
TIMEOUT_S: Final = 10.0  # of one command; a broker on this machine that needs longer is stuck

logger = logging.getLogger("realtime.broker.local")


class Link(Framed):
    """The socket to the broker's process, while there is one."""

    def __init__(self, broker: LocalBroker) -> None:
        super().__init__()
        self.broker = broker
        self.is_lost = False
        self.waiting: deque[tuple[float, asyncio.Future[msgspec.Raw]]] = deque()  # since when, on the loop's clock
        self._watch: asyncio.TimerHandle | None = None
        self._why = "the link was lost"

    def ask(self, *message: Any) -> asyncio.Future[msgspec.Raw]:
        """Send a command; its answer comes in its turn."""
        if self.is_lost:
            raise BrokerAway(self.broker.address, self._why)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[msgspec.Raw] = loop.create_future()
        self.send(message)  # first: what cannot be written has no answer, and must not be waited for
        self.waiting.append((loop.time(), future))
        if self._watch is None:
            self._watch = loop.call_later(TIMEOUT_S, self._check)
        return future

    def _check(self) -> None:
        """Cut the link where a command has waited too long: whoever does not answer for so long is taken for dead."""
        self._watch = None
        if not self.waiting or self.is_lost:
            return
        loop = asyncio.get_running_loop()
        left_s = self.waiting[0][0] + TIMEOUT_S - loop.time()
        if left_s > 0:
            self._watch = loop.call_later(left_s, self._check)
        else:
            self._why = f"no answer within {TIMEOUT_S:g} s"
            self.transport.abort()

    def received(self, message: list[msgspec.Raw]) -> None:
        kind = msgspec.msgpack.decode(message[0], type=int)
        if kind in (REPLY, FAILED, REFUSED):
            _, future = self.waiting.popleft()
            if future.done():  # its caller has gone; the place is skipped
                return
            if kind == REPLY:
                future.set_result(message[1])
            elif kind == REFUSED:
                self.broker.refused += 1
                future.set_exception(BrokerFull(self.broker.address, msgspec.msgpack.decode(message[1], type=int)))
            else:
                future.set_exception(BrokerUnavailable(self.broker.address, "it could not do what was asked"))
        else:
            self.broker.tell(kind, message[1:])

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if self._watch is not None:
            self._watch.cancel()
        error = BrokerUnavailable(self.broker.address, self._why)
        for _, future in self.waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # seen: a caller who has gone is no bug
        self.waiting.clear()
        self.broker.lost(self)


class LocalBroker:
    """The contract, through the local broker's process."""

    in_order = True

    def __init__(self, path: str, worker: WorkerId) -> None:
        self.address = f"unix:{path}"
        self._path = path
        self._worker = worker
        self._link: Link | None = None
        self._listener: BrokerListener | None = None
        self._rooms: set[Room] = set()
        self._members: dict[tuple[Room, ConnectionId], tuple[ClientInfo, bool, bool]] = {}
        self._loose: set[tuple[Room, ConnectionId]] = set()  # of those members
        self._returning: asyncio.Task[None] | None = None
        self._closing = False
        self.refused = 0
        """What this worker wanted kept, and there was no memory for."""
        self._state: dict[str, int] = {}  # how much the broker keeps, as it said last
        self._counts = dict.fromkeys(("published", "received", "links_lost"), 0)

    # The link

    async def start(self, listener: BrokerListener) -> None:
        self._listener = listener
        deadline = time.monotonic() + START_S
        while True:
            try:
                self._link = await self._connect()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    why = f"nobody answers ({error.strerror or error}): is the local broker running there?"
                    raise BrokerUnavailable(self.address, why) from error
            await asyncio.sleep(PAUSES_S[0])

    async def _connect(self) -> Link:
        """Take up a link, with everything that this worker has at the broker."""
        _, link = await asyncio.get_running_loop().create_unix_connection(lambda: Link(self), self._path)
        try:
            answers = [link.ask("hello", self._worker)]
            answers += [link.ask("subscribe", room) for room in self._rooms]
            answers += [
                link.ask("add_member", key[0], info, announce, True, lasting, key in self._loose)
                for key, (info, announce, lasting) in self._members.items()
            ]
            await asyncio.wait_for(asyncio.gather(*answers), TIMEOUT_S)
            if link.is_lost:  # after its last answer, and before it is ours: nobody else would see it
                raise BrokerUnavailable(self.address, "the link was lost")
        except BaseException:
            link.transport.abort()
            raise
        return link

    def lost(self, link: Link) -> None:
        """The link ended. Every call fails until it is back."""
        if link is not self._link or self._closing:
            return
        self._link = None
        self._counts["links_lost"] += 1
        assert self._listener is not None, "started"
        self._listener.on_link_lost()
        self._returning = asyncio.get_running_loop().create_task(self._return())

    async def _return(self) -> None:
        attempt = 0
        while not self._closing:
            await asyncio.sleep(PAUSES_S[min(attempt, len(PAUSES_S) - 1)])
            attempt += 1
            try:
                self._link = await self._connect()
            except (OSError, TimeoutError, BrokerUnavailable) as error:
                logger.debug("- %s is not back: %s", self.address, error)
                continue
            assert self._listener is not None, "started"
            self._listener.on_link_restored()
            return

    async def close(self) -> None:
        self._closing = True
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.gather(self._returning, return_exceptions=True)
        if self._link is not None:
            with contextlib.suppress(BrokerUnavailable, TimeoutError):
                await asyncio.wait_for(self._link.ask("goodbye"), 2)
            self._link.transport.close()
            self._link = None
        self._listener = None

    def _ask(self, *message: Any) -> asyncio.Future[msgspec.Raw]:
        if self._link is None:
            raise BrokerAway(self.address, "there is no link now")
        return self._link.ask(*message)

    def tell(self, kind: int, raw: list[msgspec.Raw]) -> None:
        """Pass on what the broker says unasked."""
        listener = self._listener
        if listener is None:
            return
        if kind == DEPARTED:
            self._depart(msgspec.msgpack.decode(raw[0], type=list[Departed]))
            return
        if kind == STATE:
            self._state = msgspec.msgpack.decode(raw[0], type=dict[str, int])
            return
        room = Room(msgspec.msgpack.decode(raw[0], type=str))
        if room not in self._rooms:
            return  # given up meanwhile
        if kind == PUBLICATION:
            self._counts["received"] += 1
            listener.on_publication(room, msgspec.msgpack.decode(raw[1], type=Publication))
        elif kind == JOIN:
            listener.on_join(room, msgspec.msgpack.decode(raw[1], type=ClientInfo))
        else:
            assert kind == LEAVE, "the server says nothing else"
            listener.on_leave(room, msgspec.msgpack.decode(raw[1], type=ClientInfo))

    # The contract

    async def subscribe(self, room: Room) -> None:
        self._rooms.add(room)  # before the answer: events may come with it
        try:
            await self._ask("subscribe", room)
        except BaseException:
            self._rooms.discard(room)
            raise

    async def unsubscribe(self, room: Room) -> None:
        self._rooms.discard(room)
        await self._ask("unsubscribe", room)

    async def publish(self, request: PublishRequest) -> Published:
        raw = await self._ask(
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
        return msgspec.msgpack.decode(await self._ask("position", room, retention), type=Position)

    async def positions(self, rooms: Sequence[Room]) -> Mapping[Room, Position]:
        found = msgspec.msgpack.decode(await self._ask("positions", list(rooms)), type=dict[str, Position])
        return {Room(room): position for room, position in found.items()}

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
        raw = await self._ask("history", room, retention, since, limit, reverse, begin)
        return msgspec.msgpack.decode(raw, type=History)

    async def forget_history(self, room: Room) -> None:
        await self._ask("forget_history", room)

    async def add_member(
        self, room: Room, info: ClientInfo, *, announce: bool, quietly: bool = False, lasting: bool = False
    ) -> None:
        self._members[room, ConnectionId(info.connection_id)] = (info, announce, lasting)
        self._loose.discard((room, ConnectionId(info.connection_id)))
        try:
            await self._ask("add_member", room, info, announce, quietly, lasting, False)
        except BaseException:
            self._members.pop((room, ConnectionId(info.connection_id)), None)
            raise

    def release(self, room: Room, client: ConnectionId) -> None:
        if (room, client) in self._members:
            self._loose.add((room, client))

    async def remove_member(
        self, room: Room, client: ConnectionId, *, announce: bool, mine: bool = False
    ) -> int | None:
        self._members.pop((room, client), None)
        self._loose.discard((room, client))
        return msgspec.msgpack.decode(await self._ask("remove_member", room, client, announce, mine), type=int | None)

    async def members(self, room: Room) -> Mapping[ConnectionId, ClientInfo]:
        found = msgspec.msgpack.decode(await self._ask("members", room), type=dict[str, ClientInfo])
        return {ConnectionId(client): info for client, info in found.items()}

    async def member_counts(self, room: Room) -> MemberCounts:
        return msgspec.msgpack.decode(await self._ask("member_counts", room), type=MemberCounts)

    async def members_page(self, room: Room, *, cursor: str = "", limit: int = 1000) -> MembersPage:
        return msgspec.msgpack.decode(await self._ask("members_page", room, cursor, limit), type=MembersPage)

    async def workers(self) -> Sequence[WorkerId]:
        return msgspec.msgpack.decode(await self._ask("workers"), type=list[WorkerId])

    async def reap(self, worker: WorkerId) -> None:
        self._depart(msgspec.msgpack.decode(await self._ask("reap", worker), type=list[Departed]))

    def _depart(self, departed: list[Departed]) -> None:
        for each in departed:
            if each.inherited:
                self._members[each.room, ConnectionId(each.info.connection_id)] = (each.info, each.announce, True)
        if departed and self._listener is not None:
            self._listener.on_departed(departed)

    async def allow(self, room: Room, who: str, rate: Rate) -> bool:
        return msgspec.msgpack.decode(await self._ask("allow", room, who, rate), type=bool)

    def statistics(self) -> Mapping[str, int | float | str | bool]:
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
