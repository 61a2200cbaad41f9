"""
A chat: several rooms, who is here, who is typing. All of its server is this file.

Run it with `realtime serve --workers 4 --sticky ip examples/chat/app.py`, or `make demo`, and open the address in two
browsers. Every worker runs this file; rooms, members and history are shared by all of them.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from pathlib import Path
from typing import Any

from realtime import App, Connection, Reject

app = App()

ROOMS = {
    "lobby": "Come in, say hello",
    "ideas": "Half-baked is fine",
    "help": "Ask anything",
    "music": "What is playing?",
}
TEXT_MAX = 2000
NAME_MAX = 32
BURST = 20  # messages that somebody may send at once; one more each second
MESSAGE_ID = re.compile(r"[0-9a-z-]{8,40}", re.ASCII)


@app.on_connect
async def connect(conn: Connection, data: Any = None) -> dict[str, Any]:
    """
    Let anybody in, under a name of their choice.

    There are no accounts here: a browser draws a secret key and keeps it, and who knows the key is that user. Others
    only ever see its hash, so nobody can take somebody else's place. An application with accounts takes
    `conn.claims["sub"]` of a token.
    """
    data = data if isinstance(data, dict) else {}
    key = str(data.get("key") or conn.id)
    conn.user = hashlib.sha256(key.encode()).hexdigest()[:16]
    conn.info = {"name": clean_name(data.get("name")), "slot": conn.slot}
    conn.state["allowance"] = [float(BURST), time.time()]
    return {"user": conn.user, "slot": conn.slot, "pid": os.getpid(), "rooms": ROOMS}


@app.on_migrate
async def migrate(conn: Connection, when: str) -> None:
    """Tell the page which process serves it after a move: it shows the slot and the pid, and nothing else changes."""
    if when == "after":
        conn.info = {**conn.info, "slot": conn.slot}
        await conn.send({"slot": conn.slot, "pid": os.getpid()})


@app.rpc("rename")
async def rename(conn: Connection, data: Any) -> dict[str, str]:
    """Change the name that others see from the next message and the next subscription on."""
    conn.info = {**conn.info, "name": clean_name(data.get("name") if isinstance(data, dict) else None)}
    return {"name": conn.info["name"]}


@app.room("chat:{name}", presence=True, history=500, history_ttl_s=7 * 86400)
class Chat:
    async def on_subscribe(self, conn: Connection, name: str) -> None:
        if name not in ROOMS:
            raise Reject("unknown channel", code=102)

    async def on_publish(self, conn: Connection, name: str, data: Any) -> None:
        """
        Publish what the browser wrote: it chooses the text and the message's id, and nothing else.

        Published by hand, for the sake of the key: a message that is sent again, because the answer to the first time
        got lost with a connection, is in the room once.
        """
        text = data.get("text") if isinstance(data, dict) else None
        id = data.get("id") if isinstance(data, dict) else None
        if not isinstance(text, str) or not text.strip() or not isinstance(id, str) or not MESSAGE_ID.fullmatch(id):
            raise Reject("a message is an id and some text", code=107)
        spend(conn)
        message = {
            "id": id,
            "text": text.strip()[:TEXT_MAX],
            "user": conn.user,
            "name": conn.info["name"],
            "slot": conn.slot,
            "at": round(time.time() * 1000),
        }
        await app.room(f"chat:{name}").publish(message, idempotency_key=f"{conn.user}/{id}")


@app.room("typing:{name}")
class Typing:
    """Beside each chat a room that keeps nothing: who is writing just now."""

    async def on_subscribe(self, conn: Connection, name: str) -> None:
        if name not in ROOMS:
            raise Reject("unknown channel", code=102)

    async def on_publish(self, conn: Connection, name: str, data: Any) -> dict[str, str]:
        return {"user": conn.user, "name": conn.info["name"]}


def clean_name(name: Any) -> str:
    """Make a name out of what a browser sent: one line, of some length, with something to see in it."""
    shown = "".join(sign if sign.isprintable() else " " for sign in name) if isinstance(name, str) else ""
    return " ".join(shown.split())[:NAME_MAX] or "Somebody"


def spend(conn: Connection) -> None:
    """Take one message from this connection's allowance, which grows by one each second."""
    left, since = conn.state["allowance"]
    now = time.time()
    left = min(BURST, left + max(now - since, 0.0))
    if left < 1:
        raise Reject("slow down a little", code=111)
    conn.state["allowance"] = [left - 1, now]


app.static("/", Path(__file__).parent / "static")
