"""
What a client gets when something fails, on the wire: every row of docs/faults.md, for each kind of client.

Real servers, a real Redis and a real key server, each broken in its way. What has to come is in
tests/support/fault_table.py, which the page is compared with.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import itertools
import json
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hiredis
import pytest

from realtime import codes
from realtime.auth.tokens import sign
from realtime.codes import DisconnectCode
from sticky.loop.log_lines import WORKER_EXITED, WORKER_READY
from tests.process.test_api import post
from tests.support.fault_clients import ONE_WAY, TWO_WAY, Native
from tests.support.fault_table import APART, FINAL, ROWS, Final, Row
from tests.support.key_server import Key, KeyServer
from tests.support.log_lines import pattern
from tests.support.processes import free_port
from tests.support.redis_server import RedisServer
from tests.support.require import require
from tests.support.sentinels import Sentinels
from tests.support.server import ROOT, RunningServer

APP = ROOT / "tests" / "support" / "faults_app.py"
PAGE = ROOT / "docs" / "faults.md"
API_KEY = "a key of sixteen bytes"
SECRET = "the secret of a server that fails, of thirty-two bytes and more"
COMMAND_KINDS = ("websocket", "http_stream")
HEALTHY_S = 30.0


@dataclass
class Place:
    """A server, and all that can fail about it; None where the test has none."""

    server: RunningServer
    redis: Any = None
    keys: Any = None
    known: Any = None

    def health(self) -> str:
        with urllib.request.urlopen(f"{self.server.url}/health") as answer:
            return str(json.load(answer)["status"])

    def mend(self) -> None:
        """Wait until everything is as it was."""
        if self.keys is not None:
            self.keys.start()
            self.keys.mode, self.keys.keys = "up", [self.known]
        give_up_at = time.monotonic() + HEALTHY_S
        while self.health() != "ok":
            assert time.monotonic() < give_up_at, "it is not well again"
            threading.Event().wait(0.05)


def hmac_token(place: Place, **claims: Any) -> str:
    return sign({"sub": "ann", **claims}, SECRET)


def unknown_key(place: Place, **claims: Any) -> str:
    return Key("a new one").token(sub="ann", **claims)


@contextlib.contextmanager
def nothing(place: Place) -> Iterator[None]:
    yield


@dataclass(frozen=True)
class Fault:
    """How a fault is made, and what clients say while it lasts: the token they have, and data for handlers."""

    begin: Callable[[Place], contextlib.AbstractContextManager[None]] = nothing
    token: Callable[..., str] | None = None
    data: dict[str, Any] = field(default_factory=dict)


# Keys


def keys_are(mode: str) -> Callable[[Place], contextlib.AbstractContextManager[None]]:
    @contextlib.contextmanager
    def begin(place: Place) -> Iterator[None]:
        if mode == "down":
            place.keys.stop()
        else:
            place.keys.mode = mode
        yield

    return begin


@contextlib.contextmanager
def booting(place: Place) -> Iterator[None]:
    place.keys.stop()
    since = place.server.log.mark()
    place.server.send_signal(signal.SIGHUP)
    place.server.log.wait_for(pattern(WORKER_READY, slot=0), since=since)
    place.server.log.wait_for(WORKER_EXITED, since=since)
    yield


ROTATED = Key("rotated to")


@contextlib.contextmanager
def rotated(place: Place) -> Iterator[None]:
    stranger = Native(place.server.port)
    assert stranger.connect({"token": Key("invented").token(sub="eve")}) == "closed 3500"
    stranger.close()
    place.keys.keys = [place.known, ROTATED]
    yield


# Redis


@contextlib.contextmanager
def redis_down(place: Place) -> Iterator[None]:
    place.redis.stop()
    try:
        yield
    finally:
        place.redis.start()


@contextlib.contextmanager
def redis_silent(place: Place) -> Iterator[None]:
    assert place.redis.process is not None
    place.redis.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        place.redis.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def redis_loading(place: Place) -> Iterator[None]:
    """Answer as Redis does while it loads; a data set that takes long to load is more than a test should have."""
    place.redis.stop()
    with socket.create_server(("127.0.0.1", place.redis.port)) as listener:

        def serve(client: socket.socket) -> None:
            reader = hiredis.Reader(notEnoughData=Ellipsis)
            with contextlib.suppress(OSError), client:
                while data := client.recv(65536):
                    reader.feed(data)
                    while reader.gets() is not Ellipsis:
                        client.sendall(b"-LOADING Redis is loading the dataset in memory\r\n")

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
    place.redis.start()


@contextlib.contextmanager
def redis_busy(place: Place) -> Iterator[None]:
    for name in ("busy-reply-threshold", "lua-time-limit"):  # as it is called since Redis 7, and before
        place.redis.command("CONFIG", "SET", name, "10")
    script = threading.Thread(target=place.redis.command, args=("EVAL", "while true do end", "0"), daemon=True)
    script.start()
    while not place.redis.command("PING").startswith(b"-BUSY"):
        threading.Event().wait(0.01)
    try:
        yield
    finally:
        assert place.redis.command("SCRIPT", "KILL").startswith(b"+OK")
        script.join()


@contextlib.contextmanager
def redis_locked(place: Place) -> Iterator[None]:
    place.redis.stop()  # its clients have to log in again
    place.redis.start("--requirepass", "another", greeting=b"-NOAUTH")
    try:
        yield
    finally:
        place.redis.restart()


@contextlib.contextmanager
def redis_replica(place: Place) -> Iterator[None]:
    assert place.redis.command("REPLICAOF", "127.0.0.1", "1").startswith(b"+OK")
    try:
        yield
    finally:
        assert place.redis.command("REPLICAOF", "NO", "ONE").startswith(b"+OK")


@contextlib.contextmanager
def redis_disk(place: Place) -> Iterator[None]:
    dump = Path(place.redis.path).with_name("dump.rdb")
    dump.unlink(missing_ok=True)
    dump.mkdir()  # no file takes its place
    place.redis.command("CONFIG", "SET", "save", "3600 1000000")
    assert place.redis.command("BGSAVE").startswith(b"+")
    while b"rdb_last_bgsave_status:err" not in place.redis.command("INFO", "persistence"):
        threading.Event().wait(0.02)
    try:
        yield
    finally:
        place.redis.command("CONFIG", "SET", "save", "")
        dump.rmdir()


def redis_configured(name: str, bad: str, good: str) -> Callable[[Place], contextlib.AbstractContextManager[None]]:
    @contextlib.contextmanager
    def begin(place: Place) -> Iterator[None]:
        assert place.redis.command("CONFIG", "SET", name, bad).startswith(b"+OK")
        try:
            yield
        finally:
            assert place.redis.command("CONFIG", "SET", name, good).startswith(b"+OK")

    return begin


def ahead(**seconds: float) -> Callable[..., str]:
    """Return what signs tokens whose times are so far from now."""

    def token(place: Place, **claims: Any) -> str:
        return hmac_token(place, **{name: time.time() + far for name, far in seconds.items()}, **claims)

    return token


FAULTS: dict[str, Fault] = {
    "keys down": Fault(keys_are("down"), unknown_key),
    "keys fail": Fault(keys_are("fail"), unknown_key),
    "keys slow": Fault(keys_are("slow"), unknown_key),
    "keys garbage": Fault(keys_are("garbage"), unknown_key),
    "keys huge": Fault(keys_are("huge"), unknown_key),
    "keys redirect": Fault(keys_are("circle"), unknown_key),
    "known key": Fault(keys_are("down"), lambda place, **claims: place.known.token(sub="ann", **claims)),
    "boot": Fault(booting, lambda place, **claims: place.known.token(sub="ann", **claims)),
    "rotated": Fault(rotated, lambda place, **claims: ROTATED.token(sub="ann", **claims)),
    "not yet": Fault(nothing, lambda place, **claims: unknown_key(place, iat=time.time(), **claims)),
    "withdrawn": Fault(nothing, lambda place, **claims: unknown_key(place, iat=time.time() - 3600, **claims)),
    "nbf": Fault(token=ahead(nbf=3)),
    "nbf later": Fault(token=ahead(nbf=60)),
    "iat": Fault(token=ahead(iat=86400)),
    "exp": Fault(token=ahead(exp=-3)),
    "expired": Fault(token=ahead(exp=-60)),
    "redis down": Fault(redis_down),
    "redis silent": Fault(redis_silent),
    "LOADING": Fault(redis_loading),
    "BUSY": Fault(redis_busy),
    "auth": Fault(redis_locked),
    "READONLY": Fault(redis_replica),
    "OOM": Fault(redis_configured("maxmemory", "1", "0")),
    "MISCONF": Fault(redis_disk),
    "NOREPLICAS": Fault(redis_configured("min-replicas-to-write", "1", "0")),
    "raises": Fault(data={"do": "raise"}),
    "unavailable": Fault(data={"do": "unavailable"}),
    "times out": Fault(data={"do": "time out"}),
    "slow": Fault(data={"do": "be slow"}),
    "later": Fault(data={"do": "come later"}),
    "rejects": Fault(data={"do": "reject"}),
    "disconnects": Fault(data={"do": "disconnect"}),
}


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    require("redis")
    known = Key("known")
    with RedisServer(free_port()) as redis, KeyServer(known) as keys:
        options = ("--redis", f"redis://127.0.0.1:{redis.port}", "--handshake", "2s", "--drain", "1s")
        env = {"REALTIME_TOKEN_HMAC_SECRET": SECRET, "REALTIME_TOKEN_JWKS_URL": keys.url}
        with RunningServer(APP, *options, workers=1, env=env) as server:
            yield Place(server, redis, keys, known)


def connect_fields(place: Place, fault: Fault) -> dict[str, Any]:
    token = (fault.token or hmac_token)(place)
    return {"token": token, "data": fault.data or ({} if fault.token else {"rooms": ["room:own"]})}


def prepare(place: Place, kind: str, method: str, fault: Fault) -> Callable[[], str]:
    """Admit a client that can send a command, and return what sends it."""
    client = TWO_WAY[kind](place.server.port)
    assert client.connect({"token": hmac_token(place, exp=time.time() + 3600)}) == "admitted", client.result
    room = "fails:in" if fault.data else "room:in"
    if method in ("publish", "presence", "history"):
        assert client.ask("subscribe", {"channel": room}) == "done", client.result
    if method == "sub_refresh":
        old = hmac_token(place, channel=room, exp=time.time() + 3600)
        assert client.ask("subscribe", {"channel": room, "token": old}) == "done", client.result

    def send() -> str:
        fields: dict[str, Any] = {"channel": room}
        if method == "rpc":
            fields = {"method": "do", "data": fault.data}
        elif method in ("subscribe", "publish"):
            fields["data"] = fault.data or {"text": "hello"}
        if method == "refresh":
            fields = {"token": fault.token(place) if fault.token else ""}
        elif fault.token is not None:
            fields["token"] = fault.token(place, channel=room)
        try:
            return client.ask(method, fields)
        finally:
            client.close()

    return send


def connecting(place: Place, kind: str, fault: Fault) -> str:
    client = {**TWO_WAY, **ONE_WAY}[kind](place.server.port)
    try:
        return client.connect(connect_fields(place, fault))
    finally:
        client.close()


def examine(place: Place, row: Row, fault: Fault) -> None:
    """Make a fault happen, and compare what clients of every kind get with what the table says."""
    asks = {
        (kind, method): prepare(place, kind, method, fault) for method in row.commands for kind in COMMAND_KINDS
    }  # fmt: skip
    wanted = {**dict.fromkeys(TWO_WAY, row.connect), **dict.fromkeys(ONE_WAY, row.one_way)}
    with ThreadPoolExecutor(32) as pool, fault.begin(place):
        connects = {kind: pool.submit(connecting, place, kind, fault) for kind in wanted}
        commands = {each: pool.submit(send) for each, send in asks.items()}
        got = {kind: future.result() for kind, future in connects.items()}
        answers = {each: future.result() for each, future in commands.items()}
    place.mend()
    assert got == wanted
    assert answers == {(kind, method): row.commands[method] for kind, method in asks}


@pytest.mark.redis
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_a_client_gets(place: Place, row: Row) -> None:
    place.mend()
    warm = Native(place.server.port)
    assert warm.connect({"token": place.known.token(sub="ann")}) == "admitted"
    warm.close()
    examine(place, row, FAULTS[row.name])
    warm = Native(place.server.port)
    assert warm.connect({"token": hmac_token(place), "data": {"rooms": ["room:own"]}}) == "admitted", "it is over"
    warm.close()


# The answers that are final


def forged(claims: dict[str, Any]) -> str:
    """Sign what PyJWT would not."""
    head = b'{"alg":"HS256","typ":"JWT"}'
    text = b".".join(base64.urlsafe_b64encode(each).rstrip(b"=") for each in (head, json.dumps(claims).encode()))
    signature = base64.urlsafe_b64encode(hmac.digest(SECRET.encode(), text, "sha256")).rstrip(b"=")
    return (text + b"." + signature).decode()


def as_connect(**fields: Any) -> Callable[[Place], str]:
    def get(place: Place) -> str:
        given = {name: value(place) if callable(value) else value for name, value in fields.items()}
        client = Native(place.server.port)
        try:
            return client.connect({"token": hmac_token(place), **given})
        finally:
            client.close()

    return get


def as_message(message: str) -> Callable[[Place], str]:
    def get(place: Place) -> str:
        client = Native(place.server.port)
        try:
            assert client.connect({"token": hmac_token(place)}) == "admitted"
            return client.say(message)
        finally:
            client.close()

    return get


def silent(place: Place) -> str:
    client = Native(place.server.port)
    try:
        client.socket.recv(timeout=HEALTHY_S)
    except Exception as end:  # noqa: BLE001 - how it ends is what is looked at
        code = getattr(getattr(end, "rcvd", None), "code", None)
        return f"closed {code}"
    return "said something"


def other_room(place: Place) -> str:
    token = hmac_token(place, channel="room:another")
    return as_message(json.dumps({"id": 2, "subscribe": {"channel": "room:one", "token": token}}))(place)


FINALS: dict[str, Callable[[Place], str]] = {
    "forged": as_connect(token=lambda place: Key("known").token(sub="ann")),
    "unpublished": as_connect(token=unknown_key),
    "unlike": as_connect(token=forged({"sub": 42})),
    "for later": as_connect(token=ahead(nbf=3600)),
    "other room": other_room,
    "no token": as_connect(token=""),
    "garbage": as_message("nonsense"),
    "silent": silent,
    "forced": as_message('{"id":2,"rpc":{"method":"do","data":{"do":"disconnect me"}}}'),
    "rooms": as_connect(data={"rooms": [f"room:{number}" for number in range(129)]}),
    "denied": lambda place: connecting(place, "uni_sse", Fault(data={"do": "reject"})),
    "no handler": as_message('{"send":{"data":1}}'),
    "too big": as_message("x" * 70_000),
    "own": as_connect(data={"do": "disconnect", "code": 4500}),
}


@pytest.mark.redis
@pytest.mark.parametrize("row", FINAL, ids=lambda row: row.name)
def test_what_is_said_for_good(place: Place, row: Final) -> None:
    assert FINALS[row.name](place) == row.code


# Faults for which another server is needed


@pytest.mark.redis
def test_the_local_broker_is_down() -> None:
    """The primary is stopped meanwhile: it would have another one at once. So every client has its worker before."""
    [row] = [each for each in APART if each.name == "local broker"]
    fault = Fault()
    with RunningServer(APP, "--drain", "1s", workers=1, env={"REALTIME_TOKEN_HMAC_SECRET": SECRET}) as server:
        place = Place(server)
        asks = {
            (kind, method): prepare(place, kind, method, fault) for method in row.commands for kind in COMMAND_KINDS
        }
        clients = {kind: make(server.port) for kind, make in {**TWO_WAY, **ONE_WAY}.items()}
        broker = server.local_broker()
        os.kill(server.pid, signal.SIGSTOP)
        try:
            os.kill(broker, signal.SIGKILL)
            got = {kind: client.connect(connect_fields(place, fault)) for kind, client in clients.items()}
            answers = {each: send() for each, send in asks.items()}
        finally:
            os.kill(server.pid, signal.SIGCONT)
        for client in clients.values():
            client.close()
    assert got == {**dict.fromkeys(TWO_WAY, row.connect), **dict.fromkeys(ONE_WAY, row.one_way)}
    assert answers == {(kind, method): row.commands[method] for kind, method in asks}


def fill(server: RunningServer) -> None:
    """Publish until nothing more is taken, be it as small as a publication can be."""
    for size in (20_000, 1000, 1):
        for number in itertools.count():
            fields = {"channel": f"room:{size}-{number}", "data": "x" * size}
            answer = post(server, "/api/publish", fields, X_API_Key=API_KEY)[1]
            if "error" in answer:
                assert answer["error"]["code"] == 100, answer
                break


def test_the_local_broker_is_full() -> None:
    [row] = [each for each in APART if each.name == "local broker full"]
    fault = Fault()
    env = {"REALTIME_TOKEN_HMAC_SECRET": SECRET, "REALTIME_API_KEY": API_KEY}
    with RunningServer(APP, "--drain", "1s", "--broker-memory", "1MiB", workers=1, env=env) as server:
        place = Place(server)
        asks = {
            (kind, method): prepare(place, kind, method, fault) for method in row.commands for kind in COMMAND_KINDS
        }
        fill(server)
        got = {kind: connecting(place, kind, fault) for kind in (*TWO_WAY, *ONE_WAY)}
        fill(server)
        answers = {each: send() for each, send in asks.items()}
    assert got == {**dict.fromkeys(TWO_WAY, row.connect), **dict.fromkeys(ONE_WAY, row.one_way)}
    assert answers == {(kind, method): row.commands[method] for kind, method in asks}


@pytest.mark.redis
def test_a_token_that_was_revoked_is_refused_also_while_nothing_can_be_read(place: Place) -> None:
    [row] = [each for each in APART if each.name == "revocation"]
    place.mend()
    server_env = {"REALTIME_TOKEN_HMAC_SECRET": SECRET, "REALTIME_API_KEY": API_KEY}
    options = ("--redis", f"redis://127.0.0.1:{place.redis.port}", "--redis-prefix", "revoking", "--drain", "1s")
    with RunningServer(APP, *options, workers=1, env=server_env) as server:
        headers = {"X-API-Key": server_env["REALTIME_API_KEY"]}
        request = urllib.request.Request(f"{server.url}/api/revoke_token", b'{"uid":"revoked"}', headers)
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer) == {"result": {}}
        fault = Fault(redis_down, lambda place, **claims: hmac_token(place, jti="revoked", **claims))
        examine(Place(server, place.redis), row, fault)
    place.mend()


@pytest.mark.slow
@pytest.mark.redis
def test_a_master_fails_over() -> None:
    require("redis")
    [row] = [each for each in APART if each.name == "failover"]
    fault = Fault()
    with Sentinels() as sentinels:
        env = {"REALTIME_TOKEN_HMAC_SECRET": SECRET}
        with RunningServer(APP, "--redis", sentinels.url, workers=1, env=env) as server:
            place = Place(server, sentinels.master)

            @contextlib.contextmanager
            def failing(place: Place) -> Iterator[None]:
                place.redis.stop()
                yield

            examine(place, row, Fault(failing))
            client = Native(server.port)
            assert client.connect(connect_fields(place, fault)) == "admitted", "the new master serves"
            client.close()


# When an expired connection ends


def test_a_token_that_is_good_by_its_leeway_is_no_token_of_a_connection_that_ends_at_once() -> None:
    options = ("--drain", "1s", "--ping", "600ms", "--pong", "300ms", "--token-leeway", "300s")
    with RunningServer(APP, *options, workers=1, env={"REALTIME_TOKEN_HMAC_SECRET": SECRET}) as server:
        client = Native(server.port)
        assert client.connect({"token": ahead(exp=-55)(Place(server)), "data": {}}) == "admitted"
        for _ in range(2):  # it would have ended in the tick before
            assert client.socket.recv(timeout=HEALTHY_S) == "{}"
            client.socket.send("{}")
        assert client.ask("rpc", {"method": "do", "data": {}}) == "done"
        client.close()


# The page


def rows_of(title: str) -> list[str]:
    """Return the rows of the table below a title, without its head."""
    text = PAGE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return [line for line in text.splitlines() if line.startswith("| ")][2:]


def test_the_page_has_the_rows_that_are_tested() -> None:
    assert rows_of("What a client gets") == [row.line() for row in (*ROWS, *APART)]
    assert rows_of("What is said for good") == [row.line() for row in FINAL]


def test_every_fault_is_made_and_none_is_answered_for_good() -> None:
    assert [row.name for row in ROWS] == list(FAULTS)
    assert [row.name for row in FINAL] == list(FINALS)
    wanted_by_the_application = {"rejects"}
    for row in (*ROWS, *APART):
        if row.name not in wanted_by_the_application:
            for answer in (row.connect, row.one_way, *row.commands.values()):
                code = int("".join(filter(str.isdigit, answer)) or 0)
                assert code in (0, 109) or answer.endswith("temporary") or DisconnectCode(code, "").reconnects, row.name


def test_every_final_code_of_ours_is_argued() -> None:
    ours = {
        f"closed {each.code}"
        for each in vars(codes).values()
        if isinstance(each, DisconnectCode) and not each.reconnects
    }
    assert ours <= {row.code for row in FINAL}
