"""
What the watchers of a room on this worker were told of who is there.

Runs in the worker. Joins and leaves have no offsets: what a broken link swallowed leaves no hole that shows. So for
each room that somebody watches, the worker knows whom its watchers know of; after a fault that is compared with the
broker's members (presence_resync.py). It also has whoever asks for the members see what agrees with what was told
before.
Without a fault the broker is asked once, when the first watcher comes.

In a large room joins and leaves are *held*, and told together as the difference to what was told before: who left and
came back meanwhile is not told of at all. Whoever asks is answered with what all were told, so that the difference
which comes next is right for it as well.

Nothing here talks to the broker, or decides who is present.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

from realtime.broker.base import ClientInfo, ConnectionId
from realtime.rooms.census import Census
from realtime.rooms.fanout import Change


class PresenceView:
    """Whom the watchers of one room know to be there."""

    __slots__ = ("_census", "_heard", "_held", "_known", "_missing", "_unseen", "is_read")

    def __init__(self) -> None:
        self.is_read = False  # whether it has been begun with the broker's members
        self._known: dict[ConnectionId, ClientInfo] = {}
        self._missing: frozenset[ConnectionId] = frozenset()  # at the comparison before
        self._unseen: frozenset[ConnectionId] = frozenset()  # of those known, whom somebody who asked did not see
        self._heard: tuple[dict[ConnectionId, ClientInfo | None], ...] = ()  # since each question not answered yet
        # Of whom something is held: what was told before, and whether somebody has to be told of it in any case.
        self._held: dict[ConnectionId, tuple[ClientInfo | None, bool]] = {}
        self._census: Census | None = None  # of what was told

    def hear(self, change: Change) -> None:
        """Note what the broker told: answers that are on their way may be older."""
        is_join, info = change
        for heard in self._heard:
            heard[ConnectionId(info.connection_id)] = info if is_join else None

    def is_large(self, above: int) -> bool:
        """Whether joins and leaves are to be held, in a room of more than so many."""
        return bool(self._held) or len(self._known) > above

    def hold(self, change: Change) -> bool:
        """Note a join or a leave that watchers are to know of later; return whether it is the first that is held."""
        is_join, info = change
        client = ConnectionId(info.connection_id)
        is_first = not self._held
        if client not in self._held:
            self._held[client] = (self._known.get(client), client in self._unseen)
        self._unseen -= {client}
        self._known.pop(client, None)
        if is_join:
            self._known[client] = info
        return is_first

    def digest(self) -> list[Change]:
        """Return what is to be told of all that was held, which is noted already: the difference."""
        held, self._held = self._held, {}
        changes: list[Change] = []
        for client, (told, is_unseen) in held.items():
            now = self._known.get(client)
            if now is None:
                if told is not None:
                    changes.append((False, told))
            elif is_unseen or now != told:
                changes.append((True, now))
        if changes:
            self._census = None
        return changes

    def census(self) -> Census:
        """Return whom all watchers were told of, until they are told of another."""
        if self._census is None:
            members = dict(self._known)
            for client, (told, _) in self._held.items():
                if told is None:
                    members.pop(client, None)
                else:
                    members[client] = told
            self._census = Census(members)
        return self._census

    def take(self, change: Change) -> bool:
        """Note a join or a leave that watchers are told of now; return whether it is news to any."""
        self._census = None
        is_join, info = change
        client = ConnectionId(info.connection_id)
        was_unseen = client in self._unseen
        if was_unseen:
            self._unseen -= {client}
        before = self._known.pop(client, None)
        if is_join:
            self._known[client] = info
            return was_unseen or before != info
        return before is not None

    async def answer(self, asked: Awaitable[Mapping[ConnectionId, ClientInfo]]) -> dict[ConnectionId, ClientInfo]:
        """Return the broker's members, with what it told while they were on their way."""
        heard: dict[ConnectionId, ClientInfo | None] = {}
        self._heard += (heard,)
        try:
            members = dict(await asked)
        finally:
            self._heard = tuple(each for each in self._heard if each is not heard)
        for client, info in heard.items():
            if info is None:
                members.pop(client, None)
            else:
                members[client] = info
        return members

    def begin(self, members: dict[ConnectionId, ClientInfo]) -> None:
        """Begin with an answer: whoever watches from now on asks for itself."""
        self._known = members
        self._census = None
        self.is_read = True

    def show(self, members: Mapping[ConnectionId, ClientInfo]) -> list[Change]:
        """Have somebody see an answer. Return the joins to be told, as `unknown` does."""
        self._unseen |= self._known.keys() - members.keys()
        return self.unknown(members)

    def unknown(self, members: Mapping[ConnectionId, ClientInfo]) -> list[Change]:
        """Return the joins that are to be told for all watchers to know of these, and are not noted here yet."""
        return [(True, info) for client, info in members.items() if client not in self._known or client in self._unseen]

    def confirm_missing(self, members: Mapping[ConnectionId, ClientInfo]) -> list[Change]:
        """Return the leaves, to be told, of those who are missing now and were the last time; remember the others."""
        gone = frozenset(self._known.keys() - members.keys())
        left, self._missing = gone & self._missing, gone - self._missing
        return [(False, self._known[client]) for client in left]

    def doubt(self) -> None:
        """Have whoever is missing be missing anew: there was another fault."""
        self._missing = frozenset()

    @property
    def is_whole(self) -> bool:
        """Whether nobody who is missing waits for a second look."""
        return not self._missing
