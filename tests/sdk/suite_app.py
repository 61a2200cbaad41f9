"""
What the suites of the stock SDKs expect of a server: as the configuration that they bring for Centrifugo.

Rooms of any name keep 100 publications for 300 s and are recovered; `smallhistory:` keeps 2. Each user has a room of
their own, `#` and the name, in which they are from the beginning. Clients need not be in a room to publish and to read.
"""

from __future__ import annotations

import os
from typing import Any, Final

from realtime import App, Connection

SUITE: Final = os.environ.get("SUITE", "python")  # whose: of Go, JavaScript or Python

KEPT: Final[dict[str, Any]] = {"history_ttl_s": 300, "open": True, "delta": True}
OTHERS: Final[dict[str, Any]] = {"for_others": ("publish", "history")}
SEEN: Final[dict[str, Any]] = {"presence": True, "for_others": ("publish", "presence", "history")}

app = App()
if SUITE == "go":  # no room has presence, and there are two namespaces
    app.room("smallhistory:{name}", history=2, **KEPT, **OTHERS)
    app.room("{name}", history=100, filters=True, **KEPT, **OTHERS)
else:
    app.room("smallhistory:{*}", history=2, **KEPT, **SEEN)
    app.room("{*}", history=100, filters=True, **KEPT, **SEEN)


@app.on_connect
async def connect(conn: Connection) -> None:
    if conn.user:
        await conn.subscribe(f"#{conn.user}")
