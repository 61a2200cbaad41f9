"""
The peer python-socketio: its ASGI server on uvicorn, with uvloop and httptools, one process. It never keeps a message.

WebSocket alone; messages are not compressed. What it does with a room is what its documentation does: `enter_room`, and
`emit` to the room.
"""

from __future__ import annotations

from typing import Any

import socketio

from benchmarks.peers.uvicorn_process import serve

server = socketio.AsyncServer(
    async_mode="asgi", transports=["websocket"], http_compression=False, cors_allowed_origins="*"
)
rooms: dict[str, str] = {}


async def join(sid: str, name: str, presence: bool = False) -> None:
    """Make a client a member."""
    rooms[sid] = name
    await server.enter_room(sid, name)
    await server.emit("joined", name, to=sid)


async def publish(sid: str, data: Any) -> None:
    """Send to every member of the client's room."""
    await server.emit("m", data, room=rooms[sid])


async def echo(sid: str, data: Any) -> None:
    """Send back."""
    await server.emit("m", data, to=sid)


def disconnect(sid: str, *about: Any) -> None:
    """Forget a client."""
    rooms.pop(sid, None)


for each in (join, publish, echo, disconnect):
    server.on(each.__name__, each)

if __name__ == "__main__":
    serve(socketio.ASGIApp(server))
