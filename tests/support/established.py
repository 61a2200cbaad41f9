"""The TCP connections that a server has, as its kernel knows them: the 4-tuple, and the number of the socket."""

from __future__ import annotations

import socket
from collections.abc import Collection
from pathlib import Path

Established = dict[tuple[str, str], str]
"""Local and remote address, and the socket's inode: it stays while any process holds the socket."""

ESTABLISHED = "01"  # proc(5), net/tcp


def established(ports: Collection[int], network: str = "127.6") -> Established:
    """Return the connections at these ports whose remote address begins like that."""
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *more = line.split()
        if state == ESTABLISHED and int(local.partition(":")[2], 16) in ports:
            address = _address(remote)
            if address.startswith(network):
                found[_address(local), address] = more[5]
    return found


def _address(text: str) -> str:
    """Read an address as the kernel writes it: a number in the machine's own order, here little-endian."""
    number, _, port = text.partition(":")
    return f"{socket.inet_ntoa(int(number, 16).to_bytes(4, 'little'))}:{int(port, 16)}"
