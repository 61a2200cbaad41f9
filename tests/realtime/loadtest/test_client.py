"""One client of the load, spoken to byte by byte: how it gets in, what it answers, and how it says that it failed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from realtime.loadtest.client import BACKLOG_MAX, Client, Stage
from realtime.loadtest.errors import Failure
from realtime.loadtest.ledger import Account
from realtime.loadtest.marks import Mark
from realtime.loadtest.plan import Endpoint

HERE = Endpoint(False, "127.0.0.1", 8000, "/connection/websocket")
MARK = Mark(0, 0, 0)
PUBLICATION = b'{"push":{"channel":"bench:0","pub":{"data":{"text":"ours"}}}}'


class Run:
    """Hears a client, and remembers."""

    def __init__(self) -> None:
        self.marks: dict[bytes, Mark] = {}
        self.deliveries: list[Mark] = []
        self.failures: list[Failure] = []
        self.refusals: list[tuple[int, Failure, bool]] = []

    def mark_of(self, line: bytes) -> Mark | None:
        if b"ours" not in line:
            return None
        self.marks[line] = MARK
        return MARK

    def delivered(self, account: Account, mark: Mark, at_ns: int) -> None:
        self.deliveries.append(mark)

    def joined(self, client: Client) -> None:
        client.account = Account(0)

    def failed(self, client: Client, failure: Failure) -> None:
        self.failures.append(failure)

    def refused(self, client: Client, number: int, failure: Failure, *, temporary: bool) -> None:
        self.refusals.append((number, failure, temporary))


class Socket:
    """The transport of a client, with a server's side of the protocol behind it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.server = ServerProtocol(max_size=None)
        self.said: list[Any] = []
        self.backlog = 0
        self.is_open = True

    def write(self, data: bytes) -> None:
        self.server.receive_data(data)
        for each in self.server.events_received():
            self.said.append(each)

    def get_write_buffer_size(self) -> int:
        return self.backlog

    def close(self) -> None:
        self.is_open = False

    abort = close

    def accept(self) -> None:
        self.server.send_response(self.server.accept(self.said.pop(0)))
        self.client.data_received(b"".join(self.server.data_to_send()))

    def commands(self) -> list[dict[str, Any]]:
        found = [json.loads(line) for each in self.said for line in each.data.split(b"\n")]
        self.said.clear()
        return found

    def answer(self, *lines: bytes | dict[str, Any]) -> None:
        texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        self.client.data_received(Frame(Opcode.TEXT, b"\n".join(texts)).serialize(mask=False))


def opened(token: str = "") -> tuple[Run, Socket]:
    run = Run()
    client = Client(run, 0, "bench:0", HERE, token, 0.0)
    socket = Socket(client)
    client.connection_made(socket)  # type: ignore[arg-type]
    return run, socket


def member(pong: bool = True) -> tuple[Run, Socket]:
    run, socket = opened()
    socket.accept()
    socket.answer({"id": 1, "connect": {"client": "x", "version": "1", "pong": pong}}, {"id": 2, "subscribe": {}})
    socket.commands()
    assert socket.client.stage is Stage.MEMBER
    return run, socket


def test_it_asks_for_everything_in_one_frame() -> None:
    _, socket = opened(token="abc")
    socket.accept()
    assert len(socket.said) == 1
    connect, subscribe = socket.commands()
    assert connect == {"id": 1, "connect": {"token": "abc", "name": "bench"}}
    assert subscribe == {"id": 2, "subscribe": {"channel": "bench:0"}}


def test_deliveries_are_counted_also_several_in_a_frame_and_from_the_second_on_without_parsing() -> None:
    run, socket = member()
    socket.answer(PUBLICATION, b'{"push":{"channel":"bench:0","pub":{"data":"of others"}}}', PUBLICATION)
    assert run.deliveries == [MARK, MARK]
    assert set(run.marks) == {PUBLICATION}
    socket.answer(
        b'{"push":{"channel":"bench:1","pub":{"data":{"text":"ours"}}}}', b'{"push":{"channel":"bench:0","join":{}}}'
    )
    assert run.deliveries == [MARK, MARK]


@pytest.mark.parametrize("pong", [True, False])
def test_pings_are_answered_when_the_server_wants_it(pong: bool) -> None:
    _, socket = member(pong)
    socket.answer(b"{}")
    assert socket.commands() == [{}] * pong


def test_a_ping_frame_is_answered() -> None:
    _, socket = member()
    socket.client.data_received(Frame(Opcode.PING, b"abc").serialize(mask=False))
    assert [(each.opcode, each.data) for each in socket.said] == [(Opcode.PONG, b"abc")]


def test_a_publication_and_the_answer_no() -> None:
    run, socket = member()
    socket.client.publish(7, b'{"text":"x"}')
    (command,) = socket.commands()
    assert command["publish"] == {"channel": "bench:0", "data": {"text": "x"}}
    socket.client.publish(8, b"1")
    socket.answer({"id": command["id"], "error": {"code": 111, "message": "too many requests", "temporary": True}})
    socket.answer({"id": command["id"] + 1, "publish": {}})
    assert run.refusals == [(7, Failure("publish", 111, "too many requests"), True)]
    assert not run.failures


def test_a_server_that_does_not_read_is_sent_no_more() -> None:
    _, socket = member()
    socket.backlog = BACKLOG_MAX + 1
    socket.client.publish(0, b"1")
    assert socket.said == []


@pytest.mark.parametrize(
    ("answers", "failure"),
    [
        ([{"id": 1, "error": {"code": 109, "message": "token expired"}}], Failure("connect", 109, "token expired")),
        (
            [{"id": 1, "connect": {}}, {"id": 2, "error": {"code": 102, "message": "unknown channel"}}],
            Failure("join", 102, "unknown channel"),
        ),
        ([b"hello"], Failure("connect", 0, "sends what is not the protocol")),
    ],
)
def test_who_is_not_let_in_says_at_which_step(answers: list[Any], failure: Failure) -> None:
    run, socket = opened()
    socket.accept()
    socket.answer(*answers)
    assert run.failures == [failure]
    assert not socket.is_open
    socket.client.connection_lost(None)
    assert run.failures == [failure], "it is told once"


def test_a_room_that_the_server_has_joined_it_to_is_joined() -> None:
    _, socket = opened()
    socket.accept()
    socket.answer({"id": 1, "connect": {}}, {"id": 2, "error": {"code": 105, "message": "already subscribed"}})
    assert socket.client.stage is Stage.MEMBER


def test_a_close_an_unsubscribe_and_a_cut_end_it() -> None:
    run, socket = member()
    socket.client.data_received(Frame(Opcode.CLOSE, b"\x0b\xb9shutdown").serialize(mask=False))
    assert run.failures == [Failure("stay", 3001, "shutdown")]
    run, socket = member()
    socket.answer({"push": {"channel": "bench:0", "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}}})
    assert run.failures == [Failure("stay", 2000, "server unsubscribe")]
    run, socket = member()
    socket.client.connection_lost(ConnectionResetError(104, "Connection reset by peer"))
    assert run.failures == [Failure("stay", 0, "connection reset by peer")]


def test_a_ping_and_a_close_in_one_piece_are_a_close() -> None:
    run, socket = member()
    frames = Frame(Opcode.TEXT, b"{}"), Frame(Opcode.CLOSE, b"\x0b\xb9shutdown")
    socket.client.data_received(b"".join(each.serialize(mask=False) for each in frames))
    assert run.failures == [Failure("stay", 3001, "shutdown")]


def test_what_is_published_after_the_end_of_the_stream_is_not_sent() -> None:
    run, socket = member()
    socket.client.eof_received()
    socket.client.publish(0, b"1")
    assert socket.said == []
    socket.client.connection_lost(None)
    assert run.failures == [Failure("stay", 0, "closed without a reason")]


def test_an_answer_that_opens_no_websocket() -> None:
    run, socket = opened()
    socket.client.data_received(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    assert run.failures == [Failure("handshake", 503, "Service Unavailable")]
    run, socket = opened()
    socket.client.data_received(b"HTTP/1.1 503 Service Unavailable\r\n\r\nwithout a length")
    socket.client.eof_received()
    assert run.failures == [Failure("handshake", 503, "Service Unavailable")]
    run, socket = opened()
    socket.client.data_received(b"SSH-2.0-nobody\r\n")
    assert run.failures == [Failure("handshake", 0, "sends no HTTP answer")]


def test_leaving_is_no_failure() -> None:
    run, socket = member()
    socket.client.leave()
    assert socket.said[0].opcode is Opcode.CLOSE
    socket.client.connection_lost(None)
    assert run.failures == []
