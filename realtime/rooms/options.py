"""
`RoomOptions`: how a room is kept. The one declaration of every option.

Runs in the worker. `App.room` takes its parameters from the constructor below (names, types, defaults and text), so an
option is added here and nowhere else. The checks run when the application is imported: a combination that makes no
sense is an error at start. Nothing here changes after construction.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Final, Protocol

from realtime.broker.base import Retention, Room
from realtime.timing.rate import Rate

RESERVED_EVENTS: Final = frozenset(
    ("connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener")
)
"""Events that libraries of Socket.IO raise themselves: a client that gets one from outside ends its connection."""

EVENT_FIELDS: Final = frozenset(("room", "data", "user", "connection", "info", "tags", "offset", "epoch", "time"))
"""What of a publication can be an argument of the event that it becomes."""

FOR_OTHERS: Final = frozenset(("publish", "presence", "history"))  # what a room may allow to clients outside


class RoomOptions:
    """
    How a room is kept. The attributes have the names of the options, with defaults filled in and texts parsed.

    Attributes:
        retention: how much of the stream the broker keeps: `history` and `history_ttl_s`.
        publish: clients may publish: the room is `open`, or has a handler for it.
        as_event: the name of the event, then the fields of the publication that are its arguments.
        has_leave_hooks: the application has `on_leave` or `on_empty`, which are called also after a crash.
        has_empty_hook: the application has `on_empty`.
    """

    def __init__(
        self,
        *,
        presence: bool = False,
        join_leave: bool | None = None,
        history: int = 0,
        history_ttl_s: float = 300.0,
        recover: bool | None = None,
        open: bool = False,
        delta: bool = False,
        filters: bool = False,
        binary: bool = False,
        echo: bool = True,
        rate: str | None = None,
        user_rate: str | None = None,
        room_rate: str | None = None,
        conflate: str | bool = False,
        grace_s: float = 0.0,
        for_others: Collection[str] = (),
        as_event: str | Sequence[str] = "message",
    ) -> None:
        """
        Args:
            presence: keep a list of the members.
            join_leave: send joins and leaves to the members; by default where there is presence.
            history: how many publications are kept.
            history_ttl_s: for how many seconds they are kept.
            recover: give returning clients what they missed; by default where there is history.
            open: clients may subscribe and publish as they like; declares the room at once, without a class.
            delta: clients that request it get the difference to the publication before. Needs `recover`.
            filters: clients may request the publications of certain tags only.
            binary: payloads are any bytes, and not JSON: for clients that speak Protobuf.
            echo: a client gets its own publications as well.
            rate: how often one connection may publish, such as "5/s", "20/10s", "100/min"; above it: error 111.
            user_rate: how often one user may, by all connections on all workers (an address, without a user).
            room_rate: how often all clients together may.
            conflate: a client that reads too slowly gets only the latest publication, instead of being closed as slow:
                the latest for each value of the tag that is named here, or the latest of all when True.
            grace_s: seconds in which a user whose connection broke may come back without a leave and a join.
            for_others: what clients outside the room may do, of "publish" (`on_publish` is called as for members),
                "presence" and "history". Nothing unless given: then `on_subscribe` is the one gate.
            as_event: the event as which Socket.IO members get a publication: its name, with the data as its argument.
                Or the name and the fields that are its arguments, such as `("message", "room", "data")`: "room",
                "data", "user", "connection", "info", "tags", "offset", "epoch", "time".

        Raises:
            ValueError: the options contradict each other, or a rate cannot be parsed.
        """
        if recover and history <= 0:
            raise ValueError("recover needs history: what is not kept cannot be sent again")
        recovers = history > 0 if recover is None else recover
        if delta and not recovers:
            raise ValueError("delta needs history and recover: a difference is to something that a client surely has")
        if history < 0 or history_ttl_s <= 0:
            raise ValueError("history and history_ttl_s are not negative")
        if grace_s < 0:
            raise ValueError("grace_s is not negative")
        others = _checked(for_others, presence=presence, history=history)
        self.retention: Final = Retention(history, history_ttl_s)
        self.presence = presence
        self.join_leave: Final = presence if join_leave is None else join_leave
        self.recover: Final = recovers
        self.publish = open
        self.delta: Final = delta
        self.filters: Final = filters
        self.binary: Final = binary
        self.echo: Final = echo
        self.rate: Final = Rate.parse(rate) if rate else None
        self.user_rate: Final = Rate.parse(user_rate) if user_rate else None
        self.room_rate: Final = Rate.parse(room_rate) if room_rate else None
        self.conflate: Final = None if conflate is False else "" if conflate is True else conflate
        self.grace_s: Final = grace_s
        self.for_others: Final = others
        self.as_event: Final = _checked_event(as_event)
        self.has_leave_hooks = False
        self.has_empty_hook = False
        # Every decision about gaps compares positions, and a room without history has none.
        assert not self.recover or self.retention.size > 0, "recover was checked against history"

    @property
    def is_metered(self) -> bool:
        """Whether publications of clients are counted against a rate."""
        return not (self.rate is self.user_rate is self.room_rate is None)

    def with_handlers(self, *, publish: bool, leave: bool, empty: bool) -> RoomOptions:
        """
        Return these options for a room whose class has handlers.

        Args:
            publish: it has `on_publish`, so clients may publish.
            leave: it has `on_leave`.
            empty: it has `on_empty`.
        """
        changed = copy.copy(self)
        changed.publish = self.publish or publish
        changed.has_leave_hooks = leave or empty
        changed.has_empty_hook = empty
        return changed

    def unseen(self) -> RoomOptions:
        """Return these options for a member that others do not see: no presence, and no handler runs when it leaves."""
        if not (self.presence or self.has_leave_hooks or self.has_empty_hook):
            return self  # options never change: a copy for each member that moves would cost more than its entry
        changed = copy.copy(self)
        changed.presence = changed.has_leave_hooks = changed.has_empty_hook = False
        return changed


def _checked(for_others: Collection[str], *, presence: bool, history: int) -> frozenset[str]:
    """
    Return what clients outside the room may do.

    Raises:
        ValueError: there is no such thing, or the room does not keep it.
    """
    others = frozenset((for_others,) if isinstance(for_others, str) else for_others)  # one word is meant, not letters
    if unknown := sorted(others - FOR_OTHERS):
        raise ValueError(f"for_others: {unknown[0]!r} is none of {', '.join(sorted(FOR_OTHERS))}")
    if "presence" in others and not presence:
        raise ValueError("for_others: 'presence' needs a room with presence=True")
    if "history" in others and not history:
        raise ValueError("for_others: 'history' needs a room with history")
    return others


def _checked_event(as_event: str | Sequence[str]) -> tuple[str, ...]:
    """
    Return the name of an event, and its fields.

    Raises:
        ValueError: the name is one that Socket.IO keeps for itself, or there is no such field.
    """
    name, *fields = (as_event, "data") if isinstance(as_event, str) else as_event or ("",)
    if not name or name in RESERVED_EVENTS:
        raise ValueError(f"as_event: {name!r} cannot be the name of an event")
    if unknown := [each for each in fields if each not in EVENT_FIELDS]:
        raise ValueError(f"as_event: {unknown[0]!r} is none of {', '.join(sorted(EVENT_FIELDS))}")
    return name, *fields


class Declarations(Protocol):
    """The rooms that the application declares."""

    def room_options(self, room: Room) -> RoomOptions | None:
        """Return how a room is kept; None where no declaration fits its name."""

    def room_patterns(self) -> Sequence[str]:
        """Return the patterns of all declarations, for the error that none fits."""
