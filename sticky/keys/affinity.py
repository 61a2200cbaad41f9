"""
Finds what routes a connection: the client address, or the sticky id in its request.

Pure, used in the primary, and in a worker for the later requests of one connection. It reads headers that any client
can write, so it follows two rules. It believes an address only from a trusted proxy, and only as far as the chain of
trusted proxies reaches. It reads a sticky id only in the configured place, under an exact name that occurs once. What
two readers could find in two places is found in neither.

A query id is a sticky id too: one that a worker made for a session, in the query of certain paths. It routes under
every stickiness, and only where its tag is right.

It never chooses a slot, and never checks a tag itself: hashing.py does.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from socket import AF_INET, inet_pton
from typing import Any, Final
from urllib.parse import unquote, unquote_to_bytes

from sticky.errors import SettingsError
from sticky.heads.first_bytes import TOKEN, Head
from sticky.heads.forwarded import IPAddress, forwarded_for, forwarded_proto, plain, x_forwarded_for, x_forwarded_proto
from sticky.keys.hashing import Hashing, Key, QueryId
from sticky.keys.path_key import PathKey

IPNetwork = IPv4Network | IPv6Network

UNIX_PEER: Final = "unix"
"""The address of a peer on a Unix socket, which has none."""


class Sticky(enum.Enum):
    """What makes a client come back to the same worker."""

    IP = "ip"
    SESSION = "session"  # the sticky id in a cookie, header, parameter or path; the option has this name
    NONE = "none"


@dataclass(frozen=True, slots=True)
class AffinitySettings:
    """What is read, and from which peers. The `session_` fields have the names of the command line's options."""

    sticky: Sticky = Sticky.IP
    trusted: tuple[IPNetwork, ...] = ()
    """Proxies whose headers about the client are believed. None by default."""
    session_cookie: str = "rt_session"
    session_param: str | None = None
    session_header: str | None = None
    session_path: str | None = None
    """A path one segment of which is the key: `/doc/{key}`. It goes before everything else."""
    trusted_unix: bool = True
    """A peer on a Unix socket is a proxy that the socket's file mode let in, and has no address to fall back on."""
    query_id_paths: tuple[str, ...] = ()
    """Paths at which sessions have ids in the query that a worker made (`Hashing.new_query_id`). There such an id goes
    before everything else, under every stickiness. Each path is compared whole, decoded once."""
    query_id_param: str = "sid"
    client_headers: tuple[str, ...] = ("x-forwarded-for", "forwarded")
    """Headers that name the client, the first that is there decides. A proxy passes on those that it does not write
    itself, so where clients reach it directly leave only the one that it writes."""

    def __post_init__(self) -> None:
        for setting, name in (("session_cookie", self.session_cookie), ("session_header", self.session_header)):
            if name is not None and (not name or name.encode("utf-8").translate(None, TOKEN)):
                raise SettingsError(setting, f"{name!r} cannot be the name of a {setting.removeprefix('session_')}")
        if self.session_param == "":
            raise SettingsError("session_param", "the name of a query parameter cannot be empty")
        if not self.query_id_param:
            raise SettingsError("query_id_param", "the name of a query parameter cannot be empty")
        if self.session_path is not None:
            try:
                PathKey(self.session_path)
            except ValueError as error:
                raise SettingsError("session_path", str(error)) from None
        for name in self.client_headers:
            if name not in (_X_FORWARDED, _FORWARDED):
                raise SettingsError("client_headers", f"{name!r} is not read, only {_X_FORWARDED} and {_FORWARDED} are")

    def to_builtins(self) -> dict[str, Any]:
        """Return them as plain data, for a worker."""
        return {**asdict(self), "sticky": self.sticky.value, "trusted": [str(each) for each in self.trusted]}

    @classmethod
    def from_builtins(cls, data: dict[str, Any]) -> AffinitySettings:
        """Make them of what `to_builtins` returned."""
        return cls(
            **{
                **data,
                "sticky": Sticky(data["sticky"]),
                "trusted": tuple(ip_network(each) for each in data["trusted"]),
                "client_headers": tuple(data["client_headers"]),
                "query_id_paths": tuple(data.get("query_id_paths", ())),  # absent in a primary before this field
            }
        )


_X_FORWARDED: Final = "x-forwarded-for"
_FORWARDED: Final = "forwarded"

_SECURE_SCHEMES: Final = ("https", "wss")

# What an id may be made of: visible ASCII. Quotes and backslashes are read in two ways inside cookies, so not those;
# a comma is against RFC 6265 (4.1.1) but common, and every reader takes it as it is.
_ID_BYTES: Final = bytes(range(0x21, 0x7F)).translate(None, b'"\\;')

# Some read a quoted cookie value up to its closing quote, across semicolons, and some do not.
_QUOTED_VALUE: Final = re.compile(rb'=[ \t]*+"(?:[^"\\]|\\.)*+"')


class Affinity:
    """Finds client addresses, sticky ids and keys, by one set of settings. It holds nothing that changes."""

    def __init__(self, settings: AffinitySettings, hashing: Hashing | None = None) -> None:
        """
        Args:
            hashing: knows which ids carry a slot. Without it none does.
        """
        self.settings = settings
        self._hashing = hashing
        self._path = PathKey(settings.session_path) if settings.session_path is not None else None
        self._header = settings.session_header.lower().encode("ascii") if settings.session_header else None
        self._param = settings.session_param.encode("utf-8") if settings.session_param else None
        self._cookie = settings.session_cookie.encode("ascii")
        self._query_id_paths = frozenset(settings.query_id_paths)
        self._plain_paths = frozenset(path.encode("utf-8") for path in settings.query_id_paths)
        self._query_id_param = settings.query_id_param.encode("utf-8")
        self._trusts_any = bool(settings.trusted) or settings.trusted_unix

    def address_of(self, peer_address: str, head: Head | None) -> str:
        """
        Name the client: the address nearest to us that is no trusted proxy's.

        From a trusted peer the walk goes through the hops that its header names, right to left, as long as they are
        trusted too. A hop that is no address ends the walk: the client is then the last trusted hop before it, which
        wrote that. When all are trusted it is the farthest, for then the client itself is in a trusted network.

        Args:
            peer: the address at the other end of the socket, or of its PROXY header; `UNIX_PEER` if it has none.
            head: the request, if there is one that can be read.
        """
        trusted = self.settings.trusted
        if ":" not in peer_address and not trusted and peer_address != UNIX_PEER:
            return peer_address  # the usual case: IPv4 as the kernel spells it, and no trusted proxy
        ip = _parse(peer_address)
        address = peer_address if ip is None else str(ip)
        if head is None or not self._is_trusted(peer_address, ip):
            return address
        for hop in self._hops(head):
            if hop is None:
                break
            address = str(hop)
            if not any(hop in network for network in trusted):
                break
        return address

    def trusts(self, peer_address: str) -> bool:
        """Return whether this peer is a trusted proxy, whose headers about the client are believed."""
        if not self.settings.trusted:
            return peer_address == UNIX_PEER and self.settings.trusted_unix
        return self._is_trusted(peer_address, _parse(peer_address))

    def secure(self, peer_address: str, head: Head | None) -> bool:
        """Return whether a trusted proxy says that the client came by https."""
        if head is None or not self._trusts_any or not self.trusts(peer_address):
            return False
        scheme = None
        for name in self.settings.client_headers:
            if name == _X_FORWARDED and (lines := head.values(b"x-forwarded-proto")):
                scheme = x_forwarded_proto(lines)
                break
            if name == _FORWARDED and (lines := head.values(b"forwarded")):
                scheme = forwarded_proto(lines)
                break
        return scheme in _SECURE_SCHEMES

    def sticky_id_of(self, head: Head) -> str | None:
        """
        Return the sticky id of a request, or None.

        It is the key in the path, where that has the configured form. Else it is in the configured header, else in
        the configured query parameter, else in the cookie. A name that occurs twice, or whose value cannot be an id,
        decides nothing at its place. Neither does a header without a slot beside a cookie with one, for many
        applications make the ids in their headers themselves.

        Any client can invent an id. `Hashing.slot_of` finds those of this cluster.
        """
        if self._path is not None and (key := self._path.of(head.path)):
            return key
        if self._header is not None and (sticky_id := self._sticky_id_in_header(head, self._header)):
            return sticky_id
        if self._param is not None and (sticky_id := _only_id(_query_values(head.query, self._param))):
            return sticky_id
        return _only_id(_cookie_values(head.values(b"cookie"), self._cookie))

    def query_id_of(self, head: Head) -> QueryId | None:
        """
        Return the query id of a request, or None where it has none that a worker of this cluster made.

        The parameter may stand anywhere in the query, percent-encoded or not. One that occurs twice decides nothing,
        for two readers could take another one of them each.
        """
        path, _, query = head.target.partition(b"?")
        if not query or self._hashing is None:
            return None
        if path not in self._plain_paths:
            if path[:1] == b"/" and b"%" not in path:
                return None  # nearly all requests end here
            query = head.query  # the target is absolute, or its path is encoded
            if unquote(head.path) not in self._query_id_paths:
                return None
        found = _only_id(_query_values(query, self._query_id_param))
        return QueryId(found) if found is not None and self.is_query_id(found) else None

    def is_query_id(self, sticky_id: str) -> bool:
        """Return whether a sticky id is one that a worker made for a session, and not one of a client."""
        return self._hashing is not None and self._hashing.slot_of_query_id(sticky_id) is not None

    def _sticky_id_in_header(self, head: Head, name: bytes) -> str | None:
        values = head.values(name)
        if len(values) != 1:
            return None
        if self._hashing is None:
            return _only_id(values)
        if self._hashing.untag(values[0]) is not None:
            return values[0].decode("latin-1")  # the id in it is the application's, of whatever bytes it likes
        sticky_id = _only_id(values)
        if sticky_id is None or self._hashing.slot_of(sticky_id) is not None:
            return sticky_id
        cookie = _only_id(_cookie_values(head.values(b"cookie"), self._cookie))
        return sticky_id if cookie is None or self._hashing.slot_of(cookie) is None else None

    def key_for(self, address: str) -> Key | None:
        """
        Make the key of a client's address: all of IPv4, the /64 network of IPv6, which is what one household or one
        machine gets. None when the address is no key: under another stickiness, or when there is none.
        """
        if self.settings.sticky is not Sticky.IP:
            return None
        if ":" not in address:
            try:
                return Key(b"4" + inet_pton(AF_INET, address))  # a tenth of what `ip_address` takes
            except (OSError, ValueError):
                return None
        ip = _parse(address)
        if ip is None:
            return None
        return Key(b"4" + ip.packed if ip.version == 4 else b"6" + ip.packed[:8])

    @staticmethod
    def key_for_sticky_id(sticky_id: str) -> Key:
        """Make the key of a sticky id, or of a query id. Its slot is in its tag, or follows from the hash."""
        return Key(b"s" + sticky_id.encode("utf-8"))

    def _is_trusted(self, peer_address: str, ip: IPAddress | None) -> bool:
        if ip is None:
            return peer_address == UNIX_PEER and self.settings.trusted_unix
        return any(ip in network for network in self.settings.trusted)

    def _hops(self, head: Head) -> Iterable[IPAddress | None]:
        for name in self.settings.client_headers:
            if lines := head.values(name.encode("ascii")):
                return x_forwarded_for(lines) if name == _X_FORWARDED else forwarded_for(lines)
        return ()


def _parse(text: str) -> IPAddress | None:
    try:
        return plain(ip_address(text))
    except ValueError:
        return None


def _only_id(values: list[bytes]) -> str | None:
    if len(values) != 1 or not values[0] or values[0].translate(None, _ID_BYTES):
        return None
    return values[0].decode("ascii")


def _query_values(query: bytes, name: bytes) -> list[bytes]:
    """
    Collect the values of a query parameter, split as forms are (WHATWG URL, 5.1): at `&` only, names decoded as well,
    for an application would find the name under every spelling.
    """
    values = []
    for pair in query.split(b"&"):
        key, _, value = pair.partition(b"=")
        if key == name or (_is_encoded(key) and _decode(key) == name):
            values.append(_decode(value) if _is_encoded(value) else value)
    return values


def _is_encoded(text: bytes) -> bool:
    return b"%" in text or b"+" in text


def _decode(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


def _cookie_values(lines: list[bytes], name: bytes) -> list[bytes]:
    """
    Collect the values of a cookie, over all `Cookie` headers: a proxy from HTTP/2 may leave several.

    Quoted values are emptied first. Some readers split at semicolons and find a cookie inside the
    quotes; others find text. So what is inside never decides. Our own id needs no quotes and never has any.
    """
    text = b";".join(lines)
    if name not in text:
        return []
    if b'"' in text:
        text = _QUOTED_VALUE.sub(b'=""', text)
    values = []
    for pair in text.split(b";"):
        key, _, value = pair.partition(b"=")
        if key.strip(b" \t") == name:
            values.append(value.strip(b" \t"))
    return values
