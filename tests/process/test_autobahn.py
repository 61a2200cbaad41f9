"""
Autobahn's cases against an echo on the transport that moves: as good while the server is reloaded every second.

Real processes. Autobahn's test suite sends what is legal and what is not: fragments, control frames between them, bytes
of UTF-8 one by one, large messages, compressed ones. Its verdict on each case without reloads is what counts as good. A
reload moves the connections of the cases that are open, in the middle of what they send and receive.
tests/realtime/transport/test_autobahn_moves.py has thousands of moves, in one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

import pytest

from tests.support.aio import run_async_for
from tests.support.autobahn import run_cases, worse_again
from tests.support.server import ROOT, RunningServer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")]  # of kosoku

ECHO = ROOT / "tests" / "support" / "echo_app.py"
EVERY_S = 1.0
MANY = 60  # moves

# What is run, and how many cases at once: each reload meets some in the middle. Left out are most of the thousands of
# compressed messages in 12.x and 13.x, which take an hour. 13.x asks the server to take no context over.
GROUPS = (
    (("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"), 16),
    (("9.*", "12.1.11", "12.2.5", "12.3.4", "13.1.11", "13.2.5"), 6),
)

# What cases do on purpose is no flood here, and no message is too large.
OPTIONS = (
    *("--sticky", "none", "--compression", "--drain", "5m", "--migrate-within", "1m"),
    *("--message-bytes", "32MiB", "--outbound-bytes", "256MiB", "--outbound", "5m"),
    *("--control-frames-per-second", "0", "--fragments-per-second", "0", "--segments-per-second", "0"),
)


@contextlib.asynccontextmanager
async def reloading(server: RunningServer) -> AsyncIterator[None]:
    """Have the server reloaded every second."""
    over = asyncio.Event()

    async def reload() -> None:
        while not over.is_set():
            server.send_signal(signal.SIGHUP)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), EVERY_S)

    task = asyncio.create_task(reload())
    try:
        yield
    finally:
        over.set()
        await task


def moved(server: RunningServer) -> int:
    """Return how many connections have moved."""
    return sum(int(each[1]) for each in server.log.find_all(r"connections moved moved=(\d+)"))


@run_async_for(1700)
async def test_cases_are_as_good_while_the_server_is_reloaded_every_second() -> None:
    with RunningServer(ECHO, *OPTIONS) as server:
        server.wait_until_full()
        url, before = server.websocket_url, {}
        for cases, at_once in GROUPS:
            before |= await run_cases(url, cases, at_once=at_once)
        assert len(before) > 300
        rounds, late = 0, []
        async with reloading(server):
            while moved(server) < MANY:
                rounds += 1
                for cases, at_once in GROUPS:
                    found, once = await worse_again(url, before, cases, at_once=at_once)
                    assert found == [], f"round {rounds}"
                    late += once
        generation = server.status()["reload"]["generation"]
        print(f"{rounds} rounds, {moved(server)} moves, {generation - 1} reloads; worse once: {late}")
        server.stop(signal.SIGQUIT)
        assert server.log.find_all("connection not moved|lost in a move|drain deadline|Traceback") == []
