"""
Reads a PROXY protocol header, version 1 or 2: the client address behind the proxy that a connection comes from.

Pure, used in the primary, and only for connections from trusted peers. The primary consumes the header and nothing
else, so its length is exact to the byte. The specification forbids guessing whether a header is there
(proxy-protocol.txt, section 2). So where one is expected, anything else is refused, and every irregularity inside as
well.

It never uses the extensions (TLVs): it checks their lengths and skips them.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from sticky.heads.first_bytes import NEED_MORE, NeedMore, Refusal


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """
    The addresses of a connection, as its proxy sees them.

    Where `client_address` is None the proxy does not know, or the connection is its own. Then use the addresses of the
    socket.
    """

    client_address: str | None
    """An IP address; or `unix:` and a path, when the client reached the proxy through a Unix socket."""
    client_port: int
    server_address: str | None
    server_port: int
    length: int
    """Bytes of the header. You must consume exactly so many."""
    local: bool = False
    """The proxy's own connection, such as a health check (version 2, LOCAL)."""


V1_MAX_BYTES: Final = 107
"""The longest line of version 1, CRLF included (section 2.1)."""

V2_MAX_BYTES: Final = 4096
"""Addresses take 232 bytes at most; the rest is for TLVs. The number is what nginx accepts."""

_V1_START: Final = b"PROXY "
_V2_START: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED_BYTES: Final = 16
_PRINTABLE: Final = bytes(range(0x20, 0x7F))

_IPV4_BYTES, _IPV6_BYTES, _UNIX_BYTES = 4, 16, 108

_EXPECTED: Final = Refusal(400, "a PROXY protocol header is expected here")
_BAD_V1: Final = Refusal(400, "the PROXY protocol line is malformed")
_BAD_V2: Final = Refusal(400, "the PROXY protocol header (version 2) is malformed")
_LONG_V2: Final = Refusal(400, "the PROXY protocol header (version 2) is too long")


def parse(data: bytes) -> ProxyHeader | NeedMore | Refusal:
    """
    Read the PROXY protocol header that `data` begins with.

    You may call it again with more of the same bytes. A prefix gives `NEED_MORE` or the verdict of the whole. It never
    needs more than `V2_MAX_BYTES`.
    """
    if data.startswith(_V1_START):
        return _parse_v1(data)
    if data.startswith(_V2_START):
        return _parse_v2(data)
    return NEED_MORE if _V1_START.startswith(data) or _V2_START.startswith(data) else _EXPECTED


def _parse_v1(data: bytes) -> ProxyHeader | NeedMore | Refusal:
    """Read `PROXY TCP4 192.0.2.1 198.51.100.7 51234 443` (section 2.1)."""
    end = data.find(b"\r\n", 0, V1_MAX_BYTES)
    line = data[:end] if end >= 0 else data[:V1_MAX_BYTES].removesuffix(b"\r")
    if line.translate(None, _PRINTABLE):
        return _BAD_V1
    if end < 0:
        return NEED_MORE if len(data) < V1_MAX_BYTES else _BAD_V1
    length = end + 2
    assert length <= V1_MAX_BYTES, "a longer line was not searched for its end"
    family, *fields = line.decode("ascii").split(" ")[1:]
    if family == "UNKNOWN":  # "the receiver must ignore anything presented before the CRLF"
        return ProxyHeader(None, 0, None, 0, length)
    if family not in ("TCP4", "TCP6") or len(fields) != 4:
        return _BAD_V1
    address = IPv4Address if family == "TCP4" else IPv6Address
    try:
        client_address, server_address = (str(address(field)) for field in fields[:2])
        client_port, server_port = (_port(field) for field in fields[2:])
    except ValueError:
        return _BAD_V1
    if "%" in client_address + server_address:  # a zone means something only on the proxy's own machine
        return _BAD_V1
    return ProxyHeader(client_address, client_port, server_address, server_port, length)


def _port(text: str) -> int:
    """
    Read a port in its only spelling; ValueError for another. A header that two readers could read in two ways is
    refused: what stands in front of this server has to agree with it about the client.
    """
    port = int(text)
    if str(port) != text or not 0 <= port <= 0xFFFF:
        raise ValueError(text)
    return port


def _parse_v2(data: bytes) -> ProxyHeader | NeedMore | Refusal:
    """Read a binary header (section 2.2). Each byte of the fixed part is checked as soon as it is there."""
    command = data[12:13]
    if command not in (b"", b"\x20", b"\x21"):  # version 2; LOCAL or PROXY
        return _BAD_V2
    family = data[13:14]
    local = command == b"\x20"
    if family and not local and family not in _READERS:
        return _BAD_V2
    if len(data) < _V2_FIXED_BYTES:
        return NEED_MORE
    length = _V2_FIXED_BYTES + int.from_bytes(data[14:16], "big")
    if length > V2_MAX_BYTES:
        return _LONG_V2
    if len(data) < length:
        return NEED_MORE
    if local:  # "must discard the protocol block including the family which is ignored"
        return ProxyHeader(None, 0, None, 0, length, local=True)
    block = data[_V2_FIXED_BYTES:length]
    size, read = _READERS[family]
    if len(block) < size or not _are_tlvs(block[size:]):
        return _BAD_V2
    client_address, client_port, server_address, server_port = read(block[:size])
    return ProxyHeader(client_address, client_port, server_address, server_port, length)


def _are_tlvs(block: bytes) -> bool:
    """Return whether a block is nothing but extensions: each a type, a length of two bytes, and so many bytes."""
    position = 0
    while position + 3 <= len(block):
        position += 3 + int.from_bytes(block[position + 1 : position + 3], "big")
    return position == len(block)


_Ends = tuple[str | None, int, str | None, int]


def _read_unspecified(block: bytes) -> _Ends:
    """AF_UNSPEC: the proxy does not know the addresses, and the receiver uses those of the socket (section 2.2)."""
    return None, 0, None, 0


def _read_ipv4(block: bytes) -> _Ends:
    """AF_INET: source address, destination address, source port, destination port (section 2.2)."""
    client_address, server_address = IPv4Address(block[:4]), IPv4Address(block[4:8])
    return (
        str(client_address),
        int.from_bytes(block[8:10], "big"),
        str(server_address),
        int.from_bytes(block[10:12], "big"),
    )


def _read_ipv6(block: bytes) -> _Ends:
    """AF_INET6: the same, with longer addresses (section 2.2)."""
    client_address, server_address = IPv6Address(block[:16]), IPv6Address(block[16:32])
    return (
        str(client_address),
        int.from_bytes(block[32:34], "big"),
        str(server_address),
        int.from_bytes(block[34:36], "big"),
    )


def _read_unix(block: bytes) -> _Ends:
    """Each address is a `sun_path` of 108 bytes, padded with zeros. There are no ports."""
    return _unix(block[:_UNIX_BYTES]), 0, _unix(block[_UNIX_BYTES:]), 0


def _unix(field: bytes) -> str:
    """Return a Unix address that is safe in a log. An abstract or unnamed one is `unix:` alone."""
    path = field.partition(b"\x00")[0].decode("utf-8", "backslashreplace")
    return "unix:" + path.encode("unicode_escape").decode("ascii")


# Family and protocol in one byte. Datagrams cannot come over a stream, so they are as odd as an unassigned value.
_READERS: Final = {
    b"\x00": (0, _read_unspecified),
    b"\x11": (2 * _IPV4_BYTES + 4, _read_ipv4),
    b"\x21": (2 * _IPV6_BYTES + 4, _read_ipv6),
    b"\x31": (2 * _UNIX_BYTES, _read_unix),
}
