"""
The ledger: which client got which publication, and what was lost, doubled or reordered.

Pure. An `Account` is one client's; the `Ledger` holds those of all, and what was published in each room. What a client
has not seen is kept as ranges of numbers, so a long run that loses much costs no more than one that loses little. The
ledger only takes entries, and knows no times.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass


class Account:
    """The publications of its room that one client has. They are numbered from 0."""

    __slots__ = ("_gaps", "doubled", "got", "next", "reordered", "room")

    def __init__(self, room: int) -> None:
        self.room = room
        self.next = 0
        self.got = 0
        self.doubled = 0
        self.reordered = 0
        self._gaps: list[tuple[int, int]] = []  # what is missing below `next`: from, and up to but without

    def take(self, number: int) -> bool:
        """Enter a delivery. Return whether it is new: only then it counts, and its latency with it."""
        if number == self.next:
            self.next = number + 1
        elif number > self.next:
            self._gaps.append((self.next, number))
            self.next = number + 1
        elif self._fill(number):
            self.reordered += 1
        else:
            self.doubled += 1
            return False
        self.got += 1
        return True

    def _fill(self, number: int) -> bool:
        """Remove a number from the gaps; return whether it was in one."""
        at = bisect_right(self._gaps, number, key=lambda gap: gap[0]) - 1
        if at < 0 or number >= self._gaps[at][1]:
            return False
        begin, end = self._gaps[at]
        assert begin <= number < end <= self.next, "gaps lie below `next`, and the one at `at` holds the number"
        self._gaps[at : at + 1] = [gap for gap in ((begin, number), (number + 1, end)) if gap[0] < gap[1]]
        return True

    def missing(self, published: int) -> list[tuple[int, int]]:
        """Return the ranges that it lacks of the first `published`."""
        end = [(self.next, published)] if self.next < published else []
        return self._gaps + end


@dataclass(frozen=True, slots=True)
class Balance:
    """
    How a ledger ends.

    Attributes:
        published: publications that were due and not refused by the server.
        refused: publications that the server answered with an error.
        expected: deliveries that there should have been.
        delivered: those there were, each once.
        lost: those there were not.
        doubled: deliveries of what the client already had.
        reordered: deliveries after one that was published later.
        strange: deliveries in a room that they were not published in, or of what never was.
    """

    published: int
    refused: int
    expected: int
    delivered: int
    lost: int
    doubled: int
    reordered: int
    strange: int

    @property
    def is_clean(self) -> bool:
        """Whether every client got every publication that was due, once and in order."""
        return not (self.lost or self.doubled or self.reordered or self.strange or self.refused)


class Ledger:
    """The accounts of all clients, and the publications of each room."""

    def __init__(self, rooms: int) -> None:
        self.published = [0] * rooms
        self.refused: list[set[int]] = [set() for _ in range(rooms)]
        self.accounts: list[Account] = []
        self.strange = 0

    def open(self, room: int) -> Account:
        """Open the account of a client that is a member of a room before anything is published there."""
        account = Account(room)
        self.accounts.append(account)
        return account

    def publish(self, room: int) -> int:
        """Enter that one more publication is due in a room; return its number there."""
        number = self.published[room]
        self.published[room] = number + 1
        return number

    def refuse(self, room: int, number: int) -> None:
        """Enter that the server refused a publication: no client will get it."""
        assert number < self.published[room], "a publication is in the ledger before it is sent"
        self.refused[room].add(number)

    def lacks(self, account: Account) -> int:
        """Return how much a client has not got of what the server took."""
        refused = self.refused[account.room]
        missing = account.missing(self.published[account.room])
        if not missing:
            return 0
        taken_back = sum(any(begin <= number < end for begin, end in missing) for number in refused) if refused else 0
        return sum(end - begin for begin, end in missing) - taken_back

    def balance(self) -> Balance:
        """Return how it stands now: what is still on its way counts as lost."""
        delivered = sum(each.got for each in self.accounts)
        lost = sum(self.lacks(each) for each in self.accounts)
        refused = sum(map(len, self.refused))
        return Balance(
            published=sum(self.published) - refused,
            refused=refused,
            expected=delivered + lost,
            delivered=delivered,
            lost=lost,
            doubled=sum(each.doubled for each in self.accounts),
            reordered=sum(each.reordered for each in self.accounts),
            strange=self.strange,
        )
