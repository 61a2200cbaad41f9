"""
Says of each later request of a connection whether it belongs to this worker.

Pure, used in workers. Which slot a key has depends on which slots are live, and only the primary knows that: so a
worker keeps what the primary has sent it and takes everything else for somebody else's. A wrong guess costs a way
through the primary and back, never a wrong answer. What was learned is forgotten whenever another worker comes or goes.
A key that is away, and here, belongs here as long as it has live connections (live_keys.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sticky.affinity import UNIX_PEER, Affinity, Sticky
from sticky.blame import key_of
from sticky.first_bytes import Head
from sticky.hashing import Hashing, Key, Slot, StickyId
from sticky.live_keys import LiveKeys

KNOWN_MAX: Final = 50_000  # routes that are remembered; above it all are forgotten


@dataclass(frozen=True, slots=True)
class Route:
    """Whose one request is."""

    address: str
    scheme: str
    sticky_id: str | None
    lacks_sticky_id: bool  # it names none, and should be given one


class Routes:
    """What is known in one worker of who belongs to it."""

    def __init__(self, affinity: Affinity, hashing: Hashing, slot: Slot) -> None:
        self._affinity = affinity
        self._hashing = hashing
        self._slot = slot
        self._sticky = affinity.settings.sticky
        self._here: set[Key | str] = set()
        self.keys = LiveKeys(hashing, slot)
        self.some_are_elsewhere = False
        """Keys whose home this is may have live connections on another worker: a tag alone decides nothing."""
        self.refused: dict[bytes, float] = {}
        """Keys whose requests crash workers, and until when; empty most of the time."""

    def refuse(self, key: bytes, for_s: float) -> None:
        """Refuse the requests of a key for a while, as the primary does."""
        now = time.monotonic()
        self.refused = {each: until for each, until in self.refused.items() if until > now}
        self.refused[key] = now + for_s

    def refuses(self, key: bytes) -> bool:
        """Whether the requests of a key are refused now."""
        return self.refused.get(key, 0.0) > time.monotonic()

    def crash_key(self, route: Route) -> bytes:
        """Return by whom a request is known when it crashes this worker."""
        return key_of(self._affinity, route.address, route.sticky_id)

    def differ(self, peer_address: str) -> bool:
        """Whether two requests of one connection of this peer can be of different clients or sessions."""
        return self._sticky is Sticky.SESSION or self._affinity.trusts(peer_address)

    def pools(self, peer_address: str) -> bool:
        """Whether the peer is one of our proxies, which puts the requests of many clients on one connection."""
        return self._affinity.trusts(peer_address)

    def of(self, peer_address: str, scheme: str, head: Head) -> Route:
        """
        Find whose a request is.

        Args:
            peer: the address at the other end, as `Adopted.peer`.
            scheme: what the connection itself is, where no trusted proxy says more.
            head: the request's.
        """
        address = self._affinity.address_of(peer_address, head)
        if self._affinity.secure(peer_address, head):
            scheme = "https"
        if self._sticky is not Sticky.SESSION:
            return Route(address, scheme, None, lacks_sticky_id=False)
        sticky_id = self._affinity.sticky_id_of(head)
        return Route(address, scheme, sticky_id, lacks_sticky_id=sticky_id is None)

    def leads_here(self, route: Route) -> bool:
        """Whether this worker may serve the request without asking the primary."""
        if self._sticky is Sticky.NONE or route.lacks_sticky_id:
            return True
        tag_decides = route.sticky_id is not None and not self.some_are_elsewhere
        if tag_decides and self._hashing.slot_of(route.sticky_id or "") == self._slot:
            return True
        name = self._name(route.address, route.sticky_id)
        return name in self._here or (isinstance(name, bytes) and self.keys.is_away(name))

    def learn(self, address: str, sticky_id: str | None) -> None:
        """Remember that the primary sent this client, or this session, here."""
        if len(self._here) >= KNOWN_MAX:
            self._here.clear()
        self._here.add(self._name(address, sticky_id))

    def forget(self, keys: Iterable[Key] | None = None) -> None:
        """Forget these keys, which go home; or everything, for the table of live slots has changed."""
        if keys is None:
            self._here.clear()
        else:
            self._here.difference_update(keys)

    def new_sticky_id(self) -> StickyId:
        """Make a session's id that leads to this worker's slot."""
        return self._hashing.new_sticky_id(self._slot)

    # Ids that the application makes, in the header that carries sessions

    @property
    def header(self) -> bytes | None:
        """The name of that header, in lower case; None where none was configured."""
        name = self._affinity.settings.session_header
        return name.lower().encode("ascii") if name and self._sticky is Sticky.SESSION else None

    def tag(self, app_id: bytes) -> bytes:
        """Add this worker's slot to an id of the application."""
        return self._hashing.tag(app_id, self._slot)

    def untag(self, value: bytes) -> bytes:
        """Take off what `tag` added, on any worker; what carries no tag of ours stays as it is."""
        tagged = self._hashing.untag(value)
        return value if tagged is None else tagged[0]

    def key_of(self, address: str, sticky_id: str | None) -> Key | None:
        """Return the key by which the primary knows a client, or a session; None where there is none."""
        if self._sticky is Sticky.SESSION:
            return None if sticky_id is None else self._affinity.key_for_sticky_id(sticky_id)
        return self._affinity.key_for(address)

    def _name(self, address: str, sticky_id: str | None) -> Key | str:
        return self.key_of(address, sticky_id) or (UNIX_PEER if address == UNIX_PEER else f"c{address}")
