"""
One client floods its worker with what costs it little: it is closed, and the others notice nothing.

Real servers and sockets. The flood goes on until the server ends it. Meanwhile others publish, and get everything in
order; the worker is the same process at the end, and was never silent. How long their calls take is in
`python -m benchmarks.floods`, and not asserted here.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator

import pytest

from benchmarks.flooder import KINDS, OURS, flood
from sticky.loop.log_lines import WORKER_HUNG
from tests.support.aio import run_async_for
from tests.support.client import ProtocolClient
from tests.support.server import DEADLINE_S, ROOT, RunningServer

HOSTED = "/hosted/echo"
ONE_WAY = "/connection/uni_websocket?cf_connect=%7B%7D"
COMMANDS = 100  # fewer than a client may send at once
LIMITS = {"commands": 20, "control-frames": 10, "fragments": 100, "segments": 10}  # a slow machine's flood is slow, too
FLOODS = [(OURS, name) for name in KINDS]
FLOODS += [(HOSTED, name) for name, kind in KINDS.items() if kind.code == 1008 and not kind.is_deaf]
FLOODS += [(ONE_WAY, "commands")]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    limits = [text for name, count in LIMITS.items() for text in (f"--{name}-per-second", str(count))]
    with RunningServer(ROOT / "benchmarks/flooded_app.py", *limits, "--ping", "60s", workers=1) as running:
        running.wait_until_full()
        yield running


def count(server: RunningServer, is_command: bool) -> int:
    found = server.status()["workers"][0]["statistics"]
    return int(found["overruns"].get("commands", 0) if is_command else found["flooding"])


@pytest.mark.parametrize(("path", "name"), FLOODS, ids=lambda each: each.split("?")[0])
@run_async_for(120)
async def test_who_floods_is_closed_and_the_others_get_everything(server: RunningServer, path: str, name: str) -> None:
    code = KINDS[name].code
    before, mark, workers = count(server, code == 3013), server.log.mark(), server.children()
    writer, reader = [await ProtocolClient.join(server.websocket_url) for _ in range(2)]
    for each in (writer, reader):
        await each.ask("subscribe", channel="open:still here")
    flooding = asyncio.create_task(asyncio.to_thread(flood, server.port, path, name))
    for number in range(COMMANDS):
        await writer.ask("publish", channel="open:still here", data=number)
        assert (await reader.push("pub"))["pub"]["data"] == number
    ended, _ = await flooding
    await writer.ask("publish", channel="open:still here", data="after it")
    assert (await reader.push("pub"))["pub"]["data"] == "after it"
    assert ended == code
    assert server.children() == workers, "the worker is the same process"
    why = "more than 20 commands a second" if code == 3013 else r"floods: more than \d+ "
    assert re.search(r"127\.0\.0\.1.*" + why, server.log.wait_for(f".*{why}", since=mark)[0])
    lines = [line for line in server.log.lines[mark:] if re.search(why, line)]
    assert len(lines) == 1, "it is named once"
    assert not server.log.find_all(f"{WORKER_HUNG}|Traceback")
    give_up_at = time.monotonic() + DEADLINE_S
    while count(server, code == 3013) <= before:
        assert time.monotonic() < give_up_at, "it was not counted"
    await writer.close()
    await reader.close()
