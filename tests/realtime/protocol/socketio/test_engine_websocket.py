"""
Engine.IO over a WebSocket, and the upgrade from polling to one.

The sentences are those of the Engine.IO protocol 4, "WebSocket" and "Upgrade"; what clients do in an upgrade was seen
in stock ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from realtime.protocol.socketio.packets import Packet, PacketType, framed
from realtime.protocol.socketio.polling import Poll
from realtime.protocol.socketio.upgrade import UPGRADE_S
from realtime.transport.frames import TEXT
from tests.support.aio import run_async
from tests.support.engine_server import PATH, EngineServer, Recorder, ends, read_answer
from tests.support.one_worker import until


async def opened(server: EngineServer) -> tuple[Recorder, ClientConnection]:
    """Begin a session over a WebSocket."""
    before = set(server.users)
    websocket = await server.websocket()
    await websocket.recv()
    (sid,) = set(server.users) - before
    return server.users[sid], websocket


def is_known(server: EngineServer, user: Recorder) -> bool:
    return user.connection.sid in server.socketio.engines.connections


# Messages


@run_async
async def test_text_and_binary_messages_go_both_ways() -> None:
    async with EngineServer() as server:
        user, websocket = await opened(server)
        await websocket.send("4hé")
        assert await websocket.recv() == "4hé"
        await websocket.send(b"\1\2\3\4")
        assert await websocket.recv() == b"\1\2\3\4"
        await websocket.send("4")
        assert await websocket.recv() == "4"
        assert user.messages == ["hé", b"\1\2\3\4", ""]


@run_async
async def test_a_frame_is_one_packet_whatever_is_in_it() -> None:
    async with EngineServer() as server:
        user, websocket = await opened(server)
        await websocket.send("4a\x1e4b")
        assert await websocket.recv() == "4a\x1e4b"
        assert user.messages == ["a\x1e4b"]


@run_async
async def test_a_message_may_come_in_fragments() -> None:
    async with EngineServer() as server:
        user, websocket = await opened(server)
        await websocket.send(["4hel", "lo"])
        assert await websocket.recv() == "4hello"
        assert user.messages == ["hello"]


@run_async
async def test_frames_of_a_packet_stand_together() -> None:
    async with EngineServer() as server:
        user, websocket = await opened(server)
        data = b'["m",{"_placeholder":true,"num":0}]'
        user.connection.send(framed(Packet(PacketType.BINARY_EVENT, data=data, attachments=(b"\1\2",))))
        assert [await websocket.recv(), await websocket.recv()] == [f"451-{data.decode()}", b"\1\2"]


@run_async
async def test_types_without_a_meaning_are_ignored() -> None:
    async with EngineServer() as server:
        _, websocket = await opened(server)
        for text in ("0{}", "5", "6", "3", "4a"):
            await websocket.send(text)
        assert await websocket.recv() == "4a"


@run_async
async def test_pings_of_websockets_are_answered_and_are_no_packets() -> None:
    async with EngineServer() as server:
        user, websocket = await opened(server)
        await (await websocket.ping())
        assert user.messages == []


# What ends a session


@pytest.mark.parametrize("text", ["abc", "", "7", "bAQID"])
@run_async
async def test_a_bad_frame_ends_the_session(text: str) -> None:
    async with EngineServer() as server:
        user, websocket = await opened(server)
        await websocket.send(text)
        await ends(websocket)
        assert user.reasons == ["parse error"]
        assert not is_known(server, user)


@run_async
async def test_a_ping_of_the_client_ends_the_session() -> None:
    async with EngineServer() as server:
        user, websocket = await opened(server)
        await websocket.send("2")
        await ends(websocket)
        assert user.reasons == ["transport error"]


@run_async
async def test_a_close_packet_ends_the_session_at_once() -> None:
    async with EngineServer() as server:
        user, websocket = await opened(server)
        await websocket.send("1")
        assert await ends(websocket) == 1000
        assert user.reasons == ["transport close"]
        assert not is_known(server, user)


@run_async
async def test_a_websocket_that_its_client_closes_or_cuts_ends_the_session() -> None:
    async with EngineServer() as server:
        closed, one = await opened(server)
        cut, other = await opened(server)
        await one.close()
        other.transport.abort()
        await until(lambda: closed.reasons and cut.reasons)
        assert closed.reasons == cut.reasons == ["transport close"]
        assert not server.socketio.engines.connections


@run_async
async def test_a_message_may_have_as_many_bytes_as_the_handshake_said() -> None:
    async with EngineServer(message_bytes=2000, outbound_bytes=100_000) as server:
        user, websocket = await opened(server)
        await websocket.send("4" + "x" * 1999)
        assert await websocket.recv() == "4" + "x" * 1999
        await websocket.send("4" + "x" * 2000)
        assert await ends(websocket) == 1009
        await until(lambda: user.reasons)
        assert user.reasons == ["transport error"]


@run_async
async def test_a_close_of_the_server_comes_behind_what_was_written() -> None:
    async with EngineServer() as server:
        user, websocket = await opened(server)
        user.connection.send(TEXT.frame(b"41"))
        user.connection.close("forced close")
        user.connection.send(TEXT.frame(b"4late"))
        assert await websocket.recv() == "41"
        await ends(websocket)
        assert user.reasons == ["forced close"]
        assert not is_known(server, user)


@run_async
async def test_a_worker_that_ends_says_so_to_its_users() -> None:
    async with EngineServer() as server:
        user, websocket = await opened(server)
        (connection,) = server.endpoint.connections
        connection.close(3001, "shutdown")
        await ends(websocket)
        await until(lambda: user.reasons)
        assert user.reasons == ["server shutting down"]


# Upgrade


@run_async
async def test_a_session_goes_on_over_a_websocket() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        websocket = await server.websocket(sid)
        await websocket.send("2probe")
        assert await websocket.recv() == "3probe"
        assert (await server.poll(sid)).text == "6"
        await websocket.send("5")
        await websocket.send("4hello")
        assert await websocket.recv() == "4hello"
        assert server.users[sid].connection.transport == "websocket"
        assert server.users[sid].reasons == []


@run_async
async def test_the_poll_that_is_held_ends_with_the_probe() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        poll = await server.held_poll(sid)
        websocket = await server.websocket(sid)
        await websocket.send("2probe")
        assert await websocket.recv() == "3probe"
        assert (await poll).text == "6"


@run_async
async def test_polling_works_both_ways_while_a_websocket_is_tried() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        websocket = await server.websocket(sid)
        await websocket.send("2probe")
        assert await websocket.recv() == "3probe"
        assert (await server.post(sid, "4a")).text == "ok"
        assert (await server.poll(sid)).text == "4a"
        await websocket.send("5")
        await websocket.send("4b")
        assert await websocket.recv() == "4b"  # and nothing before it


@run_async
async def test_a_poll_that_is_still_there_at_the_upgrade_ends_with_a_noop() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        websocket = await server.websocket(sid)
        poll = await server.held_poll(sid)
        await websocket.send("5")  # the reference server wants no probe
        assert (await poll).text == "6"
        await websocket.send("4a")
        assert await websocket.recv() == "4a"


@run_async
async def test_what_waits_is_sent_over_the_websocket_in_order() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        websocket = await server.websocket(sid)
        await websocket.send("2probe")
        assert await websocket.recv() == "3probe"
        user = server.users[sid]
        for text in (b"4a", b"4b"):
            user.connection.send(TEXT.frame(text))
        await websocket.send("5")
        await until(lambda: user.connection.websocket is not None)
        user.connection.send(TEXT.frame(b"4c"))
        assert [await websocket.recv() for _ in range(3)] == ["4a", "4b", "4c"]


@run_async
async def test_what_is_written_while_a_poll_is_answered_is_neither_lost_nor_swapped() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        websocket = await server.websocket(sid)
        poll = await server.held_poll(sid)
        user = server.users[sid]
        user.connection.send(TEXT.frame(b"4a"))
        await websocket.send("5")
        await until(lambda: user.connection.websocket is not None)
        user.connection.send(TEXT.frame(b"4b"))
        assert (await poll).text == "4a"
        assert await websocket.recv() == "4b"


@run_async
async def test_a_poll_whose_answer_cannot_be_written_in_an_upgrade_loses_nothing() -> None:
    left, is_written = asyncio.Event(), asyncio.Event()

    async def receive() -> dict[str, str]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        await is_written.wait()  # the client takes nothing

    async with EngineServer() as server:
        sid = await server.open()
        user = server.users[sid]
        connection, polling = user.connection, user.connection.polling
        assert polling is not None
        poll = Poll(connection, polling, send, [])
        serving = asyncio.ensure_future(poll.hold({"state": {}}, receive))
        connection.send(TEXT.frame(b"4a"))
        await until(lambda: not polling.waiting)
        connection.send(TEXT.frame(b"4b"))
        websocket = await server.websocket(sid)
        await websocket.send("5")
        await until(lambda: polling.on_answered is not None)
        assert connection.websocket is None
        left.set()
        assert [await websocket.recv(), await websocket.recv()] == ["4a", "4b"]
        assert user.reasons == []
        await serving


@run_async
async def test_handshake_and_upgrade_may_share_one_connection_byte_for_byte() -> None:
    """As Python's client does it. The frames are those that clients and servers send, masked with 01020304."""
    async with EngineServer() as server:
        reader, writer = await server.begin("GET", "EIO=4&transport=polling", headers={"Connection": "keep-alive"})
        sid = json.loads((await read_answer(reader)).text[1:])["sid"]
        writer.write(
            f"GET {PATH}/?transport=websocket&EIO=4&sid={sid} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.write(bytes.fromhex("8186010203043372716b6367"))  # 2probe
        assert (await reader.readexactly(8)).hex() == "81063370726f6265"  # 3probe
        writer.write(bytes.fromhex("81810102030434" + "8182010203043532"))  # 5, and a message "0"
        assert (await reader.readexactly(4)).hex() == "81023430"
        writer.write(bytes.fromhex("828001020304"))  # an empty attachment
        assert (await reader.readexactly(2)).hex() == "8200"
        assert server.users[sid].messages == ["0", b""]
        writer.close()


@run_async
async def test_requests_behind_an_upgrade_are_bad_ones_and_change_nothing() -> None:
    async with EngineServer() as server:
        sid, websocket = await server.upgraded()
        assert (await server.poll(sid)).refusal == (400, 3)
        assert (await server.post(sid, "4a")).refusal == (400, 3)
        await websocket.send("4b")
        assert await websocket.recv() == "4b"
        assert server.users[sid].messages == ["b"]


@run_async
async def test_a_post_that_is_read_during_an_upgrade_is_taken() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        reader, writer = await server.begin(
            "POST", f"EIO=4&transport=polling&sid={sid}", b"4h", {"Content-Length": "6"}
        )
        polling = server.users[sid].connection.polling
        assert polling is not None
        await until(lambda: polling.post is not None)
        websocket = await server.websocket(sid)
        await websocket.send("5")
        await until(lambda: server.users[sid].connection.websocket is not None)
        writer.write(b"ello")
        assert (await read_answer(reader)).text == "ok"
        assert await websocket.recv() == "4hello"
        writer.close()


@run_async
async def test_a_second_websocket_is_closed_and_the_first_one_stays() -> None:
    async with EngineServer() as server:
        sid, first = await server.upgraded()
        assert await ends(await server.websocket(sid)) == 1000
        await first.send("4a")
        assert await first.recv() == "4a"


@run_async
async def test_a_second_websocket_is_closed_while_one_is_tried() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        first = await server.websocket(sid)
        assert await ends(await server.websocket(sid)) == 1000
        await first.send("2probe")
        assert await first.recv() == "3probe"
        assert await ends(await server.websocket(sid)) == 1000
        await first.send("5")
        await first.send("4a")
        assert await first.recv() == "4a"


@run_async
async def test_a_second_websocket_is_closed_where_the_session_began_on_one() -> None:
    async with EngineServer() as server:
        user, first = await opened(server)
        assert await ends(await server.websocket(user.connection.sid)) == 1000
        await first.send("4a")
        assert await first.recv() == "4a"
        assert user.reasons == []


@pytest.mark.parametrize("frame", ["4a", "2hello", "2", "3probe", "", b"2probe", "6"])
@run_async
async def test_another_first_frame_closes_the_websocket_and_polling_lives_on(frame: str | bytes) -> None:
    async with EngineServer() as server:
        sid = await server.open()
        websocket = await server.websocket(sid)
        await websocket.send(frame)
        assert await ends(websocket) == 1000
        assert (await server.post(sid, "4b")).text == "ok"
        assert (await server.poll(sid)).text == "4b"
        assert server.users[sid].messages == ["b"]


@pytest.mark.parametrize("is_probed", [False, True])
@run_async
async def test_a_websocket_that_goes_away_before_the_upgrade_leaves_polling_as_it_was(is_probed: bool) -> None:
    async with EngineServer() as server:
        sid = await server.open()
        websocket = await server.websocket(sid)
        if is_probed:
            await websocket.send("2probe")
            await websocket.recv()
        websocket.transport.abort()
        connection = server.users[sid].connection
        await until(lambda: connection.polling is not None and connection.polling.probe is None)
        poll = await server.held_poll(sid)
        await server.post(sid, "4b")
        assert (await poll).text == "4b"
        another = await server.websocket(sid)
        await another.send("2probe")
        assert await another.recv() == "3probe"


@pytest.mark.parametrize("is_probed", [False, True])
@run_async
async def test_an_upgrade_has_its_time(is_probed: bool) -> None:
    async with EngineServer() as server:
        sid = await server.open()
        websocket = await server.websocket(sid)
        if is_probed:
            await websocket.send("2probe")
            await websocket.recv()
        server.wheel.advance(server.wheel.now + UPGRADE_S + 1)
        assert await ends(websocket) == 1000
        assert (await server.post(sid, "4b")).text == "ok"
        assert (await server.poll(sid)).text == "4b"


@run_async
async def test_the_time_of_an_upgrade_ends_with_it() -> None:
    async with EngineServer() as server:
        _, websocket = await server.upgraded()
        assert server.wheel.cancelled == 2  # that of the handshake, and that of the upgrade
        server.wheel.advance(server.wheel.now + UPGRADE_S + 1)
        await websocket.send("4b")
        assert await websocket.recv() == "4b"


@run_async
async def test_a_websocket_that_is_tried_ends_with_its_session() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        websocket = await server.websocket(sid)
        await server.post(sid, "abc")
        assert not any(each.is_open for each in server.endpoint.connections)
        assert await ends(websocket) == 1000
        assert server.users[sid].reasons == ["parse error"]


@run_async
async def test_an_upgraded_session_ends_with_its_websocket() -> None:
    async with EngineServer() as server:
        sid, websocket = await server.upgraded()
        await websocket.close()
        await until(lambda: server.users[sid].reasons)
        assert server.users[sid].reasons == ["transport close"]
        assert (await server.poll(sid)).refusal == (400, 1)


@run_async
async def test_a_user_that_reads_nothing_reads_nothing_of_the_websocket_either() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        user = server.users[sid]
        user.connection.pause_reading()
        websocket = await server.websocket(sid)
        await websocket.send("5")
        await until(lambda: user.connection.websocket is not None)
        await websocket.send("4a")
        for _ in range(100):
            await asyncio.sleep(0)
        assert user.messages == []
        user.connection.resume_reading()
        assert await websocket.recv() == "4a"


@run_async
async def test_a_session_that_is_ending_takes_no_websocket() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        server.users[sid].connection.close("forced close")
        assert await ends(await server.websocket(sid)) == 1000
        assert (await server.poll(sid)).text == "1"


@run_async
async def test_a_client_that_reads_nothing_is_closed_as_slow() -> None:
    async with EngineServer(outbound_bytes=100_000) as server:
        user, websocket = await opened(server)
        websocket.transport.pause_reading()
        piece = TEXT.frame(b"4" + b"x" * 10_000)
        while user.connection.takes_now:
            user.connection.send(piece)
        for _ in range(10):  # more than may wait
            user.connection.send(piece)
        websocket.transport.resume_reading()
        with contextlib.suppress(ConnectionClosed):
            while True:
                await websocket.recv()
        await until(lambda: user.reasons)
        assert user.reasons == ["transport close"]
        assert websocket.close_code == 3008
