"""
`Fanout`: the members of one room on one worker, and how they are written to.

Runs in the worker, on its event loop. It never awaits, never uses the broker, and never decides which publications are
delivered: room.py does. Of positions it knows one thing: a member that entered while publications were under way has
`seen` those up to an offset.

Theory of operation
-------------------
One `send` costs the kernel 6 to 9 µs, and the rest of a delivery a fifth of that. So the number of writes is what
counts. Each publication is encoded once per encoder. Everything that one turn of the event loop brought is joined into
one buffer, and every member gets that buffer in one write: a burst of 16 costs one write per member.

A member is in exactly one of four places:

    group         most members, by encoder: all get the very same bytes
    catching up   it is not where its group is: it has seen some of what comes, or lacks the base of the next delta
    filtered      it gets only some publications, so its bytes are its own
    conflated     in a room that conflates, while its peer reads too slowly: of each key only the latest waits for it

A member that catches up returns to its group with the first publication that puts it there. A conflated member returns
to the place from which it came when its peer has read everything (`catch_up`). One for which more than `KEYS_MAX` keys
wait has *overrun*: it is removed here, and the caller has to notify it.

Joins and leaves go to *watchers*, which are members in addition to their place.

**Deltas** are differences to the publication before, which a member must have. Members of a delta group all have it.
Every other member with a delta encoder gets one whole publication first, as one that catches up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol, TypeAlias

from realtime.broker.base import ClientInfo, RawPublication, Room
from realtime.transport.left_behind import fallen_behind, note

KEYS_MAX: Final = 10_000  # for one member: what a browser can show of a room, and more

Accepts = Callable[[RawPublication], bool]
Difference = Callable[[bytes, bytes], bytes | None]
Change = tuple[bool, ClientInfo]  # whether it is a join, and of which client
Place: TypeAlias = "CatchingUp | tuple[Accepts, int] | Encoder"  # where a member is that is not conflated


class Encoder(Protocol):
    """
    Writes publications in one wire format for one kind of transport. Encoders are compared by identity: there is one
    object of each in a worker, so members with the same encoder get the very same bytes.
    """

    @property
    def is_delta(self) -> bool:
        """Whether publications are sent as deltas, to members that have the one before."""

    def publication(self, room: Room, publication: RawPublication) -> bytes:
        """Return the bytes that go to the socket."""

    def delta(self, room: Room, publication: RawPublication, delta: bytes | None) -> bytes:
        """Return the bytes of a delta; with None, of the whole publication as the base of the next."""

    def changes(self, room: Room, changes: Sequence[Change]) -> bytes:
        """Return joins and leaves, in as few messages as the format allows."""


class Writer(Protocol):
    """Where a member's bytes go. Never blocks, never raises."""

    def write(self, data: bytes) -> None:
        """Send bytes. The caller looks into `left_behind.fallen_behind` afterwards."""

    def is_congested_since(self) -> float | None:
        """Return the loop's time since which the peer has not taken everything, or None when it has."""


class Subscriber(Protocol):
    """A connection's session, as the hub sees it."""

    @property
    def encoder(self) -> Encoder: ...

    @property
    def transport(self) -> Writer: ...

    @property
    def connection_id(self) -> str:
        """The connection's id."""

    def insufficient(self, room: Room) -> None:
        """Take the news that publications of this room are lost to this member, which was removed from it."""


class CatchingUp:
    """A member that is not where its group is: it has the publications up to `seen`, and no base for a delta."""

    __slots__ = ("encoder", "seen")

    def __init__(self, encoder: Encoder, seen: int) -> None:
        self.encoder = encoder
        self.seen = seen


class Fanout:
    """The local members of one room, by encoder."""

    __slots__ = (
        "_before",
        "_catching_up",
        "_conflate_tag",
        "_conflated",
        "_difference",
        "_filtered",
        "_groups",
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
            conflate: the tag whose value is the key by which publications replace one another for a member whose peer
                reads too slowly; with "" each replaces the one before. None: nothing is replaced.
        """
        self.room = room
        self.size = 0
        self._difference = difference
        self._before: bytes | None = None  # the payload of the last publication: the base of the next delta
        self._groups: dict[Encoder, dict[Writer, Subscriber]] = {}
        self._watchers: dict[Encoder, dict[Writer, Subscriber]] = {}
        self._catching_up: dict[Subscriber, CatchingUp] = {}
        self._filtered: dict[Subscriber, tuple[Accepts, int]] = {}
        self._conflate_tag = conflate
        self._conflated: dict[Subscriber, tuple[Place, dict[str, RawPublication]]] = {}
        self.overrun: list[Subscriber] = []
        """Members that were removed because too many keys waited for them. The caller empties it and notifies them."""

    def add(
        self,
        subscriber: Subscriber,
        *,
        watches: bool,
        seen: int = 0,
        encoder: Encoder | None = None,
        accepts: Accepts | None = None,
        base: bytes | None = None,
    ) -> None:
        """
        Begin to write to a member.

        Args:
            subscriber: not a member yet.
            watches: it gets joins and leaves as well.
            seen: publications up to this offset are never written to it; 0 when there is no such.
            encoder: its own unless given.
            accepts: says of each publication whether it wants it; all, unless given.
            base: the payload of the last publication that it has, where it comes from elsewhere and gets differences.
        """
        chosen = encoder or subscriber.encoder
        assert subscriber not in self._catching_up and subscriber not in self._filtered, "a member is added once"  # noqa: PT018
        if accepts is not None:
            self._filtered[subscriber] = (accepts, seen)
        elif seen or (chosen.is_delta and (base is None or base != self._before)):
            self._catching_up[subscriber] = CatchingUp(chosen, seen)
        else:
            self._groups.setdefault(chosen, {})[subscriber.transport] = subscriber
        assert self._difference is not None or not chosen.is_delta, "a delta needs what makes it"
        if watches:
            self._watchers.setdefault(subscriber.encoder, {})[subscriber.transport] = subscriber
        self.size += 1

    def remove(self, subscriber: Subscriber) -> bool:
        """Write nothing more to a member, from now on. Return whether it was one."""
        catching_up = self._catching_up.pop(subscriber, None)
        filtered = self._filtered.pop(subscriber, None)
        conflated = self._conflated.pop(subscriber, None)
        member = _discard(self._groups, subscriber)
        _discard(self._watchers, subscriber)
        if catching_up is None and filtered is None and conflated is None and not member:
            return False
        self.size -= 1
        assert self.size >= 0, "`add` counts each member once"
        return True

    def deliver(self, publications: Sequence[RawPublication]) -> int:
        """Write publications, in order, to every member that has not seen them; return how many were written."""
        assert publications, "an empty buffer would be an empty message, which is a ping"
        if self._conflate_tag is not None:
            self._conflate_slow(publications)
        for publication in publications:  # not `any`: a generator costs as much as a small room's delivery
            if publication.exclude:
                return sum(self._deliver_around(each) for each in publications)
        return self._deliver_to_all(publications)

    def _deliver_to_all(self, publications: Sequence[RawPublication]) -> int:
        """Write publications to every member that is not conflated, without regard to `exclude`."""
        written = 0
        deltas: list[bytes | None] | None = None
        for encoder, group in self._groups.items():
            if encoder.is_delta:
                deltas = deltas or self._deltas(publications)
                buffer = b"".join(
                    [encoder.delta(self.room, each, delta) for each, delta in zip(publications, deltas, strict=True)]
                )
            else:
                buffer = b"".join([encoder.publication(self.room, publication) for publication in publications])
            for writer in group:
                writer.write(buffer)
            if fallen_behind:
                note(buffer)
            written += len(group) * len(publications)
        if self._filtered:
            written += self._deliver_filtered(publications)
        if self._catching_up:
            written += self._deliver_catching_up(publications, deltas)
        if self._difference is not None:
            self._before = publications[-1].data
        return written

    def _deltas(self, publications: Sequence[RawPublication]) -> list[bytes | None]:
        """Return each publication's difference to the one before; None where it is sent whole."""
        assert self._difference is not None, "a room without deltas gives no member a delta encoder"
        deltas: list[bytes | None] = []
        before = self._before
        for publication in publications:
            deltas.append(None if before is None else self._difference(before, publication.data))
            before = publication.data
        return deltas

    def _deliver_around(self, publication: RawPublication) -> int:
        """Deliver one publication to all members but the excluded one, whose place may be another afterwards."""
        found = next((each for each in self._in_place() if each.connection_id == publication.exclude), None)
        if found is None or not publication.exclude:
            return self._deliver_to_all([publication])
        place = self._detach(found)
        written = self._deliver_to_all([publication])
        self._attach(found, place)
        return written

    def _conflate_slow(self, publications: Sequence[RawPublication]) -> None:
        """Have publications wait for members whose peers read too slowly, each in place of the one with its key."""
        for subscriber in [each for each in self._in_place() if each.transport.is_congested_since() is not None]:
            self._conflated[subscriber] = (self._detach(subscriber), {})
        for subscriber, (place, waiting) in self._conflated.items():
            for publication in publications:
                if _is_for(subscriber, place, publication):
                    key = (publication.tags or {}).get(self._conflate_tag or "", "")
                    waiting.pop(key, None)  # the latest comes last
                    waiting[key] = publication
            if len(waiting) > KEYS_MAX:
                self.overrun.append(subscriber)
        for subscriber in self.overrun:
            self.remove(subscriber)

    def catch_up(self, subscriber: Subscriber) -> None:
        """Write to a conflated member what waits for it, and put it back. Harmless for any other."""
        if subscriber not in self._conflated:
            return
        place, waiting = self._conflated.pop(subscriber)
        encoder = (
            subscriber.encoder
            if isinstance(place, tuple)
            else place.encoder
            if isinstance(place, CatchingUp)
            else place
        )
        for publication in waiting.values():
            write_to(subscriber, encoder.publication(self.room, publication))
        self._attach(subscriber, place)

    def export_position(self, subscriber: Subscriber) -> tuple[int, bytes | None]:
        """Return up to which offset a member that is not behind has seen more than its room; and its delta base."""
        assert subscriber not in self._conflated, "`catch_up` came first: what waits here would be lost in a move"
        if (filtered := self._filtered.get(subscriber)) is not None:
            return filtered[1], None
        if (catching_up := self._catching_up.get(subscriber)) is not None:
            return catching_up.seen, None
        is_in_deltas = any(
            encoder.is_delta and subscriber.transport in group for encoder, group in self._groups.items()
        )
        return 0, self._before if is_in_deltas else None

    def _detach(self, subscriber: Subscriber) -> Place:
        """Take a member out of its place, and return the place for `_attach`."""
        if (filtered := self._filtered.pop(subscriber, None)) is not None:
            return filtered
        if (catching_up := self._catching_up.pop(subscriber, None)) is not None:
            return catching_up
        for encoder, group in self._groups.items():
            if group.pop(subscriber.transport, None) is not None:
                return encoder
        raise AssertionError("the member is in one of the three places")

    def _attach(self, subscriber: Subscriber, place: Place) -> None:
        """Put a member back into a place."""
        assert subscriber not in self._conflated, "a conflated member is in no other place"
        assert subscriber not in self._catching_up and subscriber not in self._filtered, "`_detach` left no other place"  # noqa: PT018
        if isinstance(place, tuple):
            self._filtered[subscriber] = place
        elif isinstance(place, CatchingUp):
            self._catching_up[subscriber] = place
        elif place.is_delta:  # it lacks the base of the next delta
            self._catching_up[subscriber] = CatchingUp(place, 0)
        else:
            self._groups.setdefault(place, {})[subscriber.transport] = subscriber

    def _deliver_filtered(self, publications: Sequence[RawPublication]) -> int:
        """
        Write to each filtered member what it wants. Each publication is encoded once for all of them, and only if one
        wants it. A filtered member never gets deltas: it lacks the base.
        """
        written = 0
        encoded: dict[tuple[Encoder, int], bytes] = {}
        for subscriber, (accepts, seen) in list(self._filtered.items()):
            encoder = subscriber.encoder
            wanted = []
            for number, publication in enumerate(publications):
                if (publication.offset > seen or not publication.offset) and accepts(publication):
                    if (encoder, number) not in encoded:
                        encoded[encoder, number] = encoder.publication(self.room, publication)
                    wanted.append(encoded[encoder, number])
            if wanted:
                write_to(subscriber, b"".join(wanted))
            written += len(wanted)
        return written

    def _deliver_catching_up(self, publications: Sequence[RawPublication], deltas: list[bytes | None] | None) -> int:
        """
        Write to members that are not where their group is, one by one, and move those to the group that have caught up.
        With deltas, that is so only after a member got a publication whole, or as a delta to one that it got.
        """
        written = 0
        last = publications[-1].offset
        for subscriber, catching_up in list(self._catching_up.items()):
            follows = False  # it has the base of the next delta
            for number, publication in enumerate(publications):
                if 0 < publication.offset <= catching_up.seen:
                    follows = False  # it got this one on entering, perhaps not as the last
                    continue
                if follows and catching_up.encoder.is_delta:
                    deltas = deltas or self._deltas(publications)
                    buffer = catching_up.encoder.delta(self.room, publication, deltas[number])
                else:
                    buffer = catching_up.encoder.publication(self.room, publication)
                write_to(subscriber, buffer)
                written += 1
                follows = True
            # The group has caught up with the member, which with a delta encoder has the base of the next delta.
            if last >= catching_up.seen and (follows or not catching_up.encoder.is_delta):
                del self._catching_up[subscriber]
                self._groups.setdefault(catching_up.encoder, {})[subscriber.transport] = subscriber
        return written

    def announce(self, changes: Sequence[Change]) -> None:
        """Write joins and leaves, in order, to every member that watches."""
        assert changes, "an empty message is a ping"
        for encoder, group in self._watchers.items():
            buffer = encoder.changes(self.room, changes)
            for writer in group:
                writer.write(buffer)
            if fallen_behind:
                note(buffer)

    def clear(self) -> list[Subscriber]:
        """Remove every member, and return them."""
        gone = list(self)
        assert len(gone) == self.size, "each member has one place, and `add` counts it once"
        self._groups.clear()
        self._watchers.clear()
        self._catching_up.clear()
        self._filtered.clear()
        self._conflated.clear()
        self._before = None
        self.size = 0
        return gone

    def __iter__(self) -> Iterator[Subscriber]:
        yield from self._in_place()
        yield from self._conflated

    def _in_place(self) -> Iterator[Subscriber]:
        """Return the members that are not conflated."""
        for group in self._groups.values():
            yield from group.values()
        yield from self._catching_up
        yield from self._filtered


def write_to(subscriber: Subscriber, buffer: bytes) -> None:
    """Write to one member."""
    subscriber.transport.write(buffer)
    if fallen_behind:
        note(buffer)


def _is_for(subscriber: Subscriber, place: Place, publication: RawPublication) -> bool:
    """Say whether a conflated member is to get a publication: it accepts it, and has not seen it."""
    if publication.exclude and publication.exclude == subscriber.connection_id:
        return False
    accepts, seen = place if isinstance(place, tuple) else (None, place.seen if isinstance(place, CatchingUp) else 0)
    return (publication.offset > seen or not publication.offset) and (accepts is None or accepts(publication))


def _discard(groups: dict[Encoder, dict[Writer, Subscriber]], subscriber: Subscriber) -> bool:
    """
    Take a member out of the group that it is in. An empty group goes, or each encoder that was ever used would stay.
    """
    for encoder, group in groups.items():
        if group.pop(subscriber.transport, None) is not None:
            if not group:
                del groups[encoder]
            return True
    return False


def total(fanouts: Iterable[Fanout]) -> int:
    """Count the memberships."""
    return sum(fanout.size for fanout in fanouts)
