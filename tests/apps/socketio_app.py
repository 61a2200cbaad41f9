"""
The application that the official suites of Engine.IO and Socket.IO want, and a room that both protocols share.

Each handler is a sentence of the suites' fixture; the rest is for the tests of several workers.
"""

from __future__ import annotations

from typing import Any

from realtime import App, Connection
from realtime.errors import AnswersMissing

app = App()
app.namespace("/custom")


@app.on_connect
async def connect(conn: Connection, data: Any) -> None:
    """Send the client what it connected with."""
    conn.emit("auth", data or {})


@app.event("message")
async def message(conn: Connection, *args: Any) -> None:
    """Send the arguments back."""
    conn.emit("message-back", *args)


@app.event("message-with-ack")
async def message_with_ack(conn: Connection, *args: Any) -> tuple[Any, ...]:
    """Acknowledge with the arguments."""
    return args


@app.event("enter")
async def enter(conn: Connection, room: str) -> list[Any]:
    """Put the client into a room; say which worker serves it."""
    await conn.enter(room)
    return [conn.slot, conn.id]


@app.event("leave")
async def leave(conn: Connection, room: str) -> None:
    """Take the client out of a room."""
    await conn.leave(room)


@app.event("emit")
async def emit(conn: Connection, to: list[str], without: list[str], how: str, event: str, *args: Any) -> None:
    """Emit to rooms, or to all where there are none, in one of several ways."""
    target = app.to(*to).except_(*without)
    if how == "others":
        target = conn.broadcast.to(*to).except_(*without)
    elif how == "local":
        target = target.local
    elif how == "volatile":
        target = target.volatile
    await target.emit(event, *args)


@app.event("ask")
async def ask(conn: Connection, question: str) -> Any:
    """Ask the client back, and acknowledge with its answer."""
    return await conn.call("question", question, timeout_s=10)


@app.event("group")
async def group(conn: Connection, to: list[str], deed: str, *args: Any) -> Any:
    """Do something to all connections in some rooms, on all workers."""
    target = app.to(*to)
    match deed:
        case "enter":
            await target.enter(*args)
        case "leave":
            await target.leave(*args)
        case "disconnect":
            await target.disconnect()
        case "find":
            return [[each.id, each.slot, sorted(each.rooms)] for each in await target.connections()]
        case "call":
            timeout_s, *event = args
            try:
                return await target.call(*event, timeout_s=timeout_s)
            except AnswersMissing as error:
                return ["missing", error.answers, error.silent, error.workers]
    return None


told: list[list[Any]] = []


@app.server_event("tell")
async def tell(number: int, *rest: Any) -> None:
    """Note what another worker tells."""
    told.append([number, *rest])


@app.event("tell others")
async def tell_others(conn: Connection, *args: Any) -> None:
    """Tell all other workers."""
    await app.server_side_emit("tell", *args)


@app.event("told")
async def what_was_told(conn: Connection) -> list[Any]:
    """Say what this worker was told."""
    return told


@app.room("chat:{name}", presence=True, history=50)
class Chat:
    """A chat for both protocols."""

    async def on_publish(self, conn: Connection, data: Any) -> Any:
        """Take every publication of a member."""
        return data
