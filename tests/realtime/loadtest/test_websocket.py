"""The client's side of a WebSocket: fed whole, byte by byte and with bytes left over, and what no server may send."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from realtime.loadtest.plan import Address
from realtime.loadtest.wire import CLOSE, PING, TEXT, BadStream, Control, Handshake, Reader, close_of, frame

HERE = Address(False, "127.0.0.1", 8000, "/connection/websocket")


def sent(opcode: Opcode, payload: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin).serialize(mask=False)


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
MESSAGES = [
    b"{}",
    b"a" * 125,
    b"b" * 126,
    b"c" * 70_000,
    Control(PING, b"?"),
    b"one two",
    Control(CLOSE, b"\x0b\xb9shutdown"),
]


def test_a_stream_at_once() -> None:
    assert Reader().read(STREAM) == MESSAGES


@pytest.mark.parametrize("step", [1, 2, 3, 7, 127, 65_000])
def test_a_stream_in_pieces(step: int) -> None:
    reader, found = Reader(), []
    for at in range(0, len(STREAM), step):
        found += reader.read(STREAM[at : at + step])
    assert found == MESSAGES


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(frame(TEXT, b"masked"), id="masked"),
        b"\xc1\x01a",  # a reserved bit
        b"\x83\x00",  # an opcode that is none
        sent(Opcode.CONT, b"of nothing"),
        sent(Opcode.TEXT, b"a", fin=False) + sent(Opcode.TEXT, b"b"),
        b"\x82\x7f" + b"\x7f" * 8,
    ],
)
def test_what_no_server_may_send(stream: bytes) -> None:
    with pytest.raises(BadStream):
        Reader().read(stream)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_frames_are_masked_and_read_by_another(size: int) -> None:
    handshake, server = Handshake(), ServerProtocol()
    server.receive_data(handshake.request(HERE))
    (request,) = server.events_received()
    server.send_response(server.accept(request))
    answer = b"".join(server.data_to_send())
    assert handshake.answer(answer) == (101, "Switching Protocols", len(answer))
    server.receive_data(frame(TEXT, b"x" * size))
    (got,) = server.events_received()
    assert (got.opcode, got.data) == (Opcode.TEXT, b"x" * size)


def test_an_answer_may_come_in_pieces_with_frames_behind_it_or_be_a_refusal() -> None:
    handshake = Handshake()
    answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno"
    assert [handshake.answer(answer[:length]) for length in (0, 1, 9, 40)] == [None] * 4
    assert handshake.answer(answer) == (503, "Service Unavailable", len(answer) - 2)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-nobody\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 " + b"x" * 70_000,
        b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: another\r\n\r\n",
    ],
)
def test_what_is_no_answer_to_a_handshake(answer: bytes) -> None:
    with pytest.raises(BadStream):
        Handshake().answer(answer)


def test_a_close_says_its_code_and_reason_or_nothing() -> None:
    assert close_of(b"\x0d\xac") == (3500, "")
    assert close_of(b"\x0b\xb9shutdown") == (3001, "shutdown")
    assert close_of(b"") == (1005, "")
