"""
Relays messages between the parts of an application: from the primary or a worker to one worker, to all, or to the
primary.

Runs in the primary, through which all of them go. It never reads the data of a message, and keeps none: what a worker
does not receive yet waits in its outbox (worker_handle.py), which is bounded.

**When a receiver's channel is full**, its sender is paused: the primary receives nothing from it, so that the sender's
own `send` soon reports a full channel. The pause ends when every receiver has taken its messages, and after
`PAUSE_MAX_S` in any case. A receiver that took nothing for that long is *stuck*: it pauses no sender again until its
outbox was empty once. When its outbox is full, messages for it are dropped and counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from sticky.errors import OutOfTurn
from sticky.handoff.channel import MESSAGE_MAX, Kind
from sticky.handoff.messages import DATA_DEPTH_MAX, is_shallow
from sticky.handoff.worker_handle import WorkerHandle
from sticky.loop.poller import Poller
from sticky.supervision.hooks import ClusterHooks
from sticky.supervision.workers import Workers

PRIMARY: Final = "primary"
ALL: Final = "all"
PAUSE_MAX_S: Final = 1.0  # a sender that waits longer would look hung to its own clients
CHECK_S: Final = 0.01  # how often the outboxes of a paused sender's receivers are checked


class MessageRelay:
    """Sends messages on."""

    def __init__(
        self,
        poller: Poller,
        workers: Workers,
        hooks: ClusterHooks,
        *,
        counters: dict[str, int],
    ) -> None:
        """
        Args:
            hooks: those of "message" get each message for the primary: {"from": "slot:3", "data": …}.
        """
        self._poller = poller
        self._workers = workers
        self._hooks = hooks
        self._counters = counters
        self._paused: set[int] = set()  # pids of senders
        self._stuck: set[int] = set()  # pids of receivers

    def relay(self, sender: WorkerHandle, to: str, data: Any) -> None:
        """
        Relay a message from a worker. "all" is every other live worker. A name that no live worker has is no error:
        the worker may just have ended.

        Raises:
            OutOfTurn: the message is larger than it may be, or nested deeper.
        """
        name = f"slot:{sender.slot}"
        if to == PRIMARY:
            self._hooks.run("message", {"from": name, "data": data})
            return
        receivers = [worker for worker in self._receivers(to) if to != ALL or worker is not sender]
        try:
            encoded = _encode(data)
        except ValueError as error:
            raise OutOfTurn(str(error)) from error
        self._send(receivers, name, encoded)
        if any(self._is_behind(worker) for worker in receivers) and sender.pid not in self._paused:
            self._paused.add(sender.pid)
            self._workers.pause(sender, True)
            self._check(sender, receivers, self._poller.now() + PAUSE_MAX_S)

    def send(self, to: str, data: Any) -> int:
        """
        Send from the primary. Return the number of workers that it was sent to: one with a full outbox does not count.

        Raises:
            ValueError: the message is larger than it may be, or nested deeper.
        """
        return self._send(list(self._receivers(to)), PRIMARY, _encode(data))

    def _receivers(self, to: str) -> Iterable[WorkerHandle]:
        return (worker for slot, worker in self._workers.live.items() if to in (ALL, f"slot:{slot}"))

    def _send(self, receivers: Iterable[WorkerHandle], sender: str, data: msgspec.Raw) -> int:
        count = 0
        assert len(bytes(data)) <= MESSAGE_MAX, "a channel would refuse it, for each receiver"
        for worker in receivers:
            if worker.is_full:
                self._counters["messages_dropped"] += 1
                continue
            self._workers.send(worker, Kind.MESSAGE, sender, data)
            if not worker.outbox:
                self._stuck.discard(worker.pid)
            count += 1
        return count

    def _is_behind(self, worker: WorkerHandle) -> bool:
        """Return whether a receiver has messages to take, and may still hold a sender up."""
        return bool(worker.outbox) and worker.pid not in self._stuck and self._workers.is_live(worker)

    def _check(self, sender: WorkerHandle, receivers: list[WorkerHandle], until: float) -> None:
        """Resume a sender when no receiver is behind any more, or those that are have become stuck."""
        assert sender.pid in self._paused, "a sender has one chain of checks, which ends with its pause"
        behind = [worker.pid for worker in receivers if self._is_behind(worker)]
        if behind and self._poller.now() < until:
            self._poller.after(
                CHECK_S, lambda: self._check(sender, receivers, until), on_failed=lambda: self._resume(sender)
            )
            return
        self._stuck.intersection_update([worker.pid for worker in self._workers.live.values()])  # the others have ended
        self._stuck.update(behind)
        self._resume(sender)

    def _resume(self, sender: WorkerHandle) -> None:
        self._paused.discard(sender.pid)
        self._workers.pause(sender, False)


def _encode(data: Any) -> msgspec.Raw:
    """
    Encode data once, for all receivers.

    Raises:
        ValueError: it is larger than a message may be, or nested deeper than every process can read.
    """
    if not is_shallow(data):
        raise ValueError(f"the data of a message is nested deeper than {DATA_DEPTH_MAX}")
    encoded = msgspec.msgpack.encode(data)
    if len(encoded) > MESSAGE_MAX:
        raise ValueError(f"a message of {len(encoded)} bytes is larger than {MESSAGE_MAX}")
    return msgspec.Raw(encoded)
