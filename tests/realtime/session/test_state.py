"""What a connection is, and how that changes: tables, without a socket or a clock."""

from __future__ import annotations

import msgspec
import pytest

from realtime.broker.base import ConnectionId, Position, Room
from realtime.codes import FORCE_RECONNECT
from realtime.session.state import (
    TRANSITIONS,
    Act,
    BadState,
    Due,
    Event,
    Identity,
    Liveness,
    Phase,
    SessionLimits,
    SessionState,
    Subscription,
    WireState,
    admitted,
    begun,
    decode,
    encode,
    expired,
    ponged,
    seen,
    step,
)
from realtime.session.tags import FilterNode
from realtime.timing.rate import CostMeter, Meter

LIMITS = SessionLimits(ping_s=25, pong_s=10, connect_s=7)
TWO_WAY, ONE_WAY = WireState("json"), WireState("uni", is_one_way=True)
FRAMES = WireState("uni", is_one_way=True, ping_frame=b"\x89\x00")


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("phase", Phase)
def test_each_phase_takes_the_events_of_the_table_and_no_others(phase: Phase, event: Event) -> None:
    after = {
        (Phase.NEW, Event.CONNECT): Phase.CONNECTING,
        (Phase.CONNECTING, Event.ADMITTED): Phase.CONNECTED,
        (Phase.CONNECTING, Event.REFUSED): Phase.REFUSED,
    }.get((phase, event), Phase.CLOSED if event is Event.CLOSED else None)
    assert TRANSITIONS.get((phase, event)) is after
    if after is None:
        with pytest.raises(AssertionError, match=f"{phase.value} gets no event {event.value}"):
            step(phase, event)
    else:
        assert step(phase, event) is after


NOW = 100.0
PINGED = Liveness(Due.PONG, NOW, awaits_pong=True)


@pytest.mark.parametrize(
    ("before", "phase", "wire", "takes", "due", "at_s", "act"),
    [
        (Due.CONNECT, Phase.NEW, TWO_WAY, False, Due.CONNECT, NOW, Act.CLOSE_STALE),
        (Due.CONNECT, Phase.REFUSED, TWO_WAY, False, Due.CONNECT, NOW, Act.CLOSE_STALE),
        (Due.CONNECT, Phase.CONNECTING, TWO_WAY, False, Due.ADMIT, NOW + 7, Act.WAIT),
        (Due.ADMIT, Phase.CONNECTING, TWO_WAY, False, Due.ADMIT, NOW, Act.CLOSE_LATE),
        (Due.ADMIT, Phase.REFUSED, TWO_WAY, False, Due.ADMIT, NOW, Act.CLOSE_STALE),
        (Due.PING, Phase.CONNECTED, TWO_WAY, False, Due.PONG, NOW + 10, Act.PING),
        (Due.PONG, Phase.CONNECTED, TWO_WAY, False, Due.PING, NOW + 15, Act.WAIT),
    ],
)
def test_one_deadline_follows_the_other(
    before: Due, phase: Phase, wire: WireState, takes: bool, due: Due, at_s: float, act: Act
) -> None:
    after, found = expired(Liveness(before, NOW), phase, wire, NOW, LIMITS, takes=takes)
    assert (after.due, after.at_s, found) == (due, at_s, act)


@pytest.mark.parametrize(("wire", "owes"), [(TWO_WAY, True), (ONE_WAY, False), (FRAMES, True)])
def test_a_pong_is_owed_by_clients_that_can_answer(wire: WireState, owes: bool) -> None:
    after, _ = expired(Liveness(Due.PING, NOW), Phase.CONNECTED, wire, NOW, LIMITS, takes=False)
    assert after.awaits_pong is owes


def test_a_client_that_owes_a_pong_is_closed_unless_it_answers_or_is_patient_and_takes_something() -> None:
    assert expired(PINGED, Phase.CONNECTED, TWO_WAY, NOW, LIMITS, takes=False)[1] is Act.CLOSE_NO_PONG
    after, act = expired(PINGED, Phase.CONNECTED, TWO_WAY, NOW, LIMITS, takes=True)
    assert (after, act) == (Liveness(Due.PONG, NOW + 10, awaits_pong=True), Act.WAIT)
    assert expired(ponged(PINGED), Phase.CONNECTED, TWO_WAY, NOW, LIMITS, takes=False)[1] is Act.WAIT


def test_a_peer_takes_something_when_it_has_acknowledged_more_than_before() -> None:
    first, takes = seen(PINGED, 10)
    assert takes, "nothing is known before the first look"
    same, still = seen(first, 10)
    assert not still
    assert seen(same, 11)[1]
    assert ponged(first).acknowledged is None, "the next ping is another matter"


def test_the_first_deadlines() -> None:
    assert begun(NOW, LIMITS) == Liveness(Due.CONNECT, NOW + 7)
    assert admitted(NOW, LIMITS, 0.5) == Liveness(Due.PING, NOW + 12.5)
    assert admitted(NOW, SessionLimits(ping_s=0), 0.5) == Liveness()


def full() -> SessionState:
    room, leaf = Room("r:ü"), FilterNode(key="k", cmp="in", vals=["a", "b"])
    return SessionState(
        Identity(ConnectionId("id"), "ann", {"sub": "ann", "n": [1, None]}, "10.0.0.1", query={"a": "b"}, slot=3),
        WireState("json", is_emulated=True, stream_id="s"),
        Phase.CONNECTED,
        FORCE_RECONNECT,
        {
            room: Subscription(
                room, True, True, True, ConnectionId("other"), b"1", 4e9, 5.5, True,
                FilterNode(op="not", nodes=[leaf]), Meter(3.5), Position("e", 7), b"base",
            )
        },
        {Room("g"): Subscription(Room("g"))},
        frozenset((Room("l"),)),
        Liveness(Due.PONG, 12.5, True, 1000),
        17.5,
        Meter(1.5),
        Meter(2.5),
        CostMeter(4.5),
        frozenset(("rate",)),
        True,
        {"h": "1"},
        {"e": "2"},
        b'{"name":"Ann"}',
        b"\x80",
    )  # fmt: skip


def test_everything_comes_back_from_bytes() -> None:
    state = full()
    default = SessionState(Identity(ConnectionId("")), WireState())
    same = [name for name in SessionState.__struct_fields__ if getattr(state, name) == getattr(default, name)]
    assert same == [], "each field has something to lose"
    assert decode(encode(state)) == state


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (msgspec.msgpack.encode([2, {}]), "version 2; this worker reads version 1"),
        (msgspec.msgpack.encode([1, {"identity": 7}]), "not a session"),
        (b"", "not a session"),
        (b"\xc1", "not a session"),
    ],
)
def test_what_another_version_wrote_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(BadState, match=why):
        decode(data)
