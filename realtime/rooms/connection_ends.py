"""
The end of connections: `on_disconnect` runs at least once for each, also after a crash of its worker.

Runs in the worker, as a part of the hub. While a connection lives, a record of it lies at the broker (records.py), with
what another worker has to know in order to call the handler. With a grace, the handler of a user whose connection broke
runs only if the user has no connection when the grace is over, on any worker. It never closes a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from realtime.broker.base import Broker, ClientInfo, ConnectionId
from realtime.errors import BrokerUnavailable
from realtime.log_lines import log
from realtime.rooms.hooks import Hooks, call
from realtime.rooms.records import Records, end_record
from realtime.tasks import SideTasks

REPLACED: Final = "= connection replaced"  # it has ended, and its user has another one
_HAS_ENDED: Final = b"1"  # the chan_info of a connection's record once that connection has ended

logger = logging.getLogger("realtime.departures")


class ConnectionEnds:
    """The ends that this worker handles. The owner must call `end_graces`, then `close`."""

    def __init__(self, broker: Broker, records: Records, hooks: Hooks) -> None:
        self._broker = broker
        self._records = records
        self._hooks = hooks
        self._tasks = SideTasks(logger)
        self._is_ending = asyncio.Event()  # this worker ends: nothing waits for the end of a grace any more
        self._is_alone = False  # there is no other worker then

    @property
    def are_handled(self) -> bool:
        """Whether the application has a handler for the end of a connection. Without one there is nothing to record."""
        return self._hooks.has_end_hook

    async def admit(self, info: ClientInfo) -> None:
        """
        Record a connection, where the application has a handler for its end. While the broker is unreachable there is
        no record, and a crash of this worker would end the connection without a call.

        Args:
            info: `conn_info` is what the worker that inherits the record gives to `Hooks.lost`.
        """
        if not self._hooks.has_end_hook:
            return
        try:
            await self._records.add(end_record(info.user), info)
        except BrokerUnavailable as error:
            log(
                logger,
                logging.WARNING,
                "connection without a record",  # a crash of this worker would skip `on_disconnect`
                connection=info.connection_id,
                user=info.user,
                reason=error,
            )

    def release(self, user: str, connection_id: ConnectionId) -> None:
        """Let the worker to which a connection moves take over its record, by `admit`."""
        if self._hooks.has_end_hook:
            self._broker.release(end_record(user), connection_id)

    def not_admitted(self, user: str, connection_id: ConnectionId) -> None:
        """Undo `admit` for a connection that ended before its client got the answer."""
        if self._hooks.has_end_hook:
            self._tasks.spawn(self._records.remove(end_record(user), connection_id))

    def ended(
        self, user: str, connection_id: ConnectionId, notify: Callable[[], Awaitable[None]], *, may_return: bool
    ) -> None:
        """
        Handle the end of a connection: at once, or, where it is only broken (`may_return`), when the grace is over and
        the user has no connection then. Does not wait.

        Args:
            user: of the connection; "" has no grace.
            connection_id: of the connection.
            notify: calls the application's handler.
            may_return: the connection broke; neither side closed it.
        """
        if self._hooks.has_end_hook:
            grace_s = self._hooks.end_grace_s if may_return and user else 0.0
            self._tasks.spawn(self._end(ClientInfo(user, connection_id, None, _HAS_ENDED), notify, grace_s))

    def inherit(self, info: ClientInfo) -> None:
        """Handle the end of a connection that ended with its worker."""
        grace_s = self._hooks.end_grace_s if info.user else 0.0
        marked = msgspec.structs.replace(info, chan_info=_HAS_ENDED)
        self._tasks.spawn(self._end(marked, lambda: self._hooks.lost(info), grace_s))

    async def _end(self, info: ClientInfo, notify: Callable[[], Awaitable[None]], grace_s: float) -> None:
        """
        Run the handler, unless the user is back in time. The record goes last: a crash in between repeats the handler.
        """
        is_back = grace_s > 0 and await self._is_back(info, grace_s)
        if is_back is None:
            return  # the record stays, for another worker
        if is_back:
            log(logger, logging.DEBUG, REPLACED, connection=info.connection_id, user=info.user)
        else:
            await call(notify(), "on_disconnect", connection=info.connection_id)
        await self._records.remove(end_record(info.user), ConnectionId(info.connection_id))

    async def _is_back(self, info: ClientInfo, grace_s: float) -> bool | None:
        """Wait for the end of the grace. Return whether the user has a connection then; None where this worker ends."""
        record = end_record(info.user)
        try:
            await self._records.add(record, info)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._is_ending.wait()
                if not self._is_alone:
                    return None
            records = await self._broker.members(record)
        except BrokerUnavailable:
            return False
        return any(each.chan_info != _HAS_ENDED for each in records.values())

    def end_graces(self, *, is_alone: bool) -> None:
        """End every grace: another worker inherits the records, or, where there is none, the user is gone."""
        self._is_alone = is_alone
        self._is_ending.set()

    async def close(self, patience_s: float) -> None:
        """Give the handlers that run so many seconds, then cancel them."""
        await self._tasks.close(patience_s)
