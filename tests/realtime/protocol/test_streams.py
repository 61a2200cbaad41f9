"""What may wait in one stream, without a server: `Stream` as a session writes to it."""

from __future__ import annotations

import asyncio
from typing import Any

from realtime.transport.stream import EVENTS, Stream, StreamLimits
from tests.support.aio import run_async


@run_async
async def test_what_a_client_missed_may_be_of_any_size_and_what_it_does_not_take_may_not() -> None:
    slow, sending, taken = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Observed(Stream):
        def on_slow(self) -> None:
            slow.set()

    stream = Observed(EVENTS, EVENTS, StreamLimits(outbound_bytes=100))

    async def send(message: Any) -> None:
        sending.set()
        await taken.wait()

    pumping = asyncio.create_task(stream.pump(send))
    stream.write(b"what it missed" * 100)
    stream.write(b"that it joined, in the same turn")
    await sending.wait()
    assert not slow.is_set()
    stream.write(b"the next")
    await slow.wait()
    taken.set()
    stream.close(3008, "slow")
    await pumping
    assert stream.buffered() == 0
