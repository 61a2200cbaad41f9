"""
What a WebSocket's peer may send beside messages: control frames, short fragments and short segments.

Pure: the time is an argument. A message is bounded by its size, and a command by its own rate. Pings, pongs, empty
fragments and single bytes carry next to nothing, and each costs the worker as much as a small message. So each kind has
a rate per connection, which no honest client meets: SDKs ping every few seconds, uploads come in fragments that are not
short, and a slow link brings few segments a second. This module never says what becomes of a peer that floods: its
users close the connection with 1008 (RFC 6455, section 7.4.1: a policy is violated), log it once and count it.

`FrameWalk` finds the frames in a stream that another parser reads, without taking anything out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from realtime.settings import Settings
from realtime.timing.rate import Meter, Rate

SHORT: Final = 512  # bytes: what is longer pays for itself; less than half of the 1 KiB that uploads are cut into
BURST_S: Final = 10.0  # so many seconds' worth may come at once: a link that was away brings what had piled up
FRAMES_AT_ONCE: Final = 32  # of one connection in one turn of the loop: about 1 ms for fragments, 2 ms for commands
CONTROLS_AT_ONCE: Final = 64  # pings and pongs on the short path that count as one frame of these: about 50 us

DISCARD_PAUSE_S: Final = 0.01  # between two reads of what comes behind the end: 25 MB/s at 256 KiB a read

# What a peer may send too many of, as the log and the close frame name it. An enum's hash would cost more than a pong.
CONTROL: Final = "control frames"
FRAGMENTS: Final = "short fragments"
SEGMENTS: Final = "short segments"


@dataclass(frozen=True, slots=True)
class FloodLimits:
    """How many of each a connection may send a second, on average over `BURST_S`; 0: no limit. Each is a setting."""

    control_frames_per_second: int = Settings.control_frames_per_second
    fragments_per_second: int = Settings.fragments_per_second
    segments_per_second: int = Settings.segments_per_second
    rates: Mapping[str, Rate] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        each = {
            CONTROL: self.control_frames_per_second,
            FRAGMENTS: self.fragments_per_second,
            SEGMENTS: self.segments_per_second,
        }
        rates = {kind: Rate(int(count * BURST_S), BURST_S) for kind, count in each.items() if count}
        object.__setattr__(self, "rates", rates)

    def problem(self, kind: str) -> str:
        """Return what the log says of a connection that has sent too many of a kind."""
        rate = self.rates[kind]
        return f"floods: more than {rate.count} {kind} in {rate.period_s:g} s"


class FloodMeter:
    """What one connection has taken of each rate."""

    __slots__ = ("_meters", "_rates")

    def __init__(self, limits: FloodLimits, paid: Mapping[str, float] | None = None) -> None:
        """
        Args:
            paid: what `paid` gave, where the connection comes from another worker.
        """
        self._rates = limits.rates
        self._meters = {kind: Meter((paid or {}).get(kind, 0.0)) for kind in limits.rates}

    def paid(self) -> dict[str, float]:
        """Return when what was taken is paid off, by kind."""
        return {kind: meter.paid_at_s for kind, meter in self._meters.items()}

    def allows(self, kind: str, count: int, now: float) -> bool:
        """Take `count` of a kind at `now`, in seconds. Return False, and take none, where these are too many."""
        meter = self._meters.get(kind)
        return meter is None or meter.take(now, self._rates[kind], count)


class Step(NamedTuple):
    """What a step of a `FrameWalk` went over: where it ended, and how many there were of what."""

    end: int
    completed: int
    controls: int
    fragments: int


class FrameWalk:
    """Where frames begin and end in one direction of a WebSocket, however it is cut (RFC 6455, section 5.2)."""

    __slots__ = ("_head", "_left")

    def __init__(self) -> None:
        self._head = b""  # of a frame whose head is not whole
        self._left = 0  # bytes of the payload that are still to come

    def step(self, data: bytes | bytearray, most: int) -> Step:
        """
        Go over at most `most` heads of frames, from where the last step ended.

        What no frame may begin with is gone over with everything after it: the parser fails the connection on it.
        """
        at, size = 0, len(data)
        heads = completed = controls = fragments = 0
        while at < size:
            if self._left:
                passed = min(self._left, size - at)
                self._left -= passed
                at += passed
                completed += not self._left
                continue
            if heads == most:
                break
            head = self._head + bytes(data[at : at + 14 - len(self._head)])
            length = _head_length(head)
            if length is None or length > len(head):
                self._head, at = head, size
                break
            at += length - len(self._head)
            self._head = b""
            if not length:
                self._left, at = 2**64, size
                break
            heads += 1
            payload = _payload_length(head)
            if head[0] & 0x08:
                controls += 1
            elif payload < SHORT and (not head[0] & 0x80 or not head[0] & 0x0F):
                fragments += 1
            self._left = payload
            completed += not payload
        assert at <= size, "a head ends within the bytes that it was read from"
        assert heads <= most, "the caller has promised other clients their turn"
        return Step(at, completed, controls, fragments)


def _head_length(head: bytes) -> int | None:
    """Return how many bytes a client's head has, its mask included; 0 for no head, None where more bytes will tell."""
    if len(head) < 2:
        return None
    if head[1] < 0x80:
        return 0
    length = head[1] & 0x7F
    return 6 if length < 126 else 8 if length == 126 else 14


def _payload_length(head: bytes) -> int:
    length = head[1] & 0x7F
    if length < 126:
        return length
    return int.from_bytes(head[2:4] if length == 126 else head[2:10], "big")
