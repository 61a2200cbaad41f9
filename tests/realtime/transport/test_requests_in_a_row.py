"""
Many requests on one connection, through what the primary reads, what cuts them, and both parsers, with every cut.

Each has to reach the application once, in order, with its whole body, its own client address and its own session,
whatever it offers to go on with. Only the handshake of a WebSocket ends that.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from realtime.timing.timer_wheel import TimerWheel
from realtime.transport.adopted import NoOwner
from realtime.transport.asgi_host import ASGIHost, HostedOptions
from realtime.transport.hosted_parsers import hosted_protocol
from realtime.transport.peer import Peer
from realtime.transport.websocket_endpoint import WebSocketEndpoint
from sticky.heads.first_bytes import Head, Refusal, inspect
from sticky.keys.affinity import Affinity, AffinitySettings, IPNetwork, Sticky
from sticky.keys.hashing import Hashing, Slot
from sticky.worker.routes import Routes
from tests.realtime.transport.wire import Sessions
from tests.support.one_worker import until
from tests.support.sequences import (
    H2C,
    SECRET_REQUEST,
    WEBSOCKET,
    Request,
    faulty_handshakes,
    handshake,
    sequences,
)

PROXY = "127.0.0.1"
SESSIONS = ("ada", "bela")
DEADLINE_S = 60.0
TURNS = 200  # of the loop, for what does not come


@dataclass(frozen=True)
class Way:
    """How a worker reads: by which parser, and whom it takes for whom."""

    parser: str
    sticky: Sticky
    trusted: bool
    reads_query_ids: bool = False

    def __str__(self) -> str:
        peer = "proxy" if self.trusted else "direct"
        return f"{self.parser}-{self.sticky.value}-{peer}{'-query-ids' if self.reads_query_ids else ''}"


STICKY = [
    (Sticky.IP, True),
    (Sticky.IP, False),
    (Sticky.IP, False, True),
    (Sticky.SESSION, True),
    (Sticky.NONE, True),
    (Sticky.NONE, False, True),
]
WAYS = [Way(parser, *each) for parser, each in itertools.product(("httptools", "h11"), STICKY)]


@dataclass
class Seen:
    """One request, as the application saw it."""

    kind: str
    method: str
    path: str
    body: bytes
    client: str
    session: str | None
    headers: list[bytes]


class Socket(asyncio.Transport):
    """A connection's socket in one worker, whose other end is `Connection`."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self._protocol: Any = None
        self._is_closing = False
        self.is_paused = False

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._connection.sock if name == "socket" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._is_closing:
            self._connection.answers += data

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.close()

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    abort = close


@dataclass
class Connection:
    """A client's connection, and the workers that serve it: each request goes to one, as the primary says."""

    slot = Slot(0)
    worker_id = node = "here"
    way: Way
    sock: socket.socket
    seen: list[Seen] = field(default_factory=list)
    answers: bytearray = field(default_factory=bytearray)
    moves: int = 0

    def __post_init__(self) -> None:
        trusted: tuple[IPNetwork, ...] = ()
        if self.way.trusted:
            trusted = AffinitySettings.from_builtins({**AffinitySettings().to_builtins(), "trusted": [PROXY]}).trusted
        self._affinity = Affinity(AffinitySettings(sticky=self.way.sticky, trusted=trusted))
        self._transport: Socket | None = None

    def adopt(self, received: bytes, *, at_hand: bytes = b"") -> None:
        """Do what the primary does with a connection whose next request is at hand, in a worker that knows no other."""
        head = inspect(received or at_hand)
        assert isinstance(head, Head)
        hashing = Hashing(bytes(16))
        self.routes = routes = Routes(self._affinity, hashing, Slot(0))
        client = self._affinity.address_of(PROXY, head)
        session = self._affinity.sticky_id_of(head) if self.way.sticky is Sticky.SESSION else None
        routes.learn(client, session)
        lacks_session = self.way.sticky is Sticky.SESSION and session is None
        new_session = hashing.new_sticky_id(Slot(0)) if lacks_session else None
        host = ASGIHost(
            self._serve,
            worker=self,
            owner=NoOwner(),
            endpoint=WebSocketEndpoint(Sessions(), wheel=TimerWheel(0.0)),
            websocket_paths=(),
            options=HostedOptions(parser=self.way.parser, reads_query_ids=self.way.reads_query_ids),
        )
        peer = Peer(client, 0, "http", sticky_id=session, new_sticky_id=new_session, peer_address=PROXY)
        self._transport = Socket(self)
        protocol = hosted_protocol(host, peer, received)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)

    def give_back(self, fd: int, peer_address: str, port: int, received: bytes, is_relayed: bool = False) -> bool:
        assert peer_address == PROXY
        self.moves += 1
        self._transport = None
        asyncio.get_running_loop().call_soon(self.adopt, received)
        return True

    @property
    def is_open(self) -> bool:
        return self._transport is None or not self._transport.is_closing()

    async def send(self, data: bytes) -> None:
        """Bring some bytes as soon as somebody reads. They are lost when the connection ends."""
        await until(lambda: not self.is_open or (self._transport is not None and not self._transport.is_paused))
        if self._transport is not None and self.is_open:
            self._transport.get_protocol().data_received(data)

    async def settle(self, wanted: int) -> None:
        """Wait for so many answers or the end, and some turns more in which nothing else may come."""
        await until(lambda: not self.is_open or self.answers.count(b"HTTP/1.1 ") >= wanted)
        for _ in range(TURNS):
            await asyncio.sleep(0)

    def statuses(self) -> list[int]:
        return [int(each) for each in re.findall(rb"HTTP/1\.1 (\d+) ", self.answers)]

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        place = scope["extensions"]["realtime"]
        names = [name for name, _ in scope["headers"]]
        seen = Seen(
            scope["type"], scope.get("method", "GET"), scope["path"], b"", *scope["client"][:1], place["session"], names
        )
        self.seen.append(seen)
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (await receive())["type"] != "websocket.disconnect":
                pass
            return
        while (message := await receive())["type"] == "http.request":
            seen.body += message["body"]
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"ok"})


async def converse(way: Way, stream: bytes, cuts: list[int], wanted: int) -> Connection:
    """Send a stream in pieces. The primary looks at the first head when it is whole, and takes nothing of it."""
    first = inspect(stream)
    assert isinstance(first, Head)
    with socket.socket() as sock:
        connection = Connection(way, sock)
        connection.adopt(b"", at_hand=stream)
        begin = 0
        for end in [*(cut for cut in cuts if first.length <= cut < len(stream)), len(stream)]:
            if end > begin:
                await connection.send(stream[begin:end])
            begin = end
        await connection.settle(wanted)
    return connection


def assert_seen(connection: Connection, sent: list[Request]) -> None:
    """Each request was seen as it was sent, and none that was not."""
    way = connection.way
    assert [(each.method, each.path, each.body) for each in connection.seen] == [
        (each.method, each.path, each.body) for each in sent
    ]
    for seen, request in zip(connection.seen, sent, strict=True):
        assert seen.client == (request.address if way.trusted and request.client else PROXY), request
        if way.sticky is not Sticky.SESSION:
            assert seen.session is None
        elif request.session is not None:
            assert seen.session == request.session
        else:
            assert seen.session not in (None, *SESSIONS), "who comes without a session is given one"
        if "\nUpgrade:" in f"\n{request.offer}":
            assert b"upgrade" in seen.headers, "an application sees what was offered"
        assert b"digest" not in seen.headers, "a trailer is no header"


def ascending(cuts: set[int]) -> list[int]:
    return sorted(cuts)


CUTS = st.sets(st.integers(0, 3000), max_size=10).map(ascending) | st.just(list(range(3000)))


@pytest.mark.parametrize("way", WAYS, ids=str)
@settings(max_examples=25)
@given(sent=sequences(), cuts=CUTS)
@example(sent=[Request(0, "POST", offer=H2C, body=SECRET_REQUEST), Request(1, session="ada", client=1)], cuts=[])
@example(sent=[Request(0, offer=H2C), Request(1, "POST", offer=H2C, body=SECRET_REQUEST, chunks=())], cuts=[])
def test_each_request_is_served_once_whole_and_as_its_own_clients(
    way: Way, sent: list[Request], cuts: list[int]
) -> None:
    connection = asyncio.run(
        asyncio.wait_for(converse(way, b"".join(each.data for each in sent), cuts, len(sent)), DEADLINE_S)
    )
    assert_seen(connection, sent)
    assert connection.statuses() == [200] * len(sent)
    assert connection.is_open


@pytest.mark.parametrize("way", WAYS, ids=str)
@settings(max_examples=10)
@given(
    before=sequences(size=3), client=st.integers(1, 3), session=st.sampled_from([None, *SESSIONS]), cuts=CUTS,
    offer=st.sampled_from([WEBSOCKET, "Upgrade: h2c, WebSocket\r\nConnection: x,upgrade\r\n"]),
)  # fmt: skip
def test_a_handshake_is_its_own_clients_and_nothing_behind_it_is_a_request(
    way: Way, before: list[Request], client: int, session: str | None, cuts: list[int], offer: str
) -> None:
    last = handshake(len(before), client, session, offer)
    stream = b"".join(each.data for each in [*before, last])
    connection = asyncio.run(
        asyncio.wait_for(converse(way, stream + SECRET_REQUEST, cuts, len(before) + 1), DEADLINE_S)
    )
    assert_seen(connection, [*before, last])
    assert [each.kind for each in connection.seen] == ["http"] * len(before) + ["websocket"]
    assert connection.statuses() == [200] * len(before) + [101]


@pytest.mark.parametrize("way", WAYS, ids=str)
@settings(max_examples=10)
@given(before=sequences(size=3), cuts=CUTS, data=st.data())
def test_what_names_websocket_and_is_no_handshake_ends_the_connection(
    way: Way, before: list[Request], cuts: list[int], data: st.DataObject
) -> None:
    last = data.draw(st.sampled_from(faulty_handshakes(len(before), 1)))
    assert isinstance(inspect(last.data), Refusal), "the primary refuses it as a first request"
    stream = b"".join(each.data for each in [*before, last])
    connection = asyncio.run(
        asyncio.wait_for(converse(way, stream + SECRET_REQUEST, cuts, len(before) + 1), DEADLINE_S)
    )
    assert_seen(connection, before)
    assert connection.statuses() == [200] * len(before) + [400]
    assert not connection.is_open
