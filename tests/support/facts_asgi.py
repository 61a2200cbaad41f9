"""A bare ASGI application that answers with what its process is: for what an operator says of workers."""

from __future__ import annotations

import json
import os
from typing import Any

ASKED = ("CARD", "LIST", "STICKY_SLOT")


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    umask = os.umask(0)
    os.umask(umask)
    facts = {
        "pid": os.getpid(),
        "ids": [os.getuid(), os.getgid()],
        "umask": umask,
        "env": {name: os.environ.get(name) for name in ASKED},
        "slot": scope["state"]["realtime"]["slot"],
    }
    body = json.dumps(facts).encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
