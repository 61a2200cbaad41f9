"""
The hosted application of S12: a Starlette route that answers with JSON, and a WebSocket that echoes.

The same file is served by ours, by uvicorn and by gunicorn; it runs in their workers and knows none of them.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect


async def hello(request: Request) -> JSONResponse:
    """Give the number back that the client asks with."""
    return JSONResponse({"seq": int(request.query_params["seq"]), "hello": "world"})


async def echo(websocket: WebSocket) -> None:
    """Give every text back."""
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        pass


app = Starlette(routes=[Route("/", hello), WebSocketRoute("/echo", echo)])
