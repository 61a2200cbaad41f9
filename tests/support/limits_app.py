"""Rooms, and a hosted application below `/web` each of whose paths tries one limit of its connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from realtime import App, Connection

app = App()
app.static("/static", str(Path(__file__).parent))


@app.on_connect
async def connect(conn: Connection, data: Any = None) -> dict[str, Any]:
    """Admit everybody, into the rooms that are asked for: so many of a name, or those of a list."""
    wanted = data if isinstance(data, dict) else {}
    for room in wanted.get("rooms", ()):
        await conn.subscribe(room)
    for number in range(wanted.get("many", 0)):
        await conn.subscribe(f"plain:{number}")
    return {"cookie": conn.headers.get("cookie")}


@app.room("chat:{name}", presence=True)
class Chat:
    """Open to everybody."""


app.room("kept:{name}", history=1000, open=True)
app.room("plain:{name}", open=True)  # keeps nothing, and nobody is seen in it

wake = asyncio.Event()
MANY = 400  # of 64 KiB: more than the kernels take


async def web(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    name = scope["path"].removeprefix("/web/")
    cookies = [value.decode() for key, value in scope["headers"] if key == b"cookie"]
    if scope["type"] == "websocket":
        await websocket(name, cookies, receive, send)
    elif scope["type"] == "http":
        await http(name, cookies, receive, send)


async def http(name: str, cookies: list[str], receive: Any, send: Any) -> None:
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    if name == "wake":
        wake.set()
    if name == "slow":
        await asyncio.sleep(0.3)
    told = json.dumps({"cookies": cookies, "body": len(body)}).encode()
    length = [] if name in ("unsized", "endless") else [(b"content-length", b"%d" % len(told))]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    for _ in range(MANY if name == "endless" else 0):
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
    await send({"type": "http.response.body", "body": told[:5], "more_body": True})
    await send({"type": "http.response.body", "body": told[5:]})


async def websocket(name: str, cookies: list[str], receive: Any, send: Any) -> None:
    if name == "never":
        while (message := await receive())["type"] != "websocket.disconnect":
            pass
        print(f"never accepted, and told {message['code']}", flush=True)
        return
    await receive()
    if name == "late":
        await wake.wait()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": json.dumps({"cookies": cookies})})
    for _ in range(MANY if name == "many" else 0):
        await send({"type": "websocket.send", "bytes": b"x" * 65536})
    while name == "endless":
        await send({"type": "websocket.send", "bytes": b"x" * 65536})
    if name == "deaf":
        await wake.wait()
    while (message := await receive())["type"] == "websocket.receive":
        size = len(message.get("text") or message.get("bytes") or "")
        await send({"type": "websocket.send", "text": json.dumps({"size": size})})


app.mount("/web", web)
