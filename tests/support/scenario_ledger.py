"""
The ledger of the main scenario: whether each client got what was published in its room, once and in order.

Pure: what publishers and clients have written down becomes a list of sentences. tests/support/checker.py judges it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from tests.support.checker import Event, Kind, check

Got = tuple[tuple[int, int], ...]
"""What a client got: offset and number of each publication, in the order in which they came."""


class Ledger:
    """What the clients of all rooms got."""

    def __init__(self) -> None:
        self.delivered = 0
        self._got: dict[str, dict[Got, str]] = defaultdict(dict)  # the same ledger of two clients is checked once
        self._epochs: dict[str, set[str]] = defaultdict(set)

    def add(self, who: str, room: str, got: Iterable[tuple[int, int]], epoch: str | None = None) -> None:
        """Take what a client got."""
        kept = tuple(got)
        self.delivered += len(kept)
        self._got[room].setdefault(kept, who)
        if epoch is not None:
            self._epochs[room].add(epoch)

    def judge(self, publications: dict[str, Any]) -> list[str]:
        """
        Return what is wrong.

        Args:
            publications: by room, how many numbers were sent, and which of them were acknowledged.
        """
        faults = []
        for room, each in publications.items():
            if len(each["acknowledged"]) != each["sent"]:
                faults.append(f"{room}: {each['sent']} published, {len(each['acknowledged'])} answered")
            if len(self._epochs[room]) != 1:
                faults.append(f"{room}: epochs {sorted(self._epochs[room])}")
            wrong = Counter((each.what, each.who) for each in check(_events(room, each, self._got[room])))
            faults += [f"{who} in {room}: {count} {what}" for (what, who), count in wrong.items()]
        return faults


def _events(room: str, publications: Any, ledgers: dict[Got, str]) -> list[Event]:
    """Return what happened in a room, in an order that the checker takes: all entered before, and caught up after."""
    events = [Event(Kind.ENTER, who, room) for who in ledgers.values()]
    events += [Event(Kind.INVOKE, "publisher", room, str(value)) for value in range(publications["sent"])]
    events += [Event(Kind.ACK, "publisher", room, str(value)) for value in publications["acknowledged"]]
    for got, who in ledgers.items():
        events += [Event(Kind.RECEIVE, who, room, str(value), offset, "epoch") for offset, value in got]
    return events + [Event(Kind.END, who, room) for who in ledgers.values()]
