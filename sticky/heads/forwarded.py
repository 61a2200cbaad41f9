"""
Reads the headers by which proxies pass on the client: `X-Forwarded-For`, `X-Forwarded-Proto`, `Forwarded` (RFC 7239).

Pure, used in the primary and in workers. Each proxy adds its peer's address at the right end. So hops are yielded from
right to left, the nearest first. The further left a hop stands, the more proxies had to be honest for it to be true.

It never decides which hops to believe: affinity.py does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

IPAddress = IPv4Address | IPv6Address

# One pair, or none: "a=b;;c=d" is legal. The parts cannot match the same bytes, so there is nothing to backtrack into.
# An unquoted value may hold more than a token does: many write for=192.0.2.1:8080, and it can only mean one thing.
_PAIR = re.compile(rb"""[ \t]*+(?:([!#$%&'*+\-.^_`|~0-9A-Za-z]++)=("(?:[^"\\]|\\.)*+"|[^",;\s]++))?+[ \t]*+""")
_ESCAPED = re.compile(rb"\\(.)")

_PORT = re.compile(r"[0-9]{1,5}|_[A-Za-z0-9._-]+")  # a number, or a name that hides it (RFC 7239, section 6.3)


def plain(address: IPAddress) -> IPAddress:
    """Take an IPv4 address out of the IPv6 address that a dual-stack socket wraps it in."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def x_forwarded_for(lines: Sequence[bytes]) -> Iterator[IPAddress | None]:
    """Yield the hops, nearest first; None for one that is no address. Empty elements are skipped (RFC 9110, 5.6.1)."""
    for line in reversed(lines):
        for element in reversed(line.split(b",")):
            node = element.strip(b" \t")
            if node:
                yield _address(node)


def forwarded_for(lines: Sequence[bytes]) -> Iterator[IPAddress | None]:
    """Yield the hops of `Forwarded`, nearest first; None for one without an address, or with a hidden one."""
    for element in _forwarded_elements(lines):
        yield _address(element.get(b"for", b""))


def x_forwarded_proto(lines: Sequence[bytes]) -> str | None:
    """Return the scheme that the client used, if all proxies agree on one."""
    schemes = {scheme.strip(b" \t").lower() for line in lines for scheme in line.split(b",")}
    return schemes.pop().decode("latin-1") if len(schemes) == 1 else None


def forwarded_proto(lines: Sequence[bytes]) -> str | None:
    """Return the scheme of the request to the nearest proxy."""
    nearest = next(_forwarded_elements(lines), {})
    return nearest[b"proto"].lower().decode("latin-1") if b"proto" in nearest else None


def _forwarded_elements(lines: Sequence[bytes]) -> Iterator[dict[bytes, bytes]]:
    """
    Yield the elements of `Forwarded`, nearest first. An empty one stands for a line that cannot be read.

    A line is read from its left, where a client may have opened a quote to hide what a proxy added after it. That quote
    ends where the proxy's own quote begins, in the middle of a value. The whole line is malformed then.
    """
    for line in reversed(lines):
        elements = _parse_forwarded(line)
        yield from reversed([{}] if elements is None else [element for element in elements if element])


def _parse_forwarded(line: bytes) -> list[dict[bytes, bytes]] | None:
    """Read one line of the header (RFC 7239, section 4); None where it is malformed."""
    elements: list[dict[bytes, bytes]] = [{}]
    position = 0
    while True:
        pair = _PAIR.match(line, position)
        assert pair is not None, "every part of the pattern is optional"
        if pair[1] is not None:
            name, value = pair[1].lower(), pair[2]
            if name in elements[-1]:  # "each parameter must not occur more than once per element"
                return None
            elements[-1][name] = _ESCAPED.sub(rb"\1", value[1:-1]) if value[:1] == b'"' else value
        position = pair.end()
        if position == len(line):
            return elements
        if line[position : position + 1] == b",":
            elements.append({})
        elif line[position : position + 1] != b";":
            return None
        position += 1


def _address(node: bytes) -> IPAddress | None:
    """Read `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`; None for all else."""
    if not node.isascii():
        return None
    text = node.decode("ascii")
    port = None
    if text.startswith("["):
        text, bracket, after = text[1:].partition("]")
        if not bracket or ":" not in text or (after and not after.startswith(":")):
            return None
        port = after[1:] if after else None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
    if (port is not None and not _PORT.fullmatch(port)) or "%" in text:  # a zone is its own machine's affair
        return None
    try:
        return plain(ip_address(text))
    except ValueError:
        return None
