"""
Ways to choose a slot for a connection without a key.

Pure, used in the primary. A way sees the live slots and how many connections each has. It never sees the connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from sticky.errors import SettingsError
from sticky.keys.hashing import Slot


class Loaded(Protocol):
    """A worker, as balancing sees it."""

    @property
    def connections(self) -> int: ...


class Balance(Protocol):
    """Chooses a slot. It is only called with at least one live slot."""

    def __call__(self, live: Mapping[Slot, Loaded]) -> Slot: ...


def least(live: Mapping[Slot, Loaded]) -> Slot:
    """Choose the slot with the fewest connections; of equal ones, the lowest."""
    assert live, "the dispatcher has a connection wait where no slot is live"
    return min(live, key=lambda slot: (live[slot].connections, slot))


class RoundRobin:
    """Choose each slot in turn."""

    def __init__(self) -> None:
        self._last = -1

    def __call__(self, live: Mapping[Slot, Loaded]) -> Slot:
        assert live, "the dispatcher has a connection wait where no slot is live"
        slots = sorted(live)
        self._last = next((slot for slot in slots if slot > self._last), slots[0])
        return Slot(self._last)


def balance_named(name: str) -> Balance:
    """
    Return the way of balancing that a setting names.

    Raises:
        SettingsError: there is no such way.
    """
    if name == "least":
        return least
    if name == "round-robin":
        return RoundRobin()
    raise SettingsError("balance", f"{name!r} is neither 'least' nor 'round-robin'")
