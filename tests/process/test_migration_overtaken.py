"""
Changes of the slots that overtake each other: connections are on their way to a slot that is removed before they came.

Real processes. The application holds a move where the target has the connections and does not serve them yet.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.process.test_migration import app as app  # the fixture
from tests.process.test_migration import command, running
from tests.support.aio import eventually, run_async_for
from tests.support.crowd import HELD, home, join, where

MORE_THAN_A_BATCH = 70


@run_async_for(170)
async def test_what_is_on_its_way_to_a_slot_that_is_removed_moves_on(app: Path) -> None:
    """The worker that takes a first batch over begins to drain; the second is refused, and its source drains too."""
    address = next(
        each for each in (f"127.0.65.{n}" for n in range(1, 250)) if (home(each, 3), home(each, 4)) == (2, 3)
    )
    with running(app, "--sticky", "ip", workers=3) as server:
        clients = [await join(server, address) for _ in range(MORE_THAN_A_BATCH)]
        app.with_suffix(".hold").touch()
        command(server, "scale", workers=4)
        await asyncio.to_thread(server.log.wait_for, HELD, times=MORE_THAN_A_BATCH - 6)
        command(server, "scale", workers=2)
        for slot in (2, 3):
            await asyncio.to_thread(server.log.wait_for, f"worker draining slot={slot}")
        app.with_suffix(".hold").unlink()

        async def are_home() -> bool:
            assert [each.closed for each in clients] == [None] * len(clients), "no connection is closed"
            return {(await where(each))["slot"] for each in clients} == {home(address, 2)}

        await eventually(are_home, every_s=0.1)
        for slot in (2, 3):
            await asyncio.to_thread(server.log.wait_for, f"worker exited slot={slot} .*status 0")
        assert [each.closed for each in clients] == [None] * len(clients)
        for client in clients:
            await client.close()
