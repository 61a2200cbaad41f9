"""
Live migration: connections go to another worker of this machine, and their clients notice nothing.

Runs in the worker, at both ends of a move. It exports and imports; the channel between the workers, and the proof of
what a dead worker has touched, are sticky's (sticky/moving). Here is who moves, when and where, and the target's end;
process/move_out.py moves what was chosen. It never decides which worker is the target: the primary introduces it, with
a plan.

Theory of operation
===================

**One connection, at the source.** The table has every way out of each state:

    SERVING ──quiesce──▶ AT REST ──export, detach──▶ OFFERED ──taken──▶ FORGOTTEN
       ▲                    │                           │
       └──a handler runs────┘                           ├──refused, returned──▶ restored here ──▶ SERVING
                                                        └──lost──▶ CLOSED, and its client recovers

*Quiesce* reads no more and lets the running command end. What is at rest is exported in one turn of the event loop: the
session's state, the transport's (bytes that were read and not used, a message in fragments, bytes that were not sent),
and a copy of the descriptor. From then on only the target may read or write. A session that comes back is made anew
from the very same export, as the target would have made it.

**One connection, at the target.** Its session is restored *before* the descriptor is attached: rooms are entered from
the client's positions, presence is taken over, gaps are filled from the streams. What the session writes meanwhile
waits in the transport, behind what the source had not sent. Then the loop gets the descriptor, and the client is
served.

**Who moves.** With the plan ALL every connection goes to the successor. With HOME a key moves as a whole, to the slot
where it is at home: while one of its connections cannot move, all stay. With COUNT any connections go.

**What cannot move** stays, and is closed by the drain with a code to reconnect: TLS that ends here, hosted connections,
streams, a handler that does not end in time, a state that is no plain data, and whatever the target refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Final

from realtime.codes import DisconnectCode
from realtime.errors import BrokerUnavailable, ClientError
from realtime.log_lines import log
from realtime.process.move_out import BROKER_RETRY_S, SESSION_NOT_RESTORED, MoveOut
from realtime.process.moved import (
    DRAINS,
    NO_BROKER,
    ConnectionHost,
    Homes,
    KeyCounts,
    Restorer,
    UserMessages,
    read_moved,
)
from realtime.session.base import ApplicationCalls
from realtime.session.state import BadState
from realtime.transport.websocket import WebSocketTransport
from realtime.transport.websocket_endpoint import WebSocketEndpoint
from realtime.transport.websocket_export import BadExport
from sticky.keys.hashing import Key, Slot
from sticky.moving.plan import ALL, COUNT, REST, Plan
from sticky.moving.source import MoveSource
from sticky.moving.target import FAILED, MovedIn

RETRY_S: Final = 1.0  # until another look at keys that could not go home
DRAIN_RETRY_S: Final = 0.05  # until another look at what is not done

logger = logging.getLogger("realtime.migration")


class Migration:
    """The moves of one worker. Is sticky's `Moving`."""

    def __init__(
        self,
        endpoint: WebSocketEndpoint,
        application: ApplicationCalls,
        protocol: Restorer,
        host: ConnectionHost,
        keys: KeyCounts,
        homes: Homes,
        users: UserMessages,
        *,
        reconnect: DisconnectCode,
        within_s: float,
    ) -> None:
        """
        Args:
            endpoint: knows the connections that can move.
            application: may refuse a connection, and brings its data to another form.
            protocol: continues sessions.
            host: owns the connections.
            keys: of all connections of this worker.
            homes: where keys belong.
            users: keeps what comes for a connection on its way.
            reconnect: closes what can be served nowhere.
            within_s: how long a connection may take to come to rest.
        """
        self._endpoint = endpoint
        self._protocol = protocol
        self._host = host
        self._keys = keys
        self._homes = homes
        self._out = MoveOut(application, protocol, users, reconnect=reconnect, within_s=within_s)
        self._within_s = within_s
        self._sources: dict[MoveSource, Plan] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self._has_lost_target = False  # while this worker drains; its slot gets another worker
        self._another = asyncio.Event()  # target
        self._taking = 0  # batches that are being taken over
        self._moved_in = 0

    # As the source

    def introduced(self, source: MoveSource, plan: Plan) -> None:
        """
        Learn of a target. With ALL or REST connections go there when this worker drains, or at once where it drains
        already: then an earlier target has died. With another plan they go from now on.
        """
        assert source not in self._sources, "the primary introduces a target once"
        self._out.forget_refusals()
        self._sources[source] = plan
        self._has_lost_target = False
        self._another.set()
        if self._is_draining:
            self._spawn(self._move_rest(source))
        elif plan.name not in (ALL, REST):
            self._spawn(self._rebalance(source, plan))

    async def _move_rest(self, source: MoveSource) -> None:
        """Move what is still here to a target that came while this worker drains."""
        if await source.opened():
            await self._out.move(source, list(self._movable()))
        self._has_lost_target |= not source.is_open
        self._sources.pop(source, None)
        source.close()

    def _spawn(self, work: Any) -> None:
        """Run a part of a move beside the others. `drain` awaits what is left of them."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _rebalance(self, source: MoveSource, plan: Plan) -> None:
        """Move what belongs to a target, and look again as long as a key has to wait."""
        left = plan.count
        try:
            if not await source.opened():
                return
            while source.is_open and not self._out.is_declined_by(source) and not self._is_draining:
                if plan.name == COUNT:
                    chosen = list(self._movable())[:left]
                    left -= await self._out.move(source, chosen)
                    return
                going = self._going_home(source.slot)
                await self._out.move(source, going)
                if not self._has_waiting(source.slot):
                    return
                await asyncio.sleep(RETRY_S)
        finally:
            if not self._is_draining:
                self._sources.pop(source, None)
                source.close()

    def _movable(self) -> Iterator[WebSocketTransport]:
        """Give the connections that can move now. A caller that awaits before it moves them must look again."""
        for each in list(self._endpoint.connections):
            if isinstance(each, WebSocketTransport) and self._out.is_movable(each):
                yield each

    def _going_home(self, slot: Slot) -> list[WebSocketTransport]:
        """Return the connections whose key is at home in a slot, of keys that can move as a whole."""
        by_key: dict[Key, list[WebSocketTransport]] = {}
        for each in self._movable():
            key = each.peer.key
            if key is not None and self._homes.home_of(key) == slot:
                by_key.setdefault(key, []).append(each)
        whole = (found for key, found in by_key.items() if len(found) == self._keys.count(key))
        return [each for found in whole for each in found]

    def _has_waiting(self, slot: Slot) -> bool:
        """Return whether a WebSocket is here whose key is at home in a slot: it could not move yet."""
        return any(
            isinstance(each, WebSocketTransport)
            and each.peer.key is not None
            and self._homes.home_of(each.peer.key) == slot
            for each in self._endpoint.connections
        )

    async def drain(self, deadline_s: float) -> None:
        """
        Move everything that can, to the workers that were introduced. What is left is the caller's to close. When a
        target dies, go on with these connections until its slot has another worker, for half of the time at most.

        Args:
            deadline_s: how long the drain may take in all.
        """
        self._is_draining = True
        loop = asyncio.get_running_loop()
        until, give_up = loop.time() + min(deadline_s, self._within_s), loop.time() + deadline_s / 2
        self._out.give_up_at = loop.time() + deadline_s
        opened = [source for source in self._sources if await source.opened()]
        while live := [each for each in opened if each.is_open]:
            waits = bool(self._taking or self._out.is_moving or (self._is_opening() and loop.time() < until))
            divided = self._divided(live)  # in the same turn: what `waits` does not count is in it
            self._out.lacks_broker = False
            await asyncio.gather(*(self._out.move(each, chosen) for each, chosen in divided.items()))
            if self._out.lacks_broker and loop.time() < give_up:
                await asyncio.sleep(BROKER_RETRY_S)
            elif loop.time() >= give_up or not (any(divided.values()) or waits):
                break
            elif not any(divided.values()):
                await asyncio.sleep(DRAIN_RETRY_S)
        self._has_lost_target |= any(not each.is_open for each in self._sources)
        await asyncio.gather(*self._tasks, self._out.settled(), return_exceptions=True)
        while self._has_lost_target and any(self._movable()) and loop.time() < give_up:
            self._another.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(give_up):
                    await self._another.wait()
            await asyncio.gather(*self._tasks, self._out.settled(), return_exceptions=True)
        for source in self._sources:
            source.close()
        self._sources.clear()
        refused = self._out.refusals.total()
        if self._out.moved or refused:
            log(logger, logging.INFO, "= connections moved", moved=self._out.moved, refused=refused)

    def _divided(self, sources: Sequence[MoveSource]) -> dict[MoveSource, list[WebSocketTransport]]:
        """Divide all connections that can move among the targets: a key goes home, what has none goes in turn."""
        successors = [each for each in sources if self._sources[each].name == ALL]
        targets = successors or [each for each in sources if self._sources[each].name == REST] or sources
        assert targets, "a drain without an open target divides nothing"
        found: dict[MoveSource, list[WebSocketTransport]] = {each: [] for each in targets}
        by_slot = {each.slot: each for each in targets}
        turn = 0
        for each in self._movable():
            home = None if successors else self._homes.home_of(each.peer.key)
            source = None if home is None else by_slot.get(home)
            if source is None:
                source = targets[turn % len(targets)]
                turn += 1
            found[source].append(each)
        return found

    def _is_opening(self) -> bool:
        """Return whether a handshake is under way, after which a connection can move."""
        return any(isinstance(each, WebSocketTransport) and each.is_connecting for each in self._endpoint.connections)

    async def take(self, connections: Sequence[MovedIn]) -> list[str | None]:
        """Take connections over. Return for each None, or why it is refused."""
        if self._is_draining:
            return [DRAINS] * len(connections)
        self._taking += 1  # a drain waits for them, and moves them on
        try:
            answers = await asyncio.gather(*map(self._take_one, connections))
        finally:
            self._taking -= 1
        self._moved_in += answers.count(None)
        return answers

    async def _take_one(self, connection: MovedIn) -> str | None:
        """Take one over. What it had begun here is undone where it is refused: the source goes on with it."""
        try:
            moved = read_moved(connection.state)
            peer = moved.transport.peer(mark=connection.mark, key=connection.key)
            transport = WebSocketTransport.imported(self._endpoint, peer, moved.transport)
        except BadExport as error:
            return str(error)
        try:
            session = await self._protocol.restore(transport, moved.session, connection.mark)
        except (BadState, ClientError, BrokerUnavailable) as error:
            transport.abandon()
            return f"{NO_BROKER}{error}" if isinstance(error, BrokerUnavailable) else str(error)
        except Exception:  # noqa: BLE001 - of the application, or a bug: the others of the batch go on
            log(logger, logging.ERROR, SESSION_NOT_RESTORED, **peer.log_fields, exc_info=True)
            transport.abandon()
            return FAILED
        await self._host.attach(transport, session, connection.sock)
        return None

    def statistics(self) -> dict[str, Any]:
        """Return a snapshot."""
        return {"moves": {"out": self._out.moved, "in": self._moved_in, "refused": dict(self._out.refusals)}}
