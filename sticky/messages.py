"""
The messages between the primary and a worker, as typed structures. Both ends.

Each is an array whose first element is its `Kind`, then its fields in the order below: that is the wire format. Reading
one checks all that can be checked without knowing what was said before: types, ranges, lengths. What only makes sense
after something else (a number that was handed over) is for `Supervisor` to check.

A worker may run newer code than its primary: a reload starts it, and the primary stays. So fields are only ever added
at the end, with a default, and what comes after the fields that are known is ignored.

Pure. It holds no socket: channel.py does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from sticky.away import KEY_BYTES
from sticky.channel import Kind
from sticky.live_keys import REPORT_KEYS

NUMBER_MAX: Final = 2**53  # of connections handed over: what a float holds exactly, for readers of the status
COUNT_MAX: Final = 2**31
TEXT_MAX: Final = 40_000  # characters of a traceback, and of what a worker is doing: at most 160,000 bytes
NAME_MAX: Final = 64  # characters of "all", "slot:511"
PEER_MAX: Final = 128  # characters of an address
REFUSED: Final = "refused"
"""The reason of a connection that a worker is given to refuse, and the event that tells workers of a key."""

DEPTH_MAX: Final = 16  # of statistics
DATA_DEPTH_MAX: Final = 100  # of what applications send: any process can read that, however deep its own stack is

Number = Annotated[int, Meta(ge=0, le=NUMBER_MAX)]
Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(ge=0)]
Text = Annotated[str, Meta(max_length=TEXT_MAX)]
Keys = Annotated[list[Annotated[bytes, Meta(max_length=KEY_BYTES)]], Meta(max_length=REPORT_KEYS)]
Name = Annotated[str, Meta(max_length=NAME_MAX)]


class Message(msgspec.Struct, array_like=True, frozen=True):
    """One message."""


class Carrier(Message, frozen=True):
    """One that has a descriptor beside it, and bytes; `carried` is None where these are in a file beside it too."""

    carried: bytes | None


# From the primary


class Boot(Carrier, tag=Kind.BOOT.value, frozen=True):
    about: dict[str, Any]


class Handoff(Carrier, tag=Kind.HANDOFF.value, frozen=True):
    """As `Parcel.header`, and as `Adopted`."""

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


class Slots(Message, tag=Kind.SLOTS.value, frozen=True):
    """
    So many slots there are. `question`: say which keys are away by that, as the answer to this number; 0 asks nothing.
    """

    slots: Count
    question: Count
    some_are_elsewhere: bool


class Drain(Message, tag=Kind.DRAIN.value, frozen=True):
    deadline_s: Seconds


class Event(Message, tag=Kind.EVENT.value, frozen=True):
    name: str
    about: dict[str, Any]


class Inspect(Message, tag=Kind.INSPECT.value, frozen=True):
    pass


# From a worker


class Ready(Message, tag=Kind.READY.value, frozen=True):
    pass


class Beat(Message, tag=Kind.BEAT.value, frozen=True):
    connections: Count
    adopted: Count
    statistics: dict[str, Any]

    def __post_init__(self) -> None:
        if not is_plain(self.statistics):
            raise ValueError("the statistics are not plain data")


class Ack(Message, tag=Kind.ACK.value, frozen=True):
    taken: Number
    settled: Number

    def __post_init__(self) -> None:
        if self.settled > self.taken:
            raise ValueError(f"{self.settled} is settled and {self.taken} is not taken")


class Nack(Message, tag=Kind.NACK.value, frozen=True):
    number: Number


class BootFailed(Message, tag=Kind.BOOT_FAILED.value, frozen=True):
    text: Text


class Retire(Message, tag=Kind.RETIRE.value, frozen=True):
    pass


class GiveBack(Carrier, tag=Kind.GIVE_BACK.value, frozen=True):
    peer_address: Annotated[str, Meta(min_length=1, max_length=PEER_MAX)]
    port: Port


class Inspected(Message, tag=Kind.INSPECTED.value, frozen=True):
    text: Text


class Ended(Message, tag=Kind.ENDED.value, frozen=True):
    """How many connections of each peer have ended."""

    counts: dict[Annotated[str, Meta(max_length=PEER_MAX)], Count]


class KeysAway(Message, tag=Kind.KEYS_AWAY.value, frozen=True):
    """Keys with live connections, away from home; `is_all`: the question is answered. `seen`: the last connection."""

    keys: Keys
    seen: Number
    question: Count
    is_all: bool


class KeysEnded(Message, tag=Kind.KEYS_ENDED.value, frozen=True):
    """Keys that were away and have no live connection any more."""

    keys: Keys
    seen: Number


# From both


class Sent(Message, tag=Kind.MESSAGE.value, frozen=True):
    """`name` is who it is for where a worker says it, and who it is from where the primary does."""

    name: Name
    data: Any


FromPrimary = Boot | Handoff | Slots | Drain | Event | Inspect | Sent
FromWorker = (
    Ready | Beat | Ack | Nack | Ended | KeysAway | KeysEnded | BootFailed | Retire | GiveBack | Inspected | Sent
)

Decode = Callable[[memoryview], Message]

from_primary: Final[Decode] = msgspec.msgpack.Decoder(FromPrimary).decode
from_worker: Final[Decode] = msgspec.msgpack.Decoder(FromWorker).decode


def is_plain(value: Any, depth: int = DEPTH_MAX) -> bool:
    """Whether JSON can say it as well: texts, numbers, truth, nothing, and lists and objects of these."""
    if value is None or isinstance(value, (str, int, float)):
        return True
    if depth == 0:
        return False
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(each, depth - 1) for key, each in value.items())
    return isinstance(value, list) and all(is_plain(each, depth - 1) for each in value)


def is_shallow(value: Any, depth: int = DATA_DEPTH_MAX) -> bool:
    """Whether lists and objects are not nested deeper than `depth`."""
    if isinstance(value, dict):
        return depth > 0 and all(is_shallow(each, depth - 1) for each in value.values())
    return not isinstance(value, (list, tuple)) or (depth > 0 and all(is_shallow(each, depth - 1) for each in value))
