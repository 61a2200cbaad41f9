"""
Engine.IO by long polling: what a poll and a POST are answered, and what ends the session.

The sentences are those of the Engine.IO protocol 4, "HTTP long-polling" and "Packet encoding".
"""

from __future__ import annotations

import asyncio

import pytest

from realtime.protocol.socketio.packets import Packet, PacketType, framed
from realtime.transport import guarded
from realtime.transport.frames import TEXT
from tests.support.aio import run_async
from tests.support.engine_server import EngineServer, Recorder, read_answer
from tests.support.one_worker import until

UNKNOWN = (400, 1)


async def is_over(server: EngineServer, sid: str, reason: str) -> None:
    """See that a session has ended, for its user and for its client."""
    assert server.users[sid].reasons == [reason]
    assert (await server.poll(sid)).refusal == UNKNOWN
    assert (await server.post(sid, "4a")).refusal == UNKNOWN
    assert sid not in server.socketio.engines.connections


# Messages


@run_async
async def test_a_post_is_answered_with_ok_in_two_letters() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        answer = await server.post(sid, "4hello")
        assert (answer.status, answer.body) == (200, b"ok")
        assert answer.headers["content-type"] == "text/html"
        assert answer.headers["cache-control"] == "no-store"


@run_async
async def test_a_poll_brings_what_waits() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        await server.post(sid, "4hello")
        answer = await server.poll(sid)
        assert (answer.status, answer.text) == (200, "4hello")
        assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
        assert answer.headers["cache-control"] == "no-store"


@run_async
async def test_one_poll_brings_several_packets() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        await server.post(sid, "4a\x1e4hé\x1e4c")
        assert (await server.poll(sid)).text == "4a\x1e4hé\x1e4c"


@run_async
async def test_binary_messages_are_base64_without_a_digit() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        await server.post(sid, "4hello\x1ebAQIDBA==\x1eb")
        assert server.users[sid].messages == ["hello", b"\1\2\3\4", b""]
        assert (await server.poll(sid)).text == "4hello\x1ebAQIDBA==\x1eb"


@run_async
async def test_a_poll_is_held_until_there_is_something() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        poll = await server.held_poll(sid)
        assert not poll.done()
        await server.post(sid, "4a\x1e4b")
        assert (await poll).text == "4a\x1e4b"


@run_async
async def test_messages_of_one_turn_leave_in_one_poll() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        poll = await server.held_poll(sid)
        for text in (b"4a", b"4b", b"4c"):
            server.users[sid].connection.send(TEXT.frame(text))
        assert (await poll).text == "4a\x1e4b\x1e4c"


@run_async
async def test_an_attachment_may_come_in_a_later_post() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        await server.post(sid, '451-["m",{"_placeholder":true,"num":0}]')
        await server.post(sid, "bAQI=")
        assert server.users[sid].messages == ['51-["m",{"_placeholder":true,"num":0}]', b"\1\2"]


@run_async
async def test_a_packet_with_attachments_leaves_as_header_and_base64() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        data = b'["m",{"_placeholder":true,"num":0}]'
        server.users[sid].connection.send(framed(Packet(PacketType.BINARY_EVENT, data=data, attachments=(b"\1\2",))))
        assert (await server.poll(sid)).text == '451-["m",{"_placeholder":true,"num":0}]\x1ebAQI='


@run_async
async def test_a_poll_brings_no_more_than_a_post_may_and_the_next_one_the_rest() -> None:
    async with EngineServer(message_bytes=2048, outbound_bytes=100_000) as server:
        sid = await server.open()
        for letter in "abc":
            await server.post(sid, f"4{letter * 1000}")
        assert (await server.poll(sid)).text == f"4{'a' * 1000}\x1e4{'b' * 1000}"
        assert (await server.poll(sid)).text == f"4{'c' * 1000}"


@run_async
async def test_all_requests_of_a_client_may_share_one_connection() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        query = f"EIO=4&transport=polling&sid={sid}"
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for number in range(3):
            body = f"4{number}".encode()
            writer.write(
                b"POST /engine.io/?%b HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n" % query.encode() + body
            )
            assert (await read_answer(reader)).text == "ok"
            writer.write(b"GET /engine.io/?%b HTTP/1.1\r\nHost: h\r\n\r\n" % query.encode())
            assert (await read_answer(reader)).body == body
        writer.close()


@run_async
async def test_a_body_in_chunks_is_taken() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        reader, writer = await server.begin(
            "POST",
            f"EIO=4&transport=polling&sid={sid}",
            b"3\r\n4he\r\n3\r\nllo\r\n0\r\n\r\n",
            {"Transfer-Encoding": "chunked"},
        )
        assert (await read_answer(reader)).text == "ok"
        assert server.users[sid].messages == ["hello"]
        writer.close()


@run_async
async def test_types_without_a_meaning_are_ignored() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        assert (await server.post(sid, "0{}\x1e3\x1e5\x1e6\x1e4a")).text == "ok"
        assert (await server.poll(sid)).text == "4a"


# What ends a session


@pytest.mark.parametrize("body", ["abc", "", "\x1e4b", "4b\x1e", "4b\x1e\x1e4b", "7", "b!!!!", "bAQI", "4b\x1eé"])
@run_async
async def test_a_bad_body_is_refused_and_ends_the_session(body: str) -> None:
    async with EngineServer() as server:
        sid = await server.open()
        assert (await server.post(sid, body)).refusal == (400, 3)
        await is_over(server, sid, "parse error")


@run_async
async def test_packets_before_a_bad_one_are_taken() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        assert (await server.post(sid, "4a\x1e4b\x1e9\x1e4c")).refusal == (400, 3)
        assert server.users[sid].messages == ["a", "b"]


@run_async
async def test_a_bad_body_ends_the_poll_that_is_held_with_a_close_packet() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        poll = await server.held_poll(sid)
        await server.post(sid, "abc")
        assert ((await poll).status, (await poll).text) == (200, "1")
        await is_over(server, sid, "parse error")


@run_async
async def test_a_ping_of_the_client_ends_the_session() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        await server.post(sid, "2")
        await is_over(server, sid, "transport error")


@run_async
async def test_a_second_poll_ends_the_session_the_first_one_gets_a_close_packet() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        first = await server.held_poll(sid)
        second = await server.poll(sid)
        assert (second.status, second.body) == (400, b"")
        assert ((await first).status, (await first).text) == (200, "1")
        await is_over(server, sid, "transport error")


@pytest.fixture
def _half_closed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a half-closed client waited for, except where its presence is all that an answer is for."""
    monkeypatch.setattr(guarded, "HALF_CLOSED_S", 600.0)


@pytest.mark.usefixtures("_half_closed_for_ever")
@run_async
async def test_a_poll_that_its_client_gives_up_ends_the_session() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        _, writer = await server.begin("GET", f"EIO=4&transport=polling&sid={sid}")
        polling = server.users[sid].connection.polling
        assert polling is not None
        await until(lambda: polling.held is not None)
        writer.close()
        await until(lambda: server.users[sid].reasons)
        await is_over(server, sid, "transport error")


@pytest.mark.usefixtures("_half_closed_for_ever")
@run_async
async def test_a_poll_whose_client_was_gone_before_it_was_served_ends_the_session() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        _, writer = await server.begin("GET", f"EIO=4&transport=polling&sid={sid}")
        writer.close()
        await until(lambda: server.users[sid].reasons)
        await is_over(server, sid, "transport error")


@run_async
async def test_a_second_post_while_one_is_read_ends_the_session_and_cuts_the_first() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        query = f"EIO=4&transport=polling&sid={sid}"
        reader, writer = await server.begin("POST", query, b"4h", {"Content-Length": "6"})
        polling = server.users[sid].connection.polling
        assert polling is not None
        await until(lambda: polling.post is not None)
        second = await server.post(sid, "4b")
        assert (second.status, second.body) == (400, b"")
        with pytest.raises((ConnectionResetError, IndexError)):
            (await reader.readline()).split()[1]
        writer.close()
        assert server.users[sid].messages == []
        await is_over(server, sid, "transport error")


@run_async
async def test_a_post_that_breaks_off_ends_the_session() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        _, writer = await server.begin("POST", f"EIO=4&transport=polling&sid={sid}", b"4h", {"Content-Length": "6"})
        polling = server.users[sid].connection.polling
        assert polling is not None
        await until(lambda: polling.post is not None)
        writer.close()
        await until(lambda: server.users[sid].reasons)
        assert server.users[sid].messages == []
        await is_over(server, sid, "transport error")


@run_async
async def test_octets_are_of_another_protocol_and_end_the_session() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        answer = await server.post(sid, b"\0\1\xff4a", Content_Type="application/octet-stream")
        assert (answer.status, answer.body) == (400, b"")
        await is_over(server, sid, "transport error")


@run_async
async def test_a_body_may_have_as_many_bytes_as_the_handshake_said() -> None:
    async with EngineServer(message_bytes=2000, outbound_bytes=100_000) as server:
        sid = await server.open()
        assert (await server.post(sid, "4" + "x" * 1999)).text == "ok"
        answer = await server.post(sid, "4" + "x" * 2000)
        assert (answer.status, answer.body) == (413, b"")
        assert server.users[sid].messages == ["x" * 1999]
        assert server.socketio.polling.statistics()["too_big"] == 1
        await is_over(server, sid, "transport error")


@run_async
async def test_a_body_without_a_length_is_measured_as_it_comes() -> None:
    async with EngineServer(message_bytes=2000) as server:
        sid = await server.open()
        reader, writer = await server.begin(
            "POST",
            f"EIO=4&transport=polling&sid={sid}",
            b"7d1\r\n" + b"4" + b"x" * 2000 + b"\r\n",
            {"Transfer-Encoding": "chunked"},
        )
        assert (await read_answer(reader)).status == 413
        writer.close()
        await is_over(server, sid, "transport error")


@run_async
async def test_a_client_that_fetches_nothing_is_closed_as_slow() -> None:
    async with EngineServer(outbound_bytes=5000) as server:
        sid = await server.open()
        user = server.users[sid]
        for _ in range(4):
            user.connection.send(TEXT.frame(b"4" + b"x" * 1200))
        assert user.connection.buffered() > 4000
        user.connection.send(TEXT.frame(b"4" + b"x" * 1200))
        assert user.reasons == []  # whoever writes may be writing to others, too
        await until(lambda: user.reasons)
        assert server.socketio.polling.statistics()["slow"] == 1
        await is_over(server, sid, "transport error")


# Closing


@run_async
async def test_a_close_packet_ends_the_poll_that_is_held_with_a_noop() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        poll = await server.held_poll(sid)
        assert (await server.post(sid, "1")).text == "ok"
        assert ((await poll).status, (await poll).text) == (200, "6")
        await is_over(server, sid, "transport close")


@run_async
async def test_a_close_packet_that_comes_before_the_poll_ends_it_all_the_same() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        assert (await server.post(sid, "4a\x1e1\x1e4b")).text == "ok"
        assert server.users[sid].messages == ["a"]
        assert server.users[sid].reasons == ["transport close"]
        assert (await server.poll(sid)).text == "4a\x1e6"
        await is_over(server, sid, "transport close")


@run_async
async def test_a_close_of_the_server_ends_the_poll_that_is_held_with_a_close_packet() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        poll = await server.held_poll(sid)
        server.users[sid].connection.send(TEXT.frame(b"41"))
        server.users[sid].connection.close("forced close")
        assert (await poll).text == "41\x1e1"
        await is_over(server, sid, "forced close")


@run_async
async def test_a_close_of_the_server_waits_for_the_next_poll() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        connection = server.users[sid].connection
        connection.close("forced close")
        connection.close("another")
        connection.send(TEXT.frame(b"4late"))
        assert server.users[sid].reasons == ["forced close"]
        assert (await server.poll(sid)).text == "1"
        await is_over(server, sid, "forced close")


@run_async
async def test_a_close_that_no_poll_fetches_is_forgotten_after_a_while() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        server.users[sid].connection.close("forced close")
        server.wheel.advance(server.wheel.now + 31)
        await is_over(server, sid, "forced close")


@run_async
async def test_a_worker_that_ends_refuses_the_poll_that_is_held_so_that_each_client_comes_back() -> None:
    """A close packet would keep some clients from coming back."""
    async with EngineServer() as server:
        sid = await server.open()
        poll = await server.held_poll(sid)
        (session,) = server.socketio.polling.open
        session.end(3001, "shutdown")
        assert (await poll).refusal == UNKNOWN
        await is_over(server, sid, "server shutting down")


# Back pressure


class Pausing(Recorder):
    """Reads nothing behind a message "pause"."""

    __slots__ = ()

    def message(self, data: str | bytes) -> None:
        super().message(data)
        if data == "pause":
            self.connection.pause_reading()


@run_async
async def test_a_post_is_answered_when_its_packets_were_taken() -> None:
    async with EngineServer(users=Pausing) as server:
        sid = await server.open()
        user = server.users[sid]
        post = asyncio.ensure_future(server.post(sid, "4a\x1e4pause\x1e4b"))
        await until(lambda: "pause" in user.messages)
        for _ in range(100):
            await asyncio.sleep(0)
        assert user.messages == ["a", "pause"]
        assert not post.done()
        user.connection.resume_reading()
        assert (await post).text == "ok"
        assert user.messages == ["a", "pause", "b"]


@run_async
async def test_a_session_that_ends_takes_no_further_packet_of_the_post() -> None:
    async with EngineServer(users=Pausing) as server:
        sid = await server.open()
        user = server.users[sid]
        post = asyncio.ensure_future(server.post(sid, "4pause\x1e4b"))
        await until(lambda: "pause" in user.messages)
        user.connection.lost("transport error")
        assert (await post).status == 200
        assert user.messages == ["pause"]


@run_async
async def test_what_is_volatile_leaves_only_with_a_poll_that_is_there() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        connection = server.users[sid].connection
        assert not connection.takes_now
        poll = await server.held_poll(sid)
        assert connection.takes_now
        await server.post(sid, "4a")
        await poll
        assert not connection.takes_now


@run_async
async def test_a_mistake_in_a_user_ends_its_connection_alone() -> None:
    class Mistaken(Recorder):
        __slots__ = ()

        def message(self, data: str | bytes) -> None:
            raise LookupError("a mistake")

    async with EngineServer(users=Mistaken) as server:
        sid, other = await server.open(), await server.open()
        await server.post(sid, "4a")
        await is_over(server, sid, "transport error")
        assert other in server.socketio.engines.connections
