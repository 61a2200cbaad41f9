"""
Decides for each later request of a connection whether it belongs to this worker.

Pure but for the clock, used in workers. The slot of a key depends on which slots are live, and only the primary knows
that. So a worker remembers what the primary has sent it, and takes every other request for another worker's. A wrong
guess costs a way through the primary and back, never a wrong answer. All that was learned is forgotten whenever another
worker comes or goes. A key that is away, and here, belongs here as long as it has live connections (live_keys.py).

It never moves a connection: the server that reads the request does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from sticky.handoff.blame import key_of
from sticky.heads.first_bytes import Head
from sticky.keys.affinity import UNIX_PEER, Affinity, Sticky
from sticky.keys.hashing import Hashing, Key, QueryId, Slot, StickyId
from sticky.keys.live_keys import LiveKeys
from sticky.loop.timers import LoopTimers, Timers

KNOWN_MAX: Final = 50_000  # routes that are remembered; above it all are forgotten, and learned again


class KeyReports(Protocol):
    """Reports ended keys to the primary: `KeyReport`."""

    def send(self, routes: Routes) -> None:
        """Send what is not reported yet, as far as the channel has room."""


@dataclass(frozen=True, slots=True)
class Route:
    """The client and the sticky id of one request."""

    address: str
    """The client address."""
    scheme: str
    sticky_id: str | None
    """Under another stickiness than `session`, it is a query id or None."""
    lacks_sticky_id: bool
    """The request has no sticky id, and should be given one."""


class Routes:
    """What one worker knows about which requests belong to it."""

    def __init__(
        self,
        affinity: Affinity,
        hashing: Hashing,
        slot: Slot,
        *,
        report: KeyReports | None = None,
        timers: Timers | None = None,
    ) -> None:
        """
        Args:
            report: is sent when a key that is away has lost its last connection here.
            timers: the running event loop's unless given; only their clock is used.
        """
        self._affinity = affinity
        self._hashing = hashing
        self._slot = slot
        self._report = report
        self._timers = timers or LoopTimers()
        self._sticky = affinity.settings.sticky
        self._here: set[Key | str] = set()
        self.keys = LiveKeys(hashing, slot, self._key_has_ended)
        self.some_are_elsewhere = False
        """Keys of this slot may have live connections on another worker. Then a tag alone decides nothing."""
        self.refused: dict[bytes, float] = {}
        """Keys whose requests crash workers, and until when they are refused. Empty most of the time."""

    def _key_has_ended(self) -> None:
        if self._report is not None:
            self._report.send(self)

    def refuse(self, key: bytes, for_s: float) -> None:
        """Refuse the requests of a key for a while, as the primary does."""
        now = self._timers.now()
        self.refused = {each: until for each, until in self.refused.items() if until > now}
        self.refused[key] = now + for_s

    def refuses(self, key: bytes) -> bool:
        """Return whether the requests of a key are refused now."""
        return self.refused.get(key, 0.0) > self._timers.now()

    def crash_key(self, route: Route) -> bytes:
        """Return the key under which a request is suspected when this worker crashes."""
        return key_of(self._affinity, route.address, route.sticky_id)

    def differ(self, peer_address: str) -> bool:
        """Return whether two requests on one connection of this peer can have different clients or sticky ids."""
        return self._sticky is Sticky.SESSION or self._affinity.trusts(peer_address)

    def pools(self, peer_address: str) -> bool:
        """Return whether the peer is a trusted proxy, which puts requests of many clients on one connection."""
        return self._affinity.trusts(peer_address)

    def of(self, peer_address: str, scheme: str, head: Head) -> Route:
        """
        Return the route of a request.

        Args:
            peer_address: as `Adopted.peer_address`.
            scheme: of the connection itself. A trusted proxy may say more.
            head: the request's.
        """
        address = self._affinity.address_of(peer_address, head)
        if self._affinity.secure(peer_address, head):
            scheme = "https"
        query_id = self._affinity.query_id_of(head)
        if query_id is not None or self._sticky is not Sticky.SESSION:
            return Route(address, scheme, query_id, lacks_sticky_id=False)
        sticky_id = self._affinity.sticky_id_of(head)
        return Route(address, scheme, sticky_id, lacks_sticky_id=sticky_id is None)

    def has_query_id(self, route: Route) -> bool:
        """Return whether the request has the id of a session: only the worker that made the id can serve it."""
        return route.sticky_id is not None and self._affinity.is_query_id(route.sticky_id)

    def leads_here(self, route: Route) -> bool:
        """Return whether this worker may serve a request without a way through the primary."""
        if route.lacks_sticky_id or (self._sticky is Sticky.NONE and route.sticky_id is None):
            return True
        tag_decides = route.sticky_id is not None and not self.some_are_elsewhere
        if tag_decides and self._hashing.slot_of(route.sticky_id or "") == self._slot:
            return True
        name = self._name(route.address, route.sticky_id)
        return name in self._here or (isinstance(name, bytes) and self.keys.is_away(name))

    def learn(self, address: str, sticky_id: str | None) -> None:
        """Remember that the primary sent this client address, or this sticky id, here."""
        if len(self._here) >= KNOWN_MAX:
            self._here.clear()
        self._here.add(self._name(address, sticky_id))
        assert len(self._here) <= KNOWN_MAX, "clients choose what is learned, so it has to be bounded"

    def forget(self, keys: Iterable[Key] | None = None) -> None:
        """Forget these keys, which go home; or everything, when the live slots have changed."""
        if keys is None:
            self._here.clear()
        else:
            self._here.difference_update(keys)

    def new_sticky_id(self) -> StickyId:
        """Make a sticky id that leads to this worker's slot."""
        return self._hashing.new_sticky_id(self._slot)

    def new_query_id(self) -> QueryId:
        """Make an id for a session here, which leads back to this worker's slot under every stickiness."""
        return self._hashing.new_query_id(self._slot)

    # Ids that the application makes, in the header that carries sticky ids

    @property
    def header(self) -> bytes | None:
        """The name of that header, in lower case; None where none is configured."""
        name = self._affinity.settings.session_header
        return name.lower().encode("ascii") if name and self._sticky is Sticky.SESSION else None

    def tag(self, app_id: bytes) -> bytes:
        """Add this worker's slot to an id of the application."""
        return self._hashing.tag(app_id, self._slot)

    def untag(self, value: bytes) -> bytes:
        """Remove what `tag` added, on any worker. A value without a tag of this cluster stays as it is."""
        tagged = self._hashing.untag(value)
        return value if tagged is None else tagged[0]

    def key_of(self, address: str, sticky_id: str | None) -> Key | None:
        """Return the key that the primary hashes for a client address, or for a sticky id; None where there is none."""
        if sticky_id is not None:
            return self._affinity.key_for_sticky_id(sticky_id)
        return self._affinity.key_for(address)  # None unless the stickiness is `ip`

    def _name(self, address: str, sticky_id: str | None) -> Key | str:
        return self.key_of(address, sticky_id) or (UNIX_PEER if address == UNIX_PEER else f"c{address}")
