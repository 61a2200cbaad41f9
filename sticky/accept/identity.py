"""
Finds out whose a connection is and what routes it: makes a `PendingHandoff` of a socket and its first request.

Used in the primary, by the acceptor. It joins what `Affinity` reads in the request. It never chooses a slot, which is
the dispatcher's part, and it never reads from the socket.
"""

from __future__ import annotations

import socket
from typing import Final

from sticky.handoff.pending_handoff import PendingHandoff
from sticky.heads.first_bytes import Head
from sticky.keys.affinity import Affinity, Sticky
from sticky.keys.hashing import StickyId

QUERY_ID: Final = "query_id"
"""The reason of a handoff that an id in its query routed, whatever the stickiness is."""


def identify(affinity: Affinity, sock: socket.socket, peer_address: str, port: int, head: Head) -> PendingHandoff:
    """
    Return the handoff of a connection whose next request is known. You still own `sock`.

    Args:
        peer_address: the other end of the socket, or of its PROXY header.
        port: the peer's port. It is the client's too, unless a proxy's header gives another client address.
        head: the request's, which stays in the socket.
    """
    address = affinity.address_of(peer_address, head)
    handoff = PendingHandoff(sock, peer_address, address, port if address == peer_address else 0)
    handoff.method, handoff.path, handoff.upgrade = head.method, head.path, head.is_upgrade
    if affinity.secure(peer_address, head):
        handoff.scheme = "https"
    query_id = affinity.query_id_of(head)
    if query_id is not None:
        handoff.sticky_id = StickyId(query_id)
        handoff.key = affinity.key_for_sticky_id(query_id)
        handoff.reason = QUERY_ID
        return handoff
    if affinity.settings.sticky is Sticky.SESSION:
        _find_sticky_id(affinity, handoff, head)
    else:
        handoff.key = affinity.key_for(address)
    _give_reason(affinity, handoff)
    return handoff


def identify_tls(affinity: Affinity, sock: socket.socket, peer_address: str, port: int) -> PendingHandoff:
    """
    Return the handoff of a connection that begins with a TLS handshake. Only its address can route it.

    The worker terminates TLS, so the primary sees no header: neither a proxy's nor a sticky id.
    """
    address = affinity.address_of(peer_address, None)
    handoff = PendingHandoff(sock, peer_address, address, port, scheme="https", kind="tls")
    handoff.key = affinity.key_for(address)
    _give_reason(affinity, handoff)
    return handoff


def identify_raw(affinity: Affinity, sock: socket.socket, peer_address: str, port: int) -> PendingHandoff:
    """Return the handoff of a connection whose bytes the primary does not know. Only its address can route it."""
    address = affinity.address_of(peer_address, None)
    handoff = PendingHandoff(sock, peer_address, address, port if address == peer_address else 0, kind="raw")
    handoff.key = affinity.key_for(address)
    _give_reason(affinity, handoff)
    return handoff


def _find_sticky_id(affinity: Affinity, handoff: PendingHandoff, head: Head) -> None:
    """Route by the sticky id of the request. Without one, the worker has to give it one."""
    sticky_id = affinity.sticky_id_of(head)
    if sticky_id is None:
        handoff.wants_sticky_id = True
        return
    handoff.sticky_id = StickyId(sticky_id)
    handoff.key = affinity.key_for_sticky_id(sticky_id)


def _give_reason(affinity: Affinity, handoff: PendingHandoff) -> None:
    """Note why the handoff goes where it goes: by its key, or to any slot. Applications and the log show it."""
    assert handoff.sticky_id is None or handoff.key is not None, "each sticky id has a key"
    handoff.reason = "balance" if handoff.key is None else affinity.settings.sticky.value
