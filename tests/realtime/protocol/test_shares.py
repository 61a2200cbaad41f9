"""One client's commands are run in shares: however many come at once, others have their turn in between."""

from __future__ import annotations

import asyncio
from typing import Any

from realtime import App, Connection
from realtime.session.session import COMMANDS_AT_ONCE
from realtime.testing import TestServer
from tests.support.aio import run_async

COUNT = 10 * COMMANDS_AT_ONCE


@run_async
async def test_a_message_with_many_commands_takes_many_turns_of_the_loop_and_keeps_their_order() -> None:
    app = App()
    seen: list[Any] = []

    @app.on_message
    async def message(conn: Connection, data: Any) -> None:
        seen.append(data)

    async with TestServer(app) as server:
        client = await server.connect()
        client._session.receive("\n".join(f'{{"send":{{"data":{number}}}}}' for number in range(COUNT)))
        while len(seen) < COUNT:
            before = len(seen)
            await asyncio.sleep(0)
            assert len(seen) - before <= COMMANDS_AT_ONCE
        assert seen == list(range(COUNT))
