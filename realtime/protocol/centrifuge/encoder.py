"""
What goes to the socket: publications, joins and leaves, in one encoding over one kind of transport.

Pure, in the worker. There is one `CentrifugeEncoder` for each codec and framing, and a second one with deltas. It
serves every member on the worker, so the hub sees by identity which members get the same bytes. It never knows which
members there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from realtime.broker.base import RawPublication, Room
from realtime.protocol.centrifuge import fossil
from realtime.protocol.centrifuge.codec import Codec
from realtime.rooms.fanout import Change
from realtime.transport.base import Framing

MESSAGE_BYTES: Final = 32768  # into which joins and leaves are put together; what clients may be sure to take


class CentrifugeEncoder:
    """Publications, joins and leaves in one encoding, framed for one kind of transport. Is the hub's `Encoder`."""

    __slots__ = ("_between", "codec", "frame", "is_delta", "ping")

    def __init__(self, codec: Codec, framing: Framing, *, is_delta: bool = False) -> None:
        self.codec = codec
        self.frame: Callable[[bytes], bytes] = framing.frame
        self.is_delta = is_delta
        self._between = codec.BETWEEN if framing.takes_several else None
        self.ping = framing.frame(codec.PING)

    def publication(self, room: Room, publication: RawPublication) -> bytes:
        """Return a publication; with deltas it is whole, and the base of the next one (section 11)."""
        if self.is_delta:
            return self.frame(self.codec.push_delta(room, publication, None))
        return self.frame(self.codec.push_publication(room, publication))

    def delta(self, room: Room, publication: RawPublication, delta: bytes | None) -> bytes:
        """Return a publication as its difference to the one before, or whole where that is shorter."""
        assert self.is_delta, "only a client that negotiated deltas can apply one (section 11)"
        return self.frame(self.codec.push_delta(room, publication, delta))

    def changes(self, room: Room, changes: Sequence[Change]) -> bytes:
        """Return joins and leaves: several in one message, where clients of this codec read that (protocol, 3.1)."""
        assert changes, "an empty message is a ping"
        codec = self.codec
        messages = [(codec.push_join if joined else codec.push_leave)(room, info) for joined, info in changes]
        if self._between is None:
            return b"".join(map(self.frame, messages))
        return b"".join([self.frame(self._between.join(part)) for part in _parts(messages)])


def _parts(messages: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Cut a list of messages where its parts are large enough for one. A single message may be larger."""
    begin = size = 0
    for index, each in enumerate(messages):
        if size and size + len(each) > MESSAGE_BYTES:
            yield messages[begin:index]
            begin, size = index, 0
        size += len(each)
    yield messages[begin:]


def difference(before: bytes, after: bytes) -> bytes | None:
    """
    Return the delta between two payloads, or None where it would not be shorter: then the whole payload is sent, and no
    client has to compute anything.
    """
    delta = fossil.delta(before, after)
    return delta if len(delta) < len(after) else None
