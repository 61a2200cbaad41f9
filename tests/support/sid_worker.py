"""
A worker whose sessions are found by an id in the query, for tests of `sticky`: `python -m tests.support.sid_worker`.

It is a real worker with real hosted connections, and an application that answers with one JSON object:

    GET  /io/          makes a session: its `sid`, and the slot and process that have it
    ...  /io/?sid=ID   any method, and the handshake of a WebSocket: whether the session is `known` here
    ...  /io/?…&pad=N  the same, and so many characters more
    ...  anything else the slot and process

A WebSocket gets the object as its only message.
"""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import parse_qs

import uvloop

from realtime.process.gateway import Gateway
from realtime.protocol.centrifuge.endpoints import ENDPOINTS
from realtime.settings import Settings
from realtime.timing.timer_wheel import TimerWheel
from realtime.transport.adopted import AdoptedConnections
from realtime.transport.asgi_host import ASGIHost, HostedOptions
from realtime.transport.certificates import Certificates
from realtime.transport.websocket_endpoint import WebSocketEndpoint
from sticky import Worker
from tests.realtime.transport.wire import Sessions

PATH = "/io/"


class Application:
    """The sessions of one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._sessions: set[str] = set()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = b""
        while scope["type"] == "http":
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        said = {"slot": self._worker.slot, "pid": os.getpid(), "body": len(body), "client": scope["client"][0]}
        said |= {"scheme": scope["scheme"], "path": scope["path"]}
        if scope["path"] == PATH:
            query = parse_qs(scope["query_string"].decode())
            said |= {**self._session(query.get("sid")), "pad": "x" * int(query.get("pad", ["0"])[0])}
        answer = json.dumps(said).encode()
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": answer.decode()})
            await receive()
            return
        headers = [(b"content-length", b"%d" % len(answer)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _session(self, sids: list[str] | None) -> dict[str, Any]:
        if sids is not None:
            return {"sid": sids[0], "known": sids[0] in self._sessions}
        sid = self._worker.routes.new_query_id()
        self._sessions.add(sid)
        return {"sid": sid, "known": True}


async def main() -> None:
    worker = await Worker.connect()
    config: dict[str, Any] = worker.config or {}
    settings = Settings(certfile=config.get("certfile"), keyfile=config.get("keyfile"))
    connections = AdoptedConnections(worker, worker.routes.keys)
    endpoint = WebSocketEndpoint(Sessions(), wheel=TimerWheel(0.0), owner=connections)
    host = ASGIHost(
        Application(worker),
        worker=worker,
        owner=connections,
        endpoint=endpoint,
        websocket_paths=(),
        options=HostedOptions(parser=config.get("parser", settings.http), reads_query_ids=True),
    )
    gateway = Gateway(endpoint, host, connections, endpoints=ENDPOINTS, tls=Certificates(settings))

    worker.ready()
    await worker.run(
        on_connection=gateway.adopt,
        on_drain=gateway.drain,
        on_refused=gateway.refuse,
        statistics=gateway.statistics,
    )


if __name__ == "__main__":
    uvloop.run(main())
