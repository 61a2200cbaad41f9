"""
Whether rooms told the truth, from what everybody saw.

Pure: the events of all publishers and subscribers, in the order in which they happened in one process, become a list of
what is wrong. It knows no server and asks none. Each publication says something that no other one does (`value`).

A publisher INVOKEs a publication, and then hears ACK or ERROR, or nothing. A subscriber ENTERs a room; from then on
everything invoked later is owed to it, until it LEAVEs, and unless it is told of a GAP. Cut off, it is AWAY; when it
RESUMEs, it was told whether it was `recovered`: then what was published meanwhile is owed to it as well. At END it has
caught up.

From one time that it begins anew (ENTER, or RESUME without recovery) to the next is a *stretch*. Where one ends before
END, what the subscriber was still to get is forgiven; a hole in what it did get is not.

- lost: acknowledged, owed, and not there at the end; or others got it before something that this subscriber got in the
  stretch in which it was published. *Falsely resumed* where it was published while the subscriber was away, and the
  subscriber was told that it has everything.
- doubled: one subscriber got a publication twice.
- reordered: offsets of one epoch do not grow, or two subscribers saw two publications in different order.
- fabricated: nobody published it. Cross-room: somebody did, in another room.
- ambiguous: one offset of one epoch stands for two publications.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


class Kind(enum.Enum):
    INVOKE = "invoke"
    ACK = "ack"
    ERROR = "error"
    ENTER = "enter"
    RECEIVE = "receive"
    GAP = "gap"
    AWAY = "away"
    RESUME = "resume"
    LEAVE = "leave"
    END = "end"


@dataclass(frozen=True, slots=True)
class Event:
    """What one publisher or subscriber (`who`) saw in a room."""

    kind: Kind
    who: str
    room: str
    value: str = ""
    offset: int = 0
    epoch: str = ""
    recovered: bool = False


@dataclass(frozen=True, slots=True)
class Wrong:
    """One thing that must not be."""

    what: str
    room: str
    who: str
    value: str


@dataclass(slots=True)
class _Stretch:
    """Within which a subscriber leaves nothing out: what it got, since it began."""

    begin: int
    got: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Seen:
    """One subscriber in one room."""

    owed_from: int | None = None  # the event from which on what is invoked is owed
    away_since: int | None = None
    away: list[tuple[int, int]] = field(default_factory=list)  # when it was, and came back as recovered
    spans: list[tuple[int, int]] = field(default_factory=list)  # within which all that was invoked is owed
    stretches: list[_Stretch] = field(default_factory=list)
    got: dict[str, int] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    last: dict[str, int] = field(default_factory=dict)  # offset, by epoch


def check(events: Sequence[Event]) -> list[Wrong]:
    """Return everything that is wrong."""
    wrong: list[Wrong] = []
    invoked: dict[str, tuple[int, str]] = {}
    acked: set[str] = set()
    seen: dict[tuple[str, str], _Seen] = defaultdict(_Seen)
    values: dict[tuple[str, str, int], str] = {}
    for at, event in enumerate(events):
        if event.kind is Kind.INVOKE:
            invoked[event.value] = (at, event.room)
        elif event.kind is Kind.ACK:
            acked.add(event.value)
        elif event.kind is Kind.RECEIVE:
            wrong += _received(event, seen[event.who, event.room], invoked, values)
        elif event.kind is not Kind.ERROR:
            _move(at, event, seen[event.who, event.room])
    holes = _holes(seen, invoked)
    for (who, room), each in seen.items():
        missing = {*_owed(room, each, invoked, acked), *holes[who, room]}
        wrong += _missing(who, room, each, sorted((invoked[value][0], value) for value in missing))
    wrong += _orders(seen)
    return wrong


def _received(
    event: Event, seen: _Seen, invoked: dict[str, tuple[int, str]], values: dict[tuple[str, str, int], str]
) -> Iterable[Wrong]:
    def wrong(what: str) -> Wrong:
        return Wrong(what, event.room, event.who, event.value)

    if event.value not in invoked:
        yield wrong("fabricated")
    elif invoked[event.value][1] != event.room:
        yield wrong("cross-room")
    if event.value in seen.got:
        yield wrong("doubled")
    elif event.offset and event.offset <= seen.last.get(event.epoch, 0):
        yield wrong("reordered")
    if event.offset:
        seen.last[event.epoch] = max(event.offset, seen.last.get(event.epoch, 0))
        if values.setdefault((event.room, event.epoch, event.offset), event.value) != event.value:
            yield wrong("ambiguous")
    seen.got[event.value] = event.offset
    seen.order.append(event.value)
    if seen.owed_from is not None:
        seen.stretches[-1].got.append(event.value)


def _move(at: int, event: Event, seen: _Seen) -> None:
    """Note from when to when everything is owed to a subscriber."""
    if event.kind is Kind.ENTER or (event.kind is Kind.RESUME and not event.recovered):
        seen.owed_from, seen.away_since = at, None
        seen.stretches.append(_Stretch(at))
    elif event.kind is Kind.RESUME:
        if seen.away_since is not None:
            seen.away.append((seen.away_since, at))
        seen.away_since = None
    elif event.kind is Kind.AWAY:
        seen.away_since = at
    elif seen.owed_from is not None:
        if event.kind is Kind.END:
            seen.spans.append((seen.owed_from, at))
        seen.owed_from = None  # after a gap, or having left, what came before need not be there


def _owed(room: str, seen: _Seen, invoked: dict[str, tuple[int, str]], acked: set[str]) -> Iterable[str]:
    """Return what a subscriber that has caught up lacks."""
    for value, (at, where) in invoked.items():
        owed = where == room and value in acked and any(begin < at < end for begin, end in seen.spans)
        if owed and value not in seen.got:
            yield value


def _holes(seen: dict[tuple[str, str], _Seen], invoked: dict[str, tuple[int, str]]) -> dict[tuple[str, str], set[str]]:
    """Return what each subscriber lacks of what another got before something that both got."""
    holes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (_, room), other in seen.items():
        places = {value: place for place, value in enumerate(other.order)}
        for (who, where), each in seen.items():
            for stretch in each.stretches if where == room else ():
                last = max((places.get(value, 0) for value in stretch.got), default=0)
                before = [value for value in other.order[:last] if invoked.get(value, (0, ""))[1] == room]
                holes[who, room] |= {v for v in before if v not in each.got and invoked[v][0] > stretch.begin}
    return holes


def _missing(who: str, room: str, seen: _Seen, missing: Sequence[tuple[int, str]]) -> Iterable[Wrong]:
    for at, value in missing:
        was_away = any(begin < at < end for begin, end in seen.away)
        yield Wrong("falsely resumed" if was_away else "lost", room, who, value)


def _orders(seen: dict[tuple[str, str], _Seen]) -> Iterable[Wrong]:
    """Compare each subscriber's order with that of the one who saw most in the room."""
    longest: dict[str, _Seen] = {}
    for (_, room), each in seen.items():
        if room not in longest or len(each.got) > len(longest[room].got):
            longest[room] = each
    places = {room: {value: place for place, value in enumerate(each.order)} for room, each in longest.items()}
    for (who, room), each in seen.items():
        before = -1
        for value in each.order:
            place = places[room].get(value, before)
            if place < before:
                yield Wrong("reordered", room, who, value)
            before = max(place, before)
