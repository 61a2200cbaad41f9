"""
The presence of one room as the watchers on this worker know it from joins and leaves.

Runs in the worker; pure. The room's machine (room.py) notes here what is sent; the parts that bring the members from
the broker note their answers. It never speaks to the broker, and never decides which members there are.

Theory of operation
-------------------
Joins and leaves have no offsets, so a broken link that swallowed some leaves no gap to see. Therefore the worker keeps
for each watched room the members that its watchers know (`_known`). Three things follow from that:

- **No join or leave is sent twice.** `apply` says whether a change is news.
- **A fault can be repaired.** After it, presence_resync.py reads the broker's members, and sends the difference. A
  member that is missing is sent as a leave only when it is missing in two comparisons in a row: after a fault of the
  broker every worker registers its members again, each in its own time.
- **An answer never contradicts what was sent.** An answer that was on its way while a change arrived may be older than
  the change. `listening` collects the changes that arrive meanwhile, and applies them to the answer. A member of the
  view that an answer did not contain is noted as `_unseen`: the client that asked does not know it, so the next join
  of that member is sent even if it is no news to the others.

In a large room changes are *deferred* and sent together, as the difference to what was sent before. A member that left
and came back meanwhile causes nothing. `census` is what was sent last, so that the next difference is right for a
client that asked in between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from realtime.broker.base import ClientInfo, ConnectionId
from realtime.rooms.census import Census
from realtime.rooms.fanout import Change

Members = Mapping[ConnectionId, ClientInfo]


class Arrivals:
    """The changes that arrived while an answer of the broker was on its way."""

    __slots__ = ("_latest",)

    def __init__(self) -> None:
        self._latest: dict[ConnectionId, ClientInfo | None] = {}  # None: it left

    def note(self, change: Change) -> None:
        """Note a change; the latest of each member counts."""
        is_join, info = change
        self._latest[ConnectionId(info.connection_id)] = info if is_join else None

    def applied_to(self, answer: Members) -> dict[ConnectionId, ClientInfo]:
        """Return the answer as it would be now."""
        members = dict(answer)
        for connection_id, info in self._latest.items():
            if info is None:
                members.pop(connection_id, None)
            else:
                members[connection_id] = info
        return members


class PresenceView:
    """The members of one room that its watchers know."""

    __slots__ = ("_arrivals", "_census", "_deferred", "_known", "_missing", "_unseen", "is_loaded")

    def __init__(self) -> None:
        self.is_loaded = False  # whether `load` was called
        self._known: dict[ConnectionId, ClientInfo] = {}
        self._missing: frozenset[ConnectionId] = frozenset()  # in the comparison before
        self._unseen: frozenset[ConnectionId] = frozenset()  # of those known: absent from an answer that was given
        self._arrivals: tuple[Arrivals, ...] = ()  # one for each answer that is on its way
        # What was sent of a member before its first deferred change, and whether it was unseen then.
        self._deferred: dict[ConnectionId, tuple[ClientInfo | None, bool]] = {}
        self._census: Census | None = None  # of what was sent

    # Answers of the broker

    @contextlib.contextmanager
    def listening(self) -> Iterator[Arrivals]:
        """Collect what arrives during the block. Read the broker's members in it, and pass them to `applied_to`."""
        arrivals = Arrivals()
        self._arrivals += (arrivals,)
        try:
            yield arrivals
        finally:
            self._arrivals = tuple(each for each in self._arrivals if each is not arrivals)

    def load(self, members: Members) -> None:
        """Begin with an answer. Each watcher that comes from now on asks for itself."""
        assert not self.is_loaded, "from then on the view follows what arrives, and an answer may be older"
        self._known = dict(members)
        self._census = None
        self.is_loaded = True

    def show(self, members: Members) -> list[Change]:
        """Note that a client gets this answer. Return the joins to send, as `unsent_joins` does."""
        self._unseen |= self._known.keys() - members.keys()
        return self.unsent_joins(members)

    # What arrives

    def receive(self, change: Change) -> None:
        """Note a change from the broker: answers that are on their way may be older."""
        for arrivals in self._arrivals:
            arrivals.note(change)

    def apply(self, change: Change) -> bool:
        """Note a change that is about to be sent. Return whether it is news to any watcher; else do not send it."""
        self._census = None
        is_join, info = change
        connection_id = ConnectionId(info.connection_id)
        was_unseen = connection_id in self._unseen
        if was_unseen:
            self._unseen -= {connection_id}
        before = self._known.pop(connection_id, None)
        if is_join:
            self._known[connection_id] = info
            return was_unseen or before != info
        return before is not None

    # Large rooms

    def is_large(self, above: int) -> bool:
        """Whether changes are to be deferred: the room has more members than `above`, or some are deferred."""
        return bool(self._deferred) or len(self._known) > above

    def defer(self, change: Change) -> bool:
        """Note a change that is sent later. Return whether it is the first: the caller must call `digest` in time."""
        is_join, info = change
        connection_id = ConnectionId(info.connection_id)
        is_first = not self._deferred
        if connection_id not in self._deferred:
            self._deferred[connection_id] = (self._known.get(connection_id), connection_id in self._unseen)
        self._unseen -= {connection_id}
        self._known.pop(connection_id, None)
        if is_join:
            self._known[connection_id] = info
        assert self._deferred, "a deferred change is noted, or `digest` would never be called"
        return is_first

    def digest(self) -> list[Change]:
        """Return the changes to send for all that was deferred: the difference to what was sent before."""
        deferred, self._deferred = self._deferred, {}
        changes: list[Change] = []
        for connection_id, (sent, was_unseen) in deferred.items():
            now = self._known.get(connection_id)
            if now is None:
                if sent is not None:
                    changes.append((False, sent))
            elif was_unseen or now != sent:
                changes.append((True, now))
        if changes:
            self._census = None
        return changes

    def census(self) -> Census:
        """Return the members as they were sent to all watchers, without what is deferred."""
        if self._census is None:
            members = dict(self._known)
            for connection_id, (sent, _) in self._deferred.items():
                if sent is None:
                    members.pop(connection_id, None)
                else:
                    members[connection_id] = sent
            self._census = Census(members)
        return self._census

    # Comparing after a fault

    def unsent_joins(self, members: Members) -> list[Change]:
        """Return the joins to send so that every watcher knows these members. They are not noted yet."""
        return [
            (True, info)
            for connection_id, info in members.items()
            if connection_id not in self._known or connection_id in self._unseen
        ]

    def confirm_missing(self, members: Members) -> list[Change]:
        """Return leaves to send: of members that are missing now and were at the comparison before. Note the others."""
        gone = frozenset(self._known.keys() - members.keys())
        left, self._missing = gone & self._missing, gone - self._missing
        assert not left & self._missing, "a member whose leave is sent is not suspected any more"
        return [(False, self._known[connection_id]) for connection_id in left]

    def restart_comparison(self) -> None:
        """Forget which members are missing: there was another fault, and each must be missing twice after it."""
        self._missing = frozenset()

    @property
    def is_settled(self) -> bool:
        """Whether no missing member waits for a second comparison."""
        return not self._missing
