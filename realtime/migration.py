"""
Live migration: connections go to another worker of this machine, and their clients notice nothing.

Runs in the worker, at both ends of a move. It exports and imports; the channel between the workers, and the proof of
what a dead worker has touched, are sticky's (sticky/moving). It never decides which worker is the target: the primary
introduces it, with a plan.

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
import os
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from weakref import WeakSet

from realtime.codes import DisconnectCode
from realtime.errors import BrokerUnavailable, ClientError
from realtime.log_lines import log
from realtime.process.moved import (
    ConnectionHost,
    Homes,
    KeyCounts,
    Leaving,
    Restorer,
    UserMessages,
    pack_moved,
    read_moved,
    session_of,
)
from realtime.session.base import ApplicationCalls
from realtime.session.plain import NotPlain
from realtime.session.session import Session
from realtime.session.state import BadState
from realtime.transport.websocket import WebSocketTransport
from realtime.transport.websocket_endpoint import WebSocketEndpoint
from realtime.transport.websocket_state import BadExport
from sticky.keys.hashing import Key, Slot
from sticky.moving.channel import MovedState, batches
from sticky.moving.plan import ALL, COUNT, REST, Plan
from sticky.moving.source import MoveSource, Offered, Outcome, Result
from sticky.moving.target import FAILED, MovedIn

BATCH: Final = 64  # connections that come to rest together
FAST_S: Final = 0.02  # for a batch to come to rest; what takes longer goes by itself, and holds up nobody
RETRY_S: Final = 1.0  # until another look at keys that could not go home
DRAIN_RETRY_S: Final = 0.05  # until another look at handshakes that were not done
DRAINS: Final = "the worker drains"
SESSION_NOT_RESTORED: Final = "! session not restored"

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
        self._application = application
        self._protocol = protocol
        self._host = host
        self._keys = keys
        self._homes = homes
        self._users = users
        self._reconnect = reconnect
        self._within_s = within_s
        self._sources: dict[MoveSource, Plan] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self._has_lost_target = False  # while this worker drains; its slot gets another worker
        self._another = asyncio.Event()  # target
        self._moving: set[WebSocketTransport] = set()  # on their way to rest: no second task may take them
        self._kept: WeakSet[WebSocketTransport] = WeakSet()  # they were refused, and are not offered again
        self._declined: WeakSet[MoveSource] = WeakSet()  # their targets drain
        self._taking = 0  # batches that are being taken over
        self.moved_out = 0
        self.moved_in = 0
        self.refusals: Counter[str] = Counter()
        """Connections that could not move, by reason."""

    # As the source

    def introduced(self, source: MoveSource, plan: Plan) -> None:
        """
        Learn of a target. With ALL or REST connections go there when this worker drains, or at once where it drains
        already: then an earlier target has died. With another plan they go from now on.
        """
        self._kept.clear()
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
            await self._move(source, list(self._movable()))
        self._has_lost_target |= not source.is_open
        self._sources.pop(source, None)
        source.close()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _rebalance(self, source: MoveSource, plan: Plan) -> None:
        """Move what belongs to a target, and look again as long as a key has to wait."""
        left = plan.count
        try:
            if not await source.opened():
                return
            while source.is_open and source not in self._declined and not self._is_draining:
                if plan.name == COUNT:
                    chosen = list(self._movable())[:left]
                    left -= await self._move(source, chosen)
                    return
                going = self._going_home(source.slot)
                await self._move(source, going)
                if not self._has_waiting(source.slot):
                    return
                await asyncio.sleep(RETRY_S)
        finally:
            if not self._is_draining:
                self._sources.pop(source, None)
                source.close()

    def _movable(self) -> Iterator[WebSocketTransport]:
        for each in list(self._endpoint.connections):
            if not isinstance(each, WebSocketTransport) or each in self._moving or each in self._kept:
                continue
            if each.can_move is None:
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
        opened = [source for source in self._sources if await source.opened()]
        while live := [each for each in opened if each.is_open]:
            waits = bool(self._taking or self._moving or (self._is_opening() and loop.time() < until))
            divided = self._divided(live)  # in the same turn: what `waits` does not count is in it
            await asyncio.gather(*(self._move(each, chosen) for each, chosen in divided.items()))
            if loop.time() >= give_up or not (any(divided.values()) or waits):
                break
            if not any(divided.values()):
                await asyncio.sleep(DRAIN_RETRY_S)
        self._has_lost_target |= any(not each.is_open for each in self._sources)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._has_lost_target and any(self._movable()) and loop.time() < give_up:
            self._another.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(give_up):
                    await self._another.wait()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for source in self._sources:
            source.close()
        self._sources.clear()
        if self.moved_out or self.refusals:
            log(logger, logging.INFO, "= connections moved", moved=self.moved_out, refused=self.refusals.total())

    def _divided(self, sources: Sequence[MoveSource]) -> dict[MoveSource, list[WebSocketTransport]]:
        """Divide all connections that can move among the targets: a key goes home, what has none goes in turn."""
        successors = [each for each in sources if self._sources[each].name == ALL]
        targets = successors or [each for each in sources if self._sources[each].name == REST] or sources
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

    async def _move(self, source: MoveSource, transports: Iterable[WebSocketTransport]) -> int:
        """Move connections to a target. Return how many it has taken."""
        chosen = list(transports)
        self._moving.update(chosen)
        before = self.moved_out
        slow: list[WebSocketTransport] = []
        try:
            pending: set[asyncio.Task[None]] = set()
            for begin in range(0, len(chosen), BATCH):
                if not source.is_open or source in self._declined:
                    break
                batch = chosen[begin : begin + BATCH]
                at_rest = await self._brought_to_rest(batch, FAST_S)
                slow += [each for each in batch if each not in at_rest and each.can_move is None]
                pending.add(asyncio.ensure_future(self._offer(source, at_rest)))
                if len(pending) > 1:
                    _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if pending:
                await asyncio.wait(pending)
            await asyncio.gather(*(self._move_slow(source, each) for each in slow))
        finally:
            self._moving.difference_update(chosen)
        return self.moved_out - before

    async def _move_slow(self, source: MoveSource, transport: WebSocketTransport) -> None:
        at_rest = await self._brought_to_rest([transport], self._within_s)
        if at_rest:
            await self._offer(source, at_rest)
        elif transport.can_move is None:
            self._keep(transport, "a handler runs")

    async def _brought_to_rest(
        self, transports: Sequence[WebSocketTransport], within_s: float
    ) -> list[WebSocketTransport]:
        """Bring connections to rest. Return those that are, and can move; the others go on."""

        async def quiesce(transport: WebSocketTransport) -> bool:
            session = session_of(transport)
            return session is not None and session.is_open and await session.quiesce(within_s)

        rests = await asyncio.gather(*map(quiesce, transports))
        return [each for each, rests in zip(transports, rests, strict=True) if rests]

    async def _offer(self, source: MoveSource, transports: Sequence[WebSocketTransport]) -> None:
        """Export connections that are at rest, offer them, and do what follows from the outcome of each."""
        await asyncio.gather(*map(self._prepare, transports))
        leaving = [exported for each in transports if (exported := self._export(each)) is not None]
        for batch in batches(leaving, [len(each.offered.state.state) for each in leaving]):
            results = await source.offer([each.offered for each in batch])
            for each in batch:
                each.offered.sock.close()
            await asyncio.gather(*(self._settle(source, *each) for each in zip(batch, results, strict=True)))

    async def _prepare(self, transport: WebSocketTransport) -> None:
        """Ask the application, and take what was not sent out of the loop's buffer."""
        session = session_of(transport)
        if session is None:
            return
        try:
            if session.is_admitted:
                await self._application.migrate(session.connection, "before")
            if transport.can_move is None:
                await transport.detach()
        except ClientError as error:
            self._keep(transport, f"on_migrate: {error.message}")
        except OSError as error:
            self._keep(transport, f"no descriptor: {error.strerror}")
        except Exception:  # noqa: BLE001 - of the application; the log has it
            log(logger, logging.ERROR, "! on_migrate failed", **session.log_fields, exc_info=True)
            self._keep(transport, "on_migrate failed")

    def _export(self, transport: WebSocketTransport) -> Leaving | None:
        """Export one connection, and let go of it, in one turn of the loop. None where it stays."""
        session = session_of(transport)
        if session is None or not session.is_open:
            if transport.is_parked:
                self._spawn(transport.attach(session))  # what it was closed with meanwhile has to be sent
            return None
        if transport in self._kept or transport.can_move is not None or not session.is_idle:
            self._stay(transport, session)  # what is not at rest any more is looked at again
            return None
        try:
            sock = socket.socket(fileno=os.dup(transport.descriptor))
            exported = session.export()
        except (NotPlain, OSError) as error:
            self._keep(transport, str(error))
            self._stay(transport, session)
            return None
        user, connection_id = session.connection.user, session.connection.id
        session.drop()
        self._users.leaves(user, connection_id)
        peer = transport.peer
        packed = pack_moved(exported, transport.export())
        state = MovedState(
            peer.address, peer.client_port, peer.scheme, peer.sticky_id, peer.new_sticky_id, peer.peer_address, packed
        )
        return Leaving(transport, exported, user, connection_id, session.log_fields, Offered(sock, state))

    def _stay(self, transport: WebSocketTransport, session: Session) -> None:
        """Have a connection go on that was brought to rest, and perhaps detached, and does not move."""
        if transport.is_parked:
            self._spawn(transport.attach(session))
        session.resume()

    async def _settle(self, source: MoveSource, leaving: Leaving, result: Result) -> None:
        """Do what follows from an outcome."""
        transport = leaving.transport
        if result.outcome is Outcome.TAKEN:
            self.moved_out += 1
            log(logger, logging.DEBUG, "= connection moved", **leaving.fields)
            transport.release()
            self._users.arrived(leaving.user, leaving.connection_id, source.worker_id)
            return
        if result.outcome is Outcome.LOST:
            self._note("its target died with it", leaving.fields)
            transport.release()  # the client sees the end of the connection, and recovers from its position
        else:
            if result.reason == DRAINS:
                self._declined.add(source)
            elif result.outcome is Outcome.REFUSED:
                self._kept.add(transport)
            self._note(result.reason or "its target is gone", leaving.fields)
            transport.take_back()
            await self._restore_here(leaving)
        self._users.returned(leaving.user, leaving.connection_id)

    async def _restore_here(self, leaving: Leaving) -> None:
        """Serve a connection here again. Where that fails as well, its client has to reconnect."""
        transport = leaving.transport
        session: Session | None = None
        try:
            session = await self._protocol.restore(transport, leaving.session, transport.peer.mark)
        except (BadState, ClientError, BrokerUnavailable) as error:
            log(logger, logging.WARNING, "x connection lost in a move", **leaving.fields, reason=error)
            transport.close(self._reconnect.code, self._reconnect.reason)
        except Exception:  # noqa: BLE001 - of the application, or a bug: it ends this connection only
            log(logger, logging.ERROR, SESSION_NOT_RESTORED, **leaving.fields, exc_info=True)
            transport.close(self._reconnect.code, self._reconnect.reason)
        await transport.attach(session)

    def _keep(self, transport: WebSocketTransport, reason: str) -> None:
        """Note that a connection does not move, and why. It is served on here, until this worker drains."""
        self._kept.add(transport)
        session = session_of(transport)
        self._note(reason, transport.peer.log_fields if session is None else session.log_fields)

    def _note(self, reason: str, fields: Mapping[str, Any]) -> None:
        self.refusals[reason] += 1
        log(logger, logging.INFO, "x connection not moved", **fields, reason=reason)

    # As the target

    async def take(self, connections: Sequence[MovedIn]) -> list[str | None]:
        """Take connections over. Return for each None, or why it is refused."""
        if self._is_draining:
            return [DRAINS] * len(connections)
        self._taking += 1  # a drain waits for them, and moves them on
        try:
            answers = await asyncio.gather(*map(self._take_one, connections))
        finally:
            self._taking -= 1
        self.moved_in += answers.count(None)
        return answers

    async def _take_one(self, connection: MovedIn) -> str | None:
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
            return str(error)
        except Exception:  # noqa: BLE001 - of the application, or a bug: the others of the batch go on
            log(logger, logging.ERROR, SESSION_NOT_RESTORED, **peer.log_fields, exc_info=True)
            transport.abandon()
            return FAILED
        await self._host.attach(transport, session, connection.sock)
        return None

    def statistics(self) -> dict[str, Any]:
        """Return a snapshot."""
        return {"moves": {"out": self.moved_out, "in": self.moved_in, "refused": dict(self.refusals)}}
