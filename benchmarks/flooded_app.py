"""What `benchmarks.floods` and its test serve: rooms, `echo`, and below /hosted a WebSocket of an ASGI application."""

from __future__ import annotations

import os
from typing import Any

from realtime import App, Connection

app = App()
app.room("open:{name}", open=True, history=1000)


@app.rpc("echo")
async def echo(conn: Connection, data: Any) -> Any:
    """Give the data back."""
    return data


@app.on_message
async def message(conn: Connection, data: Any) -> None:
    """Take it."""


async def hosted(scope: Any, receive: Any, send: Any) -> None:
    """Answer a request with the process id, and send each message of a WebSocket back."""
    if scope["type"] == "http":
        body = str(os.getpid()).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event.get("text") or ""})


app.mount("/hosted", hosted)
