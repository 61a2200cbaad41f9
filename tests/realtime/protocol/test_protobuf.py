"""
The protocol in Protobuf: our codec against the vectors of the protocol's document, against Google's own implementation
with the stock SDK's generated code, and against arbitrary bytes.
"""

from __future__ import annotations

from typing import Any

import pytest
from centrifuge.protocol import client_pb2 as google
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from realtime import codes
from realtime.broker.base import ClientInfo, RawPublication, Room
from realtime.protocol import shapes
from realtime.protocol.centrifuge import messages as m
from realtime.protocol.centrifuge import protobuf
from realtime.protocol.centrifuge.codec import BadFrame
from realtime.session.tags import FilterNode

NEWS = Room("news")
ANA = ClientInfo("42", "c1", b'{"name":"Ana"}', b"1")


@pytest.mark.parametrize(
    ("frame", "command"),
    [
        ("080801220422026a73", m.Command(1, connect=m.ConnectCommand(name="js"))),
        (
            "1608022a120a046e657773180132046142634438077001",
            m.Command(2, subscribe=m.SubscribeCommand("news", recover=True, epoch="aBcD", offset=7, flag=1)),
        ),
        ("1308033a0f0a046e65777312077b2261223a317d", m.Command(3, publish=m.PublishCommand("news", Raw(b'{"a":1}')))),
        (
            "18080452140a046e657773380a420808051204614263444801",
            m.Command(4, history=m.HistoryCommand("news", 10, m.StreamPosition(5, "aBcD"), reverse=True)),
        ),
        ("00", m.Command()),
    ],
)
def test_the_documents_commands(frame: str, command: m.Command) -> None:
    assert protobuf.decode(bytes.fromhex(frame)) == [command]


@pytest.mark.parametrize(
    ("said", "frame"),
    [
        (
            protobuf.reply(1, "connect", m.ConnectResult("c1", "v", ping=25, pong=True)),
            "0f08012a0b0a02633112017638194001",
        ),
        (
            protobuf.error_reply(2, codes.PERMISSION_DENIED),
            "1908021215086712117065726d697373696f6e2064656e696564",
        ),
        (protobuf.reply(3, "publish", m.EmptyResult()), "0408034200"),
        (
            protobuf.push_publication(NEWS, RawPublication(b'{"a":1}', 8, tags={"k": "v"})),
            "1d221b12046e657773221322077b2261223a317d30083a060a016b120176",
        ),
        (
            protobuf.push_publication(NEWS, RawPublication(b'{"a":1}', 8, info=ClientInfo("42", "c1"))),
            "1f221d12046e657773221522077b2261223a317d2a080a023432120263313008",
        ),
        (
            protobuf.push(m.Push(channel="news", unsubscribe=m.UnsubscribePush(2500, "insufficient state"))),
            "21221f12046e6577733a1710c4131a12696e73756666696369656e74207374617465",
        ),
        (
            protobuf.reply(
                2,
                "subscribe",
                m.SubscribeResult(
                    recoverable=True,
                    epoch="aBcD",
                    offset=7,
                    positioned=True,
                    recovered=True,
                    was_recovering=True,
                    publications=[shapes.Pub(Raw(b'{"a":1}'), offset=8)],
                ),
            ),
            "210802321d18013204614263443a0b22077b2261223a317d30084001480750016001",
        ),
        (protobuf.PING, "00"),
    ],
)
def test_the_documents_replies(said: bytes, frame: str) -> None:
    assert said.hex() == frame


# Against another implementation


def read(said: bytes) -> google.Reply:
    """Read one reply as the SDK does: a length, then the message."""
    reply = google.Reply()
    size, at = protobuf._read_varint(said, 0, len(said))
    assert size == len(said) - at, "one message, and nothing after it"
    reply.ParseFromString(said[at:])
    return reply


def plain(message: Any) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def test_presence_and_maps_of_messages() -> None:
    found = read(
        protobuf.reply(7, "presence", shapes.PresenceResult({"c1": shapes.info_of(ANA), "ü": shapes.Info("", "ü")}))
    )
    assert found.presence.presence["c1"].conn_info == b'{"name":"Ana"}'
    assert found.presence.presence["c1"].chan_info == b"1"
    assert found.presence.presence["ü"].client == "ü"


def test_large_numbers_and_negative_ones() -> None:
    pub = shapes.Pub(Raw(b"x"), offset=2**53 - 1, time=-(2**62))
    [found] = read(protobuf.reply(1, "history", shapes.HistoryResult([pub], "e", 2**63))).history.publications
    assert (found.offset, found.time) == (2**53 - 1, -(2**62))
    assert read(protobuf.reply(2**32 - 1, "history", shapes.HistoryResult([], "e", 2**63))).history.offset == 2**63


def test_every_push() -> None:
    info = shapes.info_of(ANA)
    for push in (
        m.Push(channel="r", pub=shapes.Pub(Raw(b"d"), info, 3, {"a": "b", "": ""}, 5, delta=True)),
        m.Push(channel="r", join=m.Membership(info)),
        m.Push(channel="r", leave=m.Membership(info)),
        m.Push(channel="r", unsubscribe=m.UnsubscribePush(2000, "r")),
        m.Push(channel="r", subscribe=m.SubscribePush(True, "e", 4, True, Raw(b"1"))),
        m.Push(message=m.Message(Raw(b"1"))),
        m.Push(disconnect=m.Disconnected(3001, "shutdown")),
        m.Push(refresh=m.Refreshed(True, 60)),
    ):
        [kind] = [name for name in push.__struct_fields__[1:] if getattr(push, name) is not UNSET]
        found = read(protobuf.push(push))
        assert found.WhichOneof is not None
        assert found.push.HasField(kind), kind
        assert set(plain(found.push)) == {kind} | ({"channel"} if push.channel else set())
        for field, value in plain(getattr(found.push, kind)).items():
            ours = getattr(getattr(push, kind), field)
            if isinstance(ours, int | str | bool):
                assert str(value) == str(ours), (kind, field)


commands = st.builds(
    lambda id, request: {"id": id, "subscribe": request},
    st.integers(1, 2**32 - 1),
    st.fixed_dictionaries(
        {},
        optional={
            "channel": st.text(max_size=20),
            "token": st.text(max_size=20),
            "recover": st.booleans(),
            "epoch": st.text(max_size=8),
            "offset": st.integers(0, 2**53 - 1),
            "flag": st.integers(-(2**63), 2**63 - 1),
            "delta": st.text(max_size=8),
        },
    ),
)


@given(st.lists(commands, min_size=1, max_size=4))
def test_what_googles_code_writes_is_read(wanted: list[dict[str, Any]]) -> None:
    frame = b""
    for each in wanted:
        text = google.Command(id=each["id"], subscribe=google.SubscribeRequest(**each["subscribe"])).SerializeToString()
        frame += protobuf._varint(len(text)) + text
    assert protobuf.decode(frame) == [
        m.Command(each["id"], subscribe=m.SubscribeCommand(**each["subscribe"])) for each in wanted
    ]


def test_a_connect_with_positions_and_a_filter_within_filters() -> None:
    subs = {"#42": google.SubscribeRequest(recover=True, epoch="e", offset=9), "": google.SubscribeRequest()}
    headers = {"X-A": "b", "": "é"}
    text = google.Command(
        id=1, connect=google.ConnectRequest(subs=subs, data=b"null", headers=headers)
    ).SerializeToString()
    [found] = protobuf.decode(protobuf._varint(len(text)) + text)
    assert found.connect is not None
    assert found.connect.subs == {
        "#42": m.SubscribeCommand(recover=True, epoch="e", offset=9),
        "": m.SubscribeCommand(),
    }
    assert found.connect.headers == headers
    leaf = google.FilterNode(key="k", cmp="in", vals=["a", "b"])
    tree = google.FilterNode(op="and", nodes=[leaf, google.FilterNode(op="not", nodes=[leaf])])
    text = google.Command(id=2, subscribe=google.SubscribeRequest(channel="r", tf=tree)).SerializeToString()
    [found] = protobuf.decode(protobuf._varint(len(text)) + text)
    assert found.subscribe is not None
    ours = FilterNode(key="k", cmp="in", vals=["a", "b"])
    assert found.subscribe.tf == FilterNode(op="and", nodes=[ours, FilterNode(op="not", nodes=[ours])])


# What no client sends


@given(st.binary(max_size=200))
def test_any_bytes_are_commands_or_a_bad_frame(junk: bytes) -> None:
    try:
        found = protobuf.decode(junk)
    except BadFrame:
        return
    assert all(isinstance(each, m.Command) for each in found)


@given(st.lists(commands, min_size=1, max_size=2), st.data())
def test_a_frame_that_was_cut_is_a_bad_one_or_fewer_commands(wanted: list[dict[str, Any]], data: st.DataObject) -> None:
    texts = [
        google.Command(id=each["id"], subscribe=google.SubscribeRequest(**each["subscribe"])).SerializeToString()
        for each in wanted
    ]
    frame = b"".join(protobuf._varint(len(text)) + text for text in texts)
    cut = frame[: data.draw(st.integers(0, len(frame) - 1))]
    try:
        found = protobuf.decode(cut)
    except BadFrame:
        return
    assert found == protobuf.decode(frame)[: len(found)]


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x01",
        b"\x02\x08",
        b"\x02\x0a\x00",  # an id that is text
        b"\x03\x22\x01\x0a",  # a message that ends within a field
        b"\x02\x08\x80",
        b"\x0b\x08" + b"\xff" * 10,
        b"\x06\x08\x80\x80\x80\x80\x10",  # 2**32
        b"\x02\x00\x00",  # field 0
        b"\x01\x0b",  # a group
        b"\x06\x2a\x04\x0a\x02\xff\xff",  # a channel that is not UTF-8
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        "text",
    ],
)
def test_a_bad_frame_is_refused(frame: bytes | str) -> None:
    with pytest.raises(BadFrame):
        protobuf.decode(frame)


def test_filters_are_not_read_without_end() -> None:
    text = b""
    for _ in range(1000):
        text = b"\x32" + protobuf._varint(len(text)) + text
    text = b"\x6a" + protobuf._varint(len(text)) + text
    text = b"\x2a" + protobuf._varint(len(text)) + text
    with pytest.raises(BadFrame, match="deep"):
        protobuf.decode(protobuf._varint(len(text)) + text)


def test_fields_that_nobody_knows_are_skipped() -> None:
    unknown = b"\xf8\x07\x01" + b"\xf9\x07" + b"8" * 8 + b"\xfa\x07\x02ab" + b"\xfd\x07" + b"4" * 4
    inner = b"\x08\x05" + unknown + b"\x32\x00"
    assert protobuf.decode(protobuf._varint(len(inner)) + inner) == [m.Command(5, unsubscribe=m.UnsubscribeCommand())]


def test_the_other_half_of_an_emulated_transport() -> None:
    text = google.EmulationRequest(node="n", session="s", data=b"\x00").SerializeToString()
    assert protobuf.decode_emulation(text) == m.EmulationRequest("n", "s", Raw(b"\x00"))
    with pytest.raises(BadFrame):
        protobuf.decode_emulation(b"\x0a\xff")
