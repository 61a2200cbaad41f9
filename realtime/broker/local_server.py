"""
The local broker's process: the state of memory.py, served to all workers of one machine over a Unix socket.

Runs beside the workers, as a child of the primary: `python -m realtime.broker.local_server --socket PATH`. It holds
everything in memory and begins with empty streams under new epochs, which is how workers see that it was restarted. It
ends when the primary says so, and when that is gone and the last worker has left. The socket has mode 0600: who may
connect is who may do everything.

A worker whose link ends without a goodbye keeps its members for `LEASE_S`: it may be back in a moment. The primary
hears of a death at once and has the members removed by another worker before that.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import uvloop

from realtime import logs
from realtime.broker.base import (
    ClientInfo,
    ConnectionId,
    Departed,
    Position,
    Publication,
    Retention,
    Room,
    WorkerId,
)
from realtime.broker.framing import LOCAL_STOP_SIGNAL, Framed, frame
from realtime.broker.memory import Member, MemoryState
from realtime.broker.streams import Full
from realtime.timing.rate import Rate

LEASE_S: Final = 6.0
OUTBOUND_MAX: Final = 64 * 1024 * 1024  # bytes that wait for one worker; above it the link is cut and it comes anew
PARENT_S: Final = 1.0

# First element of what is sent to a worker.
REPLY: Final = 0
FAILED: Final = 1
PUBLICATION: Final = 2
JOIN: Final = 3
LEAVE: Final = 4
DEPARTED: Final = 5
REFUSED: Final = 6  # an answer: there is no memory for what was to be kept
STATE: Final = 7  # how much is kept

STATE_S: Final = 5.0  # how often workers are told of it
ROOM_AGAIN: Final = 0.95  # of what may be kept; below it nobody is told any more that it is full

FULL: Final = "! it is full: no more than %d bytes are kept (--broker-memory); what would be more is refused"

logger = logging.getLogger("realtime.broker.local")


class Peer(Framed):
    """One worker's link."""

    def __init__(self, server: LocalBrokerServer) -> None:
        super().__init__()
        self.server = server
        self.worker = WorkerId("")
        self.rooms: set[Room] = set()
        self.said_goodbye = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.server.peers.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.lost(self)

    def received(self, message: list[msgspec.Raw]) -> None:
        operation = msgspec.msgpack.decode(message[0], type=str)
        try:
            answer = OPERATIONS[operation](self.server, self, message[1:])
        except Full:
            self.send([REFUSED, self.server.state.budget.limit])
            self.server.refused()
        except Exception:
            logger.exception("! %s of %s failed", operation, self.worker)
            self.send([FAILED, operation])
        else:
            self.send([REPLY, answer])

    def tell(self, event: bytes) -> None:
        """Send an event's frame, unless the worker is too far behind to be helped."""
        if self.transport.get_write_buffer_size() > OUTBOUND_MAX:
            logger.error("x %s is slow: its link is cut", self.worker)
            self.transport.abort()
            return
        self.send_frame(event)


class LocalBrokerServer:
    """All workers' shared state, and who wants to hear of which room."""

    def __init__(self, limit: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """`limit`: bytes that may be kept."""
        self.state = MemoryState(limit)
        self.peers: set[Peer] = set()
        self._subscribers: dict[Room, set[Peer]] = {}
        self._orphans: set[WorkerId] = set()  # workers that are gone, and whose lasting members nobody could inherit
        self._clock = clock
        self._is_full = False

    # Links

    def lost(self, peer: Peer) -> None:
        """A link is gone; without a goodbye its worker may be back."""
        self.peers.discard(peer)
        for room in list(peer.rooms):
            self._unsubscribe(peer, room)
        if peer.worker and not peer.said_goodbye:
            asyncio.get_running_loop().call_later(LEASE_S, self._end_lease, peer.worker)

    def _end_lease(self, worker: WorkerId) -> None:
        if any(peer.worker == worker for peer in self.peers):
            return
        heir = self._heir()
        departed = self._reap(worker, heir)
        if departed and heir is not None:
            heir.tell(frame([DEPARTED, departed]))

    def _heir(self) -> Peer | None:
        return next((each for each in self.peers if each.worker and not each.said_goodbye), None)

    # Operations. Each takes the arguments as they came.

    def hello(self, peer: Peer, raw: list[msgspec.Raw]) -> None:
        peer.worker = WorkerId(_text(raw[0]))
        peer.tell(frame([STATE, self.statistics()]))
        orphans, self._orphans = self._orphans - {peer.worker}, set()
        inherited = [departed for worker in sorted(orphans) for departed in self._reap(worker, peer)]
        if inherited:
            peer.tell(frame([DEPARTED, inherited]))

    def goodbye(self, peer: Peer, raw: list[msgspec.Raw]) -> None:
        peer.said_goodbye = True
        heir = self._heir()
        inherited = [each for each in self._reap(peer.worker, heir) if each.inherited]
        if heir is not None and inherited:
            heir.tell(frame([DEPARTED, inherited]))

    def subscribe(self, peer: Peer, raw: list[msgspec.Raw]) -> None:
        room = Room(_text(raw[0]))
        peer.rooms.add(room)
        self._subscribers.setdefault(room, set()).add(peer)

    def unsubscribe(self, peer: Peer, raw: list[msgspec.Raw]) -> None:
        self._unsubscribe(peer, Room(_text(raw[0])))

    def _unsubscribe(self, peer: Peer, room: Room) -> None:
        peer.rooms.discard(room)
        subscribers = self._subscribers.get(room)
        if subscribers is not None:
            subscribers.discard(peer)
            if not subscribers:
                del self._subscribers[room]
                self.state.streams.unwatched(room)

    def publish(self, peer: Peer, raw: list[msgspec.Raw]) -> Any:
        room = Room(_text(raw[0]))
        publication = msgspec.msgpack.decode(raw[1], type=Publication)
        retention = msgspec.msgpack.decode(raw[2], type=Retention)
        key = msgspec.msgpack.decode(raw[3], type=str | None)
        ttl_s = msgspec.msgpack.decode(raw[4], type=float)
        published, told = self.state.publish(self._clock(), room, publication, retention, key, ttl_s)
        if told is not None:
            self._tell(room, [PUBLICATION, room, told])
        return published

    def position(self, peer: Peer, raw: list[msgspec.Raw]) -> Any:
        retention = msgspec.msgpack.decode(raw[1], type=Retention)
        return self.state.position(self._clock(), Room(_text(raw[0])), retention)

    def positions(self, peer: Peer, raw: list[msgspec.Raw]) -> Any:
        rooms = [Room(room) for room in msgspec.msgpack.decode(raw[0], type=list[str])]
        return self.state.positions(self._clock(), rooms)

    def history(self, peer: Peer, raw: list[msgspec.Raw]) -> Any:
        retention = msgspec.msgpack.decode(raw[1], type=Retention)
        since = msgspec.msgpack.decode(raw[2], type=Position | None)
        limit = msgspec.msgpack.decode(raw[3], type=int)
        reverse, begin = [msgspec.msgpack.decode(each, type=bool) for each in raw[4:6]]
        return self.state.history(self._clock(), Room(_text(raw[0])), retention, since, limit, reverse, begin)

    def forget_history(self, peer: Peer, raw: list[msgspec.Raw]) -> None:
        self.state.forget_history(Room(_text(raw[0])))

    def add_member(self, peer: Peer, raw: list[msgspec.Raw]) -> None:
        """
        Add a member. `announce`: its join is told, and its leave will be. `quietly`: the join only where nobody was
        there by that id. `loose`: leave it alone where another worker has it.
        """
        room, info = Room(_text(raw[0])), msgspec.msgpack.decode(raw[1], type=ClientInfo)
        announce, quietly, lasting, loose = [msgspec.msgpack.decode(each, type=bool) for each in raw[2:6]]
        owner = self.state.owner(room, ConnectionId(info.connection_id))
        if loose and owner not in (None, peer.worker):
            return
        if not quietly:
            self.state.admit_member(self._clock(), room, info)
        self.state.add_member(room, Member(peer.worker, info, announce, lasting))
        if announce and (owner is None or not quietly):
            self._tell(room, [JOIN, room, info])

    def remove_member(self, peer: Peer, raw: list[msgspec.Raw]) -> int | None:
        room = Room(_text(raw[0]))
        announce, mine = [msgspec.msgpack.decode(each, type=bool) for each in raw[2:4]]
        info = self.state.remove_member(room, ConnectionId(_text(raw[1])), peer.worker if mine else None)
        if info is not None and announce:
            self._tell(room, [LEAVE, room, info])
        return None if info is None else self.state.count(room)

    def members(self, peer: Peer, raw: list[msgspec.Raw]) -> Any:
        return self.state.members(Room(_text(raw[0])))

    def member_counts(self, peer: Peer, raw: list[msgspec.Raw]) -> Any:
        return self.state.member_counts(Room(_text(raw[0])))

    def reap(self, peer: Peer, raw: list[msgspec.Raw]) -> Any:
        return self._reap(WorkerId(_text(raw[0])), peer)

    def members_page(self, peer: Peer, raw: list[msgspec.Raw]) -> Any:
        return self.state.members_page(Room(_text(raw[0])), _text(raw[1]), msgspec.msgpack.decode(raw[2], type=int))

    def allow(self, peer: Peer, raw: list[msgspec.Raw]) -> Any:
        rate = msgspec.msgpack.decode(raw[2], type=Rate)
        return self.state.allow(self._clock(), Room(_text(raw[0])), _text(raw[1]), rate)

    def workers(self, peer: Peer, raw: list[msgspec.Raw]) -> Any:
        return sorted({each.worker for each in self.peers if each.worker})

    def _reap(self, worker: WorkerId, heir: Peer | None) -> list[Departed]:
        reaped = self.state.reap(worker, None if heir is None or heir.worker == worker else heir.worker)
        for departed in reaped:
            if departed.announce and not departed.inherited:
                self._tell(departed.room, [LEAVE, departed.room, departed.info])
        if self.state.has_members(worker):
            self._orphans.add(worker)
        return reaped

    def _tell(self, room: Room, event: Any) -> None:
        peers = self._subscribers.get(room)
        if peers:
            framed = frame(event)
            for peer in tuple(peers):
                peer.tell(framed)

    # Memory

    def refused(self) -> None:
        """Say it, the first time and to all workers: there is no memory for what was to be kept."""
        if not self._is_full:
            self._is_full = True
            logger.error(FULL, self.state.budget.limit)
            self._tell_state()

    def _tell_state(self) -> None:
        budget = self.state.budget
        if self._is_full and budget.limit is not None and budget.held <= ROOM_AGAIN * budget.limit:
            self._is_full = False
            logger.warning("= there is room again: %d of %d bytes are kept", budget.held, budget.limit)
        framed = frame([STATE, self.statistics()])
        for peer in tuple(self.peers):
            if peer.worker:
                peer.tell(framed)

    async def sweep_forever(self) -> None:
        """Forget what has expired, and tell the workers how much is kept."""
        sweep_at = self._clock()
        while True:
            if (now := self._clock()) >= sweep_at:
                sweep_at = now + self.state.sweep_in_time(now)
            self._tell_state()
            await asyncio.sleep(STATE_S)

    def statistics(self) -> dict[str, int]:
        return {
            "workers": len(self.peers),
            "subscribed": len(self._subscribers),
            "is_full": int(self._is_full),
            **self.state.statistics(),
        }


def _text(raw: msgspec.Raw) -> str:
    return msgspec.msgpack.decode(raw, type=str)


OPERATIONS: Final[dict[str, Callable[[LocalBrokerServer, Peer, list[msgspec.Raw]], Any]]] = {
    "hello": LocalBrokerServer.hello,
    "goodbye": LocalBrokerServer.goodbye,
    "subscribe": LocalBrokerServer.subscribe,
    "unsubscribe": LocalBrokerServer.unsubscribe,
    "publish": LocalBrokerServer.publish,
    "position": LocalBrokerServer.position,
    "positions": LocalBrokerServer.positions,
    "history": LocalBrokerServer.history,
    "forget_history": LocalBrokerServer.forget_history,
    "add_member": LocalBrokerServer.add_member,
    "remove_member": LocalBrokerServer.remove_member,
    "members": LocalBrokerServer.members,
    "member_counts": LocalBrokerServer.member_counts,
    "members_page": LocalBrokerServer.members_page,
    "reap": LocalBrokerServer.reap,
    "allow": LocalBrokerServer.allow,
    "workers": LocalBrokerServer.workers,
}


async def serve(path: str, ready_fd: int | None, memory: int | None = None) -> None:
    """
    Serve until the primary says that it is enough, or until it and every worker are gone. TERM ends only an orphan:
    where it is sent to all processes of a service at once, workers that drain still need their rooms.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(LOCAL_STOP_SIGNAL, ended.set)
    parent = os.getppid()

    def on_term() -> None:
        if os.getppid() != parent:
            ended.set()

    loop.add_signal_handler(signal.SIGTERM, on_term)
    server = LocalBrokerServer(memory)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # of a broker that was killed
    before = os.umask(0o177)
    try:
        listener = await loop.create_unix_server(lambda: Peer(server), path)
    finally:
        os.umask(before)
    if ready_fd is not None:
        os.write(ready_fd, b"\n")
        os.close(ready_fd)
    sweeping = loop.create_task(server.sweep_forever())
    while not ended.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), PARENT_S)
        if os.getppid() != parent and not server.peers:
            break
    sweeping.cancel()
    listener.close()
    for peer in tuple(server.peers):
        peer.transport.close()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def main() -> None:
    """Be the local broker."""
    parser = argparse.ArgumentParser(prog="realtime.broker.local_server")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--memory", type=int)
    arguments = parser.parse_args()
    logs.set_up("broker")
    uvloop.run(serve(arguments.socket, arguments.ready_fd, arguments.memory))


if __name__ == "__main__":
    main()
