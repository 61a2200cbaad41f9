"""The client's side of a WebSocket: fed whole, byte by byte and with bytes left over, and what no server may send."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from realtime.loadtest.plan import Endpoint
from realtime.loadtest.websocket import BadStream, Closed, HandshakeRefused, WebSocket

HERE = Endpoint(False, "127.0.0.1", 8000, "/connection/websocket?cf=1")


def sent(opcode: Opcode, payload: bytes, *, fin: bool = True, mask: bool = False) -> bytes:
    return Frame(opcode, payload, fin).serialize(mask=mask)


STREAM = (
    sent(Opcode.TEXT, b"{}")
    + sent(Opcode.TEXT, b"a" * 125)
    + sent(Opcode.TEXT, b"b" * 126)
    + sent(Opcode.TEXT, b"c" * 70_000)
    + sent(Opcode.TEXT, b"one ", fin=False)
    + sent(Opcode.PING, b"?")
    + sent(Opcode.CONT, b"two", fin=True)
    + sent(Opcode.CLOSE, b"\x0b\xb9shutdown")
)
MESSAGES = [b"{}", b"a" * 125, b"b" * 126, b"c" * 70_000, b"one two", Closed(3001, "shutdown")]


def handshake() -> tuple[WebSocket, ServerProtocol, bytes]:
    """Return a client that has asked, the server that it asked, and the server's answer, which is not delivered."""
    client, server = WebSocket(HERE), ServerProtocol()
    server.receive_data(client.data_to_send())
    (request,) = server.events_received()
    assert request.path == HERE.path
    assert request.headers["Host"] == HERE.authority
    assert request.headers["User-Agent"] == "realtime bench"
    server.send_response(server.accept(request))
    return client, server, b"".join(server.data_to_send())


def opened() -> tuple[WebSocket, ServerProtocol]:
    client, server, answer = handshake()
    assert client.receive(answer) == []
    assert client.is_open
    return client, server


def test_a_stream_at_once_also_in_one_piece_with_the_handshake() -> None:
    client, server, answer = handshake()
    assert client.receive(answer + STREAM) == MESSAGES
    assert (client.has_opened, client.is_open) == (True, False)
    server.receive_data(client.data_to_send())
    assert [each.opcode for each in server.events_received()] == [Opcode.PONG, Opcode.CLOSE], "both were answered"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 127, 65_000])
def test_a_stream_in_pieces(step: int) -> None:
    (client, _, answer), found = handshake(), []
    data = answer + STREAM
    for at in range(0, len(data), step):
        found += client.receive(data[at : at + step])
    assert found == MESSAGES
    assert {type(each) for each in found} == {bytes, Closed}, "lines of messages are keys of a dictionary"


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(sent(Opcode.TEXT, b"masked", mask=True), id="masked"),
        b"\xc1\x01a",  # a reserved bit
        b"\x83\x00",  # an opcode that is none
        sent(Opcode.CONT, b"of nothing"),
        sent(Opcode.TEXT, b"a", fin=False) + sent(Opcode.TEXT, b"b"),
        b"\x82\x7f" + b"\x7f" * 8,
    ],
)
def test_what_no_server_may_send(stream: bytes) -> None:
    client, _ = opened()
    with pytest.raises(BadStream):
        client.receive(stream)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_frames_are_masked_and_read_by_another(size: int) -> None:
    client, server = opened()
    client.send_text(b"x" * size)
    server.receive_data(client.data_to_send())
    (got,) = server.events_received()
    assert (got.opcode, got.data) == (Opcode.TEXT, b"x" * size)
    client.close()
    server.receive_data(client.data_to_send())
    assert server.close_rcvd is not None
    assert server.close_rcvd.code == 1000


def test_an_answer_may_come_in_pieces_or_be_a_refusal() -> None:
    client = WebSocket(HERE)
    answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno"
    for at in range(len(answer) - 1):
        assert client.receive(answer[at : at + 1]) == []
    with pytest.raises(HandshakeRefused) as caught:
        client.receive(answer[-1:])
    assert (caught.value.status, caught.value.reason) == (503, "Service Unavailable")
    assert not client.has_opened


def test_a_refusal_without_a_length_ends_with_the_stream() -> None:
    client = WebSocket(HERE)
    assert client.receive(b"HTTP/1.1 503 Service Unavailable\r\n\r\nno") == []
    with pytest.raises(HandshakeRefused):
        client.receive_end()


def test_the_end_of_a_stream_alone_is_no_refusal() -> None:
    WebSocket(HERE).receive_end()
    client, _ = opened()
    client.receive_end()
    assert not client.is_open


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-nobody\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 " + b"x" * 70_000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: another\r\n\r\n",
    ],
)
def test_what_is_no_answer_to_a_handshake(answer: bytes) -> None:
    with pytest.raises(BadStream):
        WebSocket(HERE).receive(answer)


@pytest.mark.parametrize(
    ("payload", "closed"),
    [(b"\x0d\xac", Closed(3500, "")), (b"\x0b\xb9shutdown", Closed(3001, "shutdown")), (b"", Closed(1005, ""))],
)
def test_a_close_says_its_code_and_reason_or_nothing(payload: bytes, closed: Closed) -> None:
    client, _ = opened()
    assert client.receive(sent(Opcode.CLOSE, payload)) == [closed]
