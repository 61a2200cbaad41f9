"""
Packets of Engine.IO 4 and Socket.IO 5: what is read, what is refused, and what is written.

The facts are those of the two specifications: "Packet encoding" and "HTTP long-polling" of the Engine.IO protocol, and
"Packet encoding" of the Socket.IO protocol.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from realtime.protocol.socketio.packets import (
    CLOSE,
    NOOP,
    PING,
    PROBE_ANSWER,
    Assembler,
    BadPacket,
    EngineType,
    Packet,
    PacketType,
    decode_engine,
    decode_packet,
    encode,
    framed,
    packets_in,
    payload,
)
from realtime.protocol.socketio.placeholders import BadPlaceholder, with_attachments, without_attachments
from realtime.rooms.options import RESERVED_EVENTS
from realtime.transport.frames import BINARY, TEXT

HEADER = '51-["m",{"_placeholder":true,"num":0}]'


def facts(packet: Packet) -> tuple[Any, ...]:
    return packet.type, packet.namespace, packet.id, packet.data, packet.attachments


def read(text: str) -> tuple[Any, ...]:
    """Return what a packet without attachments says."""
    packet, count = decode_packet(text)
    assert count == 0
    return facts(packet)[:-1]


# Engine.IO


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        ("0{}", (EngineType.OPEN, "{}")),
        ("1", (EngineType.CLOSE, "")),
        ("2probe", (EngineType.PING, "probe")),
        ("3", (EngineType.PONG, "")),
        ("4hé", (EngineType.MESSAGE, "hé")),
        ("4", (EngineType.MESSAGE, "")),
        ("5", (EngineType.UPGRADE, "")),
        ("6", (EngineType.NOOP, "")),
    ],
)
def test_a_packet_is_a_digit_and_its_data(text: str, packet: tuple[EngineType, str]) -> None:
    assert decode_engine(text) == packet


@pytest.mark.parametrize("text", ["", "7", "abc", "bAQID", " 4", "٤x"])
def test_a_text_frame_that_begins_with_no_digit_of_a_packet_is_refused(text: str) -> None:
    with pytest.raises(BadPacket):
        decode_engine(text)


def test_what_servers_send_has_these_bytes() -> None:
    assert (PING.hex(), NOOP.hex(), CLOSE.hex(), PROBE_ANSWER.hex()) == (
        "810132",
        "810136",
        "810131",
        "81063370726f6265",
    )
    assert framed(Packet(PacketType.EVENT, data=b'["m",1]')).hex() == "810934325b226d222c315d"
    assert framed(Packet(PacketType.DISCONNECT)).hex() == "81023431"
    assert BINARY.frame(b"\1\2\3").hex() == "8203010203"


def test_a_polling_body_is_packets_with_a_separator_between_them() -> None:
    body = '42["a","hé"]\x1e451-["m",{"_placeholder":true,"num":0}]\x1ebAQIDBA==\x1eb\x1e3'.encode()
    assert list(packets_in(body)) == [
        (EngineType.MESSAGE, '2["a","hé"]'),
        (EngineType.MESSAGE, '51-["m",{"_placeholder":true,"num":0}]'),
        (EngineType.MESSAGE, b"\1\2\3\4"),
        (EngineType.MESSAGE, b""),
        (EngineType.PONG, ""),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x1e",
        b"\x1e4a",
        b"4a\x1e",
        b"4a\x1e\x1e4b",
        b"abc",
        b"4\xff",
        b"bAQ=ID",
        b"b!AQI",
        b"bAQI",
        b"bAQI= ",
        b"b====",
        "bé".encode(),
        b"4bAQID\x1e7",
    ],
)
def test_a_polling_body_that_no_client_sends_is_refused(body: bytes) -> None:
    with pytest.raises(BadPacket):
        list(packets_in(body))


def test_packets_before_a_bad_one_are_given_first() -> None:
    packets = packets_in(b"4a\x1e4b\x1e9")
    assert [next(packets), next(packets)] == [(EngineType.MESSAGE, "a"), (EngineType.MESSAGE, "b")]
    with pytest.raises(BadPacket):
        next(packets)


def test_a_poll_takes_frames_as_text_and_base64() -> None:
    frames = TEXT.frame("4hé".encode()) + BINARY.frame(b"\1\2\3\4") + PING
    assert payload(frames, 1000) == ("4hé\x1ebAQIDBA==\x1e2".encode(), b"")


def test_a_poll_takes_whole_packets_up_to_its_limit_and_always_one() -> None:
    frames = TEXT.frame(b"4aaaa") + TEXT.frame(b"4bbbb") + TEXT.frame(b"4cccc")
    assert payload(frames, 11) == (b"4aaaa\x1e4bbbb", TEXT.frame(b"4cccc"))
    assert payload(frames, 10) == (b"4aaaa", TEXT.frame(b"4bbbb") + TEXT.frame(b"4cccc"))
    assert payload(frames, 1) == payload(frames, 5) == (b"4aaaa", TEXT.frame(b"4bbbb") + TEXT.frame(b"4cccc"))


@given(st.lists(st.one_of(st.text(st.characters(exclude_characters="\x1e", codec="utf-8")), st.binary()), min_size=1))
def test_what_a_poll_takes_is_what_was_framed(messages: list[str | bytes]) -> None:
    frames = b"".join(TEXT.frame(b"4" + m.encode()) if isinstance(m, str) else BINARY.frame(m) for m in messages)
    for limit in (1, 100, 10**6):
        rest, found = frames, []
        while rest:
            body, rest = payload(rest, limit)
            found += [data for _, data in packets_in(body)]
        assert found == messages


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_frames_of_each_length_are_found(size: int) -> None:
    frames = BINARY.frame(bytes(size)) + TEXT.frame(b"4" + b"x" * size)
    body, rest = payload(frames, 10**6)
    assert list(packets_in(body)) == [(EngineType.MESSAGE, bytes(size)), (EngineType.MESSAGE, "x" * size)]
    assert rest == b""


@given(st.binary())
def test_no_body_raises_anything_else(body: bytes) -> None:
    try:
        for _, data in packets_in(body):
            if isinstance(data, str):
                decode_packet(data)
    except BadPacket:
        pass


# Socket.IO, without attachments


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        ("0", (PacketType.CONNECT, "/", None, None)),
        ("0{}", (PacketType.CONNECT, "/", None, b"{}")),
        ("0/,", (PacketType.CONNECT, "/", None, None)),
        ("07{}", (PacketType.CONNECT, "/", 7, b"{}")),
        ("0/custom", (PacketType.CONNECT, "/custom", None, None)),
        ("0/custom,", (PacketType.CONNECT, "/custom", None, None)),
        ('0/chat,{"token":"t"}', (PacketType.CONNECT, "/chat", None, b'{"token":"t"}')),
        ("0/custom?token=abc,", (PacketType.CONNECT, "/custom?token=abc", None, None)),
        ("1", (PacketType.DISCONNECT, "/", None, None)),
        ("1/custom,", (PacketType.DISCONNECT, "/custom", None, None)),
        ('2["m",1]', (PacketType.EVENT, "/", None, b'["m",1]')),
        ('2/,["m",1]', (PacketType.EVENT, "/", None, b'["m",1]')),
        ('212["m",1]', (PacketType.EVENT, "/", 12, b'["m",1]')),
        ('2007["m"]', (PacketType.EVENT, "/", 7, b'["m"]')),
        ('29007199254740992["m"]', (PacketType.EVENT, "/", 9007199254740992, b'["m"]')),
        ('2/chat,0["m",null]', (PacketType.EVENT, "/chat", 0, b'["m",null]')),
        ("2", (PacketType.EVENT, "/", None, None)),
        ("2/chat", (PacketType.EVENT, "/chat", None, None)),
        ('2/chat["m"]', (PacketType.EVENT, '/chat["m"]', None, None)),  # no client is in such a namespace
        ("2[5]", (PacketType.EVENT, "/", None, b"[5]")),
        ('2["error"]', (PacketType.EVENT, "/", None, b'["error"]')),
        ('2["m",{"_placeholder":true,"num":9}]', (PacketType.EVENT, "/", None, b'["m",{"_placeholder":true,"num":9}]')),
        ("3/chat,0[]", (PacketType.ACK, "/chat", 0, b"[]")),
        ('30["answer"]', (PacketType.ACK, "/", 0, b'["answer"]')),
        ("31", (PacketType.ACK, "/", 1, None)),
    ],
)
def test_a_packet_is_read(text: str, packet: tuple[Any, ...]) -> None:
    assert read(text) == packet


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "8",
        "9",
        "abc",
        " 2[]",
        "0[]",
        '0"x"',
        "0null",
        '0{"a"',
        '0{"a":NaN}',
        "0{}x",
        "0 {}",
        "1{}",
        "1/chat,[]",
        '4{"message":"no"}',
        "2{}",
        "2[]",
        "2[null]",
        "2[true]",
        "2[{}]",
        '2["m"',
        '2["m"]x',
        '2["m",NaN]',
        '2 ["m"]',
        '2["m",]',
        '2-1["m"]',
        '2abc["m"]',
        '21-["m"]',
        '212345678901234567["m"]',
        '2١["m"]',
        '2chat,["m"]',
        '2["' + "m" * 5 + '","\\q"]',
        "31{}",
        '3/chat,1"x"',
        "2" + "[" * 100_000,
        '2["m",' + "[" * 5_000 + "]" * 5_000 + "]",
        "0" + '{"a":' * 5_000 + "1" + "}" * 5_000,
        *(f'2["{name}",1]' for name in sorted(RESERVED_EVENTS)),
        '2["\\u0063onnect"]',
    ],
    ids=lambda text: text[:20],
)
def test_a_packet_that_no_client_sends_is_refused(text: str) -> None:
    with pytest.raises(BadPacket):
        decode_packet(text)


def test_an_event_gives_its_name_and_the_text_of_each_argument() -> None:
    packet, _ = decode_packet('2["m",1, {"a": [2]} ,"x"]')
    assert (packet.name, [bytes(each) for each in packet.arguments]) == ("m", [b"1", b'{"a": [2]}', b'"x"'])
    packet, _ = decode_packet('2/chat,3["m\\u00e9"]')
    assert (packet.name, packet.arguments) == ("mé", [])
    packet, _ = decode_packet("2[5,6]")
    assert (packet.name, [bytes(each) for each in packet.arguments]) == (None, [b"6"])


def test_an_acknowledgement_gives_the_text_of_each_argument() -> None:
    packet, _ = decode_packet('37["a",{"b":1}]')
    assert (packet.name, [bytes(each) for each in packet.arguments]) == (None, [b'"a"', b'{"b":1}'])


def test_packets_share_no_arguments() -> None:
    one, other = Packet(PacketType.EVENT), Packet(PacketType.EVENT)
    one.arguments.append(Raw(b"1"))
    assert other.arguments == []


def test_half_a_character_is_repaired() -> None:
    packet, _ = decode_packet('2["m","\\ud83d"]')
    assert packet.data == b'["m","\\ufffd"]'
    packet, _ = decode_packet('0{"a":"\\ud83d"}')
    assert packet.data == b'{"a":"\\ufffd"}'


# Attachments


def assembled(*messages: str | bytes, **limits: int) -> Packet:
    """Return the packet that the last of these messages completes."""
    assembler = Assembler(**limits)
    for message in messages[:-1]:
        assert assembler.feed(message) is None
        assert assembler.waiting
    packet = assembler.feed(messages[-1])
    assert packet is not None
    assert not assembler.waiting
    return packet


def test_a_packet_is_whole_with_its_last_attachment() -> None:
    data = b'["m",{"_placeholder":true,"num":0}]'
    assert facts(assembled("51-/chat,7" + data.decode(), b"\1\2")) == (
        PacketType.BINARY_EVENT,
        "/chat",
        7,
        data,
        (b"\1\2",),
    )
    ack = b'[{"_placeholder":true,"num":0}]'
    assert facts(assembled("61-7" + ack.decode(), b"\1")) == (PacketType.BINARY_ACK, "/", 7, ack, (b"\1",))


def test_attachments_stand_where_their_placeholders_stood() -> None:
    packet = assembled(
        '52-["m",{"a":[{"_placeholder":true,"num":1}]},{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]',
        b"\1",
        b"\2",
    )
    assert packet.data is not None
    assert with_attachments(json.loads(packet.data), packet.attachments) == ["m", {"a": [b"\2"]}, b"\1", b"\1"]


def test_an_attachment_may_be_empty_or_unused() -> None:
    assert assembled('52-["m"]', b"", b"\1").attachments == (b"", b"\1")


def test_packets_without_attachments_pass_one_by_one() -> None:
    assembler = Assembler()
    assert [assembler.feed(text) is not None for text in ("0", '2["m"]', HEADER)] == [True, True, False]
    assert assembler.feed(b"\1") is not None
    assert assembler.feed('2["m"]') is not None


@pytest.mark.parametrize(
    "header",
    [
        '50-["m"]',
        '5-["m"]',
        '5["m"]',
        '5x-["m"]',
        '51.5-["m"]',
        '5-1-["m"]',
        '511-["m"]',
        '599999-["m"]',
        '5١-["m"]',
        "51-",
        "51-[]",
        "51-{}",
        "61-7",
        "61-7{}",
        '51-["connect",{"_placeholder":true,"num":0}]',
        '51-["m",{"_placeholder":true,"num":1}]',
        '51-["m",{"_placeholder":true,"num":-1}]',
        '51-["m",{"_placeholder":true,"num":"0"}]',
        '51-["m",{"_placeholder":true,"num":0.0}]',
        '51-["m",{"_placeholder":true,"num":true}]',
        '51-["m",[{"a":{"_placeholder":true}}]]',
    ],
)
def test_a_header_that_no_client_sends_is_refused(header: str) -> None:
    with pytest.raises(BadPacket):
        Assembler().feed(header)


def test_what_looks_like_a_placeholder_may_be_data() -> None:
    decode_packet('51-["m",{"_placeholder":1,"num":7},{"num":8}]')
    assert with_attachments({"_placeholder": 1, "num": 7}, ()) == {"_placeholder": 1, "num": 7}


def test_ten_attachments_are_taken_and_eleven_are_not() -> None:
    assert len(assembled('510-["m"]', *([b"x"] * 10)).attachments) == 10
    assert len(assembled('512-["m"]', *([b"x"] * 12), attachments_max=12).attachments) == 12
    with pytest.raises(BadPacket):
        Assembler(attachments_max=11).feed('512-["m"]')


def test_the_bytes_of_all_attachments_of_a_packet_are_bounded() -> None:
    assembler = Assembler(bytes_max=4)
    for _ in range(2):  # each packet has them anew
        assembler.feed('52-["m"]')
        assembler.feed(b"123")
        assert assembler.feed(b"4") is not None
    assembler.feed('52-["m"]')
    assembler.feed(b"123")
    with pytest.raises(BadPacket):
        assembler.feed(b"45")


def test_nothing_stands_between_a_header_and_its_attachments() -> None:
    assembler = Assembler()
    assembler.feed(HEADER)
    with pytest.raises(BadPacket):
        assembler.feed('2["m"]')


def test_an_attachment_without_a_header_is_refused() -> None:
    with pytest.raises(BadPacket):
        Assembler().feed(b"\1")
    assembler = Assembler()
    assembler.feed(HEADER)
    assembler.feed(b"\1")
    with pytest.raises(BadPacket):
        assembler.feed(b"\2")


# What is written

leaves = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(st.characters(codec="utf-8")))
values = st.recursive(
    leaves, lambda each: st.one_of(st.lists(each, max_size=4), st.dictionaries(st.text(max_size=5), each, max_size=4))
)
values_with_bytes = st.recursive(
    st.one_of(leaves, st.binary(max_size=20)),
    lambda each: st.one_of(st.lists(each, max_size=4), st.dictionaries(st.sampled_from("abc"), each, max_size=3)),
    max_leaves=10,
)
namespaces = st.one_of(st.just("/"), st.from_regex(r"/[a-z0-9_-]{1,10}", fullmatch=True))
ids = st.one_of(st.none(), st.integers(0, 2**53))


@given(st.sampled_from([PacketType.EVENT, PacketType.ACK]), namespaces, ids, st.lists(values_with_bytes, max_size=4))
def test_what_is_written_is_read(type: PacketType, namespace: str, id: int | None, arguments: list[Any]) -> None:
    array = ["name", *arguments] if type is PacketType.EVENT else arguments
    data, attachments = without_attachments(array)
    if attachments:
        type = PacketType(type + 3)
    packet = Packet(type, namespace, id, data, attachments)
    messages = encode(packet)
    result = assembled(*messages, attachments_max=max(len(attachments), 1))
    assert facts(result) == facts(packet)
    assert result.data is not None
    assert with_attachments(json.loads(result.data), result.attachments) == array
    frames = [TEXT.frame(b"4" + m.encode()) if isinstance(m, str) else BINARY.frame(m) for m in messages]
    assert framed(packet) == b"".join(frames)


@given(namespaces, st.one_of(st.none(), st.dictionaries(st.text(max_size=5), values, max_size=4)))
def test_a_connect_is_read_as_written(namespace: str, auth: dict[str, Any] | None) -> None:
    packet = Packet(
        PacketType.CONNECT, namespace, data=None if auth is None else json.dumps(auth, ensure_ascii=False).encode()
    )
    (text,) = encode(packet)
    assert isinstance(text, str)
    assert read(text) == facts(packet)[:-1]


@given(st.one_of(st.text(), st.from_regex(r"[0-9]{1,3}-?(/[a-z]*,?)?[0-9]*[\[{]?.*", fullmatch=True)))
def test_no_text_raises_anything_else(text: str) -> None:
    with contextlib.suppress(BadPacket):
        Assembler().feed(text.encode(errors="replace").decode())


@pytest.mark.parametrize(
    ("packet", "text"),
    [
        (Packet(PacketType.CONNECT, data=b'{"sid":"S"}'), '0{"sid":"S"}'),
        (Packet(PacketType.CONNECT, "/custom", data=b'{"sid":"S"}'), '0/custom,{"sid":"S"}'),
        (Packet(PacketType.DISCONNECT, "/custom"), "1/custom,"),
        (Packet(PacketType.EVENT, "/chat", 0, b'["m",null]'), '2/chat,0["m",null]'),
        (Packet(PacketType.ACK, "/chat", 0, b"[]"), "3/chat,0[]"),
        (Packet(PacketType.CONNECT_ERROR, data=b'{"message":"no"}'), '4{"message":"no"}'),
    ],
)
def test_a_server_writes_packets_so(packet: Packet, text: str) -> None:
    assert encode(packet) == [text]


def test_bytes_of_each_kind_become_attachments() -> None:
    assert without_attachments(["m", b"\1", {"a": (bytearray(b"\2"), memoryview(b"\3"))}]) == (
        b'["m",{"_placeholder":true,"num":0},{"a":[{"_placeholder":true,"num":1},{"_placeholder":true,"num":2}]}]',
        (b"\1", b"\2", b"\3"),
    )
    assert without_attachments({"a": Raw(b'{"b": 1}')}) == (b'{"a":{"b": 1}}', ())
    with pytest.raises(TypeError):
        without_attachments([object()])


def test_a_placeholder_of_no_attachment_is_refused() -> None:
    with pytest.raises(BadPlaceholder):
        with_attachments([{"_placeholder": True, "num": 0}], ())
