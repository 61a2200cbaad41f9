"""
FastAPI beside rooms, on several workers: `realtime serve --workers 4 --sticky session examples/fastapi/app.py`.

Requests, server-sent events and a WebSocket belong to FastAPI. What is said through `POST /chat/{name}` is published
into a room, and everybody in it hears it, on whatever worker: a route needs no connection for that, only the room's
handle, which it gets by dependency injection as it gets everything else.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from realtime import App, RoomHandle

logger = logging.getLogger("example")
app = App()
web = FastAPI(title="FastAPI on sticky workers")

app.room("chat:{name}", presence=True, history=100, open=True)


def chat_room(name: str) -> RoomHandle:
    """The room that the path names."""
    return app.room(f"chat:{name}")


def place(request: Request) -> dict[str, Any]:
    """Where this request is served: slot, worker, node and session."""
    found: dict[str, Any] = request.state.realtime
    return found


class Message(BaseModel):
    text: str
    sender: str = "somebody"


@web.get("/whereami")
async def whereami(place: Annotated[dict[str, Any], Depends(place)]) -> dict[str, Any]:
    return place


@web.post("/chat/{name}", status_code=201)
async def say(message: Message, room: Annotated[RoomHandle, Depends(chat_room)]) -> dict[str, int]:
    """Say something in a room. Answers with its offset there."""
    published = await room.publish({"from": message.sender, "text": message.text})
    return {"offset": published.offset}


@web.get("/count/{last}")
async def count(last: int) -> StreamingResponse:
    """Server-sent events: a number each tenth of a second, until the last, or until nobody listens any more."""

    async def numbers() -> AsyncIterator[str]:
        number = 0
        try:
            while number < last:
                number += 1
                yield f"id: {number}\ndata: {json.dumps({'number': number})}\n\n"
                await asyncio.sleep(0.1)
        finally:
            logger.info("counted to %d of %d", number, last)

    return StreamingResponse(numbers(), media_type="text/event-stream", headers={"cache-control": "no-store"})


@web.websocket("/upper")
async def upper(socket: WebSocket) -> None:
    """Answer each text in capitals, with the slot of the worker that does it."""
    await socket.accept()
    try:
        while True:
            text = await socket.receive_text()
            await socket.send_json({"text": text.upper(), "slot": socket.state.realtime["slot"]})
    except WebSocketDisconnect as gone:
        logger.info("a socket is gone: %d", gone.code)


app.mount("/", web)
