"""Adopted connections are counted until their end, and each end is reported once, to the primary and for its key."""

from __future__ import annotations

import asyncio

import pytest

from realtime.timing.timer_wheel import TimerWheel
from realtime.transport.adopted import AdoptedConnections
from realtime.transport.peer import Peer
from realtime.transport.websocket import WebSocketTransport
from realtime.transport.websocket_endpoint import WebSocketEndpoint
from sticky.handoff.journal import NO_MARK
from sticky.keys.hashing import Key
from sticky.worker.settlement import Settlement
from tests.realtime.transport.wire import HEAD, Sessions, Wire
from tests.support.aio import run_async

PEER = Peer("203.0.113.7", peer_address="10.0.0.1", key=Key(b"c203.0.113.7"))


class Observer:
    """Stands for the primary, and for the keys that are live here."""

    def __init__(self) -> None:
        self.closed_addresses: list[str] = []
        self.left: list[Key | None] = []

    def closed(self, *, peer_address: str) -> None:
        self.closed_addresses.append(peer_address)

    def leave(self, key: Key | None) -> None:
        self.left.append(key)


@run_async
async def test_an_end_is_reported_with_the_peer_address_and_the_key() -> None:
    observer = Observer()
    connections = AdoptedConnections(observer, observer)
    await connections.wait_for_none()
    connections.begin()
    connections.begin()
    connections.ended(PEER)
    assert (connections.open, observer.closed_addresses, observer.left) == (1, ["10.0.0.1"], [PEER.key])
    waiting = asyncio.ensure_future(connections.wait_for_none())
    await asyncio.sleep(0)
    assert not waiting.done()
    connections.ended(Peer(""))
    await waiting
    with pytest.raises(AssertionError, match="ends once"):
        connections.ended(PEER)


@run_async
async def test_a_websocket_reports_its_end_also_where_it_is_the_first_connection_of_a_worker() -> None:
    observer = Observer()
    connections = AdoptedConnections(observer, observer)
    endpoint = WebSocketEndpoint(Sessions(), wheel=TimerWheel(0.0), owner=connections)
    connections.begin()
    transport = WebSocketTransport(endpoint, PEER, HEAD)
    transport.connection_made(Wire())
    transport.connection_lost(None)
    assert (connections.open, observer.left) == (0, [PEER.key])


class Reports:
    """What is reported to the code that settles handoffs. It is a `Settler`."""

    def __init__(self) -> None:
        self.ended: list[Settlement] = []

    def first_byte_was_read(self, settlement: Settlement) -> None:
        raise AssertionError("nothing is read here")

    def connection_has_ended(self, settlement: Settlement) -> None:
        self.ended.append(settlement)


def test_the_end_of_a_connection_settles_its_handoff() -> None:
    observer, reports = Observer(), Reports()
    connections = AdoptedConnections(observer, observer)
    settlement = Settlement(reports, NO_MARK, 0.0)
    connections.begin()
    connections.ended(Peer("", settlement=settlement))
    assert reports.ended == [settlement]
