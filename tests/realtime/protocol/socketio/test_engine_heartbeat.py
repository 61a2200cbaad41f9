"""
The heartbeat of Engine.IO connections, on a clock that jumps: its times are exact.

The sentences are those of the Engine.IO protocol 4, "Heartbeat", and of the official suite, which looks at the very end
of the time for a pong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from realtime.protocol.socketio.base import EngineLimits
from realtime.protocol.socketio.engine import EngineConnection
from realtime.protocol.socketio.packets import PING, EngineType, payload
from realtime.protocol.socketio.server import SocketIO
from realtime.timing.timer_wheel import TICK_S, TimerWheel, run_wheel
from realtime.transport.base import Handshake
from tests.support.engine_server import Recorder
from tests.support.virtual_time import VirtualLoop, run_virtually

MOMENT_S = 0.001
INTERVALS = [(0.3, 0.2), (1.0, 0.5), (25.0, 20.0), (25.0, 0.2), (1.0, 20.0), (600.0, 600.0)]


class Client:
    """A connection that polls, of which nothing is polled."""

    def __init__(self, ping_s: float, pong_s: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.wheel = TimerWheel(self.loop.time())
        self._turning = self.loop.create_task(run_wheel(self.wheel))
        server = SocketIO(Recorder, wheel=self.wheel, limits=EngineLimits(ping_s, pong_s))
        self.engines = server.engines
        self.begun_s = self.loop.time()
        self.connection: EngineConnection = server.begin(Handshake("192.0.2.1"), None)
        user = self.connection.user
        assert isinstance(user, Recorder)
        self.user = user

    def close(self) -> None:
        self._turning.cancel()

    async def at(self, after_s: float) -> None:
        """Wait until so many seconds behind the handshake."""
        await asyncio.sleep(max(self.begun_s + after_s - self.loop.time(), 0))

    def pings(self) -> int:
        """Return how many pings came since the last look."""
        assert self.connection.polling is not None
        frames = self.connection.polling.take()
        if not frames:
            return 0
        body, _ = payload(frames, 1000)
        assert set(body.split(b"\x1e")) == {b"2"}
        return body.count(b"2")

    def pong(self) -> None:
        self.connection.take(EngineType.PONG, "")


def virtually(test: Coroutine[Any, Any, None]) -> None:
    run_virtually(test)


@pytest.mark.parametrize(("ping_s", "pong_s"), INTERVALS)
def test_a_client_that_does_nothing_is_gone_at_interval_and_time_out_and_not_a_moment_later(
    ping_s: float, pong_s: float
) -> None:
    async def run() -> None:
        client = Client(ping_s, pong_s)
        await client.at(ping_s + pong_s - MOMENT_S)
        assert client.user.reasons == []
        await client.at(ping_s + pong_s + MOMENT_S)
        assert client.user.reasons == ["ping timeout"]
        assert client.engines.transport_of(client.connection.sid) is None
        client.close()

    virtually(run())


@pytest.mark.parametrize(("ping_s", "pong_s"), INTERVALS)
def test_a_ping_is_due_an_interval_after_the_handshake_and_after_each_pong(ping_s: float, pong_s: float) -> None:
    async def run() -> None:
        client = Client(ping_s, pong_s)
        late_s = 0.0
        for _ in range(3):
            await client.at(late_s + ping_s - MOMENT_S)
            assert client.pings() == 0
            await client.at(late_s + ping_s + (2 * TICK_S if min(ping_s, pong_s) >= 2 else MOMENT_S))
            assert client.pings() == 1
            await client.at(late_s + ping_s + pong_s - MOMENT_S)
            client.pong()
            late_s += ping_s + pong_s - MOMENT_S
        assert client.user.reasons == []
        client.close()

    virtually(run())


def test_a_pong_that_was_not_asked_for_changes_nothing() -> None:
    async def run() -> None:
        client = Client(0.3, 0.2)
        for number in range(1, 6):
            await client.at(number * 0.05)
            client.pong()
        await client.at(0.3 + MOMENT_S)
        assert client.pings() == 1
        client.close()

    virtually(run())


def test_a_second_pong_changes_nothing() -> None:
    async def run() -> None:
        client = Client(0.3, 0.2)
        await client.at(0.35)
        client.pong()
        await client.at(0.45)
        client.pong()
        client.pings()
        await client.at(0.65 + MOMENT_S)
        assert client.pings() == 1
        client.close()

    virtually(run())


def test_messages_are_no_pongs_and_put_off_no_ping() -> None:
    async def run() -> None:
        client = Client(0.3, 0.2)
        client.connection.user = Recorder(client.connection)
        for number in range(1, 10):
            await client.at(number * 0.05)
            client.connection.take(EngineType.MESSAGE, "x")
        await client.at(0.5 + MOMENT_S)
        assert client.connection.reason == "ping timeout"
        client.close()

    virtually(run())


def test_the_time_for_a_pong_runs_from_the_ping_and_not_from_the_poll_that_brings_it() -> None:
    async def run() -> None:
        client = Client(0.3, 0.2)
        await client.at(0.45)
        assert client.pings() == 1
        await client.at(0.5 + MOMENT_S)
        assert client.user.reasons == ["ping timeout"]
        client.close()

    virtually(run())


def test_a_client_whose_user_reads_nothing_is_not_taken_for_gone() -> None:
    async def run() -> None:
        client = Client(0.3, 0.2)
        client.connection.pause_reading()
        await client.at(10)
        assert client.user.reasons == []
        client.connection.resume_reading()
        client.pong()
        await client.at(10.2)
        assert client.user.reasons == []
        client.close()

    virtually(run())


def test_such_a_client_is_gone_once_it_is_read_and_does_not_answer() -> None:
    async def run() -> None:
        client = Client(0.3, 0.2)
        client.connection.pause_reading()
        await client.at(10)
        client.connection.resume_reading()
        await client.at(12)
        assert client.user.reasons == ["ping timeout"]
        client.close()

    virtually(run())


def test_a_loop_that_stood_still_reads_pongs_before_it_takes_a_client_for_gone() -> None:
    async def run() -> None:
        client = Client(0.3, 0.2)
        loop = client.loop
        assert isinstance(loop, VirtualLoop)
        await client.at(0.35)
        loop.spend(5)  # while the pong waits in the kernel
        await asyncio.sleep(TICK_S / 2)
        assert client.user.reasons == []
        client.pong()
        await asyncio.sleep(TICK_S)
        assert client.user.reasons == []
        client.close()

    virtually(run())


def test_a_session_that_has_ended_is_not_pinged() -> None:
    async def run() -> None:
        client = Client(0.3, 0.2)
        client.connection.close("forced close")
        await client.at(5)
        assert client.connection.polling is not None
        assert PING not in client.connection.polling.waiting
        assert client.user.reasons == ["forced close"]
        client.close()

    virtually(run())
