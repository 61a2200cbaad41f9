"""
The streams of a broker in memory, and how many bytes it uses: publications, positions, idempotency keys.

Pure: the time is an argument. Runs in the local broker's process, or in the worker of a cluster of one. memory_state.py
adds the members. Everything stored here is counted in a `Budget` and expires.

**Lifetime of a position.** Publications expire `ttl_s` after the last one. The position lives for `meta_ttl_s` (30
days): it proves to a returning client that it missed nothing.

A stream that never had a publication proves nothing. It ends with the last subscriber, and at the latest
`UNUSED_STREAM_S` after it was last requested. Its epoch is derived from the run id of the broker and the name of the
room. A stream that begins again therefore has the same epoch. Only a stream that was forgotten begins under another
epoch.

**When memory is short**, positions without publications are forgotten early, the least recently used first. A client
that resumes from such a position learns that it may have missed something.

Invariant: `Budget.used` is the sum of the costs of everything stored, so each change of a stream changes it too.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec.structs import force_setattr

from realtime.broker.base import UNUSED_STREAM_S, History, Position, Published, RawPublication, Retention, Room
from realtime.broker.memory_parts import (
    PART_ENTRIES,
    PART_ROOMS,
    BeginPart,
    KeysPart,
    Part,
    StreamRecord,
    StreamsPart,
    in_parts,
)

# Counters of forgotten streams, shared by rooms of the same hash. Sharing changes an epoch once too often, never too
# seldom.
GENERATIONS: Final = 1024
PRESSED_S: Final = 1.0  # between two attempts to free memory
SPARED: Final = 20  # an attempt frees this fraction of the limit as well, so that the next one is not soon

# Bytes of the objects themselves in CPython 3.11 to 3.14, entries of dictionaries included; rounded up.
_STREAM: Final = 400
_QUEUE: Final = 760  # an empty deque
_PUBLICATION: Final = 240
_INFO: Final = 330
_TAGS: Final = 240
_ENTRY: Final = 210
_KEY: Final = 400

size_of = sys.getsizeof


class Budget:
    """The bytes in use, and their limit. `refused` counts what was not stored."""

    __slots__ = ("limit", "refused", "used")

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.used = 0
        self.refused = 0

    def admits(self, growth: int) -> bool:
        """Return whether so many more bytes may be used. A change that does not grow is always admitted."""
        return growth <= 0 or self.limit is None or self.used + growth <= self.limit


class Full(Exception):
    """There is no memory for what was to be stored. Nothing was changed."""


def cost_of(publication: RawPublication) -> int:
    """Return about how many bytes a stored publication uses."""
    size = _PUBLICATION + len(publication.data)
    info, tags = publication.info, publication.tags
    if info is not None:
        size += _INFO + len(info.user) + len(info.connection_id)
        if info.conn_info is not None:
            size += len(info.conn_info)
        if info.chan_info is not None:
            size += len(info.chan_info)
    if tags:
        size += _TAGS + sum([_ENTRY + size_of(name) + size_of(value) for name, value in tags.items()])
    return size


class RoomStream:
    """The publications of one room, oldest first, and the position after the last."""

    # A broker may hold a million of these, so a stream without publications holds no container.
    __slots__ = ("epoch", "expires_at", "offset", "publications", "published_at", "ttl_s")

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.offset = 0
        self.publications: deque[RawPublication] | None = None  # never an empty one, which would cost memory
        self.published_at = 0.0
        self.ttl_s = 0.0  # of its publications, as the last one set it
        self.expires_at = 0.0  # when the position is forgotten too


class StreamStore:
    """Streams and idempotency keys. Times are in seconds, on any clock that never goes back."""

    def __init__(self, budget: Budget, run_id: bytes) -> None:
        """`run_id` is unique to this process, so that streams of another process have other epochs."""
        self.by_room: dict[Room, RoomStream] = {}
        self._budget = budget
        self._run_id = run_id
        self._generations = [0] * GENERATIONS
        self._done: dict[tuple[Room, str], tuple[float, Position]] = {}
        self._kept = 0  # publications
        self._pressed_at = float("-inf")

    def publish(
        self,
        now: float,
        room: Room,
        publication: RawPublication,
        retention: Retention,
        idempotency_key: str | None,
        idempotency_ttl_s: float,
        *,
        is_bound: bool = True,
    ) -> tuple[Published, RawPublication | None]:
        """
        Add a publication. Return its position, and the publication as subscribers get it.

        For a repeated idempotency key, the publication is None and nothing was added. Without `is_bound`, the budget
        refuses nothing.

        Raises:
            Full: there is no memory for it.
        """
        if idempotency_key is not None:
            done = self._done.get((room, idempotency_key))
            if done is not None and done[0] > now:
                return Published(done[1], duplicate=True), None
        key_cost = 0 if idempotency_key is None else _key_cost(room, idempotency_key)
        position, cost = Position("", 0), 0
        if retention.size:
            cost = cost_of(publication)
            if is_bound and not self._budget.admits(cost + key_cost + _STREAM + _QUEUE + size_of(room)):
                self._admit_publication(now, room, cost, retention, key_cost)
        elif key_cost and is_bound:
            self.admit(now, key_cost)
        # From here on nothing is refused, so that a refused publish changes nothing.
        if retention.size:
            publication = self._append(now, room, publication, cost, retention)
            assert publication.offset > 0, "0 is the offset of a publication that is not kept"
            position = Position(publication.epoch, publication.offset)
        if idempotency_key is not None:
            if self._done.pop((room, idempotency_key), None) is None:
                self._budget.used += key_cost
            self._done[(room, idempotency_key)] = (now + idempotency_ttl_s, position)
        return Published(position), publication

    def _append(
        self, now: float, room: Room, publication: RawPublication, cost: int, retention: Retention
    ) -> RawPublication:
        """Store a publication at the end of its stream. Return it with its position."""
        stream = self.by_room.get(room)
        if stream is None or stream.expires_at <= now:
            stream = self._obtain(now, room, retention)
        stream.offset += 1
        stream.expires_at = now + max(retention.meta_ttl_s, retention.ttl_s)
        publication = RawPublication(
            publication.data,
            stream.offset,
            stream.epoch,
            publication.info,
            publication.tags,
            publication.time_ms,
            publication.exclude,
        )
        if now - stream.published_at >= retention.ttl_s:
            self._clear(stream)  # expired publications must not return with the new one
        stream.published_at, stream.ttl_s = now, retention.ttl_s
        stored = stream.publications
        if stored is None:
            stored = stream.publications = deque()
            self._budget.used += _QUEUE
        assert not stored or stored[-1].offset < stream.offset, "offsets of an epoch only grow"
        stored.append(publication)
        self._kept += 1
        self._budget.used += cost
        if len(stored) > retention.size:
            self._trim(stream, now, retention)
        return publication

    def _admit_publication(self, now: float, room: Room, cost: int, retention: Retention, key_cost: int) -> None:
        """
        Admit exactly what a publication adds, minus what it displaces.

        A room whose history has its full size can thus go on in full memory: each publication displaces another.

        Raises:
            Full: it would use more memory than the budget has.
        """
        growth = key_cost + cost
        stream = self.by_room.get(room)
        stored = () if stream is None or stream.publications is None else stream.publications
        growth += _STREAM + size_of(room) if stream is None else 0
        growth += 0 if stored else _QUEUE
        displaced = len(stored) + 1 - retention.size
        if stream is not None and stored and now - stream.published_at >= retention.ttl_s:
            displaced = len(stored)
        growth -= sum([cost_of(each) for each, _ in zip(stored, range(max(displaced, 0)), strict=False)])
        self.admit(now, growth)

    def admit(self, now: float, growth: int) -> None:
        """
        Check that so many more bytes may be used. Free memory first, if necessary and not tried within `PRESSED_S`.

        Raises:
            Full: they may not.
        """
        if not self._budget.admits(growth) and now - self._pressed_at >= PRESSED_S:
            self._pressed_at = now
            self.sweep(now)
            self._forget_positions(growth)
        if not self._budget.admits(growth):
            self._budget.refused += 1
            raise Full

    def _forget_positions(self, growth: int) -> None:
        """Forget positions of rooms without publications, until `growth` and a reserve are free."""
        growth += (self._budget.limit or 0) // SPARED
        idle = [room for room, stream in self.by_room.items() if stream.publications is None]
        idle.sort(key=lambda room: self.by_room[room].expires_at)
        for room in idle:
            if self._budget.admits(growth):
                return
            self.forget(room)

    def position(self, now: float, room: Room, retention: Retention) -> Position:
        """
        Return the top of a stream. Create it where there is none.

        Without memory for a new stream it is not created. The result is the same, because its epoch can be computed.
        """
        if room not in self.by_room and not self._budget.admits(_STREAM + size_of(room)):
            return Position(self._epoch_of(room), 0)
        stream = self._obtain(now, room, retention)
        return Position(stream.epoch, stream.offset)

    def positions(self, now: float, rooms: Sequence[Room]) -> dict[Room, Position]:
        """
        Return the tops of several streams; rooms without a stream are absent. It keeps unused streams alive: a worker
        that asks has members, whose position must stay valid.
        """
        found = {}
        for room in rooms:
            stream = self.by_room.get(room)
            if stream is not None and stream.expires_at > now:
                found[room] = Position(stream.epoch, stream.offset)
                if not stream.offset:
                    stream.expires_at = max(stream.expires_at, now + UNUSED_STREAM_S)
        return found

    def history(
        self,
        now: float,
        room: Room,
        retention: Retention,
        since: Position | None,
        limit: int,
        reverse: bool,
        create: bool,
    ) -> History:
        """
        Return a page and the top of a stream. Only `create` creates the stream: a reader may name any room, and must
        not fill the memory with empty ones.
        """
        stream = self.by_room.get(room)
        if stream is None or stream.expires_at <= now:  # reading creates no stream, else readers could fill the memory
            return History((), self.position(now, room, retention) if create else Position("", 0))
        if stream.offset or create:
            stream = self._obtain(now, room, retention)
        self._trim(stream, now, retention)
        top = Position(stream.epoch, stream.offset)
        assert not stream.publications or stream.publications[-1].offset == stream.offset, "the last one is the top"
        if limit <= 0 or stream.publications is None:
            return History((), top)
        kept = list(stream.publications)
        if reverse:
            kept.reverse()
        if since is not None and reverse:
            kept = [publication for publication in kept if publication.offset < since.offset]
        elif since is not None:
            kept = [publication for publication in kept if publication.offset > since.offset]
        return History(kept[:limit], top)

    def forget_history(self, room: Room) -> None:
        """Remove a room's publications. The position stays, and offsets go on from it."""
        stream = self.by_room.get(room)
        if stream is not None:
            self._clear(stream)

    def forget(self, room: Room) -> None:
        """Remove a stream with its position. The room's next stream has another epoch, if this one was ever used."""
        stream = self.by_room.pop(room)
        self._clear(stream)
        self._budget.used -= _STREAM + size_of(room)
        assert self._budget.used >= 0, "what is forgotten was counted when it was stored"
        if stream.offset:  # a stream that never had a publication may begin again under the same epoch
            self._generations[self._number_of(room)] += 1

    def unwatched(self, room: Room) -> None:
        """Note that the room has no subscriber any more. A stream that was never used is removed."""
        stream = self.by_room.get(room)
        if stream is not None and not stream.offset:
            self.forget(room)

    def sweep(self, now: float) -> None:
        """Remove everything that has expired."""
        for room, stream in list(self.by_room.items()):
            if stream.expires_at <= now:
                self.forget(room)
            elif stream.publications is not None and now - stream.published_at >= stream.ttl_s:
                self._clear(stream)
        for key in [key for key, (expires_at, _) in self._done.items() if expires_at <= now]:
            del self._done[key]
            self._budget.used -= _key_cost(*key)

    def _obtain(self, now: float, room: Room, retention: Retention) -> RoomStream:
        """Return the room's stream with a new expiry. Create it where there is none, or an expired one."""
        stream = self.by_room.get(room)
        if stream is not None and stream.expires_at <= now:
            self.forget(room)
            stream = None
        if stream is None:
            stream = self.by_room[room] = RoomStream(self._epoch_of(room))
            self._budget.used += _STREAM + size_of(room)
        kept_s = max(retention.meta_ttl_s, retention.ttl_s)
        stream.expires_at = now + (kept_s if stream.offset else max(min(kept_s, UNUSED_STREAM_S), 0.0))
        return stream

    def _trim(self, stream: RoomStream, now: float, retention: Retention) -> None:
        """Remove publications that are too old or too many."""
        kept = stream.publications
        if kept is None:
            return
        if now - stream.published_at >= retention.ttl_s:  # all expire together: the ttl counts from the last one
            self._clear(stream)
            return
        while len(kept) > retention.size:
            self._budget.used -= cost_of(kept.popleft())
            self._kept -= 1
        if not kept:
            self._clear(stream)

    def _clear(self, stream: RoomStream) -> None:
        """Remove all publications of a stream, and give their memory back."""
        if stream.publications is not None:
            self._budget.used -= _QUEUE + sum(map(cost_of, stream.publications))
            self._kept -= len(stream.publications)
            assert self._budget.used >= 0, "each cost is subtracted once, and never changes while it is counted"
            stream.publications = None

    # Moving to another process

    def export(self) -> Iterator[Part]:
        """Give everything in parts. Nothing may change meanwhile."""
        yield BeginPart(self._run_id, self._generations)
        for part in in_parts(self.by_room.items(), PART_ROOMS):
            yield StreamsPart(
                [
                    StreamRecord(
                        room,
                        each.epoch,
                        each.offset,
                        each.published_at,
                        each.ttl_s,
                        each.expires_at,
                        list(each.publications or ()),
                    )
                    for room, each in part
                ]
            )
        for keys in in_parts(self._done.items(), PART_ENTRIES):
            yield KeysPart([(*key, expires_at, at.epoch, at.offset) for key, (expires_at, at) in keys])

    def restore(self, part: BeginPart | StreamsPart | KeysPart) -> None:
        """Add a part of another process's store. What is above the limit stays: it was admitted there."""
        if isinstance(part, BeginPart):
            self._run_id, self._generations = part.run_id, part.generations
        elif isinstance(part, StreamsPart):
            for record in part.streams:
                self._restore_stream(record)
        else:
            for room, key, expires_at, epoch, offset in part.keys:
                self._done[(Room(room), key)] = (expires_at, Position(epoch, offset))
                self._budget.used += _key_cost(Room(room), key)

    def _restore_stream(self, record: StreamRecord) -> None:
        room = Room(record.room)
        assert room not in self.by_room, "a room has one stream, in one part"
        stream = self.by_room[room] = RoomStream(record.epoch)
        self._budget.used += _STREAM + size_of(room)
        stream.offset, stream.expires_at = record.offset, record.expires_at
        stream.published_at, stream.ttl_s = record.published_at, record.ttl_s
        if record.publications:
            for publication in record.publications:
                force_setattr(publication, "epoch", stream.epoch)  # one object instead of an equal one each
            stream.publications = deque(record.publications)
            self._kept += len(record.publications)
            self._budget.used += _QUEUE + sum(map(cost_of, record.publications))

    # Epochs

    def _epoch_of(self, room: Room) -> str:
        """Return the epoch of the room's next stream."""
        generation = self._generations[self._number_of(room)]
        name = b"%d:%b" % (generation, room.encode("utf-8", "surrogatepass"))
        return base64.urlsafe_b64encode(hashlib.blake2b(name, key=self._run_id, digest_size=6).digest()).decode()

    @staticmethod
    def _number_of(room: Room) -> int:
        """
        Return the number that counts how often a room's streams were forgotten. Rooms share numbers, which does no
        harm.
        """
        digest = hashlib.blake2b(room.encode("utf-8", "surrogatepass"), digest_size=2).digest()
        return int.from_bytes(digest, "big") % GENERATIONS

    def statistics(self) -> dict[str, int]:
        """Count streams and publications, and how much memory they use."""
        return {
            "streams": len(self.by_room),
            "kept": self._kept,
            "keys": len(self._done),
        }


def _key_cost(room: Room, key: str) -> int:
    """Return what an idempotency key costs in bytes, with what Python needs around it."""
    return _KEY + size_of(room) + size_of(key)
