"""
The worker's end checks the messages of its primary. A primary that sends an unreadable message counts as lost: the
worker serves the connections that it has, and adopts no new one. The primary sees the channel end, and gives every
other connection to another worker.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from sticky.handoff.channel import Channel, ChannelClosed, Kind, Received
from sticky.handoff.messages import Beat, Nack, Ready, from_primary, from_worker
from sticky.keys.affinity import AffinitySettings
from sticky.worker.adopted import Adopted
from sticky.worker.worker import Worker
from tests.sticky.test_channel import HEADER
from tests.support.aio import run_async
from tests.support.edge import open_descriptors

encode = msgspec.msgpack.encode
BOOT: dict[str, Any] = {
    "slot": 0,
    "slots": 1,
    "worker_id": "n-0-1",
    "node": "n",
    "generation": 1,
    "config": None,
    "affinity": AffinitySettings().to_builtins(),
    "secret": b"s" * 32,
    "heartbeat_s": 0.01,
    "orphan_grace_s": 0.0,
}


class Run:
    """A worker that runs, and the primary's end of its channel."""

    def __init__(self, **boot: Any) -> None:
        self.primary, theirs = Channel.pair(from_worker)
        self.worker = Worker(Channel(theirs, from_primary), {**BOOT, **boot})
        self.adopted: list[Adopted] = []
        self.drained: list[float] = []

    async def until_ended(self, **handlers: Any) -> None:
        running = self.worker.run(on_connection=self.adopted.append, on_drain=self._drain, **handlers)
        await asyncio.wait_for(running, 30)

    async def _drain(self, deadline_s: float) -> None:
        self.drained.append(deadline_s)

    async def hear(self, kind: type[Any]) -> Any:
        """Return what the worker says of one kind."""
        while True:
            for received in self.primary.receive():
                assert isinstance(received, Received), received
                if isinstance(received.message, kind):
                    return received.message
            await asyncio.sleep(0.001)


def a_socket() -> list[int]:
    return [socket.socket().detach()]


@pytest.mark.parametrize(
    ("data", "make"),
    [
        (b"\xc1", list),
        (b"", list),
        (encode([99]), list),
        (encode([Kind.READY]), list),
        (encode([Kind.HANDOFF, b"", 1]), a_socket),
        (encode([Kind.HANDOFF, b"", 1, *HEADER]), list),
        (encode([Kind.DRAIN, "soon"]), a_socket),
        (encode([Kind.DRAIN, -1.0]), list),
    ],
)
@run_async
async def test_a_primary_that_cannot_be_understood_is_as_good_as_gone(
    data: bytes, make: Callable[[], list[int]]
) -> None:
    run = Run()
    before = open_descriptors()
    fds = make()
    ours, client = socket.socketpair()
    socket.send_fds(run.primary.sock, [data], fds)
    run.primary.send(Kind.HANDOFF, 2, *HEADER, fd=ours.fileno())
    for fd in [*fds, ours.detach(), client.detach()]:
        os.close(fd)
    await run.until_ended()
    assert run.worker.orphaned
    assert run.drained == [0]
    assert not run.adopted, "what came after it is the primary's to bring elsewhere"
    assert all(isinstance(each, Received) for each in run.primary.receive()), "its last words"
    with pytest.raises(ChannelClosed):
        run.primary.receive()
    run.primary.close()
    assert open_descriptors() <= before


@run_async
async def test_a_descriptor_that_is_no_socket_is_not_adopted_and_costs_nothing_else() -> None:
    run = Run()
    running = asyncio.ensure_future(run.until_ended())
    fd = os.open("/dev/null", os.O_RDONLY)
    run.primary.send(Kind.HANDOFF, 7, *HEADER, fd=fd)
    os.close(fd)
    assert (await run.hear(Nack)).number == 7
    run.primary.send(Kind.DRAIN, 1.0)
    await running
    assert not run.adopted
    run.primary.close()


@pytest.mark.parametrize("load", [lambda: {"a": b"bytes"}, lambda: dict[str, int]()["a"], lambda: {"a": "x" * 300_000}])
@run_async
async def test_statistics_that_cannot_be_told_do_not_silence_a_worker(load: Callable[[], Any]) -> None:
    run = Run()
    run.worker.ready()
    running = asyncio.ensure_future(run.until_ended(statistics=load))
    await run.hear(Ready)
    for _ in range(2):
        assert (await run.hear(Beat)).statistics == {}
    run.primary.send(Kind.DRAIN, 1.0)
    await running
    run.primary.close()
