"""An ASGI application that says who served a request, for tests of pooled connections."""

from __future__ import annotations

import json
from typing import Any


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with the slot, the session and the body."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": json.dumps(scope["extensions"]["realtime"])})
        await send({"type": "websocket.close", "code": 1000})
        return
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    said = {
        **scope["extensions"]["realtime"],
        "client": scope["client"],
        "scheme": scope["scheme"],
        "path": scope["path"],
        "body": body.decode("latin-1") if len(body) < 1000 else len(body),
    }
    answer = json.dumps(said).encode()
    headers = [(b"content-length", str(len(answer)).encode()), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
