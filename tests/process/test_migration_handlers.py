"""
Handlers that run when their connection is to move: they end first, on the worker where they began, within a bound.

Real processes. A handler of the application ends when the test says so.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.process.test_migration import app as app  # the fixture
from tests.process.test_migration import pids, running
from tests.process.test_migration_faults import addresses_of
from tests.support.aio import eventually, run_async_for
from tests.support.crowd import APP, join, where

pytestmark = pytest.mark.slow

BEGUN = "handler begun"
SLOW = f'''
@app.rpc("slow")
async def slow(conn):
    logging.getLogger("realtime.app").warning("{BEGUN}")
    while HERE.with_suffix(".slow").exists():
        await asyncio.sleep(0.02)
    conn.state["done"] = True
    return {{"pid": os.getpid()}}


@app.rpc("done")
def done(conn):
    return {{"done": conn.state.get("done", False)}}
'''


@pytest.fixture
def slow(app: Path) -> None:
    """Make the application one whose handler `slow` runs until a file is gone."""
    app.write_text(APP + SLOW)
    app.with_suffix(".slow").touch()


@pytest.mark.usefixtures("slow")
@run_async_for(120)
async def test_a_handler_ends_on_the_old_worker_and_its_connection_moves_then(app: Path) -> None:
    with running(app, "--sticky", "ip", "--migrate-within", "60s") as server:
        busy, idle = [await join(server, each) for each in addresses_of(0, 2)]
        source = pids(server)[0]
        answer = asyncio.create_task(busy.ask("rpc", method="slow", data={}))
        await asyncio.to_thread(server.log.wait_for, BEGUN)
        server.send_signal(signal.SIGHUP)

        async def has_moved() -> bool:
            return bool((await where(idle))["moves"])

        await eventually(has_moved, every_s=0.05)
        assert not answer.done(), "a handler that runs holds up no other connection"
        app.with_suffix(".slow").unlink()
        assert (await answer)["data"] == {"pid": source}
        assert await where(busy) == {"slot": 0, "moves": 1, "from": 0}
        assert (await busy.ask("rpc", method="done", data={}))["data"] == {"done": True}, "what it did came along"
        assert len(server.log.find_all(BEGUN)) == 1, "it ran once"


@pytest.mark.usefixtures("slow")
@run_async_for(120)
async def test_a_handler_that_exceeds_the_bound_keeps_its_connection_which_has_to_reconnect(app: Path) -> None:
    with running(app, "--sticky", "ip", "--migrate-within", "0.3s", "--drain", "2s") as server:
        client = await join(server, addresses_of(0, 1)[0])
        answer = asyncio.create_task(client.ask("rpc", method="slow", data={}))
        await asyncio.to_thread(server.log.wait_for, BEGUN)
        server.send_signal(signal.SIGHUP)
        await asyncio.to_thread(server.log.wait_for, 'connection not moved .*reason="a handler runs"')
        assert (await client.wait_closed())[0] == 3001
        assert isinstance((await asyncio.gather(answer, return_exceptions=True))[0], ConnectionResetError)
