"""
Moves chosen connections to one target: brings them to rest, exports and offers them, and does what follows from the
outcome of each.

Runs in the worker that loses them. It chooses no connection and no target; realtime/migration.py does, and has the
theory of a move. What cannot move goes on here, and is noted with the reason.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from weakref import WeakSet

from realtime.codes import DisconnectCode
from realtime.errors import AnswerError, BrokerUnavailable, ClientError
from realtime.log_lines import log
from realtime.process.moved import DRAINS, NO_BROKER, Leaving, Restorer, UserMessages, pack_moved, session_of
from realtime.session.base import ApplicationCalls
from realtime.session.plain import NotPlain
from realtime.session.session import Session
from realtime.session.state import BadState
from realtime.transport.websocket import WebSocketTransport
from sticky.moving.channel import MovedState, batches
from sticky.moving.source import MoveSource, Offered, Outcome, Result

BATCH: Final = 64  # connections that come to rest together
FAST_S: Final = 0.02  # for a batch to come to rest; what takes longer goes by itself, and holds up nobody
BROKER_S: Final = 10.0  # for the broker, when a connection was refused; then its client has to reconnect
BROKER_RETRY_S: Final = 0.1  # until another try
SESSION_NOT_EXPORTED: Final = "! session not exported"
SESSION_NOT_RESTORED: Final = "! session not restored"

logger = logging.getLogger("realtime.migration")


class MoveOut:
    """
    The moves out of one worker.

    Attributes:
        moved: how many connections were taken by another worker.
        refusals: connections that could not move, by reason.
        lacks_broker: a target refused what it would take later. The caller resets it.
        give_up_at: loop time at which this worker ends; then no connection waits for the broker.
    """

    def __init__(
        self,
        application: ApplicationCalls,
        protocol: Restorer,
        users: UserMessages,
        *,
        reconnect: DisconnectCode,
        within_s: float,
    ) -> None:
        """
        Args:
            application: may refuse a connection, and brings its data to another form.
            protocol: continues sessions that come back.
            users: keeps what comes for a connection on its way.
            reconnect: closes what can be served nowhere.
            within_s: how long a connection may take to come to rest.
        """
        self._application = application
        self._protocol = protocol
        self._users = users
        self._reconnect = reconnect
        self._within_s = within_s
        self._moving: set[WebSocketTransport] = set()  # on their way to rest: no second task may take them
        self._kept: WeakSet[WebSocketTransport] = WeakSet()  # they were refused, and are not offered again
        self._declined: WeakSet[MoveSource] = WeakSet()  # their targets drain
        self._tasks: set[asyncio.Task[None]] = set()
        self.moved = 0
        self.refusals: Counter[str] = Counter()
        self.lacks_broker = False
        self.give_up_at = math.inf

    def is_movable(self, transport: WebSocketTransport) -> bool:
        """Return whether a connection can move now. A caller that awaits before `move` must ask again."""
        return transport not in self._moving and transport not in self._kept and transport.can_move is None

    @property
    def is_moving(self) -> bool:
        """Whether connections are on their way to rest, or offered."""
        return bool(self._moving)

    def is_declined_by(self, source: MoveSource) -> bool:
        """Return whether a target drains, so that it takes nothing more."""
        return source in self._declined

    def forget_refusals(self) -> None:
        """Offer again what was refused: another target may take it."""
        self._kept.clear()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settled(self) -> None:
        """Wait until connections that did not move go on."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def move(self, source: MoveSource, transports: Iterable[WebSocketTransport]) -> int:
        """Move connections to a target. Return how many it has taken."""
        # Between the choice and this turn, the task of another target may have begun with one of them.
        chosen = [each for each in transports if each not in self._moving]
        self._moving.update(chosen)
        before = self.moved
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
        return self.moved - before

    async def _move_slow(self, source: MoveSource, transport: WebSocketTransport) -> None:
        """Move a connection whose handler runs, by itself: it has all of `within_s`, and holds up no other."""
        at_rest = await self._brought_to_rest([transport], self._within_s)
        if at_rest:
            await self._offer(source, at_rest)
        elif transport.can_move is None:
            self._keep(transport, "a handler runs")

    async def _brought_to_rest(
        self, transports: Sequence[WebSocketTransport], within_s: float
    ) -> list[WebSocketTransport]:
        """Bring connections to rest. Return those that are, and can move; the others go on."""
        found: list[WebSocketTransport] = []
        busy: list[tuple[WebSocketTransport, Session]] = []
        for each in transports:
            session = session_of(each)
            if session is None or not session.is_open:
                continue
            if session.quiesce_now():  # a task for each would cost more than all the rest of this
                found.append(each)
            else:
                busy.append((each, session))
        rests = await asyncio.gather(*(session.quiesce(within_s) for _, session in busy))
        return [*found, *(each for (each, _), rests in zip(busy, rests, strict=True) if rests)]

    async def _offer(self, source: MoveSource, transports: Sequence[WebSocketTransport]) -> None:
        """Export connections that are at rest, offer them, and do what follows from the outcome of each."""
        asks = self._application.sees_moves
        await asyncio.gather(*(self._prepare(each) for each in transports if asks or each.buffered()))
        leaving = [exported for each in transports if (exported := self._export_or_close(each)) is not None]
        for batch in batches(leaving, [len(each.offered.state.state) for each in leaving]):
            results = await source.offer([each.offered for each in batch])
            for each in batch:
                each.offered.sock.close()
            left: list[tuple[Leaving, Result]] = []
            for each, result in zip(batch, results, strict=True):
                if result.outcome is Outcome.TAKEN:
                    self._forget(source, each)
                else:
                    left.append((each, result))
            await asyncio.gather(*(self._settle(source, *each) for each in left))

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

    def _export_or_close(self, transport: WebSocketTransport) -> Leaving | None:
        """As `_export`. A bug ends this connection only: the others of the batch, which read nothing now, go on."""
        try:
            return self._export(transport)
        except Exception:  # noqa: BLE001 - a bug; the log has it
            log(logger, logging.ERROR, SESSION_NOT_EXPORTED, **transport.peer.log_fields, exc_info=True)
            transport.close(self._reconnect.code, self._reconnect.reason)
            return None

    def _export(self, transport: WebSocketTransport) -> Leaving | None:
        """Export one connection, and let go of it, in one turn of the loop. None where it stays."""
        session = session_of(transport)
        if session is None or not session.is_open:
            if transport.is_parked:
                self._spawn(transport.attach(session))  # what it was closed with meanwhile has to be sent
            return None
        is_congested = not transport.is_parked and bool(transport.buffered())  # while others were asked
        if is_congested or transport in self._kept or transport.can_move is not None or not session.is_idle:
            self._stay(transport, session)  # what is not at rest any more is looked at again
            return None
        try:
            sock = socket.socket(fileno=os.dup(transport.descriptor))
            exported = session.export()
        except (NotPlain, AnswerError, OSError) as error:
            self._keep(transport, str(error))
            self._stay(transport, session)
            return None
        user, connection_id = session.connection.user, session.connection.id
        session.drop()
        assert not session.is_open, "from here on only the target may write to the client"
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

    def _forget(self, source: MoveSource, leaving: Leaving) -> None:
        """Forget a connection that the target has taken."""
        self.moved += 1
        log(logger, logging.DEBUG, "= connection moved", **leaving.fields)
        leaving.transport.release()
        self._users.arrived(leaving.user, leaving.connection_id, source.worker_id)

    async def _settle(self, source: MoveSource, leaving: Leaving, result: Result) -> None:
        """Do what follows where the target has not taken a connection."""
        transport = leaving.transport
        if result.outcome is Outcome.LOST:
            self._note("its target died with it", leaving.fields)
            transport.release()  # the client sees the end of the connection, and recovers from its position
        else:
            if result.reason.startswith(NO_BROKER):
                self.lacks_broker = True
            elif result.reason == DRAINS:
                self._declined.add(source)
            elif result.outcome is Outcome.REFUSED:
                self._kept.add(transport)
            self._note(result.reason or "its target is gone", leaving.fields)
            transport.take_back()
            await self._restore_here(leaving)
        self._users.returned(leaving.user, leaving.connection_id)

    async def _restore_here(self, leaving: Leaving) -> None:
        """
        Serve a connection here again. Its rooms cannot be entered without the broker, so that is waited for. Where that
        does not come back in time, the client has to reconnect.
        """
        transport, session = leaving.transport, None
        loop = asyncio.get_running_loop()
        give_up = min(loop.time() + BROKER_S, self.give_up_at)
        while session is None:
            try:
                session = await self._protocol.restore(transport, leaving.session, transport.peer.mark)
            except (BadState, ClientError, BrokerUnavailable) as error:
                if not isinstance(error, BrokerUnavailable) or loop.time() >= give_up:
                    log(logger, logging.WARNING, "x connection lost in a move", **leaving.fields, reason=error)
                    transport.close(self._reconnect.code, self._reconnect.reason)
                    break
                await asyncio.sleep(BROKER_RETRY_S)
            except Exception:  # noqa: BLE001 - of the application, or a bug: it ends this connection only
                log(logger, logging.ERROR, SESSION_NOT_RESTORED, **leaving.fields, exc_info=True)
                transport.close(self._reconnect.code, self._reconnect.reason)
                break
        await transport.attach(session)

    def _keep(self, transport: WebSocketTransport, reason: str) -> None:
        """Note that a connection does not move, and why. It is served on here, until this worker drains."""
        self._kept.add(transport)
        session = session_of(transport)
        self._note(reason, transport.peer.log_fields if session is None else session.log_fields)

    def _note(self, reason: str, fields: Mapping[str, Any]) -> None:
        self.refusals[reason] += 1
        log(logger, logging.INFO, "x connection not moved", **fields, reason=reason)
