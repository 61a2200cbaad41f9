"""
Workers for tests of the primary's parts: a real handle and a real channel, and a test that plays the worker's end.

Nothing here runs by itself. `WorkerEnd.receive` returns what the primary has sent, and closes the descriptors in it.
`PrimaryEnd` is the other way round: a link for tests of a worker's parts, and a test that plays the primary.
"""

from __future__ import annotations

import os
from typing import Any

from sticky.handoff.channel import Channel, ChannelClosed, Kind, Received
from sticky.handoff.messages import Handoff, Sent, from_primary, from_worker
from sticky.handoff.worker_handle import WorkerHandle
from sticky.keys.hashing import Slot
from sticky.lifetime import Lifetime
from sticky.worker.primary_link import PrimaryLink


class WorkerEnd:
    """One worker: `handle` is the primary's side, `channel` the worker's."""

    def __init__(self, slot: int, *, worker_id: str = "", journal: int | None = None) -> None:
        ours, theirs = Channel.pair(from_worker)
        self.channel = Channel(theirs, from_primary)
        self.handle = WorkerHandle(
            Slot(slot),
            1000 + slot,
            ours,
            worker_id=worker_id or f"w{slot}",
            generation=1,
            now=0.0,
            lifetime=Lifetime().draw(),
            journal=journal,
        )

    def receive(self) -> list[Any]:
        """Return the messages of the primary. Each of their descriptors is closed, as by a worker that has ended."""
        messages = []
        try:
            for received in self.channel.receive():
                assert isinstance(received, Received), received
                if received.fd is not None:
                    os.close(received.fd)
                messages.append(received.message)
        except ChannelClosed:
            pass
        return messages

    def handoffs(self) -> list[Handoff]:
        """Return the handoffs among the messages of the primary."""
        return [message for message in self.receive() if isinstance(message, Handoff)]

    def fill(self) -> None:
        """Make the channel full from the primary's side, with events that `receive` returns."""
        while self.handle.channel.send(Kind.EVENT, "filler", {"padding": "x" * 1000}):
            pass

    def close(self) -> None:
        for handoff in (*self.handle.unacked, *self.handle.waiting):
            handoff.sock.close()
        self.receive()
        self.channel.close()
        self.handle.channel.close()


class WatchedChannels:
    """Notes which workers' channels the dispatcher wants to write to."""

    def __init__(self) -> None:
        self.wanted: set[str] = set()

    def wants_write(self, worker: WorkerHandle, wanted: bool) -> None:
        (self.wanted.add if wanted else self.wanted.discard)(worker.worker_id)


class PrimaryEnd:
    """Both ends of a channel: `link` is the worker's."""

    def __init__(self) -> None:
        self.channel, theirs = Channel.pair(from_worker)
        self.worker_channel = Channel(theirs, from_primary)
        self.link = PrimaryLink(self.worker_channel)

    def received(self) -> list[Any]:
        """Return the worker's messages, without those of `fill`."""
        found = []
        for received in self.channel.receive():
            assert isinstance(received, Received), received
            if not isinstance(received.message, Sent):
                found.append(received.message)
        return found

    def fill(self) -> None:
        """Leave no room in the channel."""
        while self.link.send(Kind.MESSAGE, "all", "x" * 1000):
            pass

    def drain(self) -> None:
        """Make room again. The channel had nothing but filler."""
        while self.channel.receive():
            pass

    def close(self) -> None:
        self.channel.close()
        self.worker_channel.close()
