"""
Our side of the measurements: the application that `realtime serve` is given. Runs in its workers.

Rooms `bench:…` keep nothing, as the peers' do; `seen:…` have presence and say who comes and goes; `kept:…` have
history, for clients that return. `echo` answers a call with what it was given, `burst` has the server publish.
"""

from __future__ import annotations

import asyncio
from typing import Any

from realtime import App, Connection

app = App()
app.room("bench:{number}", open=True)
app.room("seen:{number}", open=True, presence=True)
app.room("kept:{number}", open=True, history=2000)


@app.rpc("echo")
async def echo(conn: Connection, data: Any) -> Any:
    """Give the data back."""
    return data


@app.rpc("burst")
async def burst(conn: Connection, data: dict[str, Any]) -> None:
    """Publish so many numbered messages in one turn, as an application does that has many things to tell at once."""
    room = app.room(data["room"])
    numbers = range(data["first"], data["first"] + data["count"])
    await asyncio.gather(*[room.publish({"seq": number, "x": "x" * 108}) for number in numbers])
