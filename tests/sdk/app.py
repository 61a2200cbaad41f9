"""
What the SDKs are tested against: a room of each kind, and methods by which a test makes the server do something.

Served by `realtime serve` with four workers; a client is told on connecting which of them it is on.
"""

from __future__ import annotations

import os
from typing import Any

from realtime import App, Connection, Disconnect, Reject

app = App()
app.room("open:{name}", presence=True, history=1_000, open=True)
app.room("plain:{name}", open=True)  # keeps nothing
app.room("drafts:{name}", history=10, open=True, delta=True)
app.room("tagged:{name}", history=100, open=True, filters=True)
app.room("bytes:{name}", history=10, open=True, binary=True)
app.room("$staff", presence=True, history=10, open=True)  # needs a token of its own


@app.on_connect
async def connect(conn: Connection, data: Any = None) -> dict[str, Any]:
    """Admit with a name, into the rooms that are asked for; or do not, where that is asked for."""
    wanted = data if isinstance(data, dict) else {}
    if code := wanted.get("refuse"):
        raise Reject("not today", code=code)
    if code := wanted.get("close"):
        raise Disconnect(code, "not today")
    name = wanted.get("name")
    if name:
        conn.info = {"name": name}
    for room in wanted.get("rooms", []):
        await conn.subscribe(room)
    return {
        "user": conn.user,
        "name": name,
        "slot": conn.slot,
        "pid": os.getpid(),
        "address": conn.address,
        "transport": conn.transport,
        "asked": wanted.get("asked"),
        "headers": dict(conn.emulated_headers),
    }


@app.room("news:{name}", history=10)
class News:
    """Read by everybody, written by nobody; says something to who comes."""

    async def on_subscribe(self, conn: Connection, data: Any, name: str) -> dict[str, Any]:
        return {"welcome": name, "brought": data}


@app.room("closed:{name}", presence=True, history=10)
class Closed:
    async def on_subscribe(self, conn: Connection, name: str) -> None:
        raise Reject

    async def on_publish(self, conn: Connection, name: str, data: Any) -> Any:
        return data


@app.room("moderated:{name}", presence=True, history=10)
class Moderated:
    async def on_publish(self, conn: Connection, name: str, data: Any) -> Any:
        if data == "rude":
            raise Reject("mind your words", code=450)
        return {"said": data}


@app.rpc("echo")
async def echo(conn: Connection, data: Any) -> Any:
    return data


@app.rpc("refuse")
async def refuse(conn: Connection, data: Any) -> None:
    raise Reject("no luck", code=1234)


@app.rpc("break")
async def break_down(conn: Connection, data: Any) -> None:
    raise RuntimeError("a bug in the application")


@app.rpc("tell")
async def tell(conn: Connection, data: Any) -> None:
    await conn.send(data)


@app.rpc("enter")
async def enter(conn: Connection, data: Any) -> None:
    await conn.subscribe(data)


@app.rpc("exit")
async def leave(conn: Connection, data: Any) -> None:
    await conn.unsubscribe(data)


@app.rpc("announce")
async def announce(conn: Connection, data: Any) -> None:
    await app.room(data["room"]).publish(data["data"], tags=data.get("tags"))


@app.rpc("hang_up")
async def hang_up(conn: Connection, data: Any) -> None:
    conn.disconnect(data["code"], data["reason"])


@app.on_message
async def message(conn: Connection, data: Any) -> None:
    """Answer a message with one."""
    await conn.send({"heard": data})
