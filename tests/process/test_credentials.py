"""Wrong API keys and tokens, against a real server: each is refused as ever, counted and named in the log."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from realtime.auth.tokens import sign
from tests.process.test_bounds import wait_until
from tests.sdk.conftest import APP, SECRET
from tests.support.aio import run_async
from tests.support.client import ProtocolClient
from tests.support.server import RunningServer
from tests.support.streams import Stream, ask

KEY, WRONG = "0123456789abcdef-api", "fedcba9876543210-api"
LINE = r"x wrong (API key|token|subscription token) address=(127\.\S+) reason=(.*) more=\d+"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    env = {"REALTIME_TOKEN_HMAC_SECRET": SECRET, "REALTIME_API_KEY": KEY}
    with RunningServer(APP, workers=1, env=env) as running:
        running.wait_until_full()
        yield running


def wait_for_counts(server: RunningServer, counts: dict[str, int]) -> None:
    wait_until(server, lambda found: found["wrong_credentials"] == counts, f"so many were wrong: {counts}")


@run_async
async def test_they_are_refused_counted_and_logged_and_a_good_one_works_at_once(server: RunningServer) -> None:
    spellings = ({"X-API-Key": WRONG}, {"Authorization": f"apikey {WRONG}"})
    for number in range(4):
        headers = spellings[number % 2]
        assert ask(server, "POST", "/api/info", "{}", address="127.0.0.9", **headers).status == 401
    assert ask(server, "POST", "/api/info", "{}", address="127.0.0.9", **{"X-API-Key": KEY}).status == 200
    assert ask(server, "POST", "/api/info", "{}", address="127.0.0.9").status == 401, "none is no wrong one"
    wait_for_counts(server, {"API key": 4})

    for number, token in enumerate(("x", sign({"sub": "ana"}, "y" * 32))):
        client = await ProtocolClient.open(server.websocket_url)
        with pytest.raises(ConnectionResetError):
            await client.ask("connect", token=token)
        assert await client.wait_closed() == (3500, "invalid token")
        for path in ("/connection/http_stream", "/connection/sse"):
            with Stream(server, path, {"id": 1, "connect": {"token": token}}, f"127.0.1.{number}") as stream:
                assert stream.first["push"]["disconnect"]["code"] == 3500
        for path in ("/connection/uni_http_stream", "/connection/uni_sse"):
            with Stream(server, path, {"token": token}, f"127.0.2.{number}") as stream:
                assert stream.first["disconnect"]["code"] == 3500
    wait_for_counts(server, {"API key": 4, "token": 10})

    good = await ProtocolClient.join(server.websocket_url, token=sign({"sub": "ana", "exp": 4e9}, SECRET))
    with pytest.raises(ConnectionResetError):
        await good.ask("refresh", token="x")
    wait_for_counts(server, {"API key": 4, "token": 11})

    server.log.wait_for(r"x wrong API key address=127\.0\.0\.9 ")
    lines = server.log.find_all(LINE)
    assert 1 <= len(lines) < 15
    text = "\n".join(server.log.lines)
    assert WRONG not in text, "what is nearly a key is in no log"
    assert json.dumps(server.status()).count('"wrong_credentials"') == 1
