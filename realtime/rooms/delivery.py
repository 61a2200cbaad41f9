"""
Writing what rooms have accepted to their members on this worker, once in each turn of the event loop.

Runs in the worker, as a part of the hub. `LocalRoom` joins the three parts of a room: the machine that decides
(room.py), the fan-out that writes (fanout.py), and the lock under which the broker's subscription changes. `Delivery`
empties the outboxes. It decides nothing: which publications, and when members are removed, is said by the machine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from realtime.broker.base import Position, Room
from realtime.log_lines import log
from realtime.rooms.fanout import Difference, Fanout, Subscriber, write_to
from realtime.rooms.options import RoomOptions
from realtime.rooms.outputs import Activation, Batch, Lost, Output
from realtime.rooms.pending import PendingState, PendingSubscription
from realtime.rooms.room import RoomMachine

logger = logging.getLogger("realtime.hub")


class LocalRoom:
    """One room on this worker."""

    __slots__ = ("fanout", "lock", "machine", "name", "opening")

    def __init__(
        self, name: Room, options: RoomOptions, difference: Difference | None, *, large: int, digest_s: float
    ) -> None:
        """
        Args:
            name: of the room.
            options: how the room is kept.
            difference: makes deltas, where the room has them.
            large: above so many members joins and leaves are deferred.
            digest_s: for so many seconds.
        """
        self.name = name
        self.machine = RoomMachine(name, options, large=large, digest_s=digest_s)
        self.fanout = Fanout(name, difference if options.delta else None, options.conflate)
        self.lock = asyncio.Lock()  # held while the subscription at the broker, or the presence view, begins or ends
        self.opening: asyncio.Future[None] | None = None  # while the first member, or the first watcher, holds the lock


class Shell(Protocol):
    """What performs the outputs of a machine: the hub."""

    is_linked: bool
    """Whether the broker can be reached."""

    def perform(self, local: LocalRoom, outputs: Sequence[Output]) -> None:
        """Do what the outputs ask for, now or in the background. Never blocks."""


class Delivery:
    """
    Empties outboxes.

    Attributes:
        delivered: publications that were written, counted once for each member.
        insufficient: members that were removed because publications are lost to them.
    """

    __slots__ = ("_scheduled", "_shell", "delivered", "insufficient")

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._scheduled: list[LocalRoom] = []
        self.delivered = 0
        self.insufficient = 0

    def schedule(self, local: LocalRoom) -> None:
        """Deliver what the room has in its outbox when this turn of the event loop ends."""
        if not self._scheduled:
            asyncio.get_running_loop().call_soon(self._flush)
        self._scheduled.append(local)

    def _flush(self) -> None:
        """Deliver everything that this turn brought: one buffer per room and encoder, one write per member."""
        scheduled, self._scheduled = self._scheduled, []  # none, where `write_out` came first
        for local in scheduled:
            try:
                self.write(local, local.machine.flush())
            except Exception:  # noqa: BLE001 - a fault of ours, in one room: the others are delivered all the same
                log(logger, logging.ERROR, "delivery failed", room=local.name, exc_info=True)
                self._shell.perform(local, local.machine.delivery_failed())

    def write_out(self) -> None:
        """
        Deliver now what this turn has brought so far. For what has to come behind it and is not of these rooms: a
        message of the cluster bus.
        """
        if self._scheduled:
            self._flush()

    def write(self, local: LocalRoom, batches: Sequence[Batch]) -> None:
        """Write batches to the members, in order, and notify those that are overrun by them."""
        self._write(local, batches)
        if local.fanout.overrun:
            self._remove_overrun(local)

    def _write(self, local: LocalRoom, batches: Sequence[Batch]) -> None:
        """Write batches. The caller must empty `fanout.overrun`."""
        for publications, changes in batches:
            if publications:
                self.delivered += local.fanout.deliver(publications)
            if changes:
                local.fanout.announce(changes)

    def admit(
        self, local: LocalRoom, pending: PendingSubscription, activation: Activation, *, base: bytes | None = None
    ) -> None:
        """Begin to write to a subscriber that the machine has made a member; `base` as in `Fanout.add`."""
        subscriber = pending.subscriber
        assert pending.state is PendingState.ACTIVE, "the machine decides which subscription becomes a member"
        self.write(local, activation.before)
        local.fanout.add(
            subscriber,
            watches=pending.watches,
            seen=activation.seen,
            encoder=pending.encoder,
            accepts=pending.accepts,
            base=base,
        )
        if activation.changes:
            write_to(subscriber, subscriber.encoder.changes(local.name, activation.changes))

    def announce_deferred(self, local: LocalRoom) -> None:
        """
        Write what waits in the outbox, and joins and leaves that a large room has deferred. A member that moves to
        another worker, or comes from one, would else miss some: each worker defers on its own.
        """
        self._shell.perform(local, local.machine.wake())
        self.write(local, local.machine.flush())

    def export_position(self, local: LocalRoom, subscriber: Subscriber) -> tuple[Position | None, bytes | None]:
        """
        Return up to which position a member has everything, None in a room without positions; and the payload that the
        next delta to it would be based on. What was to leave at the end of this turn has been written to it then.
        """
        self.announce_deferred(local)
        local.fanout.catch_up(subscriber)
        seen, base = local.fanout.export_position(subscriber)
        if not local.machine.options.recover:
            return None, base
        top = local.machine.position
        return Position(top.epoch, max(top.offset, seen)), base

    def _remove_overrun(self, local: LocalRoom) -> None:
        """Notify members for which too many keys waited; the fan-out has removed them already."""
        overrun, local.fanout.overrun = local.fanout.overrun, []
        self.insufficient += len(overrun)
        outputs = local.machine.left(len(overrun))
        for subscriber in overrun:
            log(
                logger,
                logging.WARNING,
                "x member overrun",
                room=local.name,
                connection=subscriber.connection_id,
                reason="more keys wait for it than a member may have",
            )
            subscriber.insufficient(local.name)
        self._shell.perform(local, outputs)

    def remove_all(self, local: LocalRoom, lost: Lost) -> None:
        """
        Write what was accepted before the loss, then remove and notify every member: also those that are overrun by
        what was written, which the machine counts among the lost.
        """
        log(logger, logging.WARNING, "publications lost", room=local.name, after=lost.after, members=lost.members)
        try:
            self._write(local, lost.before)
        except Exception:  # noqa: BLE001 - a fault of ours; the members are removed all the same
            log(logger, logging.ERROR, "delivery failed", room=local.name, exc_info=True)
        members = [*local.fanout.overrun, *local.fanout.clear()]
        local.fanout.overrun = []
        assert len(members) == lost.members, "the machine counts the members of the fan-out"
        self.insufficient += len(members)
        for subscriber in members:
            subscriber.insufficient(local.name)

    def statistics(self) -> dict[str, int]:
        """Count what was delivered, and members that were removed."""
        return {"delivered": self.delivered, "insufficient": self.insufficient}
