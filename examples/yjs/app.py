"""
Yjs documents on several workers:

    pip install pycrdt-websocket
    realtime serve --workers 4 --sticky session --session-path '/doc/{key}' examples/yjs/app.py

A document lives in the memory of one process, and all who edit it have to meet there. With `--session-path` the name in
the path decides which process that is: `new WebsocketProvider('ws://127.0.0.1:8000/doc', 'plans', ydoc)` in a browser.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pycrdt.websocket import ASGIServer, WebsocketServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute

documents = WebsocketServer()


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with documents:
        yield


async def about(request: Request) -> JSONResponse:
    """Say which worker has a document, and whether it is open there. Its path leads here as its sockets do."""
    return JSONResponse({"worker": os.getpid(), "open": request.url.path in documents.rooms})


app = Starlette(
    routes=[Route("/doc/{name}", about), WebSocketRoute("/doc/{name}", ASGIServer(documents))], lifespan=lifespan
)
