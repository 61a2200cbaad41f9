"""
The protocol in JSON: what is read, what is refused, and that what is written is what clients of the protocol read.

The facts are those of the Centrifuge client protocol, sections 3, 4 and 17. Malformed messages are also sent to a whole
worker by a real socket, to see that each ends its connection with 3501.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw

from realtime import App, Connection, codes
from realtime.broker.base import ClientInfo, RawPublication, Room
from realtime.errors import ClientError
from realtime.json_text import one_line
from realtime.protocol.centrifuge import json as wire_json
from realtime.protocol.centrifuge.codec import BadFrame
from realtime.protocol.centrifuge.encoder import CentrifugeEncoder
from realtime.protocol.centrifuge.json import decode
from realtime.protocol.centrifuge.messages import (
    Command,
    ConnectCommand,
    ConnectResult,
    EmptyResult,
    Message,
    Push,
    RefreshResult,
    RPCResult,
    StreamPosition,
    SubRefreshResult,
    SubscribeCommand,
    SubscribePush,
    SubscribeResult,
    UnsubscribePush,
)
from realtime.protocol.shapes import HistoryResult, Info, PresenceResult, PresenceStatsResult, Pub
from tests.support.aio import run_async
from tests.support.one_worker import OneWorker

NEWS = Room("news")
ANA = ClientInfo("42", "c1")


# What clients send


def test_two_commands_stand_on_two_lines() -> None:
    connect, subscribe = decode('{"id":1,"connect":{"token":"…","name":"js"}}\n{"id":2,"subscribe":{"channel":"news"}}')
    assert connect == Command(1, connect=ConnectCommand(token="…", name="js"))
    assert subscribe == Command(2, subscribe=SubscribeCommand("news"))


def test_every_field_of_the_schema_is_read() -> None:
    (command,) = decode(
        '{"id":2,"subscribe":{"channel":"news","token":"t","recover":true,"epoch":"aBcD","offset":7,"data":{"a":1},'
        '"positioned":true,"recoverable":true,"join_leave":true,"delta":"fossil","flag":3,"type":0}}'
    )
    assert command.subscribe == SubscribeCommand(
        "news", "t", True, "aBcD", 7, Raw(b'{"a":1}'), True, True, True, "fossil", 3, 0
    )
    (command,) = decode(
        '{"id":4,"history":{"channel":"news","limit":10,"since":{"offset":5,"epoch":"aBcD"},"reverse":true}}'
    )
    assert command.history is not None
    assert (command.history.limit, command.history.reverse) == (10, True)
    assert command.history.since == StreamPosition(5, "aBcD")
    (command,) = decode(
        '{"id":1,"connect":{"subs":{"#42":{"recover":true,"epoch":"e","offset":9}},"data":null,"headers":{"X":"y"}}}'
    )
    assert command.connect is not None
    assert command.connect.headers == {"X": "y"}
    assert command.connect.subs == {"#42": SubscribeCommand(recover=True, epoch="e", offset=9)}
    assert bytes(command.connect.data) == b"null", "null is a value, and not the same as none"


@pytest.mark.parametrize(
    "frame",
    [
        '{"id":1,"connect":{}}\n',
        ' {"id" : 1 ,\t"connect":{ }} \r',
        b'{"id":1,"connect":{}}',
        '{"connect":{},"id":1}',
        '{"id":1,"connect":{},"method":7,"params":{"a":[1,{"b":null}]}}',
        '{"id":1,"connect":{"flag":1,"dict":"d","profile":"p","future":[[]]}}',
        '{"\\u0069d":1,"conne\\u0063t":{}}',
        '{"id":1,"connect":{},"subscribe":null}',
        '{"id":9,"id":1,"connect":{}}',
    ],
    ids=repr,
)
def test_white_space_order_and_unknown_fields_do_not_count(frame: str | bytes) -> None:
    assert decode(frame) == [Command(1, connect=ConnectCommand())]


@pytest.mark.parametrize("frame", ["{}", "{ }", '{"id":0}', '{"what":"ever"}', "{}\n"], ids=repr)
def test_a_command_without_anything_is_a_pong(frame: str) -> None:
    assert decode(frame) == [Command()]


@pytest.mark.parametrize(
    "data",
    [
        "{}", "[]", '""', "0", "null", "false", "9007199254740993", "18446744073709551616", "-0.0", "1E400", "1.10",
        '{"b":1,"a":2,"a":3}', '"\\u00e9\\/\\ud83d\\ude00"', '"é😀"', '"\\u0000"', '[ 1 ,\t2 ]', '"\u2028"',
        "[" * 200 + "]" * 200, "1" * 5000,
    ],
    ids=lambda text: repr(text[:20]),
)  # fmt: skip
def test_a_payload_is_kept_as_it_came(data: str) -> None:
    (command,) = decode(f'{{"id":3,"publish":{{"channel":"news","data":{data}}}}}')
    assert command.publish is not None
    assert bytes(command.publish.data) == data.encode()


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (r'"cut \ud83d"', r'"cut \ufffd"'),
        (r'"\ude00 cut"', r'"\ufffd cut"'),
        (r'"\uD83D\uD83D\uDE00"', r'"\ufffd\uD83D\uDE00"'),
        (r'"\uDE00\uD83D"', r'"\ufffd\ufffd"'),
        (r'"\\ud83d \\\ud83d"', r'"\\ud83d \\\ufffd"'),
        (r'{"\ud83d":[{"\udfff":"\ud7ff\ue000"}]}', r'{"\ufffd":[{"\ufffd":"\ud7ff\ue000"}]}'),
    ],
)
def test_half_a_character_is_replaced_and_nothing_else(sent: str, kept: str) -> None:
    for line in (f'{{"id":3,"publish":{{"channel":"n","data":{sent}}}}}', '{"id":4,"ping":{}}'):
        assert len(decode(line)) == 1
    first, second = decode(f'{{"id":3,"publish":{{"channel":"n","data":{sent}}}}}\n{{"id":4,"ping":{{}}}}')
    assert first.publish is not None
    assert bytes(first.publish.data).decode() == kept
    assert second.id == 4


# What no client of the protocol sends

MALFORMED: list[Any] = [
    "", "\n", "\n\n", " ", "{", "}", "[]", "[{}]", "null", "1", '""', "true", "{}{}", "{} {}", "{},{}", '{"id":1',
    '{"id":1,}', "{'id':1}", "{id:1}", '{"id":1}}', '\ufeff{"id":1}', "hello", "GET / HTTP/1.1\r\n\r\n", "\0", "💥",
    '{"id":1,"connect":{}}\n\n', '\n{"id":1,"connect":{}}', '{"id":1,"connect":{}}\n\n{"id":2,"subscribe":{}}',
    '{"id":1,"connect":{}}{"id":2}', '{"id":1,\n"connect":{}}', '{"id":1,"connect":{}}\n{"id":2', "[" * 60_000,
    '{"id":"1","connect":{}}', '{"id":1.5,"connect":{}}', '{"id":null,"connect":{}}', '{"id":true,"connect":{}}',
    '{"id":[],"connect":{}}', '{"id":1,"connect":[]}', '{"id":1,"connect":"x"}', '{"id":1,"connect":{"token":1}}',
    '{"id":1,"connect":{"token":null}}', '{"id":1,"connect":{"data":}}', '{"id":1,"connect":{"data":nul}}',
    '{"id":1,"connect":{"data":01}}', '{"id":1,"connect":{"data":NaN}}', '{"id":1,"connect":{"data":"\t"}}',
    '{"id":1,"connect":{"data":"\\q"}}', '{"id":1,"connect":{"data":"\\\\ud800}}', '{"id":1,"connect":{"data":[1,]}}',
    '{"id":1,"connect":{"data":%s}}' % ("[" * 20_000 + "]" * 20_000), '{"id":1,"connect":{"subs":[]}}',
    '{"id":1,"connect":{"subs":{"a":1}}}', '{"id":1,"connect":{"x":%s}}' % ('{"a":' * 10_500 + "1" + "}" * 10_500),
    *(
        text % number
        for number in (-1, 2**53, 2**64, 2**70, 10**400)
        for text in (
            '{"id":1,"connect":{"subs":{"a":{"offset":%d}}}}', '{"id":1,"subscribe":{"offset":%d}}',
            '{"id":1,"history":{"since":{"offset":%d}}}',
        )
    ),
    *(f'{{"id":{number},"connect":{{}}}}' for number in (-1, 2**32, 2**64, 10**400)),
    b"\xff", b'{"id":1,"connect":{"data":"\xff"}}', b'{"id":1,"connect":{"token":"\xed\xa0\x80"}}', b"\x00",
    b'{"id":1,"connect":{"\xc0\xaf":1}}', bytes.fromhex("080801220422026a73"),
]  # fmt: skip


@pytest.mark.parametrize("frame", MALFORMED, ids=lambda frame: repr(frame[:44]))
def test_what_is_malformed_is_a_bad_frame(frame: str | bytes) -> None:
    with pytest.raises(BadFrame) as refusal:
        decode(frame)
    assert str(refusal.value)


@run_async
async def test_and_ends_the_connection_with_3501_whether_admitted_or_not() -> None:
    async with OneWorker(App()) as worker:
        for frame in MALFORMED:
            for client in (await worker.open(), await worker.join()):
                await client.send_raw(frame)
                assert await client.wait_closed() == (3501, "bad request"), frame[:44]


@run_async
async def test_nothing_of_a_message_is_done_that_is_malformed_at_its_end() -> None:
    connected = []
    app = App()

    @app.on_connect
    async def connect(conn: Connection) -> None:
        connected.append(conn.id)

    async with OneWorker(app) as worker:
        client = await worker.open()
        await client.send_raw('{"id":1,"connect":{}}\n{"id":2')
        assert await client.wait_closed() == (3501, "bad request")
        await worker.join()
    assert len(connected) == 1


@run_async
async def test_a_reader_never_gets_what_is_not_utf_8() -> None:
    app = App()
    app.room("open", open=True)
    async with OneWorker(app) as worker:
        reader, writer = await worker.join(), await worker.join()
        await reader.ask("subscribe", channel="open")
        await writer.ask("subscribe", channel="open")
        await writer.send_raw(b'{"id":3,"publish":{"channel":"open","data":"\xff"}}')
        assert await writer.wait_closed() == (3501, "bad request")
        other = await worker.join()
        await other.ask("subscribe", channel="open")
        await other.send_raw('{"id":3,"publish":{"channel":"open","data":"é"}}'.encode())
        assert (await reader.push("pub"))["pub"]["data"] == "é"


# What the server says: each line compared as text, for a client reads text


@pytest.mark.parametrize(
    ("method", "result", "text"),
    [
        ("connect", ConnectResult("c", "v", ping=25, pong=True), '{"client":"c","version":"v","ping":25,"pong":true}'),
        ("connect", ConnectResult("c1", "v"), '{"client":"c1","version":"v"}'),
        (
            "connect",
            ConnectResult("c1", "v", True, 60, Raw(b"{}"), {"a": SubscribeResult()}, 25, True, 1_700_000_000_000),
            '{"client":"c1","version":"v","expires":true,"ttl":60,"data":{},"subs":{"a":{}},"ping":25,"pong":true,'
            '"time":1700000000000}',
        ),
        ("subscribe", SubscribeResult(), "{}"),
        (
            "subscribe",
            SubscribeResult(recoverable=True, epoch="aBcD", offset=7, positioned=True),
            '{"recoverable":true,"epoch":"aBcD","offset":7,"positioned":true}',
        ),
        (
            "subscribe",
            SubscribeResult(
                recoverable=True, epoch="aBcD", offset=7, positioned=True, recovered=True, was_recovering=True,
                publications=[Pub(Raw(b'{"a":1}'), offset=8)],
            ),
            '{"recoverable":true,"epoch":"aBcD","publications":[{"data":{"a":1},"offset":8}],"recovered":true,'
            '"offset":7,"positioned":true,"was_recovering":true}',
        ),
        ("publish", EmptyResult(), "{}"),
        ("unsubscribe", EmptyResult(), "{}"),
        ("presence", PresenceResult({}), '{"presence":{}}'),
        ("presence", PresenceResult({"c1": Info("", "")}), '{"presence":{"c1":{"user":"","client":""}}}'),
        ("presence_stats", PresenceStatsResult(0, 0), '{"num_clients":0,"num_users":0}'),
        ("history", HistoryResult([], "", 0), '{"publications":[],"epoch":"","offset":0}'),
        (
            "history",
            HistoryResult([Pub(Raw(b"null"), Info("42", "c1"), 2**53 + 1, {"k": "v"}, 5)], "aBcD", 2**53 + 1),
            '{"publications":[{"data":null,"info":{"user":"42","client":"c1"},"offset":9007199254740993,'
            '"tags":{"k":"v"},"time":5}],"epoch":"aBcD","offset":9007199254740993}',
        ),
        ("rpc", RPCResult(), "{}"),
        ("rpc", RPCResult(Raw(b"false")), '{"data":false}'),
        ("refresh", RefreshResult("c1", "v"), '{"client":"c1","version":"v"}'),
        ("refresh", RefreshResult("c1", "v", True, 300), '{"client":"c1","version":"v","expires":true,"ttl":300}'),
        ("sub_refresh", SubRefreshResult(), "{}"),
        ("sub_refresh", SubRefreshResult(True, 300), '{"expires":true,"ttl":300}'),
    ],
)  # fmt: skip
def test_zero_values_are_left_out_but_for_those_that_sdks_read(method: str, result: Any, text: str) -> None:
    assert wire_json.reply(2**32 - 1, method, result).decode() == f'{{"id":4294967295,"{method}":{text}}}'


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (codes.PERMISSION_DENIED, '{"code":103,"message":"permission denied"}'),
        (codes.INTERNAL, '{"code":100,"message":"internal server error","temporary":true}'),
        (codes.TOO_MANY_REQUESTS, '{"code":111,"message":"too many requests","temporary":true}'),
        (ClientError(400, ""), '{"code":400,"message":""}'),
        (ClientError(1999, 'no "\n', temporary=True), '{"code":1999,"message":"no \\"\\n","temporary":true}'),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_error_always_has_its_text(error: Any, text: str) -> None:
    assert wire_json.error_reply(2, error).decode() == f'{{"id":2,"error":{text}}}'


@pytest.mark.parametrize(
    ("push", "text"),
    [
        (
            Push("news", unsubscribe=UnsubscribePush(2500, "insufficient state")),
            '{"channel":"news","unsubscribe":{"code":2500,"reason":"insufficient state"}}',
        ),
        (Push("news", unsubscribe=UnsubscribePush(0, "")), '{"channel":"news","unsubscribe":{"code":0,"reason":""}}'),
        (
            Push("ch", subscribe=SubscribePush(True, "aBcD", 12, True, Raw(b"{}"))),
            '{"channel":"ch","subscribe":{"recoverable":true,"epoch":"aBcD","offset":12,"positioned":true,"data":{}}}',
        ),
        (Push("ch", subscribe=SubscribePush()), '{"channel":"ch","subscribe":{}}'),
        (Push(message=Message(Raw(b"[1]"))), '{"message":{"data":[1]}}'),
    ],
)
def test_a_push_of_a_rare_kind(push: Push, text: str) -> None:
    assert wire_json.push(push).decode() == f'{{"push":{text}}}'


@pytest.mark.parametrize(
    ("publication", "text"),
    [
        (RawPublication(b'{"a":1}', 8, "aBcD", tags={"k": "v"}), '{"data":{"a":1},"offset":8,"tags":{"k":"v"}}'),
        (RawPublication(b'{"a":1}', 8, "e", ANA), '{"data":{"a":1},"info":{"user":"42","client":"c1"},"offset":8}'),
        (RawPublication(b"null"), '{"data":null}'),
        (RawPublication(b"1", time_ms=7, tags={}), '{"data":1,"time":7}'),
        (
            RawPublication(b"1", info=ClientInfo("", "", b'{"n":1}', b"[]")),
            '{"data":1,"info":{"user":"","client":"","conn_info":{"n":1},"chan_info":[]}}',
        ),
    ],
)
def test_a_publication_is_the_same_live_and_in_a_list(publication: RawPublication, text: str) -> None:
    assert wire_json.push_publication(NEWS, publication).decode() == f'{{"push":{{"channel":"news","pub":{text}}}}}'
    listed = wire_json.reply(1, "history", HistoryResult([wire_json.pub_of(publication)], "", 0))
    assert json.loads(listed)["history"]["publications"] == [json.loads(text)]


def test_joins_and_leaves() -> None:
    told = '{"info":{"user":"42","client":"c1"}}'
    assert wire_json.push_join(NEWS, ANA).decode() == f'{{"push":{{"channel":"news","join":{told}}}}}'
    assert wire_json.push_leave(NEWS, ANA).decode() == f'{{"push":{{"channel":"news","leave":{told}}}}}'


@pytest.mark.parametrize("room", ['"', "\\", "\n", "}{", "\u2028", "é", "\0", "😀", '","pub":{}'], ids=repr)
def test_no_name_of_a_room_or_a_user_breaks_out_of_its_line(room: str) -> None:
    info = ClientInfo(room, room)
    said = {"user": room, "client": room}
    publication = wire_json.push_publication(Room(room), RawPublication(b"1", 1, "e", info, {room: room}))
    pub = {"data": 1, "info": said, "offset": 1, "tags": {room: room}}
    for line, push in (
        (publication, {"channel": room, "pub": pub}),
        (wire_json.push_join(Room(room), info), {"channel": room, "join": {"info": said}}),
        (wire_json.push_leave(Room(room), info), {"channel": room, "leave": {"info": said}}),
    ):
        assert b"\n" not in line
        assert json.loads(line) == {"push": push}
    assert json.loads(wire_json.error_reply(1, ClientError(400, room)))["error"]["message"] == room


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"{}", b"{}"),
        (b'{"a": 1}', b'{"a": 1}'),
        (b'{\n "a":\r\n 1.10 }', b'{"a":1.10}'),
        (b"[\n9007199254740993, 1E400]", b"[9007199254740993,1E400]"),
        (b'\r"\\u00e9\\n"\n', b'"\\u00e9\\n"'),
        (b'{"b":1,\n"a":2,"a":3}', b'{"b":1,"a":2,"a":3}'),
        (b"\n1\n", b"1"),
    ],
    ids=repr,
)
def test_a_payload_with_raw_newlines_is_written_without_them_and_else_as_it_came(text: bytes, line: bytes) -> None:
    assert one_line(text) == line


class Brackets:
    """A framing that can be seen."""

    name = "brackets"
    takes_several = True

    def frame(self, payload: bytes) -> bytes:
        return b"<" + payload + b">"


def test_a_wire_frames_what_it_says() -> None:
    wire = CentrifugeEncoder(wire_json, Brackets())
    assert wire.ping == b"<{}>", "a ping is an empty object, never an empty message"
    assert wire.publication(NEWS, RawPublication(b"1")) == b'<{"push":{"channel":"news","pub":{"data":1}}}>'
    join, leave = wire_json.push_join(NEWS, ANA), wire_json.push_leave(NEWS, ANA)
    assert wire.changes(NEWS, [(True, ANA)]) == b"<" + join + b">"
    assert wire.changes(NEWS, [(True, ANA), (False, ANA)]) == b"<" + join + b"\n" + leave + b">", "in one message"


def test_where_a_message_is_one_event_each_join_has_its_own() -> None:
    class OneEach(Brackets):
        takes_several = False

    join, leave = wire_json.push_join(NEWS, ANA), wire_json.push_leave(NEWS, ANA)
    said = CentrifugeEncoder(wire_json, OneEach()).changes(NEWS, [(True, ANA), (False, ANA)])
    assert said == b"<" + join + b"><" + leave + b">"


def test_many_joins_become_messages_of_a_size_that_clients_take() -> None:
    joins = [(True, ClientInfo("ana", f"c{number}", b'"' + b"x" * 500 + b'"')) for number in range(1000)]
    said = CentrifugeEncoder(wire_json, Brackets()).changes(NEWS, joins)
    messages = said[1:-1].split(b"><")
    assert [line for each in messages for line in each.split(b"\n")] == [
        wire_json.push_join(NEWS, info) for _, info in joins
    ]
    assert 10 < len(messages) < 25
    assert all(len(each) <= 33_800 for each in messages)
