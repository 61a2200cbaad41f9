"""
Our side of the measurements: the application that `realtime serve` is given. Runs in its workers.

Rooms `bench:…` keep nothing, as the peers' do; `seen:…` have presence and say who comes and goes; `kept:…` have history,
for clients that return. `echo` answers a call with what it was given.
"""

from __future__ import annotations

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
