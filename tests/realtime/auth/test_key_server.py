"""Reading a key set from a real server, whatever it answers, and cancelling at any moment."""

from __future__ import annotations

import asyncio
import threading
import time
import urllib.request
from http.client import HTTPMessage
from io import BytesIO

import pytest

from realtime.auth import jwks, key_server
from realtime.auth.jwks import KeySet, usable_keys
from realtime.auth.tokens import Tokens
from realtime.errors import TokenUnverified
from tests.support.aio import eventually, run_async
from tests.support.key_server import Key, KeyServer


@pytest.mark.parametrize("mode", ["up", "moved"])
@run_async
async def test_what_is_published_is_read_also_behind_a_redirect(mode: str) -> None:
    with KeyServer(Key("a"), Key("b")) as server:
        server.mode = mode
        assert [each["kid"] for each in usable_keys(await key_server.fetch(server.url))] == ["a", "b"]


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("fail", "HTTP status 503"),
        ("huge", "more than 1048576 bytes"),
        ("raw", "no HTTP"),
        ("circle", "HTTP status 302"),
        ("elsewhere", "which is not followed"),
    ],
)
@run_async
async def test_what_is_no_answer_is_named(mode: str, why: str) -> None:
    with KeyServer(Key("a")) as server:
        server.mode = mode
        with pytest.raises((OSError, ValueError), match=why):
            await key_server.fetch(server.url)


@run_async
async def test_a_server_that_does_not_exist_is_named() -> None:
    with KeyServer() as server:
        server.stop()
        with pytest.raises(OSError, match="refused"):
            await key_server.fetch(server.url)


@pytest.mark.parametrize("mode", ["slow", "slow head"])
@run_async
async def test_a_byte_now_and_then_is_no_answer_and_leaves_no_thread_behind(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "TIMEOUT_S", 0.3)
    with KeyServer(Key("a")) as server:
        server.mode = mode
        keys = KeySet(url=server.url)
        with pytest.raises(TokenUnverified, match="no whole answer within"):
            await keys.fetched()
        await asyncio.to_thread(server.gone.wait)

        async def is_over() -> bool:
            return all(each.name != "key server" for each in threading.enumerate())

        await eventually(is_over)


@pytest.mark.parametrize("mode", ["slow", "slow head"])
@run_async
async def test_a_cancelled_fetch_ends_at_once(mode: str) -> None:
    with KeyServer(Key("a")) as server:
        server.mode = mode
        keys = KeySet(url=server.url)
        waiting = asyncio.create_task(keys.fetched())

        async def is_asked() -> bool:
            return server.asked > 0

        await eventually(is_asked)
        await keys.close()
        await asyncio.to_thread(server.gone.wait)
        with pytest.raises(asyncio.CancelledError):
            await waiting


@pytest.mark.parametrize(
    ("here", "there", "is_followed"),
    [
        ("https://id.example.com/", "https://other.example.com/keys", True),
        ("http://id.example.com/", "https://id.example.com/keys", True),
        ("http://id.example.com/", "http://id.example.com/keys", True),
        ("https://id.example.com/", "http://id.example.com/keys", False),
        ("https://id.example.com/", "file:///etc/keys", False),
        ("http://id.example.com/", "ftp://id.example.com/keys", False),
    ],
)
def test_keys_requested_by_tls_come_by_tls(here: str, there: str, is_followed: bool) -> None:
    redirects = key_server._Redirects()
    request = urllib.request.Request(here)
    if is_followed:
        followed = redirects.redirect_request(request, BytesIO(), 302, "Found", HTTPMessage(), there)
        assert followed is not None
        assert followed.full_url == there
    else:
        with pytest.raises(ValueError, match="not followed"):
            redirects.redirect_request(request, BytesIO(), 302, "Found", HTTPMessage(), there)


@run_async
async def test_a_slow_server_stops_no_client_whose_key_is_known() -> None:
    known = Key("a")
    with KeyServer(known) as server:
        tokens = Tokens("s" * 32, keys=KeySet(url=server.url))
        assert (await tokens.verify_connection(known.token(sub="ann"))).user == "ann"
        server.mode = "slow"
        stranger = asyncio.create_task(tokens.verify_connection(Key("b").token(sub="eve", iat=time.time())))

        async def is_asked() -> bool:
            return server.asked == 2

        await eventually(is_asked)
        assert (await tokens.verify_connection(known.token(sub="ann"))).user == "ann"
        assert not stranger.done()
        await tokens.close()
        with pytest.raises(asyncio.CancelledError):
            await stranger
