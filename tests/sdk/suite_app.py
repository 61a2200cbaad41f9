"""
What the suites of the stock SDKs expect of a server: as the configuration that they bring for Centrifugo.

Rooms of any name keep 100 publications for 300 s and are recovered; `smallhistory:` keeps 2. Each user has a room of
their own, `#` and the name, in which they are from the beginning.
"""

from __future__ import annotations

from realtime import App, Connection

app = App()
app.room("smallhistory:{*}", presence=True, history=2, history_ttl_s=300, open=True, delta=True)
app.room("{*}", presence=True, history=100, history_ttl_s=300, open=True, delta=True, filters=True)


@app.on_connect
async def connect(conn: Connection) -> None:
    if conn.user:
        await conn.subscribe(f"#{conn.user}")
