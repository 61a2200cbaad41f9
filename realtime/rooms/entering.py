"""
Entering a room, up to the answer: what has to be awaited for one pending subscription.

Runs in the worker, in the task of the session that enters. The order matters:

1. The broker's subscription, for the first member. From here on no publication is missed.
2. The presence view, for the first watcher.
3. The stream or its position, read after 1, so that what arrives meanwhile continues it (`PendingSubscription.commit`).
4. The member at the broker, at the same time as 3.

It never writes to a client, and never decides what a client gets.
"""

from __future__ import annotations

import asyncio

from realtime.broker.base import Broker, ClientInfo
from realtime.rooms.delivery import LocalRoom, Shell
from realtime.rooms.departures import Departures
from realtime.rooms.options import RoomOptions
from realtime.rooms.pending import PendingSubscription
from realtime.rooms.recovery import Replay, replay
from realtime.rooms.stream_reads import StreamReads
from realtime.tasks import begin


class Entering:
    """The first half of every membership on this worker."""

    __slots__ = ("_broker", "_departures", "_reads", "_shell")

    def __init__(self, broker: Broker, departures: Departures, reads: StreamReads, shell: Shell) -> None:
        self._broker = broker
        self._reads = reads
        self._departures = departures
        self._shell = shell

    async def prepare(
        self, local: LocalRoom, pending: PendingSubscription, options: RoomOptions, info: ClientInfo
    ) -> None:
        """
        Bring a pending subscription to where `commit` can follow.

        Args:
            local: its room; the machine knows the subscription already.
            pending: gets `top`, `missed` and `info`.
            options: how this subscriber is in the room.
            info: what others are to see of it.

        Raises:
            BrokerUnavailable: the caller must cancel the subscription.
        """
        assert pending in local.machine.pending, "an empty room could be closed during the first await"
        await self._open(local, pending)
        reads = options.recover and (pending.top is None or pending.since is not None)
        if options.presence or options.has_leave_hooks:
            reading = self._read_meanwhile(local, pending) if reads else None
            pending.info = await self._departures.enter(local.name, options, info)
            if reading is not None:
                await reading
        elif reads:
            await self._read(local, pending)

    async def _open(self, local: LocalRoom, pending: PendingSubscription) -> None:
        """
        Subscribe at the broker for the first member, which learns the stream's position with the room.

        A crowd that enters together waits for the first one and then goes on in one turn of the loop, so that its
        reads of the stream are shared. The lock would let it through one by one.
        """
        machine = local.machine
        if local.opening is not None:
            await asyncio.wait((local.opening,))
            if machine.is_open and (machine.presence_view is not None or not pending.watches):
                return  # it stays so: a room with a pending subscription is not closed
        async with local.lock:
            if machine.is_open and (machine.presence_view is not None or not pending.watches):
                return
            opening = local.opening = asyncio.get_running_loop().create_future()
            try:
                await self._open_locked(local, pending)
            finally:
                local.opening = None
                opening.set_result(None)

    async def _open_locked(self, local: LocalRoom, pending: PendingSubscription) -> None:
        """Do what the first member, and the first watcher, have to wait for."""
        machine = local.machine
        assert local.lock.locked(), "two first members would subscribe twice"
        if not machine.is_open:
            await self._broker.subscribe(local.name)
            if machine.recovers:
                pending.top = await self._broker.position(local.name, retention=machine.options.retention)
            self._shell.perform(local, machine.opened(pending.top))
        assert machine.is_open, "only `closed` closes it, and that needs the lock"
        if pending.watches and machine.presence_view is None:
            await self._load_view(local)

    async def _load_view(self, local: LocalRoom) -> None:
        """Read the members for the first watcher. The view exists before: joins and leaves arrive meanwhile."""
        assert local.lock.locked(), "two first watchers would begin two views"
        view = local.machine.begin_view()
        try:
            with view.listening() as arrivals:
                answer = await self._broker.members(local.name)
        except BaseException:
            local.machine.drop_view()
            raise
        view.load(arrivals.applied_to(answer))

    def _read_meanwhile(self, local: LocalRoom, pending: PendingSubscription) -> asyncio.Task[None]:
        """Read for a pending subscription in the background. A caller that fails in between need not await it."""
        reading = begin(self._read(local, pending))
        reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        return reading

    async def _read(self, local: LocalRoom, pending: PendingSubscription) -> None:
        """
        Read the position, or the stream after the client's own, and give it to the machine. The broker's subscription
        is in force by now, so nothing falls between the page and what arrives.
        """
        retention = local.machine.options.retention
        if pending.since is None:
            top, missed = await self._broker.position(local.name, retention=retention), Replay(recovered=False)
        else:
            page = await self._reads.read(local.name, pending.since, retention)
            top, missed = page.top, replay(pending.since, page)
        if pending.is_undecided:  # else it was cancelled meanwhile
            self._shell.perform(local, local.machine.positioned(pending, top, missed))
