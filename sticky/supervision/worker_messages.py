"""
Receives the messages of workers, checks them, and calls the part of the primary that each is for.

Runs in the primary. This is the edge between it and a worker that may be broken. A message that cannot be read, or is
illegal after the messages before it (`OutOfTurn`), costs its worker and nothing else: the supervisor condemns it. No
descriptor that came with a message is lost: either its handler owns it, or it is closed here.

It never sends a message and never makes a transition.
"""

from __future__ import annotations

import logging
import socket
from typing import Final, Protocol

from sticky.errors import OutOfTurn
from sticky.handoff import messages
from sticky.handoff.channel import ChannelClosed, Received, Unreadable, close_all, connection_from
from sticky.handoff.dispatcher import Dispatcher
from sticky.handoff.worker_handle import WorkerHandle, WorkerState
from sticky.loop.log_lines import CONNECTION_LOST, log
from sticky.loop.poller import Poller
from sticky.supervision.inspections import Inspections
from sticky.supervision.message_relay import MessageRelay
from sticky.supervision.takeover import Takeover

ERROR_REASON: Final = "an error in the primary, see above"  # a handler of ours has raised


class TakesBack(Protocol):
    """Places a connection whose next request belongs to another worker: the acceptor."""

    def take_back(
        self, sock: socket.socket, peer_address: str, port: int, received: bytes, is_relayed: bool = False
    ) -> None:
        """Take over a connection that a worker gives back, with the bytes that were read from it."""


class MessageActions(Protocol):
    """What messages have the supervisor do."""

    def worker_ready(self, worker: WorkerHandle) -> None:
        """Put a worker that has booted into service. Raises OutOfTurn where it is ready already."""

    def retire_requested(self, worker: WorkerHandle) -> None:
        """Replace a worker whose process got TERM from outside."""

    def condemn(self, worker: WorkerHandle, reason: str) -> None:
        """Kill a worker that is broken. None of its messages counts any more."""


class WorkerMessages:
    """Reads the channels of all workers."""

    def __init__(
        self,
        poller: Poller,
        actions: MessageActions,
        dispatcher: Dispatcher,
        relay: MessageRelay,
        inspections: Inspections,
        takeover: Takeover,
        *,
        acceptor: TakesBack,
        counters: dict[str, int],
    ) -> None:
        """
        Args:
            acceptor: gets each connection that a worker gives back, and owns its socket from then on.
        """
        self._poller = poller
        self._actions = actions
        self._dispatcher = dispatcher
        self._relay = relay
        self._inspections = inspections
        self._takeover = takeover
        self._acceptor = acceptor
        self._counters = counters

    def receive(self, worker: WorkerHandle) -> bool:
        """Receive and handle one round of messages. Return False when the channel has ended."""
        try:
            received = worker.channel.receive()
        except ChannelClosed:
            return False
        handled = 0
        try:
            for message in received:
                handled += 1
                if isinstance(message, Unreadable):
                    self._actions.condemn(worker, message.reason)
                else:
                    self._handle(worker, message)
                if worker.state in (WorkerState.CONDEMNED, WorkerState.GONE):
                    break
        except OutOfTurn as error:
            self._actions.condemn(worker, str(error))
        except Exception:  # noqa: BLE001 - `failed` logs it
            self._poller.failed(lambda: self._actions.condemn(worker, ERROR_REASON))
        finally:
            close_all(each.fd for each in received[handled:] if isinstance(each, Received))
        return True

    def _handle(self, worker: WorkerHandle, received: Received) -> None:
        """
        Act on one message.

        Raises:
            OutOfTurn: it is illegal after the messages before it.
        """
        message = received.message
        if isinstance(message, messages.Ack):
            self._dispatcher.acknowledge(worker, message.adopted, message.settled)
        elif isinstance(message, messages.Beat):
            worker.record_heartbeat(message.connections, message.adopted, message.statistics, self._poller.now())
        elif isinstance(message, messages.Nack):
            self._dispatcher.take_back(worker, message.number)
        elif isinstance(message, messages.Ended):
            self._dispatcher.ended(worker, message.counts, message.arrived)
        elif isinstance(message, messages.KeysAway):
            self._dispatcher.away.keys_away(worker, message.keys, message.seen, message.request, message.is_all)
        elif isinstance(message, messages.KeysEnded):
            self._dispatcher.away.keys_ended(worker, message.keys, message.seen)
        elif isinstance(message, messages.KeysStay):
            self._dispatcher.away.keys_stay(worker, message.keys, message.seen)
        elif isinstance(message, messages.Ready):
            self._actions.worker_ready(worker)
        elif isinstance(message, messages.BootFailed):
            worker.boot_error = message.text
        elif isinstance(message, messages.Retire):
            self._actions.retire_requested(worker)
        elif isinstance(message, messages.Inspected):
            self._inspections.answer(worker, message.text)
        elif isinstance(message, messages.Sent):
            self._relay.relay(worker, message.name, message.data)
        elif isinstance(message, messages.Held):
            is_unknown = "" in message.counts  # it does not know the addresses
            counts: tuple[dict[str, int], dict[str, int]] = ({}, message.counts)
            self._dispatcher.ended(worker, *(reversed(counts) if is_unknown else counts))
        elif isinstance(message, messages.WorkerIdentity):
            self._takeover.identified(worker, message)
        elif isinstance(message, messages.GiveBack):
            self._give_back(worker, message, received)
        else:
            raise AssertionError(f"no handler for {type(message).__name__}, which `from_worker` decodes")

    def _give_back(self, worker: WorkerHandle, message: messages.GiveBack, received: Received) -> None:
        """
        Pass on a connection that a worker gives back, because its next request belongs to another slot.

        Raises:
            OutOfTurn: the descriptor is not a connection.
        """
        if received.fd is None:
            self._counters["lost_given_back"] += 1
            reason = "out of file descriptors on its way between workers (ulimit -n)"
            log(logging.ERROR, CONNECTION_LOST, slot=worker.slot, reason=reason)
            return
        try:
            sock = connection_from(received.fd)
        except OSError as error:
            raise OutOfTurn(f"it gives back what is no connection of a client ({error.strerror})") from error
        self._poller.guard(
            lambda: self._acceptor.take_back(
                sock, message.peer_address, message.port, received.carried, message.is_relayed
            ),
            on_failed=sock.close,
        )
