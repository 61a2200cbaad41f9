"""
A WebSocket that moves at random points of random streams: neither end may notice.

Each seed is one connection. Its client and its session write what they like, whole, in fragments, compressed, with
pings in between; the client reads seldom, so up to a megabyte is unsent; and in between the connection moves to the
other endpoint, or is offered and taken back. Order and content have to be the same as without moves.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.realtime.transport.moves import LOOPS, Chatter, on, walking

SEEDS = 120  # on each loop
STEPS = 60
OUTBOUND_BYTES = 1024 * 1024


async def walk(seed: int) -> int:
    """Walk once; return how often the connection moved with unsent bytes."""
    chance = random.Random(seed)
    laden = 0
    async with walking(is_compressed=chance.random() < 0.5, outbound_bytes=OUTBOUND_BYTES) as walker:
        walker.transport.choose_framing(binary=False)
        chatter = Chatter(walker, chance)
        reads = chance.choice([0, 0.1, 0.5])
        for _ in range(STEPS):
            step = chance.random()
            if step < 0.3:
                chatter.client()
            elif step < 0.5:
                walker.send(chance.choice([1, 2, 3, 7, 100, 5000, 2**20]))
            elif step < 0.65:
                chatter.session(most=OUTBOUND_BYTES)
            elif step < 0.75:
                if chance.random() < reads:
                    walker.receive(chance.choice([1, 1000, 100_000]))
            elif step < 0.85:
                await asyncio.sleep(0)
            else:
                laden += walker.transport.buffered() > 0

                def meanwhile() -> None:
                    if chance.random() < 0.5:
                        chatter.session(most=OUTBOUND_BYTES)

                if chance.random() < 0.75:
                    await walker.move(meanwhile, is_released_first=chance.random() < 0.5)
                else:
                    await walker.refuse(meanwhile)
        chatter.finish()
        await walker.settle()
        assert walker.ends == []
    return laden


@pytest.mark.parametrize("loop", LOOPS)
def test_neither_end_notices_that_a_connection_moves(loop: str) -> None:
    async def all_of_them() -> None:
        laden = sum([await walk(seed) for seed in range(SEEDS)])
        assert laden > SEEDS, "slow clients have moved as well"

    on(loop, all_of_them())
