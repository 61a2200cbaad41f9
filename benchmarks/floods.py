"""
One client floods, and another one is served: `python -m benchmarks.floods`, about two minutes.

For each kind of flood, on our WebSockets and on those of a hosted application, a real server of one worker is flooded
by a process of its own, for some seconds: whenever it was closed it comes back. Meanwhile a well-behaved client calls
`echo` a hundred times a second. The table says what its calls took, how the flood was ended, and whether the worker was
ever silent for more than a heartbeat (it would have been killed after two). The first row is without a flood.
`--seconds N`, `--only NAME`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

from websockets.asyncio.client import ClientConnection, connect

from benchmarks.flooder import KINDS, OURS
from benchmarks.servers import Ours
from sticky.loop.log_lines import WORKER_HUNG

PAUSE_S: Final = 0.01
HOSTED: Final = "/hosted/echo"
LINE: Final = "{:<11}{:<20}{:>6}{:>9}{:>9}{:>9}  {:<13}{}"
OPTIONS: Final = ("--commands-per-second", "200", "--heartbeat", "1s", "--hung", "2s")


async def calls(socket: ClientConnection, seconds: float) -> list[float]:
    """Call `echo` at a steady pace, one call after another. Return what each took, in seconds."""
    took: list[float] = []
    give_up_at = time.monotonic() + seconds
    while time.monotonic() < give_up_at:
        begin = time.perf_counter()
        await socket.send(json.dumps({"id": len(took) + 2, "rpc": {"method": "echo", "data": len(took)}}))
        while True:
            reply = json.loads(await socket.recv())
            if reply:
                break
            await socket.send("{}")  # a ping
        assert reply["rpc"]["data"] == len(took), reply
        took.append(time.perf_counter() - begin)
        await asyncio.sleep(PAUSE_S)
    return took


async def flooding(port: int, path: str, name: str, ended: Counter[int]) -> None:
    """Flood, and again when it was closed."""
    while True:
        argv = [sys.executable, "-m", "benchmarks.flooder", str(port), path, name]
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        try:
            assert process.stdout is not None
            code, _ = json.loads(await process.stdout.readline())
            ended[code] += 1
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def row(path: str, name: str, seconds: float) -> str:
    """Measure one kind of flood, against a server of its own. Return a line of the table."""
    ended: Counter[int] = Counter()
    with (
        tempfile.TemporaryDirectory() as directory,
        Ours(Path(directory), *OPTIONS, target="benchmarks/flooded_app.py") as server,
    ):
        before = server.groups()["workers"]
        async with connect(f"ws://127.0.0.1:{server.port}{OURS}", compression=None, max_size=None) as socket:
            await socket.send('{"id":1,"connect":{}}')
            await socket.recv()
            flood = asyncio.create_task(flooding(server.port, path, name, ended)) if name in KINDS else None
            took = sorted(await calls(socket, seconds))
            if flood is not None:
                flood.cancel()
                await asyncio.gather(flood, return_exceptions=True)
        is_same = server.groups()["workers"] == before and WORKER_HUNG not in server.log()
    took_ms = [each * 1e3 for each in (took[len(took) // 2], took[len(took) * 99 // 100], took[-1])]
    codes = ", ".join(f"{code} ({times})" for code, times in sorted(ended.items())) or "-"
    health = "none missed" if is_same else "MISSED"
    return LINE.format(path.split("/")[1], name, len(took), *(f"{each:.1f}" for each in took_ms), health, codes)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each kind of flood")
    parser.add_argument("--only", help="this kind alone")
    arguments = parser.parse_args()
    print(LINE.format("socket", "flood", "calls", "p50 ms", "p99 ms", "max ms", "heartbeats", "ended by (times)"))
    cases = [(OURS, "none"), *((OURS, name) for name in KINDS)]
    cases += [(HOSTED, name) for name, kind in KINDS.items() if kind.code == 1008]
    for path, name in cases:
        if arguments.only in (None, name):
            print(await row(path, name, arguments.seconds), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
