"""
One WebSocket of ours from its first byte to its end (RFC 6455), over a real socket with a raw client.

The session writes down what it is told and the client may do everything wrong; deadlines pass when the test says so.
What the stream means may not depend on how it is cut: it is cut at every byte, and by hypothesis anywhere.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.transport.flood import FloodLimits
from realtime.transport.frames import BINARY as BINARY_FRAMES
from realtime.transport.peer import Peer
from realtime.transport.websocket import WebSocketTransport
from tests.realtime.transport.wire import (
    BINARY,
    CLOSE,
    CONT,
    FIN,
    HEAD,
    PING,
    PONG,
    TEXT,
    Rig,
    Session,
    Wire,
    binary,
    close,
    frame,
    text,
)  # fmt: skip
from tests.support.aio import run_async


def echo(session: Session) -> None:
    session.on_message = lambda message: session.say(message.encode() if isinstance(message, str) else message)


# The handshake


@run_async
async def test_the_head_may_come_in_single_bytes() -> None:
    rig = Rig()
    async with rig.connect() as client:
        for byte in HEAD:
            client.protocol.data_received(bytes([byte]))
        assert (await client.head()).startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert rig.endpoint.statistics() == {
            "websockets": 1,
            "opened": 1,
            "refused": 0,
            "slow": 0,
            "too_big": 0,
            "flooding": 0,
        }
        assert client.protocol.is_open


@run_async
async def test_frames_that_came_with_the_head_are_read_first_and_in_order() -> None:
    rig = Rig()
    async with rig.open(text("one") + binary(b"two") + text("three")[:5]) as (client, session):
        assert session.messages == ["one", b"two"]
        client.send(text("three")[5:], text("four"))
        assert await session.wait_for(4) == ["one", b"two", "three", "four"]


@run_async
async def test_frames_may_come_in_the_same_piece_as_the_end_of_the_head() -> None:
    rig = Rig(echo)
    async with rig.connect(HEAD[:60]) as client:
        client.send(HEAD[60:], text("at once"))
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        assert await client.frame() == (FIN | TEXT, b"at once")


@run_async
async def test_the_session_is_told_the_handshake() -> None:
    rig = Rig()
    head = HEAD.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: second, other\r\n\r\n")
    async with rig.connect(head) as client:
        await client.head()
        (session,) = rig.sessions.all
        assert session.subprotocol == "second"
        assert (session.handshake.address, session.handshake.client_port) == ("203.0.113.7", 4711)
        assert session.handshake.path == "/connection/websocket"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (HEAD.replace(b"13", b"12"), b"426"),
        (HEAD.replace(b"GET", b"PUT"), b"400"),
        (HEAD.replace(b"\r\n\r\n", b"\r\nOrigin: https://evil.example\r\n\r\n"), b"403"),
        (HEAD.replace(b"\r\n\r\n", b"\r\nOrigin: http://h\r\nOrigin: http://h\r\n\r\n"), b"403"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 17_000, b"431"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 17_000 + b"\r\n\r\n", b"431"),
    ],
)
@run_async
async def test_who_is_refused_reads_the_whole_answer_and_then_the_end(head: bytes, status: bytes) -> None:
    rig = Rig()
    async with rig.connect(head + text("too early")) as client:
        answer = await client.end()
        assert answer.split(b" ")[1] == status
        top, _, body = answer.partition(b"\r\n\r\n")
        assert f"content-length: {len(body)}".encode() in top.lower()
        client.send(b"x" * 100_000)
        client.writer.write_eof()
        await rig.wait_for_losses(1)
    assert rig.sessions.all == []
    assert rig.endpoint.statistics() == {
        "websockets": 0,
        "opened": 0,
        "refused": 1,
        "slow": 0,
        "too_big": 0,
        "flooding": 0,
    }


@run_async
async def test_who_does_not_finish_the_handshake_is_cut_at_its_deadline() -> None:
    rig = Rig(handshake_s=10)
    async with rig.connect(HEAD[:-1]) as client:
        rig.pass_time(9)
        assert rig.lost == 0
        rig.pass_time(2)
        await rig.wait_for_losses(1)
        assert client.protocol not in rig.endpoint.connections


@run_async
async def test_an_open_websocket_has_no_deadline() -> None:
    rig = Rig(echo)
    async with rig.open() as (client, _):
        rig.pass_time(100_000)
        client.send(text("still here"))
        assert await client.frame() == (FIN | TEXT, b"still here")


@run_async
async def test_a_session_that_cannot_be_made_ends_the_connection_as_our_own_fault() -> None:
    def fail(session: Session) -> None:
        raise ZeroDivisionError("a bug in a session")

    rig = Rig(fail)
    async with rig.connect(HEAD) as client:
        await client.head()
        assert await client.close_frame() == (3004, "internal server error")


# Messages


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
@run_async
async def test_messages_of_every_length_come_through_both_ways(size: int) -> None:
    rig = Rig(echo)
    async with rig.open() as (client, session):
        message = "x" * size
        client.send(text(message))
        assert await client.frame() == (FIN | TEXT, message.encode())
        session.transport.framing = BINARY_FRAMES
        client.send(binary(bytes(size)))
        assert await client.frame() == (FIN | BINARY, bytes(size))
        assert session.messages == [message, bytes(size)]


@run_async
async def test_a_message_in_fragments_is_one_also_with_controls_in_between() -> None:
    rig = Rig()
    async with rig.open() as (client, session):
        client.send(frame(TEXT, "ü".encode()[:1]), frame(FIN | PING, b"between"), frame(CONT, "ü".encode()[1:]))
        assert await client.frame() == (FIN | PONG, b"between"), "before the message ends"
        assert session.messages == []
        client.send(frame(FIN | PONG), frame(CONT), frame(FIN | CONT, b"!"), text("next"), frame(BINARY, b"a"))
        client.send(frame(FIN | CONT, b"b"))
        assert await session.wait_for(3) == ["ü!", "next", b"ab"]
        assert session.pongs == 1


@run_async
async def test_pings_are_answered_in_order_with_what_they_carry_and_pongs_by_nothing() -> None:
    rig = Rig(echo)
    async with rig.open() as (client, session):
        client.send(frame(FIN | PING), frame(FIN | PONG, b"unasked"), frame(FIN | PING, b"x" * 125), text("end"))
        assert await client.frame() == (FIN | PONG, b"")
        assert await client.frame() == (FIN | PONG, b"x" * 125)
        assert await client.frame() == (FIN | TEXT, b"end")
        assert session.pongs == 1, "it is told of the one"


@run_async
async def test_a_ping_may_come_when_the_message_around_it_is_nearly_as_long_as_allowed() -> None:
    rig = Rig(message_bytes=1000)
    async with rig.open() as (client, session):
        client.send(frame(BINARY, bytes(999)), frame(FIN | PING, b"x" * 125), frame(FIN | CONT, b"x"))
        assert await client.frame() == (FIN | PONG, b"x" * 125)
        assert await session.wait_for(1) == [bytes(999) + b"x"]


# However it is cut

STREAM = (
    text("one") + frame(TEXT, b"tw") + frame(FIN | PING, b"?") + frame(FIN | CONT, b"o") + binary(bytes(300))
    + frame(FIN | PONG) + binary(bytes(65_536)) + frame(BINARY) + frame(FIN | CONT, b"x") + text("")
    + close(4000, b"bye")
)  # fmt: skip
MESSAGES = ["one", "two", bytes(300), bytes(65_536), b"x", ""]
SAID = frame(FIN | PONG, b"?", masked=False) + frame(FIN | CLOSE, b"\x0f\xa0bye", masked=False)


def receive_in_pieces(pieces: list[bytes]) -> None:
    """Have an open connection receive `pieces`; what its session was told and what it said may not depend on them."""
    rig, wire = Rig(flood=FloodLimits(0, 0, 0)), Wire()
    protocol = WebSocketTransport(rig.endpoint, Peer("203.0.113.7", 4711), b"")
    protocol.connection_made(wire)
    protocol.data_received(HEAD)
    handshake, _, rest = bytes(wire.written).partition(b"\r\n\r\n")
    assert handshake.startswith(b"HTTP/1.1 101 ")
    assert rest == b""
    del wire.written[:]
    for piece in pieces:
        protocol.data_received(piece)
    (session,) = rig.sessions.all
    assert session.messages == MESSAGES
    assert session.ends == [(4000, "bye")]
    assert wire.written == SAID
    protocol.connection_lost(None)
    assert session.ends == [(4000, "bye")], "told once"


@run_async
async def test_two_pieces_cut_anywhere_mean_the_same() -> None:
    for cut in [*range(400), *range(len(STREAM) - 100, len(STREAM) + 1)]:
        receive_in_pieces([STREAM[:cut], STREAM[cut:]])


@run_async
async def test_single_bytes_mean_the_same() -> None:
    receive_in_pieces([bytes([byte]) for byte in STREAM])


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
@settings(max_examples=100, deadline=None)
def test_pieces_cut_at_random_mean_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]

    @run_async
    async def receive() -> None:
        receive_in_pieces([STREAM[begin:end] for begin, end in itertools.pairwise(edges) if begin < end])

    receive()


# What a client may not do

WRONG = {
    "a frame without a mask": (frame(FIN | TEXT, b"x", masked=False), 1002),
    "the first reserved bit": (frame(FIN | 0x40 | TEXT, b"x"), 1002),
    "the second reserved bit": (frame(FIN | 0x20 | BINARY, b"x"), 1002),
    "the third reserved bit": (frame(FIN | 0x10 | PING), 1002),
    "a reserved opcode": (frame(FIN | 3, b"x"), 1002),
    "a reserved control opcode": (frame(FIN | 0xB), 1002),
    "a continuation of nothing": (frame(FIN | CONT, b"x"), 1002),
    "a continuation after a whole message": (text("x") + frame(CONT, b"x"), 1002),
    "a message within a message": (frame(TEXT, b"x") + text("x"), 1002),
    "a fragmented message within a message": (frame(TEXT, b"x") + frame(BINARY, b"x"), 1002),
    "a ping in fragments": (frame(PING, b"x"), 1002),
    "a ping that is too long": (frame(FIN | PING, bytes(126)), 1002),
    "a close in fragments": (frame(CLOSE, b"\x03\xe8"), 1002),
    "a close of one byte": (frame(FIN | CLOSE, b"\x03"), 1002),
    "a close with a code that only stands for none": (close(1005), 1002),
    "a close with a code that only stands for a cut": (close(1006), 1002),
    "a close with a code of nobody's": (close(999), 1002),
    "a close with a reserved code": (close(2999), 1002),
    "a close whose reason is no UTF-8": (close(1000, b"\xff"), 1007),
    "a text that is no UTF-8": (frame(FIN | TEXT, b"a\xff"), 1007),
    "a text that ends within a character": (frame(FIN | TEXT, b"\xe2\x82"), 1007),
    "a text with half of a surrogate pair": (frame(FIN | TEXT, b"\xed\xa0\x80"), 1007),
    "a text in fragments that is no UTF-8": (frame(TEXT, b"\xe2\x82") + frame(FIN | CONT, b"\x28"), 1007),
    "a message over the limit": (binary(bytes(1001)), 1009),
    "a message over the limit, in fragments": (frame(TEXT, bytes(600)) + frame(FIN | CONT, bytes(401)), 1009),
    "a message without end": (frame(BINARY, bytes(400)) + frame(CONT, bytes(400)) * 2, 1009),
    "the head of a huge message": (b"\x82\xff" + (2**62).to_bytes(8, "big"), 1009),
    "the head of a message longer than any": (b"\x82\xff" + (2**64 - 1).to_bytes(8, "big"), 1009),
}


@pytest.mark.parametrize("wrong", WRONG)
@run_async
async def test_it_ends_with_the_code_that_the_standard_has_for(wrong: str) -> None:
    data, code = WRONG[wrong]
    rig = Rig(message_bytes=1000)
    async with rig.open() as (client, session):
        client.send(text("before"), data, text("after, which nobody reads"))
        assert (await client.close_frame())[0] == code
        client.writer.write_eof()
        assert await client.end() == b""
        await rig.wait_for_losses(1)
        assert [each for each in session.messages if each != "x"] == ["before"]
        assert [end[0] for end in session.ends] == [code], "told once"


@run_async
async def test_a_message_may_be_as_long_as_the_limit_and_fragments_may_be_empty() -> None:
    rig = Rig(message_bytes=1000)
    async with rig.open() as (client, session):
        client.send(binary(bytes(1000)), frame(BINARY), frame(CONT) * 5000, frame(CONT, bytes(1000)), frame(FIN | CONT))
        assert await session.wait_for(2) == [bytes(1000), bytes(1000)]


# Closing


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 3000, 3999, 4000, 4999])
@run_async
async def test_a_client_that_says_goodbye_hears_its_own_code(code: int) -> None:
    rig = Rig()
    async with rig.open() as (client, session):
        client.send(close(code, "bye, ü".encode()), text("nobody reads this"))
        assert await client.close_frame() == (code, "bye, ü")
        assert await client.end() == b""
        assert session.ends == [(code, "bye, ü")]
        assert session.messages == []


@run_async
async def test_a_goodbye_without_a_code_is_answered_by_one_without() -> None:
    rig = Rig()
    async with rig.open() as (client, session):
        client.send(frame(FIN | CLOSE))
        assert await client.close_frame() == (1005, "")
        assert await client.end() == b""
        assert session.ends == [(1005, "")]


@run_async
async def test_the_session_says_goodbye_after_what_it_wrote_and_is_told_when_the_client_has_answered() -> None:
    rig = Rig()
    async with rig.open() as (client, session):
        session.say(b"last words")
        session.transport.close(3500, "enough")
        session.transport.close(3501, "only the first counts")
        session.say(b"not sent any more")
        assert await client.frame() == (FIN | TEXT, b"last words")
        assert await client.close_frame() == (3500, "enough")
        assert session.ends == []
        client.send(text("on its way"), frame(FIN | PING, b"as well"), close(3500))
        assert await client.end() == frame(FIN | PONG, b"as well", masked=False)
        client.writer.write_eof()
        await rig.wait_for_losses(1)
        assert (session.messages, session.ends) == ([], [(3500, "enough")])


@run_async
async def test_a_client_that_does_not_answer_a_goodbye_is_cut() -> None:
    rig = Rig()
    async with rig.open() as (client, session):
        session.transport.close(3500, "enough")
        assert await client.close_frame() == (3500, "enough")
        rig.pass_time(3)
        assert rig.lost == 0
        rig.pass_time(2)
        await rig.wait_for_losses(1)
        assert session.ends == [(3500, "enough")]


@run_async
async def test_a_client_that_leaves_without_a_goodbye_is_an_abnormal_end() -> None:
    rig = Rig()
    async with rig.open() as (client, session):
        client.send(text("half a frame")[:5])
        client.writer.write_eof()
        await rig.wait_for_losses(1)
        assert session.ends == [(1006, "")]


@pytest.mark.parametrize("code", [0, 999, 1005, 1006, 1015, 70_000])
@run_async
async def test_a_code_that_no_frame_may_carry_is_our_own_fault(code: int) -> None:
    rig = Rig()
    async with rig.open() as (client, session):
        session.transport.close(code, "what is this")
        assert await client.close_frame() == (3004, "internal server error")


@run_async
async def test_a_reason_is_cut_to_what_a_frame_can_carry() -> None:
    rig = Rig()
    async with rig.open() as (client, session):
        session.transport.close(3500, "ü" * 200)
        assert await client.close_frame() == (3500, "ü" * 61)


@run_async
async def test_a_session_that_raises_ends_its_own_connection_and_no_other() -> None:
    def fail(session: Session) -> None:
        def on_message(message: bytes | str) -> None:
            if message == "fail":
                raise ZeroDivisionError("a bug in a session")
            session.say(b"fine")

        session.on_message = on_message

    rig = Rig(fail)
    async with rig.open() as (client, _), rig.open() as (other, _):
        client.send(text("fail"), text("after"))
        assert await client.close_frame() == (3004, "internal server error")
        other.send(text("and you?"))
        assert await other.frame() == (FIN | TEXT, b"fine")


@run_async
async def test_a_session_may_close_in_the_middle_of_what_came() -> None:
    rig = Rig(lambda session: setattr(session, "on_message", lambda _: session.transport.close(3500, "enough")))
    async with rig.open(text("one") + text("two") + close(1000)) as (client, session):
        assert await client.close_frame() == (3500, "enough")
        assert await client.end() == b""
        assert session.messages == ["one"]
