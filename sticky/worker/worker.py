"""
The worker's end of the handoff: adopts connections, keeps up the heartbeat, and ends when it should.

Runs in the worker, on its asyncio loop (uvloop or the standard one). It reads no byte of a connection: the server that
`on_connection` stands for does.

A worker ends in one of three ways:

- The primary sends DRAIN. Then `on_drain` moves the clients elsewhere.
- The primary is lost. Then the worker serves what it has, for at most `orphan_grace_s`, and drains.
- The worker cannot boot: `boot_failed`.

**Holders of a descriptor.** The primary keeps its copy until the worker reports the connection as settled
(acknowledgements.py). If this process dies before, the primary can still help the client (dispatcher.py says how).
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NoReturn

from sticky.errors import NotAWorker
from sticky.handoff import messages
from sticky.handoff.blame import key_of
from sticky.handoff.channel import (
    CARRIED_MAX,
    Channel,
    ChannelClosed,
    Kind,
    Received,
    Unreadable,
    close_all,
    connection_from,
)
from sticky.handoff.journal import NO_JOURNAL, NO_MARK, Journal
from sticky.handoff.messages import DATA_DEPTH_MAX, NAME_MAX, READINESS, REFUSED, TEXT_MAX, from_primary, is_shallow
from sticky.handoff.orphan_report import VERSION, OrphanReport
from sticky.keys.affinity import Affinity, AffinitySettings
from sticky.keys.hashing import Hashing, Slot, StickyId
from sticky.loop.timers import Timers
from sticky.worker import stacks
from sticky.worker.acknowledgements import Acknowledgements
from sticky.worker.adopted import Adopted, adopted_of
from sticky.worker.boot import receive_boot
from sticky.worker.ended_report import EndedReport
from sticky.worker.handlers import Handlers, answer_refused, encodable, guard
from sticky.worker.heartbeat import MOVING_BEAT_S, Heartbeat
from sticky.worker.identity_report import IdentityReport
from sticky.worker.key_report import KeyReport
from sticky.worker.moves import Moves, Moving
from sticky.worker.node_state import NodeState
from sticky.worker.orphanhood import Orphanhood
from sticky.worker.primary_link import PrimaryLink
from sticky.worker.routes import Routes
from sticky.worker.staying import Staying

NOT_ADOPTED_LINE: Final = 'handoff rejected handoff=%d reason="it could not be adopted"'
NO_DESCRIPTOR_LINE: Final = 'handoff rejected handoff=%d reason="out of file descriptors (ulimit -n)"'
UNREADABLE_LINE: Final = 'primary condemned reason="a message cannot be read: %s"'
ORPHANED_LINE: Final = "primary lost connections=%d grace_s=%g"
ADOPTED_LINE: Final = "primary found connections=%d"

logger = logging.getLogger("sticky.worker")


def _no_statistics() -> Mapping[str, Any]:
    return {}


class Worker:
    """This process, as the primary knows it."""

    def __init__(
        self, channel: Channel, boot: dict[str, Any], journal: Journal = NO_JOURNAL, *, timers: Timers | None = None
    ) -> None:
        """
        Args:
            channel: to the primary. The worker owns it from here on.
            boot: what the BOOT message says.
            journal: where requests in flight are noted, for the case of a crash.
            timers: of acknowledgements and reports; the running event loop's unless given.

        Raises:
            LookupError, TypeError, ValueError: `boot` is incomplete or wrong.
        """
        self.slot = Slot(boot["slot"])
        self.slots: int = boot["slots"]
        self.worker_id: str = boot["worker_id"]
        self.node: str = boot["node"]
        self.generation: int = boot["generation"]
        self.config: Any = boot["config"]
        self.node_state = NodeState()
        """What the primary said of the whole server, for the answers to a load balancer's probes."""
        self.open = 0
        """Adopted connections that have not ended."""
        self._adopted = 0  # connections ever adopted
        self._heartbeat_s: float = boot["heartbeat_s"]
        hashing = Hashing(boot["secret"], previous=boot.get("secret_previous"))  # None of a primary before this field
        self._affinity = Affinity(AffinitySettings.from_builtins(boot["affinity"]), hashing)
        self._journal = journal
        self._channel = channel
        self._link = PrimaryLink(channel)
        self._acknowledgements = Acknowledgements(self._link, timers)
        self._ended_report = EndedReport(self._link, timers)
        self._key_report = KeyReport(self._link, self._acknowledgements)
        self._identity_report = IdentityReport(self._link, self._acknowledgements)
        self._orphanhood = Orphanhood(
            boot.get("directory", ""),
            OrphanReport(VERSION, self.worker_id, boot.get("terms", ""), self.node, boot["secret"]),
            grace_s=boot["orphan_grace_s"],
            on_over=self._begin_drain,
        )
        self.routes = Routes(self._affinity, hashing, self.slot, report=self._key_report)
        self.staying = Staying(self.routes, self._key_report, is_heard=bool(boot.get("hears_keys_stay")))
        self.moves = Moves(
            self.slot, self._affinity, hashing, self.routes, journal, self._ended_report, self._key_report, self._count
        )
        self._drain = asyncio.Event()
        self._drain_s = 0.0

    def _count(self, more: int, peer_address: str) -> None:
        """Count connections that came from another worker; -1 where one was refused after all."""
        self.open += more
        (self._identity_report.opened if more > 0 else self._identity_report.closed)(peer_address)

    @property
    def orphaned(self) -> bool:
        """Whether the primary is lost."""
        return self._link.is_lost

    # Coming up

    @classmethod
    async def connect(cls) -> Worker:
        """
        Take over the channel to the primary and learn which worker this is. You must call `run` or `boot_failed` next.

        Raises:
            NotAWorker: no primary started this process.
        """
        channel, about, journal = receive_boot()
        faulthandler.register(signal.SIGUSR2, all_threads=True)  # the primary requests the stacks of a hung worker
        global _this
        try:
            _this = cls(channel, about, journal)
        except (LookupError, TypeError, ValueError) as error:
            raise NotAWorker(f"the BOOT message of the primary cannot be used: {error!r}") from error
        return _this

    def ready(self) -> None:
        """Report that connections may come. You must call `run` in the same turn of the loop."""
        self._link.send(Kind.READY)

    def boot_failed(self, text: str) -> NoReturn:
        """
        Report why this worker cannot serve, and end the process with status 3.

        Args:
            text: the reason, such as a traceback. The primary shows it once.
        """
        self._link.send(Kind.BOOT_FAILED, encodable(text[-TEXT_MAX:]))
        sys.exit(messages.EXIT_BOOT)

    # Serving

    async def run(
        self,
        *,
        on_connection: Callable[[Adopted], object],
        on_drain: Callable[[float], Awaitable[None]],
        on_message: Callable[[str, Any], object] | None = None,
        on_event: Callable[[str, dict[str, Any]], object] | None = None,
        on_refused: Callable[[Adopted], object] | None = None,
        moving: Moving | None = None,
        statistics: Callable[[], Mapping[str, Any]] = _no_statistics,
    ) -> None:
        """
        Serve until this worker has to end, and has drained.

        Args:
            on_connection: takes over a connection, and calls `closed` with it when it has ended. It must not read from
                the socket in this turn of the loop. What it raises is logged, and another worker gets the connection.
            on_drain: moves the clients elsewhere, within so many seconds. It begins when every adopted connection was
                read (`Adopted.first_byte_read`), or has had `acknowledgements.UNREAD_MAX_S` for it.
            on_message: gets the messages of other processes: the sender ("primary" or "slot:3") and the data.
            on_event: gets the events of other workers: "online" and "exit", each with their `slot` and `worker_id`.
            on_refused: as `on_connection`, for a connection that has to be refused in its own protocol, because its
                client's requests have crashed workers. By default it gets 503. The primary refuses plain HTTP itself.
            moving: moves connections to other workers and takes them over from there; without it none moves.
            statistics: returns plain data for `status`, at each heartbeat.
        """
        loop = asyncio.get_running_loop()
        handlers = Handlers(on_connection, on_refused, on_message, on_event)
        self.moves.serve(moving)
        loop.add_signal_handler(signal.SIGTERM, self._link.send, Kind.RETIRE)
        loop.add_reader(self._channel.fileno(), self._on_readable, handlers)
        beating = loop.create_task(self._beat_forever(Heartbeat(self._link, statistics)))
        try:
            await self._drain.wait()
            await self._acknowledgements.wait_until_read()
            await on_drain(self._drain_s)
        finally:
            beating.cancel()
            self._orphanhood.end()
            await self.moves.close()
            loop.remove_signal_handler(signal.SIGTERM)
            if not self.orphaned:
                loop.remove_reader(self._channel.fileno())
            self._acknowledgements.settle_all()
            self._channel.close()

    def closed(self, adopted: Adopted | None = None, *, peer_address: str = "") -> None:
        """
        Report that one adopted connection has ended.

        Args:
            adopted: the connection, if the caller has kept it. Its key is released. Without it the caller has to call
                `LiveKeys.leave` and `Settlement.ended`. Otherwise a key that is away stays here until this worker has
                no connection at all, and a close soon after the adoption reaches the client late.
            peer_address: the connection's, from a caller that has not kept `adopted`. Without either, the primary does
                not know how many connections an address has, and counts none of this worker's connections.
        """
        if adopted is not None:
            peer_address = adopted.peer_address
            adopted.settlement.ended()
            self.routes.keys.leave(adopted.key)
        self.open -= 1
        assert self.open >= 0, "a connection ends once"
        if not self.open:
            self.routes.keys.leave_all()
        self._identity_report.closed(peer_address)
        self._ended_report.add(peer_address)
        self._ended_report.schedule()
        if self.orphaned and not self.open and not self._orphanhood.may_end_well:
            self._begin_drain(0)

    def give_back(self, fd: int, peer_address: str, port: int, received: bytes, is_relayed: bool = False) -> bool:
        """
        Give a connection to the worker to which its next request belongs, through the primary.

        Nothing may be in flight on it in either direction: the last response has left this process, and no task reads.
        The caller keeps its descriptor, and must close it without sending anything.

        Args:
            fd: the connection.
            peer_address: as `Adopted.peer_address`.
            port: the peer's port.
            received: what was read of the next request: its whole head at least, and everything after it.
            is_relayed: the client's TLS connection stays here, or in a third worker, and its bytes are relayed.

        Returns:
            False when the channel is full or gone, or too much was read: try again, or serve the request here.
        """
        if self.orphaned or len(received) > CARRIED_MAX or not self._acknowledgements.settle_all():
            return False
        return self._link.send(Kind.GIVE_BACK, peer_address, port, is_relayed, fd=fd, carried=received)

    def send(self, to: str, data: Any) -> bool:
        """
        Send plain data to "primary", "all" or "slot:3". Return False when the channel is full or gone: nothing waits.

        Raises:
            ValueError: the data is too large or nested too deep, or `to` is no such name.
        """
        if len(to) > NAME_MAX or not is_shallow(data):
            raise ValueError(f"a name has up to {NAME_MAX} characters, and data is nested up to {DATA_DEPTH_MAX} deep")
        return self._link.send(Kind.MESSAGE, to, data)

    # Messages of the primary

    def _on_readable(self, handlers: Handlers) -> None:
        try:
            received = self._channel.receive()
        except ChannelClosed:
            self._lose_primary(handlers)
            return
        handled = 0
        try:
            for message in received:
                handled += 1
                if isinstance(message, Unreadable):
                    self._distrust_primary(message.reason, handlers)
                    return
                self._handle(message, handlers)
        finally:
            close_all(each.fd for each in received[handled:] if isinstance(each, Received))
        self._acknowledgements.acknowledge()

    def _handle(self, received: Received, handlers: Handlers) -> None:
        message = received.message
        if isinstance(message, messages.Handoff):
            if received.fd is None:
                self._reject(message)
            elif self.staying.is_over:
                os.close(received.fd)
                self._acknowledgements.reject(message.number)
            else:
                self._adopt(message, received.fd, received.carried, handlers)
        elif isinstance(message, messages.Drain):
            self._begin_drain(message.deadline_s)
        elif isinstance(message, messages.Identify):
            self._identity_report.answer(adopted=self._adopted, connections=self.open, is_draining=self._drain.is_set())
            self.staying.report()
        elif isinstance(message, messages.Inspect):
            self._link.send(Kind.INSPECTED, encodable(stacks.describe()[:TEXT_MAX]))
        elif isinstance(message, messages.Slots):
            self.routes.some_are_elsewhere = message.some_are_elsewhere
            self.moves.slots = message.slots
            if message.request:  # 0 requests nothing
                self._key_report.answer(self.routes, message.slots, message.request)
        elif isinstance(message, messages.Peer):
            self.moves.introduced(message, received.fd)
        elif isinstance(message, messages.ClusterEvent):
            self._handle_event(message, handlers)
        elif isinstance(message, messages.Sent) and handlers.on_message is not None:
            guard(handlers.on_message, message.name, message.data)

    def _handle_event(self, message: messages.ClusterEvent, handlers: Handlers) -> None:
        if message.name == REFUSED:
            guard(self.routes.refuse, message.about["key"], message.about["for_s"])
            return
        if message.name == READINESS:
            guard(self.node_state.learn, message.about)
            return
        self.routes.forget()
        if handlers.on_event is not None:
            guard(handlers.on_event, message.name, message.about)

    def _adopt(self, message: messages.Handoff, fd: int, received: bytes, handlers: Handlers) -> None:
        """Make a connection of a handoff and give it to its handler. What fails goes to another worker."""
        try:
            sock = connection_from(fd)
        except OSError:
            logger.exception(NOT_ADOPTED_LINE, message.number)
            self._acknowledgements.reject(message.number)
            return
        sock.setblocking(False)
        self._adopted += 1
        self.open += 1
        self._identity_report.opened(message.peer_address)
        is_refused = message.reason == REFUSED
        key = settlement = None
        try:
            crash_key = key_of(self._affinity, message.address, message.sticky_id)
            mark = NO_MARK if is_refused else self._journal.open(crash_key)
            settlement = self._acknowledgements.adopted(message.number, mark, is_raw=message.kind == "raw")
            key = self.routes.key_of(message.address, message.sticky_id)
            held_key = None if is_refused else key
            adopted = adopted_of(message, sock, received, mark=mark, key=held_key, settlement=settlement)
            self.routes.keys.enter(key, away=message.away)
            if is_refused:
                self.routes.keys.leave(key)  # it is not served, so it keeps no key here
                self._refuse(adopted, handlers)
                return
            self.routes.learn(adopted.address, adopted.sticky_id)
            handlers.on_connection(adopted)
        except Exception:
            logger.exception(NOT_ADOPTED_LINE, message.number)
            self.open -= 1
            self._identity_report.closed(message.peer_address)
            self._acknowledgements.reject(message.number, settlement)
            self.routes.keys.leave(key)
            sock.close()

    def _refuse(self, adopted: Adopted, handlers: Handlers) -> None:
        if handlers.on_refused is not None:
            handlers.on_refused(adopted)
            return
        answer_refused(adopted)
        self.closed(adopted)

    def _reject(self, message: messages.Handoff) -> None:
        """Reject a connection for whose descriptor this process had no room. The primary has kept its copy."""
        logger.error(NO_DESCRIPTOR_LINE, message.number)
        self._acknowledgements.reject(message.number)
        if message.away:  # the primary has noted its key as live here: report that it is not
            key = self.routes.key_of(message.address, message.sticky_id)
            self.routes.keys.enter(key, away=True)
            self.routes.keys.leave(key)

    async def _beat_forever(self, heartbeat: Heartbeat) -> None:
        """Send a heartbeat at each interval, and with it every report that had found no room in the channel."""
        while True:  # without a primary each of these does nothing, and keeps what it has
            self._ended_report.retry()
            heartbeat.beat(self.open, self._adopted)
            self._acknowledgements.acknowledge()
            self._key_report.send(self.routes)
            self._identity_report.send()
            await asyncio.sleep(min(self._heartbeat_s, MOVING_BEAT_S) if self.moves.receives else self._heartbeat_s)

    # Ending

    def _distrust_primary(self, reason: str, handlers: Handlers) -> None:
        """
        Treat the primary as gone. It sees the channel end, and brings to other workers what was on its way here. The
        connections that are here are served for a while.
        """
        logger.error(UNREADABLE_LINE, reason)
        self._lose_primary(handlers)
        self._channel.close()

    def _lose_primary(self, handlers: Handlers) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._channel.fileno())
        self._link.lose()
        logger.warning(ORPHANED_LINE, self.open, self._orphanhood.grace_s)
        if self.open or self._orphanhood.may_end_well:
            self._orphanhood.begin(lambda sock: self._found_primary(sock, handlers))
        else:
            self._begin_drain(0)

    def _found_primary(self, sock: socket.socket, handlers: Handlers) -> None:
        """Go on with another primary, which asks next what this worker has (IDENTIFY), or has it drain."""
        assert self.orphaned, "a worker has one primary at a time"
        logger.warning(ADOPTED_LINE, self.open)
        self._channel.close()
        self._channel = Channel(sock, from_primary)
        self._link.found(self._channel)
        asyncio.get_running_loop().add_reader(sock.fileno(), self._on_readable, handlers)

    def _begin_drain(self, drain_s: float) -> None:
        """Have `run` drain within so many seconds. The first caller decides, for draining begins once."""
        if not self._drain.is_set():
            self._drain_s = drain_s
            self._drain.set()


_this: Worker | None = None


def new_sticky_id() -> StickyId:
    """
    Make a sticky id that leads back to this worker's slot, for an application or a library that makes its own ids.

    Raises:
        NotAWorker: no primary started this process.
    """
    if _this is None:
        raise NotAWorker("a sticky id leads to a worker, and this process is none")
    return _this.routes.new_sticky_id()
