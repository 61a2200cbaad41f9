"""
What a WebSocket's peer sends beside messages: how it is found, answered, counted, and read in small shares.

The control frames that our short path answers are compared with what websockets' own implementation answers, and the
walk over a stream with the frames that it was made of, cut anywhere. Honest clients pass by a clock of the test's own.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.protocol import State
from websockets.server import ServerProtocol

from realtime.transport.flood import (
    CONTROL,
    FRAGMENTS,
    FRAMES_AT_ONCE,
    SEGMENTS,
    SHORT,
    FloodLimits,
    FloodMeter,
    FrameWalk,
)
from realtime.transport.frames import controls
from tests.realtime.transport.wire import BINARY, CLOSE, CONT, FIN, PING, PONG, TEXT, Rig, frame, text
from tests.support.aio import eventually, run_async

CONTROLS = st.lists(st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)), max_size=20)
OTHERS = {
    "a text": text("x"),
    "a fragment": frame(TEXT, b"x"),
    "a close frame": frame(FIN | CLOSE),
    "a ping in fragments": frame(PING),
    "a ping with a reserved bit": frame(FIN | 0x10 | PING),
    "a ping that is too long": frame(FIN | PING, bytes(126)),
    "a ping without a mask": frame(FIN | PING, masked=False),
    "a ping that is not whole": frame(FIN | PING, b"xyz")[:-1],
    "half a head": frame(FIN | PONG)[:3],
    "nothing": b"",
}


# The short path


@given(CONTROLS, st.sampled_from(sorted(OTHERS)), st.binary(max_size=9))
def test_pings_are_answered_as_websockets_does_up_to_what_is_none(
    sent: list[tuple[int, bytes]], behind: str, before: bytes
) -> None:
    stream = b"".join(frame(FIN | opcode, payload) for opcode, payload in sent)
    judge = ServerProtocol(state=State.OPEN)
    judge.receive_data(stream)
    answers, count, pongs, end = controls(before + stream + OTHERS[behind], len(before), 100)
    assert answers == b"".join(judge.data_to_send())
    assert (count, pongs) == (len(sent), sum(opcode == PONG for opcode, _ in sent))
    assert end == len(before) + len(stream)


def test_no_more_are_read_than_asked_for() -> None:
    one = frame(FIN | PING, b"x")
    assert controls(one * 5, 0, 3) == (frame(FIN | PONG, b"x", masked=False) * 3, 3, 0, len(one) * 3)


# The walk

FRAMES = st.lists(
    st.tuples(
        st.sampled_from([FIN | TEXT, FIN | BINARY, TEXT, CONT, FIN | CONT, FIN | PING, FIN | PONG, FIN | CLOSE]),
        st.sampled_from([0, 1, 125, 126, 511, 512, 65535, 65536]) | st.integers(0, 300),
    ),
    max_size=12,
)


@given(FRAMES, st.integers(1, 5), st.data())
def test_the_walk_finds_each_frame_however_the_stream_is_cut(
    sent: list[tuple[int, int]], most: int, data: st.DataObject
) -> None:
    stream = b"".join(frame(first, bytes(size)) for first, size in sent)
    walk, completed, found_controls, fragments = FrameWalk(), 0, 0, 0
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        rest = stream[begin:end]
        while rest:
            step = walk.step(rest, most)
            assert step.end > 0, "it goes on"
            completed, rest = completed + step.completed, rest[step.end :]
            found_controls, fragments = found_controls + step.controls, fragments + step.fragments
    assert completed == len(sent)
    assert found_controls == sum(bool(first & 8) for first, _ in sent)
    is_part = [not first & 8 and (not first & FIN or first & 15 == CONT) and size < SHORT for first, size in sent]
    assert fragments == sum(is_part)


@given(FRAMES.filter(len), st.integers(1, 5))
def test_a_step_ends_where_a_frame_does(sent: list[tuple[int, int]], most: int) -> None:
    frames = [frame(first, bytes(size)) for first, size in sent]
    assert FrameWalk().step(b"".join(frames), most).end == sum(map(len, frames[:most]))


def test_behind_what_is_no_frame_nothing_is_looked_for() -> None:
    walk, bad = FrameWalk(), frame(FIN | PING, masked=False)
    assert walk.step(text("a") + bad + text("b") * 9, 2).end == len(text("a") + bad + text("b") * 9)
    assert walk.step(text("c") * 9, 1).end == len(text("c") * 9)


# Rates


@pytest.mark.parametrize("kind", [CONTROL, FRAGMENTS, SEGMENTS])
def test_ten_seconds_worth_may_come_at_once_and_no_more(kind: str) -> None:
    meter = FloodMeter(FloodLimits(5, 5, 5))
    assert meter.allows(kind, 50, 1000.0)
    assert not meter.allows(kind, 1, 1000.0)
    assert meter.allows(kind, 5, 1001.0), "and five more each second"
    assert not meter.allows(kind, 1, 1001.0)


def test_what_is_zero_has_no_limit() -> None:
    meter = FloodMeter(FloodLimits(0, 0, 0))
    assert all(meter.allows(kind, 10**9, 1.0) for kind in (CONTROL, FRAGMENTS, SEGMENTS))


@pytest.mark.parametrize(
    ("kind", "count", "every_s"),
    [(CONTROL, 1, 0.05), (CONTROL, 300, 60.0), (FRAGMENTS, 1, 0.002), (SEGMENTS, 1, 0.002), (SEGMENTS, 4000, 30.0)],
    ids=["a ping 20 times a second", "a minute's pongs at once", "typing", "a slow link", "a link that comes back"],
)
def test_honest_clients_never_meet_a_limit(kind: str, count: int, every_s: float) -> None:
    meter = FloodMeter(FloodLimits())
    assert all(meter.allows(kind, count, number * every_s) for number in range(20_000))


@run_async
async def test_an_upload_in_fragments_of_1_kib_meets_none() -> None:
    """As fast as it can, with 40 times as many fragments at once as short ones may come in a second."""
    rig, parts = Rig(message_bytes=64 * 2**20), 40_000
    async with rig.open() as (client, session):
        client.send(frame(BINARY, bytes(1024)))
        for _ in range(parts // 100):
            client.send(frame(CONT, bytes(1024)) * 100)
            await client.writer.drain()
        client.send(frame(FIN | CONT, b"!"))
        [message] = await session.wait_for(1)
        assert len(message) == 1024 * (parts + 1) + 1
    assert rig.endpoint.statistics()["flooding"] == 0


FLOODS = {
    "pings": (b"", frame(FIN | PING), "too many control frames"),
    "pongs": (b"", frame(FIN | PONG, b"x"), "too many control frames"),
    "empty fragments": (frame(TEXT), frame(CONT), "too many short fragments"),
    "one-byte fragments": (frame(TEXT, b"x"), frame(CONT, b"x"), "too many short fragments"),
}


@pytest.mark.parametrize("name", FLOODS)
@run_async
async def test_too_many_end_the_connection_with_1008(name: str) -> None:
    begin, each, reason = FLOODS[name]
    rig = Rig(flood=FloodLimits(10, 10, 10))
    async with rig.open() as (client, session):
        client.send(text("before"), begin, each * 300, text("after it"))
        while (said := await client.frame())[0] == FIN | PONG:
            pass
        assert said == (FIN | CLOSE, (1008).to_bytes(2, "big") + reason.encode())
        assert await client.end() == b"", "and nothing behind it"
        await session.ended.wait()
        assert session.messages == ["before"]
        assert session.ends == [(1008, reason)]
    assert rig.endpoint.statistics()["flooding"] == 1


@run_async
async def test_too_many_pieces_that_complete_nothing_end_it_and_those_that_do_do_not() -> None:
    rig = Rig(flood=FloodLimits(10, 10, 10))
    async with rig.open() as (client, session):
        for number in range(150):  # each a piece of its own, and a whole frame
            client.protocol.data_received(text(str(number)))
        for byte in frame(FIN | TEXT, b"x" * 300):
            client.protocol.data_received(bytes((byte,)))
        assert await client.close_frame() == (1008, "too many short segments")
        assert session.messages == [str(number) for number in range(150)]


# Shares of a turn


@run_async
async def test_a_turn_of_the_loop_has_so_many_frames_and_the_rest_comes_in_order() -> None:
    rig = Rig()
    async with rig.open() as (client, session):
        messages = [str(number) for number in range(5 * FRAMES_AT_ONCE + 1)]
        client.protocol.data_received(b"".join(map(text, messages)))
        assert session.messages == messages[:FRAMES_AT_ONCE]
        await asyncio.sleep(0)
        assert session.messages == messages[: 2 * FRAMES_AT_ONCE]
        client.protocol.data_received(text("behind all that"))
        assert session.messages == messages[: 2 * FRAMES_AT_ONCE], "nothing overtakes"
        assert await session.wait_for(len(messages) + 1) == [*messages, "behind all that"]
        client.send(text("and the socket is read again"))
        assert (await session.wait_for(len(messages) + 2))[-1] == "and the socket is read again"


@run_async
async def test_a_close_frame_behind_a_full_share_is_still_answered() -> None:
    rig = Rig()
    async with rig.open() as (client, session):
        client.send(text("x") * (3 * FRAMES_AT_ONCE), frame(FIN | CLOSE, b"\x0f\xa0"))
        assert await client.close_frame() == (4000, "")
        assert len(session.messages) == 3 * FRAMES_AT_ONCE


@run_async
async def test_who_is_closed_while_much_of_it_waits_gets_its_close_frame_answered() -> None:
    rig = Rig()
    async with rig.open() as (client, session):
        session.on_message = lambda message: session.transport.close(4001, "enough")
        client.send(text("x") * 5000, frame(TEXT), frame(FIN | PING, b"?"), frame(FIN | CLOSE, b"\x0f\xa1"))
        assert await client.close_frame() == (4001, "enough")
        assert await client.end() == frame(FIN | PONG, b"?", masked=False)
        assert session.messages == ["x"]
        await eventually(lambda: _is(session.ends == [(4001, "enough")]))


async def _is(value: bool) -> bool:
    return value
