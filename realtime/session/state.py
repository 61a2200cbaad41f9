"""
Everything that one connection is, as plain data, and how that changes.

Pure: no socket, no clock, no task. `SessionState` is what a session works on, and what it is when it moves to another
process: `encode` gives bytes with a version, `decode` reads them. Transitions are functions of a state, an event and
the time; the shell (session.py) does what they return. No timer, task or closure knows anything that does not stand
here: timers are armed from the due times, and a filter is kept as the nodes that the client sent.

    NEW ──connect──▶ CONNECTING ──admitted──▶ CONNECTED
                          └───────refused──▶ REFUSED          any phase ──closed──▶ CLOSED

Times are seconds of the machine's monotonic clock, which all of its processes share. Where a token gave a Unix time,
that is kept as well as the due time, because the client gets the seconds that are left.
"""

from __future__ import annotations

import enum
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from realtime.broker.base import ConnectionId, Position, Room
from realtime.codes import DisconnectCode
from realtime.session.tags import FilterNode
from realtime.settings import Settings
from realtime.timing.rate import CostMeter, Meter

VERSION: Final = 1  # of what `encode` gives; another one is refused, and its client reconnects

NONE: Final[frozenset[Any]] = frozenset()

NOTHING: Final[dict[Any, Any]] = {}
"""The value of fields that are set anew and never changed in place: idle connections share it, for each has three."""


def _nothing() -> dict[Any, Any]:
    return NOTHING


class Phase(enum.Enum):
    """How far a client has come."""

    __hash__ = object.__hash__  # each is one object; the enum's own hash is a call in Python for each transition

    NEW = "new"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    REFUSED = "refused"
    CLOSED = "closed"


CONNECTED: Final = Phase.CONNECTED
CLOSED: Final = Phase.CLOSED
"""For what runs with each message: before Python 3.12, to look up `Phase.CLOSED` costs four times as much."""


class Event(enum.Enum):
    """What moves a client from one phase to the next."""

    __hash__ = object.__hash__  # as of `Phase`

    CONNECT = "connect"
    ADMITTED = "admitted"
    REFUSED = "refused"
    CLOSED = "closed"


TRANSITIONS: Final[dict[tuple[Phase, Event], Phase]] = {
    (Phase.NEW, Event.CONNECT): Phase.CONNECTING,
    (Phase.CONNECTING, Event.ADMITTED): Phase.CONNECTED,
    (Phase.CONNECTING, Event.REFUSED): Phase.REFUSED,
    **{(phase, Event.CLOSED): Phase.CLOSED for phase in Phase},
}


def step(phase: Phase, event: Event) -> Phase:
    """Return the phase after an event. An event that the phase does not allow is our own bug."""
    after = TRANSITIONS.get((phase, event))
    assert after is not None, f"a session that is {phase.value} gets no event {event.value}"
    return after


class SessionLimits(Struct, frozen=True):
    """What one client may do. Each is a setting of the same name."""

    ping_s: float = Settings.ping_s
    pong_s: float = Settings.pong_s
    connect_s: float = 10.0  # from the handshake to the first command
    expiry_grace_s: float = 25.0
    rooms_per_connection: int = Settings.rooms_per_connection
    room_name_bytes: int = 255
    history_page: int = 300
    anonymous: bool = True
    commands_per_second: int = Settings.commands_per_second  # 0: as many as it likes
    answer_bytes: int = Settings.answer_bytes  # a second, of presence and history; 0: as many as it likes


# Identity


class Identity(Struct):
    """A client: what the handshake, the token and `on_connect` say of it, and where it is served."""

    id: ConnectionId
    user: str = ""
    claims: dict[str, Any] | None = None
    address: str = ""
    scheme: str = "http"
    path: str = ""
    query: dict[str, str] = {}
    sticky_id: str | None = None
    transport: str = ""
    slot: int = 0
    worker: str = ""
    node: str = ""
    protocol: str = ""
    namespace: str = ""  # "" in a protocol without namespaces


class Snapshot(Struct):
    """What another worker has to know of a connection that ended with this one. `info` is JSON, `state` is packed."""

    identity: Identity
    info: bytes | None = None
    state: bytes | None = None  # None: it was no plain data any more


class WireState(Struct, frozen=True):
    """What a wire protocol needs to go on with a client."""

    encoding: str = ""
    is_one_way: bool = False
    is_emulated: bool = False  # what the client sends comes by requests of their own
    stream_id: str = ""  # by which these and the API find the session; it cannot be guessed
    ping_frame: bytes | None = None  # what it is pinged with, in place of the protocol's own message

    @property
    def answers_pings(self) -> bool:
        """Whether the client owes a pong. One that only listens does not, unless its library sees to that."""
        return not self.is_one_way or self.ping_frame is not None


# Its rooms


class Subscription(Struct):
    """
    One room of one connection.

    Attributes:
        server_side: granted by the server, not asked for by the client.
        join_leave: the client gets joins and leaves.
        positioned: the room has positions, from which a client recovers.
        shown: under which id others see it in the room, where it is registered at the broker.
        chan_info: JSON that others see of it in this room only.
        expire_at_s: when its token expires, in Unix time; None for never.
        ends_at_s: when it is ended, with the grace; on the monotonic clock.
        delta: publications go as differences.
        filter: which publications the client wants, by their tags.
        meter: of its publications, where the room limits them.
        position: up to where the client has everything. Only in a state that was exported.
        base: the payload of the client's last publication, where `delta`. Only in a state that was exported.
    """

    room: Room
    server_side: bool = False
    join_leave: bool = False
    positioned: bool = False
    shown: ConnectionId | None = None
    chan_info: bytes | None = None
    expire_at_s: float | None = None
    ends_at_s: float | None = None
    delta: bool = False
    filter: FilterNode | None = None
    meter: Meter | None = None
    position: Position | None = None
    base: bytes | None = None


# Its due times


class Due(enum.Enum):
    """What a session waits for next."""

    CONNECT = "connect"  # the first command
    ADMIT = "admit"  # the answer of `on_connect`
    PING = "ping"
    PONG = "pong"
    NOTHING = "nothing"


DUE_PING: Final = Due.PING
DUE_PONG: Final = Due.PONG
DUE_NOTHING: Final = Due.NOTHING
"""As of `CLOSED`: ten thousand idle clients have eight hundred deadlines a second."""


class Act(enum.Enum):
    """What the shell does when the time has come."""

    WAIT = "wait"
    PING = "ping"
    CLOSE_STALE = "close stale"
    CLOSE_LATE = "close late"
    CLOSE_NO_PONG = "close no pong"


ACT_WAIT: Final = Act.WAIT
ACT_PING: Final = Act.PING
"""As of `DUE_PING`: what nearly always follows."""


class Liveness(Struct, frozen=True):
    """
    The one deadline that a session always has.

    Attributes:
        due: what is waited for.
        at_s: until when.
        awaits_pong: the client was pinged, and owes an answer.
        acknowledged: bytes that a patient peer had acknowledged when its pong was due.
    """

    due: Due = Due.NOTHING
    at_s: float = 0.0
    awaits_pong: bool = False
    acknowledged: int | None = None


def begun(now_s: float, limits: SessionLimits) -> Liveness:
    """Return the deadline of a connection that begins: its first command comes in time."""
    return Liveness(Due.CONNECT, now_s + limits.connect_s)


def admitted(now_s: float, limits: SessionLimits, share: float) -> Liveness:
    """Return the first ping of a client that is admitted. `share`, from 0.5 to 1, spreads the pings of many."""
    return Liveness(Due.PING, now_s + limits.ping_s * share) if limits.ping_s > 0 else Liveness()


def expired(
    liveness: Liveness, phase: Phase, wire: WireState, now_s: float, limits: SessionLimits, *, takes: bool
) -> tuple[Liveness, Act]:
    """
    Return what follows when the deadline has come.

    Args:
        liveness: whose `at_s` has passed.
        phase: of the session.
        wire: says whether the client answers pings.
        now_s: the time.
        limits: of the session.
        takes: the peer is patient, and has taken something since it was looked at before. A ping waits in the kernels
            behind all that a slow peer has still to read; a patient one, which is not closed for that, may take minutes
            to come to it.
    """
    assert not takes or liveness.awaits_pong, "only a client that owes a pong is looked at"
    due = liveness.due
    if due is DUE_PING:
        return Liveness(DUE_PONG, now_s + limits.pong_s, awaits_pong=wire.answers_pings), ACT_PING
    if due is DUE_PONG and not liveness.awaits_pong:
        return Liveness(DUE_PING, now_s + limits.ping_s - limits.pong_s), ACT_WAIT
    if due is Due.CONNECT:
        if phase is Phase.CONNECTING:  # a `connect` that is under way is given as long again
            return Liveness(Due.ADMIT, now_s + limits.connect_s), Act.WAIT
        return liveness, Act.CLOSE_STALE
    if due is Due.ADMIT:
        return liveness, Act.CLOSE_LATE if phase is Phase.CONNECTING else Act.CLOSE_STALE
    assert due is DUE_PONG, "a session without pings has no deadline"
    if takes:
        return msgspec.structs.replace(liveness, at_s=now_s + limits.pong_s), Act.WAIT
    return liveness, Act.CLOSE_NO_PONG


def seen(liveness: Liveness, acknowledged: int) -> tuple[Liveness, bool]:
    """Note how many bytes a peer has acknowledged; return also whether that is more than before, or the first look."""
    before = liveness.acknowledged
    return msgspec.structs.replace(liveness, acknowledged=acknowledged), before is None or acknowledged > before


def ponged(liveness: Liveness) -> Liveness:
    """Return the deadline of a client that has answered its ping."""
    return Liveness(liveness.due, liveness.at_s)


# All of it


class SessionState(Struct):
    """
    One connection.

    Attributes:
        identity: of the client.
        wire: what its wire protocol needs.
        phase: how far it has come.
        refusal: how one ends that was refused for now, and stays.
        subscriptions: its rooms.
        granted: rooms that the server gave it before it was admitted. Set anew, as are the headers (`NOTHING`).
        lost: rooms that it lost, or could not enter now, and may come back to.
        liveness: its next deadline.
        expires_at_s: when the connection is closed, as its token expired; on the monotonic clock.
        commands: what it used of the rate of commands.
        too_soon: of those that came too soon.
        answers: what large answers have cost.
        overran: limits of which the log has heard.
        holds_little: the kernel holds little of what the peer does not take.
        headers, emulated_headers: of the handshake, until it is admitted.
        info, state: what the application set. Only in a state that was exported: else they are values of Python.
    """

    identity: Identity
    wire: WireState
    phase: Phase = Phase.NEW
    refusal: DisconnectCode | None = None
    subscriptions: dict[Room, Subscription] = {}
    granted: dict[Room, Subscription] = field(default_factory=_nothing)
    lost: frozenset[Room] = NONE
    liveness: Liveness = Liveness()
    expires_at_s: float | None = None
    commands: Meter | None = None
    too_soon: Meter | None = None
    answers: CostMeter | None = None
    overran: frozenset[str] = NONE
    holds_little: bool = False
    headers: dict[str, str] = field(default_factory=_nothing)
    emulated_headers: dict[str, str] = field(default_factory=_nothing)
    info: bytes | None = None
    state: bytes = b""

    @property
    def log_fields(self) -> dict[str, Any]:
        """The client, for the log. One without a user has no such field."""
        identity = self.identity
        fields = {"connection": str(identity.id), "address": identity.address}
        return {**fields, "user": identity.user} if identity.user else fields

    def move(self, event: Event) -> Phase:
        """Move on by an event, and return the phase before."""
        before = self.phase
        self.phase = step(before, event)
        return before

    def lose(self, room: Room, limits: SessionLimits) -> None:
        """Note that the client may come back to a room: what it asks there until then fails for now, not for good."""
        if len(self.lost) < limits.rooms_per_connection:  # it cannot come back to more
            self.lost |= {room}


class BadState(Exception):
    """Bytes that are no session of this version. The text is for the log."""


class _Versioned(Struct, array_like=True):
    """What is written: the version first, so that it can be read whatever follows."""

    version: int
    session: SessionState


class _Version(Struct, array_like=True):
    version: int


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Versioned)
_version: Final = msgspec.msgpack.Decoder(_Version)


def encode(state: SessionState) -> bytes:
    """Return a session as bytes."""
    assert not NOTHING, "a field that is set anew was changed in place, in all sessions"
    return _encoder.encode(_Versioned(VERSION, state))


def decode(data: bytes) -> SessionState:
    """
    Return the session that `encode` was given.

    Raises:
        BadState: another version wrote it, or nothing did.
    """
    try:
        version = _version.decode(data).version
        if version != VERSION:
            raise BadState(f"a session of version {version}; this worker reads version {VERSION}")
        return _decoder.decode(data).session
    except msgspec.MsgspecError as error:
        raise BadState(f"not a session: {error}") from error
