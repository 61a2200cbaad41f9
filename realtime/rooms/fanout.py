"""
The members of one room on one worker, and how they are written to.

Runs in the worker, on its event loop. Encodes each publication once per wire, joins all that arrived in one turn of the
loop into one buffer, and writes that buffer to every member: a burst of 16 costs one write per member. One `send` costs
the kernel 6 to 9 µs, the rest of a delivery a fifth of it, so joining is the lever that counts. It never awaits, never
asks the broker, and knows no positions but one: a member that came in while publications were under way has already
seen some of them (`seen`).

Most members are written to in *groups*, one for each wire. Who cannot be is served one by one: a member that is behind
or ahead of its group (*late*, until it has caught up), and one that wants only some publications (*choosy*). In a room
that conflates, a member whose peer does not take everything is *behind*: of each key it gets the latest, once it can.
One for whom more than `KEYS_MAX` keys wait has *overrun*: it is a member no more, and the hub tells it so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol, TypeAlias

from realtime.broker.base import ClientInfo, Publication, Room

KEYS_MAX: Final = 10_000  # for one member: what a browser can show of a room, and more

Accepts = Callable[[Publication], bool]
Difference = Callable[[bytes, bytes], bytes | None]
Change = tuple[bool, ClientInfo]  # whether it is a join, and of whom
Kept: TypeAlias = "Late | tuple[Accepts, int] | Wire"  # where a member belongs that is put aside for a while


class Wire(Protocol):
    """One wire format on one kind of transport. Compared by identity: there is one object of each in a worker."""

    @property
    def is_delta(self) -> bool:
        """Whether publications go as differences, to members that surely have the one before."""

    def publication(self, room: Room, publication: Publication) -> bytes:
        """Return the bytes that go to the socket."""

    def delta(self, room: Room, publication: Publication, delta: bytes | None) -> bytes: ...

    def changes(self, room: Room, changes: Sequence[Change]) -> bytes:
        """Return joins and leaves, in as few messages as the format allows."""


class Writer(Protocol):
    """Where a member's bytes go. Never blocks, never raises."""

    def write(self, data: bytes) -> None: ...

    def is_congested_since(self) -> float | None:
        """Return the loop's time since which the peer has not taken everything, or None when it has."""


class Subscriber(Protocol):
    """A connection's session, as the hub sees it."""

    @property
    def wire(self) -> Wire: ...

    @property
    def transport(self) -> Writer: ...

    @property
    def connection_id(self) -> str:
        """The connection's id."""

    def insufficient(self, room: Room) -> None:
        """Learn that publications of this room are lost to this member, which is a member no longer."""


class Late:
    """A member that is not where its group is."""

    __slots__ = ("seen", "wire")

    def __init__(self, wire: Wire, seen: int) -> None:
        self.wire = wire
        self.seen = seen


class Fanout:
    """The local members of one room, by wire."""

    __slots__ = (
        "_before",
        "_behind",
        "_choosy",
        "_conflate",
        "_difference",
        "_groups",
        "_late",
        "_watchers",
        "overrun",
        "room",
        "size",
    )

    def __init__(self, room: Room, difference: Difference | None = None, conflate: str | None = None) -> None:
        """
        Args:
            room: its name.
            difference: makes deltas, in a room whose members may ask for them.
            conflate: the tag whose value is the key by which publications replace one another for a member that is
                behind; with "" each replaces the one before. None: such a room keeps everything.
        """
        self.room = room
        self.size = 0
        self._difference = difference
        self._before: bytes | None = None  # the payload of the last publication, where there are deltas
        self._groups: dict[Wire, dict[Writer, Subscriber]] = {}
        self._watchers: dict[Wire, dict[Writer, Subscriber]] = {}
        self._late: dict[Subscriber, Late] = {}
        self._choosy: dict[Subscriber, tuple[Accepts, int]] = {}
        self._conflate = conflate
        self._behind: dict[Subscriber, tuple[Kept, dict[str, Publication]]] = {}
        self.overrun: list[Subscriber] = []
        """Who is no member any more, for too much waited for it, and is to be told."""

    def add(
        self,
        subscriber: Subscriber,
        *,
        watches: bool,
        seen: int = 0,
        wire: Wire | None = None,
        accepts: Accepts | None = None,
        base: bytes | None = None,
    ) -> None:
        """
        Begin to write to a member.

        Args:
            subscriber: not a member yet.
            watches: it is told of joins and leaves as well.
            seen: publications up to this offset are never written to it; 0 when there is no such.
            wire: its own unless given.
            accepts: says of each publication whether it wants it; all, unless given.
            base: the payload of the last publication that it has, where it comes from elsewhere and gets differences.
        """
        chosen = wire or subscriber.wire
        if accepts is not None:
            self._choosy[subscriber] = (accepts, seen)
        elif seen or (chosen.is_delta and (base is None or base != self._before)):
            self._late[subscriber] = Late(chosen, seen)
        else:
            self._groups.setdefault(chosen, {})[subscriber.transport] = subscriber
        if watches:
            self._watchers.setdefault(subscriber.wire, {})[subscriber.transport] = subscriber
        self.size += 1

    def remove(self, subscriber: Subscriber) -> bool:
        """Write nothing more to a member, from now on. Return whether it was one."""
        late = self._late.pop(subscriber, None)
        choosy = self._choosy.pop(subscriber, None)
        behind = self._behind.pop(subscriber, None)
        member = _discard(self._groups, subscriber)
        _discard(self._watchers, subscriber)
        if late is None and choosy is None and behind is None and not member:
            return False
        self.size -= 1
        return True

    def deliver(self, publications: Sequence[Publication]) -> int:
        """Write publications, in order, to every member that has not seen them; return how many were written."""
        if self._conflate is not None:
            self._put_aside(publications)
        if any(publication.exclude for publication in publications):
            return sum(self._deliver_around(publication) for publication in publications)
        return self._deliver_to_all(publications)

    def _deliver_to_all(self, publications: Sequence[Publication]) -> int:
        """Write publications to everybody who is not behind, whomever they exclude."""
        written = 0
        deltas: list[bytes | None] | None = None
        for wire, group in self._groups.items():
            if wire.is_delta:
                deltas = deltas or self._deltas(publications)
                buffer = b"".join(
                    [wire.delta(self.room, each, delta) for each, delta in zip(publications, deltas, strict=True)]
                )
            else:
                buffer = b"".join([wire.publication(self.room, publication) for publication in publications])
            for writer in group:
                writer.write(buffer)
            written += len(group) * len(publications)
        if self._choosy:
            written += self._deliver_choosy(publications)
        if self._late:
            written += self._deliver_late(publications, deltas)
        if self._difference is not None:
            self._before = publications[-1].data
        return written

    def _deltas(self, publications: Sequence[Publication]) -> list[bytes | None]:
        """Return each publication's difference to the one before; None where it is sent whole."""
        assert self._difference is not None, "who asks for deltas where there are none is not given that wire"
        deltas: list[bytes | None] = []
        before = self._before
        for publication in publications:
            deltas.append(None if before is None else self._difference(before, publication.data))
            before = publication.data
        return deltas

    def _deliver_around(self, publication: Publication) -> int:
        """Deliver one publication to all but one client, who then is no more where its group is."""
        found = next((each for each in self._in_place() if each.connection_id == publication.exclude), None)
        if found is None or not publication.exclude:
            return self._deliver_to_all([publication])
        kept = self._take_out(found)
        written = self._deliver_to_all([publication])
        self._put_back(found, kept)
        return written

    def _put_aside(self, publications: Sequence[Publication]) -> None:
        """Keep publications for members that are behind, each instead of the one with its key."""
        for subscriber in [each for each in self._in_place() if each.transport.is_congested_since() is not None]:
            self._behind[subscriber] = (self._take_out(subscriber), {})
        for subscriber, (kept, waiting) in self._behind.items():
            for publication in publications:
                if _is_for(subscriber, kept, publication):
                    key = (publication.tags or {}).get(self._conflate or "", "")
                    waiting.pop(key, None)  # the latest comes last
                    waiting[key] = publication
            if len(waiting) > KEYS_MAX:
                self.overrun.append(subscriber)
        for subscriber in self.overrun:
            self.remove(subscriber)

    def catch_up(self, subscriber: Subscriber) -> None:
        """Write to a member that was behind what is kept for it. Harmless for any other."""
        if subscriber not in self._behind:
            return
        kept, waiting = self._behind.pop(subscriber)
        wire = subscriber.wire if isinstance(kept, tuple) else kept.wire if isinstance(kept, Late) else kept
        for publication in waiting.values():
            subscriber.transport.write(wire.publication(self.room, publication))
        self._put_back(subscriber, kept)

    def whereabouts(self, subscriber: Subscriber) -> tuple[int, bytes | None]:
        """Return up to which offset a member that is not behind has seen more than its room; and its delta base."""
        if (choosy := self._choosy.get(subscriber)) is not None:
            return choosy[1], None
        if (late := self._late.get(subscriber)) is not None:
            return late.seen, None
        is_in_deltas = any(wire.is_delta and subscriber.transport in group for wire, group in self._groups.items())
        return 0, self._before if is_in_deltas else None

    def _take_out(self, subscriber: Subscriber) -> Kept:
        if (choosy := self._choosy.pop(subscriber, None)) is not None:
            return choosy
        if (late := self._late.pop(subscriber, None)) is not None:
            return late
        for wire, group in self._groups.items():
            if group.pop(subscriber.transport, None) is not None:
                return wire
        raise AssertionError("it was found among the members")

    def _put_back(self, subscriber: Subscriber, kept: Kept) -> None:
        if isinstance(kept, tuple):
            self._choosy[subscriber] = kept
        elif isinstance(kept, Late):
            self._late[subscriber] = kept
        elif kept.is_delta:  # it has not the one before the next
            self._late[subscriber] = Late(kept, 0)
        else:
            self._groups.setdefault(kept, {})[subscriber.transport] = subscriber

    def _deliver_choosy(self, publications: Sequence[Publication]) -> int:
        written = 0
        encoded: dict[tuple[Wire, int], bytes] = {}
        for subscriber, (accepts, seen) in list(self._choosy.items()):
            wire = subscriber.wire
            wanted = []
            for number, publication in enumerate(publications):
                if (publication.offset > seen or not publication.offset) and accepts(publication):
                    if (wire, number) not in encoded:
                        encoded[wire, number] = wire.publication(self.room, publication)
                    wanted.append(encoded[wire, number])
            if wanted:
                subscriber.transport.write(b"".join(wanted))
            written += len(wanted)
        return written

    def _deliver_late(self, publications: Sequence[Publication], deltas: list[bytes | None] | None) -> int:
        written = 0
        last = publications[-1].offset
        for subscriber, late in list(self._late.items()):
            follows = False  # it has the one before
            for number, publication in enumerate(publications):
                if 0 < publication.offset <= late.seen:
                    follows = False  # another one may have been the last that it got
                    continue
                if follows and late.wire.is_delta:
                    deltas = deltas or self._deltas(publications)
                    buffer = late.wire.delta(self.room, publication, deltas[number])
                else:
                    buffer = late.wire.publication(self.room, publication)
                subscriber.transport.write(buffer)
                written += 1
                follows = True
            # The room has caught up, and who gets differences has the publication to which the next is one.
            if last >= late.seen and (follows or not late.wire.is_delta):
                del self._late[subscriber]
                self._groups.setdefault(late.wire, {})[subscriber.transport] = subscriber
        return written

    def announce(self, changes: Sequence[Change]) -> None:
        """Write joins and leaves, in order, to every member that watches."""
        for wire, group in self._watchers.items():
            buffer = wire.changes(self.room, changes)
            for writer in group:
                writer.write(buffer)

    def clear(self) -> list[Subscriber]:
        """Remove every member, and return those who were."""
        gone = list(self)
        self._groups.clear()
        self._watchers.clear()
        self._late.clear()
        self._choosy.clear()
        self._behind.clear()
        self._before = None
        self.size = 0
        return gone

    def __iter__(self) -> Iterator[Subscriber]:
        yield from self._in_place()
        yield from self._behind

    def _in_place(self) -> Iterator[Subscriber]:
        """Return who is not behind."""
        for group in self._groups.values():
            yield from group.values()
        yield from self._late
        yield from self._choosy


def _is_for(subscriber: Subscriber, kept: Kept, publication: Publication) -> bool:
    """Say whether a member that was put aside wants a publication, and has not seen it."""
    if publication.exclude and publication.exclude == subscriber.connection_id:
        return False
    accepts, seen = kept if isinstance(kept, tuple) else (None, kept.seen if isinstance(kept, Late) else 0)
    return (publication.offset > seen or not publication.offset) and (accepts is None or accepts(publication))


def _discard(groups: dict[Wire, dict[Writer, Subscriber]], subscriber: Subscriber) -> bool:
    for wire, group in groups.items():
        if group.pop(subscriber.transport, None) is not None:
            if not group:
                del groups[wire]
            return True
    return False


def total(fanouts: Iterable[Fanout]) -> int:
    """Count the memberships."""
    return sum(fanout.size for fanout in fanouts)
