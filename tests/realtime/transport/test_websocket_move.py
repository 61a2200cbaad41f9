"""
A WebSocket that moves from one endpoint to another, case by case, on both loops (`test_websocket_walk.py`: at random).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import ssl
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.frames import Close

from realtime.transport.flood import FloodLimits
from realtime.transport.websocket import WebSocketTransport
from realtime.transport.websocket_export import VERSION, BadExport, WebSocketExport
from realtime.transport.websocket_flow import HIGH_WATER, LOW_WATER
from realtime.transport.websocket_move import DEFLATED_MAX
from tests.process.test_tls import make_certificate, trusting_anybody
from tests.realtime.transport.moves import LOOPS, Walker, on, peer, until, walking
from tests.realtime.transport.wire import FIN, HEAD, TEXT, Rig, frame

both_loops = pytest.mark.parametrize("loop", LOOPS)

MIB = 1024 * 1024


async def congest(walker: Walker) -> None:
    """Write until the client, which reads nothing, does not take everything."""
    while walker.transport.is_congested_since() is None:
        walker.write("x" * 20_000)
        await asyncio.sleep(0)


# Messages


@both_loops
def test_half_a_frame_moves(loop: str) -> None:
    async def case() -> None:
        async with walking() as walker:
            walker.client.send_text(b"in two halves")
            walker.sent.append("in two halves")
            walker.ask()
            for most in (1, 4, 5):
                walker.send(most)
                await asyncio.sleep(0)
                await walker.move()
                assert walker.messages == []
            await walker.settle()

    on(loop, case())


@pytest.mark.parametrize("is_compressed", [False, True])
@both_loops
def test_a_message_in_fragments_moves_with_pings_in_between(loop: str, is_compressed: bool) -> None:
    async def case() -> None:
        async with walking(is_compressed=is_compressed) as walker:
            for part in (b"one \xc3", b"\xa9 two", b"", b" three"):
                (walker.client.send_continuation if part != b"one \xc3" else walker.client.send_text)(part, fin=False)
                walker.client.send_ping(part)
                walker.pings.append(part)
                walker.ask()
                walker.send()
                await until(lambda: walker.receive() or len(walker.pongs) == len(walker.pings))
                await walker.move()
            walker.client.send_continuation(b".", fin=True)
            walker.sent.append("one \u00e9 two three.")
            walker.ask()
            await walker.settle()
            assert (walker.transport._message, walker.transport._ws_protocol, walker.transport._deflated) == (None,) * 3

    on(loop, case())


@both_loops
def test_frames_that_wait_for_a_later_turn_are_read_before_what_comes_behind_them(loop: str) -> None:
    async def case() -> None:
        async with walking(kernel_bytes=MIB) as walker:
            for number in range(500):
                walker.client.send_text(b"%d" % number)
                walker.sent.append(str(number))
            walker.ask()
            walker.send()
            await until(lambda: walker.messages)
            assert len(walker.messages) < 500, "a turn has its share"
            await walker.move()
            walker.client.send_text(b"last")
            walker.sent.append("last")
            walker.ask()
            await walker.settle()

    on(loop, case())


@both_loops
def test_a_session_that_reads_nothing_yet_holds_what_comes_in_the_kernel(loop: str) -> None:
    async def case() -> None:
        async with walking(kernel_bytes=MIB, outbound_bytes=MIB) as walker:
            walker.transport.pause_reading()
            for _ in range(3000):
                walker.client.send_text(b"x" * 1000)
                walker.sent.append("x" * 1000)
            walker.ask()
            walker.send()
            await walker.move(lambda: walker.transport.pause_reading())
            for _ in range(100):
                walker.send()
                await asyncio.sleep(0)
            assert walker.messages == []
            assert len(walker.transport._pending) <= 256 * 1024, "a loop reads once, and no more"
            walker.transport.resume_reading()
            await walker.settle()

    on(loop, case())


@both_loops
def test_rates_go_on_and_a_message_in_progress_counts_once(loop: str) -> None:
    async def case() -> None:
        flood = FloodLimits(fragments_per_second=2)  # 20 at once
        async with walking(flood=flood) as walker:
            walker.client.send_text(b"a", fin=False)
            for _ in range(19):
                walker.ask()
                walker.send()
                await until(lambda: walker.transport._message is not None and not walker.transport._pending)
                await walker.move()
                walker.client.send_continuation(b"b", fin=False)
            walker.ask()
            walker.send()
            await until(lambda: len(walker.transport._message or b"") == 20)
            assert walker.transport.is_open
            await walker.move()
            for _ in range(3):  # one more may be paid off meanwhile
                walker.client.send_continuation(b"c", fin=False)
            walker.ask()
            walker.send()
            await until(lambda: walker.receive() and walker.client.close_rcvd)
            assert walker.client.close_rcvd == Close(1008, "too many short fragments")

    on(loop, case())


# Slow readers


@both_loops
def test_a_peer_is_congested_from_64_kib_to_16_kib_and_drained_once(loop: str) -> None:
    async def case() -> None:
        async with walking() as walker:
            sizes: list[tuple[int, bool]] = []
            left: list[int] = []
            walker.rigs[0].sessions.all[0].drained = lambda: left.append(walker.transport.buffered())
            for _ in range(400):
                walker.write("x" * 1000)
                sizes.append((walker.transport.buffered(), walker.transport.is_congested_since() is not None))
            assert any(0 < size <= HIGH_WATER for size, _ in sizes), "behind, and not congested"
            assert all((size > HIGH_WATER) == congested for size, congested in sizes)
            assert left == []
            assert walker.transport._transport.get_write_buffer_limits() == (LOW_WATER, HIGH_WATER)
            while walker.transport.is_congested_since() is not None:
                walker.receive(1000)
                await asyncio.sleep(0)
            assert len(left) == 1
            assert left[0] <= LOW_WATER
            await walker.settle()
            assert len(left) == 1
            assert walker.transport._unsent is None

    on(loop, case())


@both_loops
def test_a_slow_reader_is_closed_by_bytes_counted_before_and_after_the_move(loop: str) -> None:
    async def case() -> None:
        async with walking(outbound_bytes=400_000) as walker:
            await congest(walker)
            await walker.move(lambda: walker.write("y" * 20_000))
            assert walker.transport.is_congested_since() is not None
            while walker.transport.is_open:
                before = walker.transport.buffered()
                walker.write("z" * 20_000)
            assert 370_000 < before <= 400_000
            assert walker.rigs[walker.at].endpoint.slow == 1
            await until(lambda: walker.receive() and walker.client.close_rcvd)
            assert walker.client.close_rcvd == Close(3008, "slow")
            assert walker.read == walker.written[:-1]

    on(loop, case())


@pytest.mark.parametrize("way", ["moves", "is taken back"])
@pytest.mark.parametrize(("is_patient", "takes"), [(False, False), (False, True), (True, False), (True, True)])
@both_loops
def test_a_slow_reader_is_closed_by_time_that_passed_before_the_move(
    loop: str, is_patient: bool, takes: bool, way: str
) -> None:
    async def case() -> None:
        async with walking(outbound_bytes=4 * MIB, outbound_s=0.0) as walker:
            walker.is_patient = is_patient
            await congest(walker)
            since = walker.transport.is_congested_since()
            walker.write("x" * 1_000_000)
            while takes and walker.transport.acknowledged_bytes() <= walker.transport._acknowledged:
                walker.receive(1000)  # which the kernel acknowledges
                await asyncio.sleep(0)
            await (walker.move() if way == "moves" else walker.refuse())
            assert walker.transport.is_congested_since() == since

            def look() -> bool:
                walker.rigs[walker.at].pass_time(1)
                return not walker.transport.is_open

            if is_patient and not takes:
                await until(look)  # at first its kernel still took something
            else:
                assert look() is not is_patient
            if walker.transport.is_open:
                await walker.settle()
            else:
                await until(lambda: walker.receive() and walker.client.close_rcvd)
                assert walker.client.close_rcvd == Close(3008, "slow")

    on(loop, case())


@both_loops
def test_a_session_learns_that_its_peer_caught_up_during_the_move(loop: str) -> None:
    async def case() -> None:
        async with walking(kernel_bytes=MIB // 4, outbound_bytes=4 * MIB) as walker:
            await congest(walker)

            def caught_up() -> None:
                assert walker.transport.is_congested_since() is not None
                while walker.receive():
                    pass

            await walker.move(caught_up)
            assert walker.drained == 1, "the kernel has taken at once what was unsent"
            assert walker.transport.is_congested_since() is None
            await walker.settle()
            assert walker.drained == 1

    on(loop, case())


@both_loops
def test_a_megabyte_moves_at_once_though_the_limit_is_lower(loop: str) -> None:
    async def case() -> None:
        async with walking(outbound_bytes=100_000) as walker:
            walker.write("x" * MIB)
            await walker.move()
            await walker.move()
            await walker.refuse()
            assert walker.transport.buffered() > MIB // 2
            await walker.settle()

    on(loop, case())


# What else may happen


@both_loops
def test_a_session_may_close_before_it_is_attached(loop: str) -> None:
    async def case() -> None:
        async with walking() as walker:
            walker.write("x" * 300_000)

            def say_goodbye() -> None:
                walker.write("goodbye")
                walker.transport.close(3001, "shutdown")
                assert walker.transport.can_move == "it is closing"

            await walker.move(say_goodbye)
            await until(lambda: walker.receive() and walker.client.close_rcvd)
            assert walker.client.close_rcvd == Close(3001, "shutdown")
            assert walker.read == walker.written
            walker.send()
            await until(lambda: walker.ends)
            assert walker.ends == [(3001, "shutdown")]

    on(loop, case())


@both_loops
def test_a_connection_without_a_session_is_closed_with_a_code_after_what_was_written(loop: str) -> None:
    async def case() -> None:
        async with walking() as walker:
            walker.write("x" * 300_000)
            await walker.detach()
            walker.transport.export()
            walker.transport.take_back()
            walker.transport.close(3001, "reconnect")
            await walker.transport.attach(None)
            await until(lambda: walker.receive() and walker.client.close_rcvd)
            assert walker.client.close_rcvd == Close(3001, "reconnect")
            assert walker.read == walker.written

    on(loop, case())


@both_loops
def test_a_session_that_does_not_move_after_all_goes_on(loop: str) -> None:
    async def case() -> None:
        async with walking(outbound_bytes=MIB) as walker:
            await congest(walker)
            session = walker.rigs[0].sessions.all[0]
            await walker.detach()
            walker.write("while it is parked")
            await walker.transport.attach(session)
            session.transport.resume_reading()
            walker.client.send_text(b"hello")
            walker.sent.append("hello")
            walker.ask()
            await walker.settle()

    on(loop, case())


@both_loops
def test_who_waits_for_the_loop_to_let_go_may_be_cancelled(loop: str) -> None:
    async def case() -> None:
        async with walking(outbound_bytes=MIB) as walker:
            await congest(walker)
            walker.transport.pause_reading()
            detaching = asyncio.create_task(walker.transport.detach())
            asyncio.get_running_loop().call_soon(detaching.cancel)
            with pytest.raises(asyncio.CancelledError):
                await detaching
            await walker.transport.attach(walker.session)
            await walker.settle()

    on(loop, case())


@both_loops
def test_an_arrival_that_is_abandoned_leaves_the_connection_as_it_was(loop: str) -> None:
    async def case() -> None:
        async with walking() as walker:
            walker.write("x" * 300_000)
            await walker.detach()
            old = walker.transport
            new = walker.arrive(old)
            walker.transport = new
            new.write(b"lost with the session")
            new.abandon()
            walker._copy.close()
            new.write(b"nothing")
            walker.transport = old
            old.take_back()
            await old.attach(walker.session)
            await walker.settle()
            assert walker.rigs[1].lost == 0

    on(loop, case())


@pytest.mark.parametrize("unsent", [0, 300_000])
@both_loops
def test_a_peer_that_leaves_meanwhile_is_noticed_by_the_worker_that_goes_on(loop: str, unsent: int) -> None:
    async def case() -> None:
        async with walking() as walker:
            walker.write("x" * unsent)
            await walker.move(lambda: walker.sock.close())
            await until(lambda: walker.ends)
            assert walker.ends == [(1006, "")]

    on(loop, case())


@pytest.mark.parametrize("unsent", [0, 300_000])
@pytest.mark.parametrize("then", ["release", "take_back"])
@both_loops
def test_what_is_offered_may_be_cut(loop: str, then: str, unsent: int) -> None:
    async def case() -> None:
        async with walking() as walker:
            walker.write("x" * unsent)
            await walker.detach()
            walker.transport.export()
            assert not walker.transport.is_open
            walker.transport.close(3001, "shutdown")  # as all connections of an endpoint get it
            walker.transport.abort()
            await until(lambda: not walker.rigs[0].endpoint.connections)
            getattr(walker.transport, then)()
            if then == "take_back":
                await walker.transport.attach(walker.session)
                assert walker.ends == [(1006, "")]

    on(loop, case())


@both_loops
def test_nothing_is_written_while_it_is_offered(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    async def case() -> None:
        async with walking() as walker:
            await walker.detach()
            walker.transport.export()
            walker.transport.write(b"to nobody")
            assert "write while moving" in caplog.text
            walker.transport.take_back()
            await walker.transport.attach(walker.session)
            await walker.settle()

    on(loop, case())


@both_loops
def test_without_a_descriptor_for_the_copy_it_stays(loop: str) -> None:
    async def case() -> None:
        async with walking() as walker:
            walker.write("x" * 300_000)
            walker.transport.pause_reading()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
            try:
                with pytest.raises(OSError, match="Too many open files"):
                    await walker.transport.detach()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            walker.transport.resume_reading()
            walker.client.send_text(b"hello")
            walker.sent.append("hello")
            walker.ask()
            await walker.settle()

    on(loop, case())


# What cannot move


@both_loops
def test_what_cannot_move_says_why(loop: str) -> None:
    async def case() -> None:
        rig = Rig()
        async with rig.connect(HEAD[:20]) as client:
            assert client.protocol is not None
            assert client.protocol.can_move == "its handshake is not done"
            client.send(HEAD[20:])
            await client.head()
            assert client.protocol.can_move is None
            client.protocol.close(3000, "")
            assert client.protocol.can_move == "it is closing"
        await until(lambda: client.protocol is not None and client.protocol.can_move == "it is closed")

    on(loop, case())


@both_loops
def test_an_answer_to_an_earlier_request_has_to_be_sent_before_the_connection_can_move(loop: str) -> None:
    class Earlier(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(b"x" * MIB)

    async def case() -> None:
        rig = Rig()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(Earlier, ours)
        protocol = WebSocketTransport(rig.endpoint, peer(), HEAD)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        rig.sessions.all[0].drained = lambda: None
        assert protocol.can_move == "bytes of an earlier request are unsent"
        while transport.get_write_buffer_size():
            with contextlib.suppress(BlockingIOError):
                theirs.recv(MIB)
            await asyncio.sleep(0)
        await until(lambda: protocol._unsent is None)
        assert protocol.can_move is None
        transport.abort()
        theirs.close()
        await until(lambda: not rig.endpoint.connections)

    on(loop, case())


@both_loops
def test_a_compressed_message_that_inflates_to_nothing_does_not_pile_up(loop: str) -> None:
    async def case() -> None:
        empty = b"\x00\x00\x00\xff\xff" * 200  # stored blocks without a byte
        async with walking(is_compressed=True, message_bytes=2000) as walker:
            walker.out += frame(TEXT | 0x40, empty)
            for _ in range(DEFLATED_MAX * 2):
                walker.out += frame(0, empty)
            walker.send()
            await until(lambda: walker.transport.can_move is not None)
            assert walker.transport.can_move == "too much came of a compressed message in fragments"
            assert walker.transport._deflated is None
            walker.out += frame(FIN, b"\x00")
            walker.sent.append("")
            await walker.settle()
            await walker.move()
            await walker.settle()

    on(loop, case())


@both_loops
def test_tls_that_ends_here_cannot_move_and_slow_readers_are_found_as_before(loop: str, tmp_path: Path) -> None:
    certfile, keyfile = make_certificate(tmp_path, "h")

    async def case() -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certfile, keyfile)
        rig = Rig(lambda session: setattr(session, "drained", lambda: None), outbound_bytes=2**40)
        ours, theirs = socket.socketpair()
        connecting = asyncio.create_task(
            asyncio.open_connection(sock=theirs, ssl=trusting_anybody(), server_hostname="h")
        )
        protocol = WebSocketTransport(rig.endpoint, peer())
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, ours, ssl=context)
        reader, writer = await connecting
        writer.write(HEAD)
        await reader.readuntil(b"\r\n\r\n")
        assert protocol.can_move == "its TLS ends in this worker"
        while protocol.is_congested_since() is None:
            protocol.write(protocol.framing.frame(b"x" * 60_000))
            await asyncio.sleep(0)
        assert protocol._unsent is None, "what cannot move is not noted"
        while protocol.is_congested_since() is not None:
            await reader.read(MIB)
        transport.abort()
        writer.transport.abort()
        await until(lambda: not rig.endpoint.connections)

    on(loop, case())


@pytest.mark.parametrize("wrong", [{"version": VERSION + 1}, {"framing": "other"}])
def test_what_another_version_wrote_is_refused(wrong: dict[str, object]) -> None:
    export = msgspec.convert({"address": "203.0.113.7", **wrong}, WebSocketExport)
    rig = Rig()
    with pytest.raises(BadExport):
        WebSocketTransport.imported(rig.endpoint, export.peer(), export)
