"""An application with a mistake: no worker becomes ready, and a reload to it replaces no worker."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.support.server import RunningServer

GOOD = """from realtime import App
def create():
    app = App()
    @app.room("chat:{name}")
    class Chat:
        async def on_subscribe(self, conn, name: str): ...
    return app
"""


def test_a_reload_to_a_misspelt_handler_replaces_no_worker_and_says_where_it_is(tmp_path: Path) -> None:
    app = tmp_path / "mistaken_app.py"
    app.write_text(GOOD)
    with RunningServer("mistaken_app.py:create", "--factory", workers=1, cwd=tmp_path) as server:
        before = server.log.mark()
        app.write_text(GOOD.replace("on_subscribe", "on_subscirbe"))
        server.send_signal(signal.SIGHUP)
        place = r"mistaken_app\.py, line 6: Chat\.on_subscirbe is no handler of a room; did you mean `on_subscribe`\?"
        server.log.wait_for(place, since=before)
        server.log.wait_for("reload given up", since=before)
        assert not server.log.find_all("Traceback")
