"""
The messages between the primary and a worker, as typed structures.

Pure, used at both ends. Each message is an array: its `Kind` first, then its fields in the order below. That is the
format on the wire. The decoder checks all that can be checked without earlier messages: types, ranges and lengths. The
dispatcher checks what depends on earlier ones, such as the number of a handoff.

A worker may run newer code than its primary, for a reload starts the worker and the primary stays. So fields are only
ever added at the end and with a default. A decoder ignores fields behind those it knows.

This module holds no socket and sends nothing: channel.py does.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from sticky.handoff.channel import Carrier, Decode, Kind, Message
from sticky.keys.away import KEY_BYTES
from sticky.keys.live_keys import REPORT_KEYS

EXIT_BOOT: Final = 3  # status of a worker that cannot boot: starting it again at once would not help
NUMBER_MAX: Final = 2**53  # of a handoff: the largest integer that a float holds exactly, for readers of the status
COUNT_MAX: Final = 2**31
TEXT_MAX: Final = 40_000  # characters of a traceback or an inspection: at most 160,000 bytes, below MESSAGE_MAX
NAME_MAX: Final = 64  # characters of a recipient: "all", "slot:511"
PEER_MAX: Final = 128  # characters of a peer address
REFUSED: Final = "refused"
"""The reason of a handoff that a worker has to refuse, and the event that announces a refused key."""
READINESS: Final = "readiness"
"""The event that says whether new clients should come. An event, no kind of its own: an older worker drops it."""

DEPTH_MAX: Final = 16  # levels of statistics
SCALARS: Final = (int, str, float, type(None))  # what JSON can represent without a list or an object
DATA_DEPTH_MAX: Final = 100  # levels of application data: every process can decode that, however deep its stack is

Number = Annotated[int, Meta(ge=0, le=NUMBER_MAX)]
Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(ge=0)]
Text = Annotated[str, Meta(max_length=TEXT_MAX)]
Keys = Annotated[list[Annotated[bytes, Meta(max_length=KEY_BYTES)]], Meta(max_length=REPORT_KEYS)]
Name = Annotated[str, Meta(max_length=NAME_MAX)]


# From the primary


class Boot(Carrier, tag=Kind.BOOT.value, frozen=True):
    """The worker's identity and settings. The journal's descriptor may be beside it."""

    about: dict[str, Any]


class Handoff(Carrier, tag=Kind.HANDOFF.value, frozen=True):
    """A connection for a worker. `PendingHandoff.header` makes these fields, and `Adopted` receives them."""

    number: Number
    address: str
    client_port: Port
    scheme: str
    kind: str
    method: str
    path: str
    upgrade: bool
    sticky_id: str | None
    new_sticky_id: str | None
    reason: str
    peer_address: str
    away: bool = False
    is_relayed: bool = False


class Slots(Message, tag=Kind.SLOTS.value, frozen=True):
    """
    The number of slots. A `request` above 0 asks for the keys that are away by it; the answers repeat the request.
    """

    slots: Count
    request: Count
    some_are_elsewhere: bool


class Drain(Message, tag=Kind.DRAIN.value, frozen=True):
    """Move the clients elsewhere, then end. At the deadline the primary kills the worker."""

    deadline_s: Seconds


class ClusterEvent(Message, tag=Kind.EVENT.value, frozen=True):
    """Something happened elsewhere: "online", "exit" of another worker, `REFUSED` with a key, or `READINESS`."""

    name: str
    about: dict[str, Any]


class Peer(Carrier, tag=Kind.PEER.value, frozen=True):
    """
    A channel to another worker, on which connections move: its descriptor is beside the message.

    Attributes:
        is_source: connections of this worker go to the other one; else they come from there.
        slot, worker_id: of the other worker.
        slots: how many slots there are.
        plan, count: which connections are meant, for the source: see sticky/worker/moves.py.
    """

    is_source: bool
    slot: Count
    worker_id: str
    slots: Count
    plan: str
    count: Count = 0


class Inspect(Message, tag=Kind.INSPECT.value, frozen=True):
    """Answer with `Inspected`."""


class Identify(Message, tag=Kind.IDENTIFY.value, frozen=True):
    """A new primary has taken over: answer with `Held`, if anything is held, and then `WorkerIdentity`."""


# From a worker


class Ready(Message, tag=Kind.READY.value, frozen=True):
    """The worker can serve."""


class Beat(Message, tag=Kind.BEAT.value, frozen=True):
    """The heartbeat: open connections, all connections ever adopted, and statistics for `status`."""

    connections: Count
    adopted: Count
    statistics: dict[str, Any]

    def __post_init__(self) -> None:
        if not is_plain(self.statistics):
            raise ValueError("the statistics are not plain data")


class Ack(Message, tag=Kind.ACK.value, frozen=True):
    """Two cumulative numbers: all handoffs up to `adopted` are the worker's, all up to `settled` may be forgotten."""

    adopted: Number
    settled: Number

    def __post_init__(self) -> None:
        if self.settled > self.adopted:
            raise ValueError(f"handoff {self.settled} is settled, but only {self.adopted} is adopted")


class Nack(Message, tag=Kind.NACK.value, frozen=True):
    """The worker could not adopt this connection. It sends this before the `Ack` that covers the number."""

    number: Number


class BootFailed(Message, tag=Kind.BOOT_FAILED.value, frozen=True):
    """Why the worker cannot serve. Its process ends after that."""

    text: Text


class Retire(Message, tag=Kind.RETIRE.value, frozen=True):
    """The worker asks to be replaced."""


class GiveBack(Carrier, tag=Kind.GIVE_BACK.value, frozen=True):
    """
    A connection whose next request belongs to another slot; `carried` is what the worker read of that request.

    `is_relayed`: it is not the client's own connection, but one by which a worker relays the bytes of a TLS connection.
    """

    peer_address: Annotated[str, Meta(min_length=1, max_length=PEER_MAX)]
    port: Port
    is_relayed: bool = False


class Inspected(Message, tag=Kind.INSPECTED.value, frozen=True):
    """The stacks of all threads and tasks."""

    text: Text


class Ended(Message, tag=Kind.ENDED.value, frozen=True):
    """How many connections of each peer address have ended, and how many have come from another worker."""

    counts: dict[Annotated[str, Meta(max_length=PEER_MAX)], Count]
    arrived: dict[Annotated[str, Meta(max_length=PEER_MAX)], Count] = msgspec.field(default_factory=dict)


class KeysAway(Message, tag=Kind.KEYS_AWAY.value, frozen=True):
    """
    Keys that have live connections here, away from home.

    `seen` is the last handoff that the worker has seen. `is_all`: the request is answered completely.
    """

    keys: Keys
    seen: Number
    request: Count
    is_all: bool


class KeysEnded(Message, tag=Kind.KEYS_ENDED.value, frozen=True):
    """Keys that were away and have no live connection here any more. `seen` is as for `KeysAway`."""

    keys: Keys
    seen: Number


class KeysStay(Message, tag=Kind.KEYS_STAY.value, frozen=True):
    """
    Keys that have hosted connections in this worker, which drains. `KeysEnded` reports their end; `seen` is as there.
    """

    keys: Keys
    seen: Number


class Held(Message, tag=Kind.HELD.value, frozen=True):
    """How many open connections of each peer address the worker has. The empty address: it does not know them."""

    counts: dict[Annotated[str, Meta(max_length=PEER_MAX)], Count]


class WorkerIdentity(Message, tag=Kind.IDENTITY.value, frozen=True):
    """
    What a new primary cannot know.

    `seen` is the last handoff that the worker has seen, so every earlier one was either adopted or rejected. `adopted`
    counts all connections ever adopted, and `connections` those that are open. `is_draining`: it got DRAIN.
    """

    seen: Number
    adopted: Count
    connections: Count
    is_draining: bool


# From both


class Sent(Message, tag=Kind.MESSAGE.value, frozen=True):
    """Application data. `name` is the recipient where a worker sends it, and the sender where the primary does."""

    name: Name
    data: Any


FromPrimary = Boot | Handoff | Slots | Drain | ClusterEvent | Inspect | Identify | Sent | Peer
FromWorker = (
    Ready
    | Beat
    | Ack
    | Nack
    | Ended
    | KeysAway
    | KeysEnded
    | KeysStay
    | BootFailed
    | Retire
    | GiveBack
    | Inspected
    | Held
    | WorkerIdentity
    | Sent
)

from_primary: Final[Decode] = msgspec.msgpack.Decoder(FromPrimary).decode
from_worker: Final[Decode] = msgspec.msgpack.Decoder(FromWorker).decode


def is_plain(value: Any, depth: int = DEPTH_MAX) -> bool:
    """Return whether JSON can represent a value: strings, numbers, booleans, null, and lists and objects of these."""
    if isinstance(value, SCALARS):
        return True
    if depth == 0:
        return False
    if isinstance(value, dict):
        for key, each in value.items():  # a call for each number would be most of a heartbeat
            if not isinstance(key, str) or not (isinstance(each, SCALARS) or is_plain(each, depth - 1)):
                return False
        return True
    return isinstance(value, list) and all(is_plain(each, depth - 1) for each in value)


def is_shallow(value: Any, depth: int = DATA_DEPTH_MAX) -> bool:
    """Return whether lists and objects are nested at most `depth` deep."""
    if isinstance(value, dict):
        return depth > 0 and all(is_shallow(each, depth - 1) for each in value.values())
    return not isinstance(value, (list, tuple)) or (depth > 0 and all(is_shallow(each, depth - 1) for each in value))
