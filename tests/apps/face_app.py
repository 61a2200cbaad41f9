"""What a user of python-socketio writes, with one import changed: tests/process/test_socketio_face.py serves it."""

from __future__ import annotations

import os
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from realtime import socketio
from realtime.socketio.exceptions import ConnectionRefusedError as Refused

sio = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*", logger=True, ping_interval=5)


@sio.event
async def connect(sid: str, environ: dict[str, Any], auth: Any) -> Any:
    if auth == {"token": "wrong"}:
        raise Refused("authentication failed", {"need": "a token"})
    if auth == "no":
        return False
    async with sio.session(sid) as session:
        session["name"] = environ.get("HTTP_X_NAME", "nobody")
    return None


@sio.event
async def disconnect(sid: str, reason: str) -> None:
    session = await sio.get_session(sid)
    await sio.emit("left", {"name": session["name"], "reason": reason}, room="watchers")


@sio.event
async def whoami(sid: str) -> dict[str, Any]:
    return {"pid": os.getpid(), "transport": sio.transport(sid), **await sio.get_session(sid)}


@sio.on("begin chat")
async def begin_chat(sid: str, room: str) -> list[str]:
    await sio.enter_room(sid, room)
    return sio.rooms(sid)


@sio.on("exit chat")
async def exit_chat(sid: str, room: str) -> None:
    await sio.leave_room(sid, room)


@sio.on("close room")
async def close_room(sid: str, room: str) -> None:
    await sio.emit("closing", room, room=room)
    await sio.close_room(room)


@sio.event
async def say(sid: str, room: str, text: Any) -> tuple[str, int]:
    await sio.emit("said", (room, text), room=room, skip_sid=sid)
    return "ok", 200


@sio.event
async def question(sid: str, text: str) -> Any:
    return {"answer": await sio.call("ask", text, to=sid, timeout=20)}


@sio.event
async def with_callback(sid: str) -> None:
    async def answered(*args: Any) -> None:
        await sio.emit("answered", args, to=sid)

    await sio.emit("ask", "called back", to=sid, callback=answered)


@sio.on("ask another")
async def ask_another(sid: str, other: str) -> Any:
    await sio.enter_room(other, "invited")
    return await sio.call("ask", "from afar", to=other, timeout=20)


@sio.on("end another")
async def end_another(sid: str, other: str) -> None:
    await sio.emit("last", to=other)
    await sio.disconnect(other)


@sio.on("where am I")
async def where(sid: str) -> list[str]:
    return sio.rooms(sid)[1:]


@sio.event
async def later(sid: str) -> None:
    async def work(number: int) -> None:
        await sio.sleep(0.01)
        await sio.emit("progress", number, to=sid)

    sio.start_background_task(work, 7)


@sio.event
async def go_away(sid: str) -> None:
    await sio.disconnect(sid)


@sio.on("*")
async def any_event(event: str, sid: str, data: Any) -> list[Any]:
    return [event, data]


class Admin(socketio.AsyncNamespace):
    async def on_connect(self, sid: str, environ: dict[str, Any]) -> None:
        await self.emit("welcome", to=sid)

    async def on_shout(self, sid: str, text: str) -> str:
        await self.emit("shouted", text.upper())
        return "done"


sio.register_namespace(Admin("/admin"))


async def page(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"the other application at {request.url.path}")


other = Starlette(routes=[Route("/", page), Route("/health", page)])
app = socketio.ASGIApp(sio, other)
bare = sio
