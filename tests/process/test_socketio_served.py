"""
Socket.IO below `realtime serve`: where it is served, and that polling, upgrade and heartbeat reach one worker.

Real servers. What Engine.IO says is in tests/realtime/protocol/socketio.
"""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.support.server import RunningServer

APP = "from realtime import App\napp = App()\n"
BARE = """
async def app(scope, receive, send):
    assert scope["type"] == "http", scope["type"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": f"the page {scope['path']}".encode()})
"""
HANDSHAKE = {"EIO": "4", "transport": "polling"}


@pytest.mark.parametrize("http_parser", ["httptools", "h11"])
def test_a_client_polls_and_goes_on_over_a_websocket_below_the_servers_own_prefix(
    http_parser: str,
) -> None:
    options = ["--own-prefix", "/rt", "--http", http_parser, "--socketio-ping", "0.3", "--socketio-ping-timeout", "20"]
    with RunningServer(None, *options, workers=1) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        assert http.get("/socket.io/", params=HANDSHAKE).status_code == 404
        begun = http.get("/rt/socket.io/", params=HANDSHAKE)
        about = json.loads(begun.text[1:])
        assert (about["pingInterval"], about["pingTimeout"], about["upgrades"]) == (300, 20_000, ["websocket"])
        sid = {"sid": about["sid"], **HANDSHAKE}
        assert http.get("/rt/socket.io/", params=sid).text == "2"
        assert http.post("/rt/socket.io/", params=sid, content="3").text == "ok"
        url = f"{server.url.replace('http', 'ws')}/rt/socket.io/?EIO=4&transport=websocket&sid={about['sid']}"
        with connect(url, ping_interval=None) as websocket:
            websocket.send("2probe")
            assert websocket.recv() == "3probe"
            websocket.send("5")
            assert websocket.recv() == "2"
            websocket.send("3")
            assert websocket.recv() == "2"
            assert http.get("/rt/socket.io/", params=sid).json()["code"] == 3
        refused = url.replace(about["sid"], "A" * 20)
        with pytest.raises(InvalidStatus):
            connect(refused)


def test_it_can_be_off_and_is_for_a_bare_application(tmp_path: Path) -> None:
    for name, text, options, found in (
        ("app.py", APP, ["--socketio", "off"], (404, "There is nothing here.\n")),
        ("bare.py", BARE, [], (200, "the page /socket.io/")),
    ):
        (tmp_path / name).write_text(text)
        with RunningServer(tmp_path / name, *options, workers=1, cwd=tmp_path) as server:
            answer = httpx.get(f"{server.url}/socket.io/", params=HANDSHAKE, timeout=60)
            assert (answer.status_code, answer.text) == found


@pytest.mark.parametrize("sticky", ["none", "ip", "session"])
def test_every_request_of_a_session_reaches_its_worker_though_it_comes_on_a_connection_of_its_own(sticky: str) -> None:
    with RunningServer(None, "--sticky", sticky, workers=4) as server:
        url = f"{server.url}/socket.io/"
        for _ in range(12):
            sid = json.loads(httpx.get(url, params=HANDSHAKE, timeout=60).text[1:])["sid"]
            query = {"sid": sid, **HANDSHAKE}
            assert httpx.post(url, params=query, content="6", timeout=60).text == "ok"
            # The close packet ends the session, whose next request but one is of an unknown one.
            assert httpx.post(url, params=query, content="1", timeout=60).text == "ok"
            assert httpx.get(url, params=query, timeout=60).text == "6"
            assert httpx.get(url, params=query, timeout=60).json()["code"] == 1
