"""An application with a mistake: no worker becomes ready, and a reload to it replaces no worker."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.support.server import RunningServer

GOOD = """from __future__ import annotations
from typing import TYPE_CHECKING
from realtime import App, Connection
if TYPE_CHECKING:
    from decimal import Decimal

app = App()

@app.room("chat:{name}")
class Chat:
    async def on_subscribe(self, conn: Connection, name: str): ...
"""

MISTAKES = {
    "a misspelt handler": (
        GOOD.replace("on_subscribe", "on_subscirbe"),
        "{file}, line 11: Chat.on_subscirbe is no handler of a room; did you mean `on_subscribe`? A room may have: ",
    ),
    "an annotation for type checkers alone": (
        GOOD.replace("name: str", "data: Decimal"),
        "{file}, line 11: handler `Chat.on_subscribe()`: the annotation `Decimal` of `data` cannot be resolved "
        "(name 'Decimal' is not defined); import what it names also at run time",
    ),
    "a parameter that there is not": (
        GOOD.replace("name: str", "nam: str, data"),
        "{file}, line 11: handler `Chat.on_subscribe()` has an unsupported parameter `nam`; did you mean `name`; "
        "allowed: `conn`, `data`, `name`",
    ),
    "a decorator without parentheses": (
        GOOD + "\n@app.rpc\nasync def rename(conn): ...\n",
        '{file}, line 13: `rename`: write @app.rpc("rename"), with a name in parentheses',
    ),
    "two patterns that match the same rooms": (
        GOOD + "\napp.room('chat:{id}', open=True)\n",
        "{file}, line 13: room 'chat:{{id}}' matches the same rooms as 'chat:{{name}}' (declared in {file}, line 9)",
    ),
    "options that declare nothing": (
        GOOD + "\napp.room('news:a', history=5)\n",
        "{file}, line 13: app.room('news:a', …) has options and declares nothing",
    ),
    "a factory": (
        "from realtime import App\ndef app():\n    return App()\n",
        "{file}, line 2: this is a factory, and no application; write mistaken_app.py:app() or --factory",
    ),
    "a WSGI application": (
        "def app(environ, start_response): ...\n",
        "{file}, line 1: this is a WSGI application; wrap it: a2wsgi.WSGIMiddleware(app)",
    ),
}


def text_of(mistake: str, directory: Path) -> str:
    return MISTAKES[mistake][1].format(file=directory / "mistaken_app.py")


def test_a_reload_to_a_mistake_replaces_no_worker_and_says_where_it_is(tmp_path: Path) -> None:
    app = tmp_path / "mistaken_app.py"
    app.write_text(GOOD)
    with RunningServer("mistaken_app.py", workers=1, cwd=tmp_path) as server:
        for mistake, (source, _) in MISTAKES.items():
            before = server.log.mark()
            app.write_text(source)
            server.send_signal(signal.SIGHUP)
            server.log.wait_for(re.escape(text_of(mistake, tmp_path)), since=before)
            server.log.wait_for("reload given up", since=before)
        assert not server.log.find_all("Traceback")
        assert len(server.log.find_all("worker ready")) == 1, "the first worker serves on, and no other was ready"
        before = server.log.mark()
        app.write_text(GOOD)
        server.send_signal(signal.SIGHUP)
        server.log.wait_for("worker ready", since=before)


@pytest.mark.parametrize("target", [("mistaken_app.py:create", "--factory"), ("mistaken_app.py:create()",)])
def test_a_reload_of_a_factory_to_a_misspelt_handler_replaces_no_worker(
    tmp_path: Path, target: tuple[str, ...]
) -> None:
    app = tmp_path / "mistaken_app.py"
    source = 'from realtime import App\ndef create():\n    app = App()\n    @app.room("a")\n    class A:\n'
    app.write_text(source + "        async def on_leave(self, member): ...\n    return app\n")
    with RunningServer(*target, workers=1, cwd=tmp_path) as server:
        before = server.log.mark()
        app.write_text(source + "        async def on_leav(self, member): ...\n    return app\n")
        server.send_signal(signal.SIGHUP)
        server.log.wait_for(r"mistaken_app\.py, line 6: A\.on_leav is .*; did you mean `on_leave`\?", since=before)
        server.log.wait_for("reload given up", since=before)


@pytest.mark.parametrize("mistake", ["a misspelt handler", "a WSGI application"])
def test_a_start_with_a_mistake_ends_with_it(tmp_path: Path, mistake: str) -> None:
    (tmp_path / "mistaken_app.py").write_text(MISTAKES[mistake][0])
    server = RunningServer("mistaken_app.py", workers=1, cwd=tmp_path)
    server.start()
    try:
        assert server.wait(deadline_s=60) == 3
    finally:
        server.stop()
    assert text_of(mistake, tmp_path) in server.log.lines[-1]
    assert not server.log.find_all("Traceback|worker ready")
