"""What tests/process/test_faults.py serves: handlers that fail as they are asked to, and a worker in a hurry."""

from __future__ import annotations

import asyncio
from typing import Any

import realtime.broker.redis
from realtime import App, Connection, Disconnect, Reject
from realtime.auth import jwks, tokens
from realtime.errors import BrokerUnavailable

# A fault lasts as long as a test looks at it, and none waits for what takes ten seconds elsewhere.
realtime.broker.redis.ROUND_S, realtime.broker.redis.PROBE_LOST_S = 0.1, 0.6  # type: ignore[misc]
jwks.PAUSE_S, jwks.AGAIN_S, jwks.TIMEOUT_S, tokens.WAIT_S = 0.05, 0.2, 0.6, 2.0  # type: ignore[misc, attr-defined]

app = App()


async def fail(data: Any) -> None:
    """Fail as the data says."""
    what = data.get("do") if isinstance(data, dict) else None
    if what == "raise":
        raise RuntimeError("a bug")
    if what == "unavailable":
        raise BrokerUnavailable("the database", "away")
    if what == "time out":
        async with asyncio.timeout(0):
            await asyncio.sleep(3600)
    if what == "be slow":
        await asyncio.sleep(3600)
    if what == "come later":
        raise Reject("not now", temporary=True)
    if what == "reject":
        raise Reject
    if what == "disconnect":
        raise Disconnect(data.get("code", 4000), "not today")


@app.on_connect
async def connect(conn: Connection, data: Any) -> None:
    await fail(data)
    for room in data.get("rooms", []) if isinstance(data, dict) else []:
        await conn.subscribe(room)


app.room("room:{name}", presence=True, history=10, open=True)


@app.room("fails:{name}")
class Fails:
    async def on_subscribe(self, conn: Connection, data: Any) -> None:
        await fail(data)

    async def on_publish(self, conn: Connection, data: Any) -> Any:
        await fail(data)
        return data


@app.rpc("do")
async def do(conn: Connection, data: Any) -> None:
    if data == {"do": "disconnect me"}:
        conn.disconnect()
    await fail(data)
