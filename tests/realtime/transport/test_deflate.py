"""
Compressed messages (permessage-deflate, RFC 7692): what is agreed on, what is sent, and what a client may send.

Over real sockets with a raw client, which may do everything wrong. One broadcast goes through a whole worker, in both
encodings. Clients that do it right are in tests/process/test_compression.py.
"""

from __future__ import annotations

import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.application.app import Application
from realtime.transport import deflate
from realtime.transport.deflate import DEFLATED_BINARY, DEFLATED_TEXT, THRESHOLD
from realtime.transport.frames import BINARY as BINARY_FRAMES
from realtime.transport.frames import TEXT as TEXT_FRAMES
from realtime.transport.handshake import Accepted, Admission, shake_hands
from realtime.transport.peer import Peer
from realtime.transport.websocket import WebSocketTransport
from tests.realtime.transport.test_handshake import head, parse
from tests.realtime.transport.wire import (
    BINARY,
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
from tests.support.one_worker import OneWorker, until

ON = Admission(compression=True)
NOBODY_TAKES_OVER = "server_no_context_takeover; client_no_context_takeover"
RSV1 = 0x40
TAIL = b"\x00\x00\xff\xff"
LONG = "a text that says the same again, and " * 10


def offering(offer: str = "permessage-deflate") -> bytes:
    return HEAD.replace(b"\r\n\r\n", f"\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n".encode())


def deflated(payload: bytes, *, level: int = 9) -> bytes:
    """Compress as a client may: with the largest window."""
    deflater = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def inflated(payload: bytes) -> bytes:
    """Inflate as a client does that holds no larger window than it has to, and nothing of messages before."""
    inflater = zlib.decompressobj(-deflate.WINDOW_BITS)
    return inflater.decompress(payload + TAIL)


def echo(session: Session) -> None:
    def answer(message: bytes | str) -> None:
        session.transport.choose_framing(binary=isinstance(message, bytes))
        session.say(message.encode() if isinstance(message, str) else message)

    session.on_message = answer


# What is agreed on


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("permessage-deflate", ""),
        ("permessage-deflate; client_max_window_bits", ""),
        ("permessage-deflate; client_max_window_bits=9", "; client_max_window_bits=9"),
        ("permessage-deflate; client_max_window_bits=15", "; client_max_window_bits=15"),
        ("permessage-deflate; server_no_context_takeover", ""),
        ("permessage-deflate; client_no_context_takeover; server_no_context_takeover", ""),
        ("permessage-deflate; server_max_window_bits=15", "; server_max_window_bits=15"),
        ("permessage-deflate; server_max_window_bits=12", "; server_max_window_bits=12"),
        ("permessage-deflate; server_max_window_bits=11", None),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; client_max_window_bits=7", None),
        ("permessage-deflate; client_max_window_bits; client_max_window_bits", None),
        ("permessage-deflate; server_no_context_takeover=1", None),
        ("permessage-deflate; of_nobody_ever_heard", None),
        ("permessage-deflate; server_max_window_bits=10, permessage-deflate", ""),
        ("permessage-deflate; unknown=1, permessage-deflate; client_max_window_bits=10", "; client_max_window_bits=10"),
        ("permessage-deflate, permessage-deflate; client_max_window_bits=10", ""),
        ("x-webkit-deflate-frame, permessage-deflate", ""),
        ("permessage-bzip2", None),
        (None, None),
    ],
)
def test_the_first_offer_that_we_can_keep_is_taken_and_nobody_takes_a_context_over(
    offer: str | None, answer: str | None
) -> None:
    opening = shake_hands(head(Sec_WebSocket_Extensions=offer), Peer("203.0.113.7"), ON)
    assert isinstance(opening, Accepted)
    told = parse(opening.answer)[1].get("sec-websocket-extensions")
    assert told == (None if answer is None else f"permessage-deflate; {NOBODY_TAKES_OVER}{answer}")
    assert opening.is_compressed is (answer is not None)


@run_async
async def test_without_the_setting_nothing_is_agreed_on_and_nothing_compressed() -> None:
    rig = Rig(echo)
    async with rig.connect(offering()) as client:
        assert b"extensions" not in (await client.head()).lower()
        client.send(text(LONG), frame(FIN | RSV1 | TEXT, deflated(b"x")))
        assert await client.frame() == (FIN | TEXT, LONG.encode())
        assert (await client.close_frame())[0] == 1002


@run_async
async def test_who_offers_nothing_is_served_as_without_the_setting() -> None:
    rig = Rig(echo, admission=ON)
    async with rig.open() as (client, _):
        client.send(text(LONG), frame(FIN | RSV1 | TEXT, deflated(b"x")))
        assert await client.frame() == (FIN | TEXT, LONG.encode())
        assert (await client.close_frame())[0] == 1002


# What is sent


@given(st.binary(max_size=300) | st.text("ab", min_size=THRESHOLD, max_size=2000).map(str.encode))
def test_a_frame_carries_its_payload_compressed_only_where_that_is_shorter(payload: bytes) -> None:
    for framing, plain in ((DEFLATED_TEXT, TEXT_FRAMES), (DEFLATED_BINARY, BINARY_FRAMES)):
        said = framing.frame(payload)
        if said[0] & RSV1:
            assert len(payload) >= THRESHOLD
            assert len(said) < len(plain.frame(payload))
            assert said[0] ^ RSV1 == plain.frame(b"")[0]
            assert inflated(said[2 if said[1] < 126 else 4 :]) == payload
        else:
            assert said == plain.frame(payload)


@pytest.mark.parametrize("size", [THRESHOLD, 65_536, 1_000_000])
def test_what_repeats_itself_is_compressed_from_the_threshold_on(size: int) -> None:
    assert DEFLATED_TEXT.frame(b"x" * size)[0] == FIN | RSV1 | TEXT
    assert DEFLATED_BINARY.frame(b"x" * size)[0] == FIN | RSV1 | BINARY
    assert DEFLATED_TEXT.frame(b"x" * (THRESHOLD - 1))[0] == FIN | TEXT


def test_what_cannot_become_shorter_goes_as_it_is() -> None:
    noise = os.urandom(5000)
    assert DEFLATED_BINARY.frame(noise) == BINARY_FRAMES.frame(noise)


def test_a_message_refers_to_none_before_it() -> None:
    payload = LONG.encode()
    assert DEFLATED_TEXT.frame(payload) == DEFLATED_TEXT.frame(payload)


# What a client may send


@run_async
async def test_messages_of_each_kind_come_through_both_ways() -> None:
    rig = Rig(echo, admission=ON)
    async with rig.open(head=offering()) as (client, session):
        client.send(
            frame(FIN | RSV1 | TEXT, deflated(LONG.encode())), frame(FIN | RSV1 | BINARY, deflated(bytes(5000)))
        )
        client.send(text("plain"), frame(FIN | RSV1 | TEXT, deflated(b"")), frame(FIN | RSV1 | TEXT, b"\x00"))
        assert await session.wait_for(5) == [LONG, bytes(5000), "plain", "", ""]
        first, payload = await client.frame()
        assert (first, inflated(payload)) == (FIN | RSV1 | TEXT, LONG.encode())
        first, payload = await client.frame()
        assert (first, inflated(payload)) == (FIN | RSV1 | BINARY, bytes(5000))
        assert await client.frame() == (FIN | TEXT, b"plain")


@run_async
async def test_a_compressed_message_may_come_in_fragments_with_controls_between() -> None:
    rig = Rig(admission=ON)
    async with rig.open(head=offering()) as (client, session):
        sent = deflated(LONG.encode())
        client.send(frame(RSV1 | TEXT, sent[:7]), frame(FIN | PING, b"between"), frame(CONT), frame(CONT, sent[7:9]))
        assert await client.frame() == (FIN | PONG, b"between")
        assert session.messages == []
        client.send(frame(FIN | PONG), frame(FIN | CONT, sent[9:]), text("next"), frame(TEXT, b"pl"))
        client.send(frame(FIN | CONT, b"ain"), frame(FIN | RSV1 | BINARY, deflated(b"last")))
        assert await session.wait_for(4) == [LONG, "next", "plain", b"last"]


@run_async
async def test_single_bytes_mean_the_same() -> None:
    rig, wire = Rig(admission=ON), Wire()
    protocol = WebSocketTransport(rig.endpoint, Peer("203.0.113.7"))
    protocol.connection_made(wire)
    sent = deflated(LONG.encode())
    stream = frame(FIN | RSV1 | TEXT, sent) + frame(RSV1 | TEXT, sent[:5]) + frame(FIN | CONT, sent[5:]) + close(4000)
    for byte in offering() + stream:
        protocol.data_received(bytes([byte]))
    [session] = rig.sessions.all
    assert (session.messages, session.ends) == ([LONG, LONG], [(4000, "")])
    protocol.connection_lost(None)


@run_async
async def test_what_is_inflated_may_be_as_long_as_a_message() -> None:
    rig = Rig(admission=ON, message_bytes=5000)
    async with rig.open(head=offering()) as (client, session):
        sent = deflated(bytes(5000))
        client.send(frame(FIN | RSV1 | BINARY, sent), frame(RSV1 | BINARY, sent[:6]), frame(FIN | PING, bytes(125)))
        client.send(frame(FIN | CONT, sent[6:]))
        assert await session.wait_for(2) == [bytes(5000)] * 2


BOMB = deflated(bytes(20_000_000))
BEYOND = deflated(bytes(5001))
NO_TEXT = deflated(b"\xff" * 200)
WRONG = {
    "a bomb": (frame(FIN | RSV1 | BINARY, BOMB), 1009),
    "a bomb of which only a fragment came": (frame(RSV1 | BINARY, BOMB[:4000]), 1009),
    "a bomb in single bytes": (
        frame(RSV1 | TEXT, BOMB[:1]) + b"".join(frame(CONT, BOMB[at : at + 1]) for at in range(1, 4000)),
        1009,
    ),
    "a byte more than a message may have": (frame(FIN | RSV1 | BINARY, BEYOND), 1009),
    "a byte more, in fragments": (frame(RSV1 | BINARY, BEYOND[:9]) + frame(FIN | CONT, BEYOND[9:]), 1009),
    "what is too long before it is inflated": (frame(FIN | RSV1 | BINARY, deflated(bytes(9000), level=0)), 1009),
    "a corrupt stream": (frame(FIN | RSV1 | TEXT, b"\xff" * 9), 1002),
    "a reference to a message before": (
        frame(FIN | RSV1 | TEXT, deflated(LONG.encode())) + frame(FIN | RSV1 | TEXT, b"\x03\x11\x00"),
        1002,
    ),
    "a text that is no UTF-8": (frame(FIN | RSV1 | TEXT, NO_TEXT), 1007),
    "a continuation that says it is compressed": (
        frame(RSV1 | TEXT, NO_TEXT[:2]) + frame(FIN | RSV1 | CONT, NO_TEXT[2:]),
        1002,
    ),
    "a continuation of a plain message that says so": (frame(TEXT, b"x") + frame(FIN | RSV1 | CONT, b"x"), 1002),
    "a compressed ping": (frame(FIN | RSV1 | PING, deflated(b"x")), 1002),
    "another reserved bit": (frame(FIN | RSV1 | 0x20 | TEXT, deflated(b"x")), 1002),
}


@pytest.mark.parametrize("wrong", WRONG)
@run_async
async def test_it_ends_with_the_code_that_the_standard_has_for(wrong: str) -> None:
    data, code = WRONG[wrong]
    rig = Rig(admission=ON, message_bytes=5000)
    async with rig.open(head=offering()) as (client, session):
        client.send(text("before"), data, text("after, which nobody reads"))
        assert (await client.close_frame())[0] == code
        client.writer.write_eof()
        assert await client.end() == b""
        await rig.wait_for_losses(1)
        assert [each for each in session.messages if each != LONG] == ["before"]
        assert [end[0] for end in session.ends] == [code], "told once"
        assert rig.endpoint.statistics()["too_big"] == (code == 1009), "counted"


@run_async
async def test_what_is_on_its_way_when_we_close_is_bounded_too() -> None:
    rig = Rig(admission=ON, message_bytes=5000)
    async with rig.open(head=offering()) as (client, session):
        session.transport.close(3500, "enough")
        assert await client.close_frame() == (3500, "enough")
        client.send(frame(FIN | RSV1 | TEXT, deflated(b"on its way")), frame(FIN | RSV1 | BINARY, BOMB), close(3500))
        assert await client.end() == b""
        assert session.messages == []


# In a worker


def member(worker: OneWorker, head: bytes, said: bytes) -> tuple[WebSocketTransport, Wire]:
    """Have a client connect and join, whose socket keeps what was written."""
    wire = Wire()
    protocol = WebSocketTransport(worker.endpoint, Peer("203.0.113.7"))
    protocol.connection_made(wire)
    protocol.data_received(head + said)
    return protocol, wire


def payloads(written: bytes) -> list[tuple[int, bytes]]:
    """Take a server's frames apart: the first byte of each, and what it carries, inflated."""
    found = []
    while written:
        begin, size = (4, int.from_bytes(written[2:4], "big")) if written[1] == 126 else (2, written[1])
        carried = written[begin : begin + size]
        found.append((written[0], inflated(carried) if written[0] & RSV1 else carried))
        written = written[begin + size :]
    return found


JSON = text('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"open:1"}}')
PROTOBUF = binary(bytes.fromhex("0408012200 0c0802 2a080a06") + b"open:1")  # the same


@pytest.mark.parametrize(
    ("subprotocol", "said", "first"),
    [("", JSON, FIN | TEXT), ("centrifuge-protobuf", PROTOBUF, FIN | BINARY)],
    ids=["json", "protobuf"],
)
@run_async
async def test_a_publication_is_compressed_once_for_all(
    subprotocol: str, said: bytes, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed: list[bytes] = []

    def counting(payload: bytes) -> bytes:
        compressed.append(payload)
        return really(payload)

    really = deflate.deflate
    monkeypatch.setattr(deflate, "deflate", counting)
    end = f"\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n".encode() if subprotocol else b"\r\n\r\n"
    heads = [each.replace(b"\r\n\r\n", end) for each in (offering(), offering(), offering(), HEAD)]
    app = Application()
    app.room("open:{name}", open=True)
    async with OneWorker(app, admission=Admission(compression=True, subprotocols=("centrifuge-protobuf",))) as worker:
        members = [member(worker, head, said) for head in heads]
        await until(lambda: worker.hub.statistics()["memberships"] == len(members))
        for _, wire in members:
            wire.written.clear()
        compressed.clear()
        await app.room("open:1").publish({"text": LONG})
        await app.room("open:1").publish("short")
        await until(lambda: all(b"short" in wire.written for _, wire in members))
        [whole] = compressed
        assert LONG.encode() in whole
        *asked, plain = [bytes(wire.written) for _, wire in members]
        assert len(set(asked)) == 1, "the same bytes to each"
        [(how, long), (_, short)] = payloads(plain)
        assert (how, long) == (first, whole)
        assert payloads(asked[0]) == [(first | RSV1, whole), (first, short)]
        assert len(asked[0]) < len(plain) / 2
        for protocol, _ in members:
            protocol.connection_lost(None)
