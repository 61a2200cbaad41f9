"""
A worker that a test kills: it adds members of its own to rooms, reports that, and waits for its end.

Run as `python -m tests.realtime.broker.mortal URL PREFIX NAME ROOM...`. It is a member of each room; in the last one
without an announcement. At Redis, its lease is as short as that of the test that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import realtime.broker.members
import realtime.broker.redis
from realtime.broker.base import ClientInfo, Room
from tests.realtime.broker.workers import Place

ROOT = Path(__file__).resolve().parents[3]


def info_of(place: Place, name: str) -> ClientInfo:
    """Return the member of that worker."""
    return ClientInfo(f"{place.own}-{name}", f"client-of-{name}")


@contextlib.asynccontextmanager
async def mortal(
    place: Place, name: str, *rooms: Room, lasting: bool = False
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Have such a worker, whose members are present; `lasting` ones, where that is asked for."""
    argv = [sys.executable, "-m", "tests.realtime.broker.mortal", place.url, place.own, name, *rooms]
    waits = environ(lasting=lasting)
    process = await asyncio.to_thread(subprocess.Popen, argv, stdout=subprocess.PIPE, cwd=ROOT, env=waits)
    assert process.stdout is not None, "piped"
    try:
        # In a thread, so that the workers of this loop go on: one that stood still meanwhile would be reaped.
        assert await asyncio.to_thread(process.stdout.readline) == b"present\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def environ(*, lasting: bool) -> dict[str, str]:
    waits = {"TEST_LASTING": str(int(lasting)), "TEST_LEASE_S": str(realtime.broker.members.LEASE_S)}
    waits |= {"TEST_ROUND_S": str(realtime.broker.redis.ROUND_S)}
    return {**os.environ, "PYTHONPATH": str(ROOT), **waits}


async def live(url: str, own: str, name: str, rooms: list[Room]) -> None:
    realtime.broker.members.LEASE_S = float(os.environ["TEST_LEASE_S"])
    realtime.broker.redis.ROUND_S = float(os.environ["TEST_ROUND_S"])
    place = Place("", url, own)
    worker = place.make(name)
    await worker.broker.start(worker.heard)
    for room in rooms:
        info, lasting = info_of(place, name), os.environ["TEST_LASTING"] == "1"
        await worker.broker.add_member(room, info, announce=room != rooms[-1], lasting=lasting)
    print("present", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(live(*sys.argv[1:4], [Room(each) for each in sys.argv[4:]]))
