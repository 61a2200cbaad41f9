"""A handler that blocks the event loop is named in the log, with its line, once a minute."""

from __future__ import annotations

import logging
import sys
import threading

from realtime import App, Connection
from realtime.application.loop_watch import BLOCKED, Culprit, Reports, culprit_of
from realtime.testing import TestServer
from tests.support.aio import run_async


def test_each_line_is_reported_once_a_minute() -> None:
    reports = Reports()
    one, other = Culprit("f", "app.py", 3), Culprit("f", "app.py", 4)
    assert reports.is_due(one, 100.0)
    assert reports.is_due(other, 100.0)
    assert not reports.is_due(one, 159.9)
    assert reports.is_due(one, 160.0)
    assert not reports.is_due(one, 160.1)


def test_a_running_handler_is_named_and_else_the_outermost_function_of_the_application() -> None:
    found: list[Culprit | None] = []

    def look() -> None:
        frame = sys._getframe()
        found.append(culprit_of(frame, {handler_that_looks.__code__: "Chat.on_publish"}))
        found.append(culprit_of(frame, {}))

    def handler_that_looks() -> None:
        look()

    thread = threading.Thread(target=handler_that_looks)
    thread.start()
    thread.join()
    line = handler_that_looks.__code__.co_firstlineno + 1
    assert found[0] == Culprit("Chat.on_publish", __file__, line)
    assert found[1] == Culprit(handler_that_looks.__qualname__, __file__, line)


@run_async
async def test_a_handler_that_blocks_is_named_while_it_does() -> None:
    app, reported = App(), threading.Event()
    texts: list[str] = []

    class Log(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if BLOCKED in record.getMessage():
                texts.append(record.getMessage())
                reported.set()

    log = Log()
    logging.getLogger("realtime.app").addHandler(log)

    @app.rpc("block")
    async def block(conn: Connection) -> bool:
        return reported.wait(20)

    try:
        async with TestServer(app) as server:
            client = await server.connect()
            assert await client.rpc("block"), "reported while the loop is still blocked"
    finally:
        logging.getLogger("realtime.app").removeHandler(log)
    line = block.__code__.co_firstlineno + 2
    assert f"file={__file__} line={line}" in texts[0]
    assert block.__qualname__ in texts[0]
