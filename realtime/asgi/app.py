"""
`realtime.App`: an application that is also an ASGI callable.

Runs in any process that imports the application. Under `realtime serve` a worker serves it, and nothing here runs.
Under `uvicorn app:app`, mounted in another application, or in a test, the callable serves everything by itself: rooms
with a broker in memory, the realtime endpoints, what is mounted, and static files. It is one process: there is no
stickiness, no reload without loss, and a second process would have other rooms.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from realtime.application.app import Application, Receive, Scope, Send
from realtime.errors import RealtimeError
from realtime.log_lines import log

if TYPE_CHECKING:
    from realtime.asgi.one_process import OneProcess

logger = logging.getLogger("realtime.app")


class App(Application):
    """
    A realtime application: its handlers, rooms, mounts and jobs.

    `realtime serve app:app` serves it on a sticky cluster. It is an ASGI application too, for one process and with a
    broker in memory: `uvicorn app:app`, `fastapi_app.mount("/realtime", app)`, and tests. Settings come from the
    environment and `realtime.toml`, as for `realtime serve`. Where no ASGI lifespan comes, as for a mounted
    application, it starts with the first request.

    Every method that is for users may be called in any thread, as realtime/threads.py says.
    """

    def __init__(self) -> None:
        super().__init__()
        self._process: OneProcess | None = None
        self._starting_process = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection: a lifespan, a request, or a WebSocket."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            process = await self._running()
            await process(scope, receive, send)

    async def _running(self) -> OneProcess:
        """
        Return what serves, started where it was not.

        Raises:
            RealtimeError: a setting is wrong, or something that is mounted cannot start.
        """
        async with self._starting_process:  # the first requests come together
            if self._process is None:
                # Only here: a process that only imports an application, such as one of `run_cpu`, needs none of it.
                from realtime.asgi.one_process import OneProcess
                from realtime.settings import resolve

                process = OneProcess(self, resolve())
                await process.start()
                self._process = process
            return self._process

    async def _live(self, receive: Receive, send: Send) -> None:
        """Start and end with the server (ASGI lifespan)."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._running()
                except RealtimeError as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                except Exception as error:  # noqa: BLE001 - whatever the application raises; the server shows it
                    log(logger, logging.ERROR, "application cannot start", exc_info=True)
                    await send({"type": "lifespan.startup.failed", "message": repr(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                process, self._process = self._process, None
                if process is not None:
                    await process.stop()
                self._starting_process = asyncio.Lock()  # the next start may be on another loop
                await send({"type": "lifespan.shutdown.complete"})
                return
