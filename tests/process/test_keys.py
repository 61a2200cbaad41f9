"""
Tokens of an identity provider: real servers, and a real HTTP server that publishes keys, rotates them and goes away.

How patient a worker is with the provider (realtime/auth/jwks.py) is said by the application that each test serves, so
that nobody waits for the ten seconds between two fetches, and none passes unasked.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from websockets.sync.client import connect

from realtime.cli.servers import KEYS_FILE
from sticky.loop.log_lines import WORKER_READY
from tests.support.aio import run_async
from tests.support.client import ProtocolClient, Refused
from tests.support.fault_clients import Native
from tests.support.key_server import Key as ServedKey
from tests.support.key_server import KeyServer
from tests.support.log_lines import exited, pattern
from tests.support.server import RunningServer

ALGORITHMS = ["RS256", "ES256", "EdDSA"]
WRITE: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
INVALID_TOKEN = 3500
LATER_S = 3600.0
APP = """
from realtime import App, Connection
from realtime.auth import jwks

jwks.PAUSE_S = jwks.AGAIN_S = {again_s}
jwks.FRESH_S = {fresh_s}
app = App()


@app.on_connect
async def connect(conn: Connection) -> dict:
    return {{"user": conn.user, "slot": conn.slot}}
"""


class Key:
    """A key pair of the provider."""

    def __init__(self, algorithm: str, name: str) -> None:
        self.algorithm, self.name = algorithm, name
        self._private: Any
        if algorithm == "RS256":
            self._private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        elif algorithm == "ES256":
            self._private = ec.generate_private_key(ec.SECP256R1())
        else:
            self._private = ed25519.Ed25519PrivateKey.generate()

    def public(self) -> dict[str, Any]:
        jwk = json.loads(WRITE[self.algorithm].to_jwk(self._private.public_key()))
        return {**jwk, "kid": self.name, "use": "sig"}

    def token(self, user: str) -> str:
        return jwt.encode({"sub": user}, self._private, algorithm=self.algorithm, headers={"kid": self.name})


class Provider:
    """Publishes keys on a port that it keeps, and counts who asks."""

    def __init__(self, *keys: Key) -> None:
        self.keys = list(keys)
        self.asked: list[str] = []  # paths
        self.port = 0
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append(self.path)
                body = json.dumps({"keys": [key.public() for key in provider.keys]}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        """Be away: who asks is refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Provider:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(*[Key(algorithm, algorithm) for algorithm in ALGORITHMS]) as provider:
        yield provider


def serve(provider: Provider, tmp_path: Path, *, again_s: float, fresh_s: float) -> RunningServer:
    """Return a server, not started, that takes only those for whom the provider vouches."""
    app = tmp_path / "app.py"
    app.write_text(APP.format(again_s=again_s, fresh_s=fresh_s))
    return RunningServer(app, "--token-jwks-url", f"http://127.0.0.1:{provider.port}/keys.json", workers=2)


async def admitted(server: RunningServer, key: Key, user: str = "ana", address: str = "127.0.0.1") -> int:
    """Connect with a token of that key. Return the slot."""
    client = await ProtocolClient.join(server.websocket_url, address, token=key.token(user))
    data = client.connected["data"]
    assert data["user"] == user
    await client.close()
    slot: int = data["slot"]
    return slot


async def refused(server: RunningServer, key: Key, address: str = "127.0.0.1") -> None:
    """Connect with a token of that key, and be told that it is none."""
    client = await ProtocolClient.open(server.websocket_url, address)
    with pytest.raises(ConnectionResetError):
        await client.ask("connect", token=key.token("eve"))
    code, _ = await client.wait_closed()
    assert code == INVALID_TOKEN


async def undecided(server: RunningServer, key: Key, address: str = "127.0.0.1") -> None:
    """Connect with a token of that key, and be told to come again."""
    client = await ProtocolClient.open(server.websocket_url, address)
    with pytest.raises(Refused) as answer:
        await client.ask("connect", token=key.token("eve"))
    assert (answer.value.code, answer.value.temporary) == (100, True)
    await client.close()


def test_keys_of_every_kind_admit_and_are_asked_for_once(provider: Provider, tmp_path: Path) -> None:
    with serve(provider, tmp_path, again_s=LATER_S, fresh_s=LATER_S) as server:
        server.wait_until_full()
        assert provider.asked == [], "nobody needed a key"
        connect_many(server, provider)


@run_async
async def connect_many(server: RunningServer, provider: Provider) -> None:
    addresses = [f"127.0.78.{number}" for number in range(1, 21)]
    slots = await asyncio.gather(
        *[admitted(server, key, f"{key.name}-{address}", address) for key in provider.keys for address in addresses]
    )
    assert set(slots) == {0, 1}
    assert len(provider.asked) in (1, 2), "once for each worker, or once for both: they share the set"
    # A worker that has the set from the other may fetch once itself, and its answer is then final, and right.
    first = Key("RS256", "invented first")
    for address in addresses:
        client = await ProtocolClient.open(server.websocket_url, address)
        with pytest.raises((Refused, ConnectionResetError)):
            await client.ask("connect", token=first.token("eve"))
        await client.close()
    asked = len(provider.asked)
    assert asked in (1, 2), "no worker fetches twice"
    for algorithm in ALGORITHMS:
        invented, forged = Key(algorithm, "invented"), Key(algorithm, algorithm)
        for address in addresses:
            await undecided(server, invented, address)
            await refused(server, forged, address)
    assert await admitted(server, provider.keys[0]) in (0, 1)
    assert len(provider.asked) == asked, "invented names do not make it ask again so soon"


def test_a_key_that_is_new_is_found_and_one_that_is_withdrawn_is_good_no_more(
    provider: Provider, tmp_path: Path
) -> None:
    with serve(provider, tmp_path, again_s=0.0, fresh_s=LATER_S) as server:
        server.wait_until_full()
        rotate(server, provider)


@run_async
async def rotate(server: RunningServer, provider: Provider) -> None:
    old, new = provider.keys, [Key(algorithm, f"new {algorithm}") for algorithm in ALGORITHMS]
    for key in old:
        await admitted(server, key)
    for key in new:
        await refused(server, key)
    provider.keys = new
    for key in old:
        await admitted(server, key)  # nobody had a reason to ask
    asked = len(provider.asked)
    for key in new:
        await admitted(server, key)
    assert len(provider.asked) == asked + 1
    for key in old:
        await refused(server, key)


def test_while_the_provider_is_away_the_keys_that_are_known_are_good(provider: Provider, tmp_path: Path) -> None:
    with serve(provider, tmp_path, again_s=0.0, fresh_s=0.0) as server:  # it would ask each time
        server.wait_until_full()
        lose_provider(server, provider)


@run_async
async def lose_provider(server: RunningServer, provider: Provider) -> None:
    old, new = provider.keys, [Key(algorithm, f"new {algorithm}") for algorithm in ALGORITHMS]
    for key in old:
        await admitted(server, key)
    await asyncio.to_thread(provider.stop)
    begin = server.log.mark()
    for key in old:
        await admitted(server, key)
    await asyncio.to_thread(server.log.wait_for, r"keys not fetched url=http://127\.0\.0\.1", since=begin)
    for key in old:
        await admitted(server, key)
    for key in new:
        await undecided(server, key)
    provider.keys = [*old, *new]
    provider.start()
    for key in (*new, *old):
        await admitted(server, key)


# While the provider is slow, or away


SLOW_APP = """
from realtime import App

app = App()
"""


def test_a_provider_that_sends_a_byte_now_and_then_stops_neither_a_reload_nor_the_end(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(SLOW_APP)
    with KeyServer(ServedKey("a")) as provider:
        provider.mode = "slow"
        options = ("--token-jwks-url", provider.url, "--drain", "1s")
        with RunningServer(app, *options, workers=1) as server:
            server.wait_until_full()
            for end in (signal.SIGHUP, signal.SIGTERM):
                asked, since = provider.asked, server.log.mark()
                with connect(server.websocket_url, compression=None) as client:
                    client.send(json.dumps({"id": 1, "connect": {"token": ServedKey("b").token(sub="eve")}}))
                    while provider.asked == asked:
                        threading.Event().wait(0.01)
                    server.send_signal(end)
                    server.log.wait_for(exited("status 0"), since=since)
            assert server.wait() == 0


def test_a_worker_that_dies_while_the_provider_is_away_leaves_its_keys(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(SLOW_APP)
    key = ServedKey("a")
    with KeyServer(key) as provider, RunningServer(app, "--token-jwks-url", provider.url, workers=1) as server:
        server.wait_until_full()
        assert connects(server, key) == "admitted"
        [worker] = [each["pid"] for each in server.status()["workers"]]
        provider.stop()
        since = server.log.mark()
        os.kill(worker, signal.SIGKILL)
        server.log.wait_for(pattern(WORKER_READY, slot=0), since=since)
        assert connects(server, key) == "admitted"
        assert connects(server, ServedKey("b")) == "error 100, temporary"
        left = Path(server.directory, KEYS_FILE)
        assert stat.S_IMODE(left.stat().st_mode) == 0o600
        assert provider.asked == 1
    assert not left.exists(), "it goes with the primary"


def connects(server: RunningServer, key: ServedKey) -> str:
    client = Native(server.port)
    try:
        return client.connect({"token": key.token(sub="ann")})
    finally:
        client.close()
