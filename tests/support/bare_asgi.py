"""
An ASGI application written by hand, for tests of hosting: each path does one thing that a server can get wrong.

What only the application can see (its lifespan, a client that is gone) it prints, a line each, so that a test can wait
for the line in the server's log.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

BIG = 8 * 1024 * 1024


def say(line: str) -> None:
    os.write(1, f"app {os.getpid()}: {line}\n".encode())  # at once: other workers say something too


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve by the first segment of the path, below wherever it is mounted."""
    if scope["type"] == "lifespan":
        await live(scope, receive, send)
        return
    name = scope["path"].removeprefix(scope["root_path"]).split("/")[1]
    serve = {"http": HTTP, "websocket": WEBSOCKET}[scope["type"]].get(name)
    if serve is None:
        await answer(send, b"the application has no such page", status=404)
        return
    await serve(scope, receive, send)


async def live(scope: dict[str, Any], receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "lifespan.startup"
    scope["state"]["born"] = os.getpid()
    scope["state"]["shared"] = []
    say("startup")
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    say("shutdown")
    await send({"type": "lifespan.shutdown.complete"})


async def answer(send: Any, body: bytes, status: int = 200, kind: bytes = b"text/plain") -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read(receive: Any) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


async def tell_scope(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with what JSON can carry of the scope."""
    told = {
        name: value.decode("latin-1") if isinstance(value, bytes) else value
        for name, value in scope.items()
        if name not in ("headers", "state", "extensions")
    }
    told["headers"] = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    told["realtime"] = scope["extensions"]["realtime"]
    await answer(send, json.dumps(told).encode(), kind=b"application/json")


async def tell_body(scope: dict[str, Any], receive: Any, send: Any) -> None:
    body = await read(receive)
    told = {"method": scope["method"], "length": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    await answer(send, json.dumps(told).encode(), kind=b"application/json")


async def tell_state(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with the state of the lifespan; a request's own addition is to be seen by nobody else."""
    state = scope["state"]
    state["shared"].append(1)
    told = {"born": state["born"], "shared": len(state["shared"]), "own": "own" in state}
    state["own"] = True
    await answer(send, json.dumps(told).encode(), kind=b"application/json")


async def echo_parts(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer each piece of the body as it comes: the answer's first part leaves before the body is whole."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        await send({"type": "http.response.body", "body": message["body"].upper(), "more_body": True})
        if not message["more_body"]:
            await send({"type": "http.response.body", "body": b""})
            return


async def big(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with many bytes that differ by their place, without a length."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for at in range(0, BIG, 65536):
        part = at.to_bytes(8, "big") * 8192
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def fail(scope: dict[str, Any], receive: Any, send: Any) -> None:
    raise ZeroDivisionError("the application's own fault")


async def fail_midway(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise ZeroDivisionError("the application's own fault, midway")


async def wait(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Never answer; say how it ends."""
    await read(receive)
    say("waiting")
    say(f"told {(await receive())['type']}")


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Accept with the last subprotocol that is offered; send everything back, also the scope; close as told."""
    assert (await receive())["type"] == "websocket.connect"
    offered = scope["subprotocols"]
    headers = [(b"x-by", b"the application")]
    await send({"type": "websocket.accept", "subprotocol": offered[-1] if offered else None, "headers": headers})
    while (message := await receive())["type"] == "websocket.receive":
        text = message.get("text")
        if text is None:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
        elif text == "scope":
            names = ("path", "root_path", "client", "scheme", "subprotocols", "http_version")
            told = {**{name: scope[name] for name in names}, "query_string": scope["query_string"].decode()}
            await send({"type": "websocket.send", "text": json.dumps(told)})
        elif text.startswith("close "):
            await send({"type": "websocket.close", "code": int(text.split()[1]), "reason": "as told"})
        elif text == "fail":
            raise ZeroDivisionError("the application's own fault, in a WebSocket")
        else:
            await send({"type": "websocket.send", "text": text})
    say(f"websocket left with {message['code']}")


async def refuse(scope: dict[str, Any], receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.close"})


async def refuse_politely(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Refuse with an answer of its own, as the extension allows."""
    assert (await receive())["type"] == "websocket.connect"
    headers = [(b"content-type", b"text/plain"), (b"x-why", b"paid only")]
    await send({"type": "websocket.http.response.start", "status": 402, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b"pay first"})


HTTP = {
    "scope": tell_scope, "body": tell_body, "state": tell_state, "parts": echo_parts, "big": big, "fail": fail,
    "fail-midway": fail_midway, "wait": wait,
}  # fmt: skip
WEBSOCKET = {"echo": echo, "refuse": refuse, "refuse-politely": refuse_politely, "fail": fail}
