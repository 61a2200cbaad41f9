"""
The worker's end: adopts connections, answers for its event loop, and ends when it should.

Runs in the worker, on its asyncio loop (uvloop or the standard one). It reads no byte of a connection: that is for
whoever `on_connection` gives it to. A worker is in one of three ways to its end: the primary says drain, the primary is
gone (then it goes on serving what it has, see `orphan_grace_s`), or it could not boot.

**Who holds a descriptor.** The primary keeps its copy until it hears that the connection is settled; should this
process die before, it can still help the client (handoff.py says how). An ACK carries two numbers, each for every
connection up to it: adopted, said in the turn of the loop in which `on_connection` returned, while reading starts in a
later turn at the earliest; and settled, some turns later, by when a request that had arrived with the connection is
read and, by most applications, answered. Nobody hears the end of a connection before both copies are closed: so those
turns are few.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import itertools
import logging
import os
import select
import signal
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from sticky import messages, stacks
from sticky.affinity import Affinity, AffinitySettings
from sticky.away import short
from sticky.blame import key_of
from sticky.channel import CARRIED_MAX, Channel, ChannelClosed, Kind, Received, Unreadable, close_all, connection_from
from sticky.errors import NotAWorker
from sticky.hashing import Hashing, Key, Slot, StickyId
from sticky.journal import ADOPTING, NO_JOURNAL, NO_MARK, Journal, Mark
from sticky.live_keys import REPORT_KEYS
from sticky.messages import DATA_DEPTH_MAX, NAME_MAX, REFUSED, TEXT_MAX, from_primary, is_plain, is_shallow
from sticky.routes import Routes

CHANNEL_FD: Final = "STICKY_CHANNEL_FD"
EXIT_BOOT: Final = 3  # cannot boot: starting it again at once would not help
BOOT_WAIT_S: Final = 30.0
SETTLE_TURNS: Final = 8  # asyncio needs 4 from the descriptor to the first byte read, and an application a few more
ENDED_S: Final = 0.05  # between the end of a connection and the report of it, with those that end meanwhile
ENDED_MAX: Final = 1024  # peers in one report

_REFUSAL: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

logger = logging.getLogger("sticky.worker")


@dataclass(frozen=True, slots=True)
class Adopted:
    """One connection, and what the primary found out about it. Whoever is given it owns `sock`."""

    sock: socket.socket
    address: str
    client_port: int
    scheme: str  # "http" or "https"
    kind: str  # "http", "tls" or "raw"
    method: str  # of the first request, like `path` and `upgrade`; empty unless `kind` is "http"
    path: str
    upgrade: bool
    sticky_id: StickyId | None  # the id that routed it
    new_sticky_id: StickyId | None  # the id to set as a cookie: it leads back here
    reason: str  # why this slot
    peer_address: str  # the address at the other end of the socket, or in its PROXY header
    received: bytes = b""  # bytes taken from the socket already, to be read before it
    mark: Mark = NO_MARK  # by which the primary knows, after a crash, on which connections a request was in flight
    key: Key | None = None  # what was hashed; it is live here until somebody says `closed`, or `LiveKeys.leave`


def _nothing() -> Mapping[str, Any]:
    return {}


class Worker:
    """This process, as the primary knows it."""

    def __init__(self, channel: Channel, boot: dict[str, Any], journal: Journal = NO_JOURNAL) -> None:
        self.slot = Slot(boot["slot"])
        self.slots: int = boot["slots"]
        self.worker_id: str = boot["worker_id"]
        self.node: str = boot["node"]
        self.generation: int = boot["generation"]
        self.config: Any = boot["config"]
        self.load: Callable[[], Mapping[str, Any]] = _nothing
        self.orphaned = False
        self._load_failed = False  # and the log has it
        self.open = 0  # adopted connections that have not ended
        self._ended: dict[str, int] = {}  # connections of each peer that have, and are not reported yet
        self._reporting: asyncio.TimerHandle | None = None
        self._adopted = 0
        self._settled = 0  # number of the last connection that the primary may forget
        self._acked = (0, 0)
        self._nacks: list[int] = []  # connections that another worker has to take; not said yet
        self._seen = 0  # number of the last connection that was adopted
        self._heartbeat_s: float = boot["heartbeat_s"]
        self._orphan_grace_s: float = boot["orphan_grace_s"]
        hashing = Hashing(boot["secret"])
        self._affinity = Affinity(AffinitySettings.from_builtins(boot["affinity"]), hashing)
        self.routes = Routes(self._affinity, hashing, self.slot)
        self.routes.keys.on_ended = self._report_keys
        self._reports: deque[tuple[Any, ...]] = deque()  # answers to SLOTS that are not said yet
        self._journal = journal
        self._adopting: list[Mark] = []  # connections that were adopted in this turn
        self._channel = channel
        self._drain_s: asyncio.Future[float] | None = None

    # Coming up

    @classmethod
    async def connect(cls) -> Worker:
        """
        Take up the channel to the primary and learn who this worker is. The caller owes `run` or `boot_failed`.

        Raises:
            NotAWorker: no primary started this process.
        """
        text = os.environ.pop(CHANNEL_FD, "")
        if not text.isdecimal():
            raise NotAWorker(f"{CHANNEL_FD} is not set")
        try:
            sock = socket.socket(fileno=int(text))
        except OSError as error:
            raise NotAWorker(f"{CHANNEL_FD} names no socket ({error.strerror})") from error
        sock.set_inheritable(False)  # not for the children of the application
        channel = Channel(sock, from_primary)
        poll = select.poll()  # select() knows no descriptor above 1023, and the channel may be one
        poll.register(sock, select.POLLIN)
        if not poll.poll(BOOT_WAIT_S * 1000):
            raise NotAWorker("the primary says nothing")
        try:
            first = channel.receive()[0]
        except ChannelClosed:
            raise NotAWorker("the primary is gone") from None
        if isinstance(first, Unreadable) or not isinstance(first.message, messages.Boot):
            raise NotAWorker(f"the primary does not begin with BOOT: {first}")
        faulthandler.register(signal.SIGUSR2, all_threads=True)  # the primary asks a hung worker for its stacks
        global _this
        try:
            _this = cls(channel, first.message.about, Journal.take(first.fd))
        except (LookupError, TypeError, ValueError) as error:
            raise NotAWorker(f"what the primary says first cannot be read: {error!r}") from error
        return _this

    def ready(self) -> None:
        """Tell the primary that connections may come. `run` has to follow in the same turn."""
        self._send(Kind.READY)

    def boot_failed(self, text: str) -> NoReturn:
        """Tell the primary why this worker cannot serve, and end the process with status 3."""
        self._send(Kind.BOOT_FAILED, _encodable(text[-TEXT_MAX:]))
        sys.exit(EXIT_BOOT)

    # Serving

    async def run(
        self,
        *,
        on_connection: Callable[[Adopted], None],
        on_drain: Callable[[float], Awaitable[None]],
        on_message: Callable[[str, Any], None] | None = None,
        on_event: Callable[[str, dict[str, Any]], None] | None = None,
        on_refused: Callable[[Adopted], None] | None = None,
    ) -> None:
        """
        Serve until this worker has to end, and has drained.

        Args:
            on_connection: takes over a connection; calls `closed` with it when it has ended. What it raises is
                logged, and the connection goes to another worker. It must not read from the socket in this turn of the
                loop.
            on_drain: brings the clients elsewhere, within so many seconds. It begins some turns of the loop after the
                last connection came: what had arrived with that one is read by then.
            on_message: told of messages by `send`: who sent it ("primary" or "slot:3"), and what.
            on_event: told of other workers: "online" and "exit", each with their `slot` and `worker_id`.
            on_refused: as `on_connection`, for a connection that is to be told, in its own protocol, that it cannot be
                served now: its requests have crashed workers. Unless given it is answered 503. The primary answers the
                others itself.
        """
        loop = asyncio.get_running_loop()
        self._drain_s = loop.create_future()
        self._on_connection, self._on_message, self._on_event = on_connection, on_message, on_event
        self._on_refused = on_refused or self._answer_refused
        loop.add_signal_handler(signal.SIGTERM, self._send, Kind.RETIRE)
        loop.add_reader(self._channel.fileno(), self._on_readable)
        beating = loop.create_task(self._beat_forever())
        try:
            deadline_s = await self._drain_s
            for _ in range(SETTLE_TURNS):
                await asyncio.sleep(0)
            await on_drain(deadline_s)
        finally:
            beating.cancel()
            loop.remove_signal_handler(signal.SIGTERM)
            if not self.orphaned:
                loop.remove_reader(self._channel.fileno())
            self._settle(self._seen)
            self._channel.close()

    def closed(self, adopted: Adopted | None = None, *, peer_address: str = "") -> None:
        """
        Tell that one adopted connection has ended.

        Args:
            adopted: which one. It releases the connection's key; without it `LiveKeys.leave` has to, else a key that is
                away stays until no connection at all is left here.
            peer: its `peer`, from a caller that does not keep `adopted`. Without either, the primary cannot know how
                many connections an address has, and counts none that this worker has.
        """
        if adopted is not None:
            peer_address = adopted.peer_address
            self.routes.keys.leave(adopted.key)
        self.open -= 1
        assert self.open >= 0, "a connection ends once"
        if not self.open:
            self.routes.keys.leave_all()
        self._ended[peer_address] = self._ended.get(peer_address, 0) + 1
        if self._reporting is None and not self.orphaned:
            self._reporting = asyncio.get_running_loop().call_later(ENDED_S, self._report_ended)
        if self.orphaned and not self.open:
            self._end(0)

    def give_back(self, fd: int, peer_address: str, port: int, received: bytes) -> bool:
        """
        Give a connection to the worker to which its next request belongs, through the primary.

        Nothing may be under way on it in either direction: the last answer has left this process, and nobody reads.
        The descriptor stays the caller's, who closes it without a word to the client.

        Args:
            fd: the connection.
            peer: as `Adopted.peer`.
            port: as `Adopted.client_port`.
            received: what was read of the next request, its whole head at least, and everything after it.

        Returns:
            False when the channel is full or gone, or too much was read: try again, or serve the request here.
        """
        if self.orphaned or len(received) > CARRIED_MAX or not self._settle(self._seen):
            return False
        try:
            return self._channel.send(Kind.GIVE_BACK, peer_address, port, fd=fd, carried=received)
        except ChannelClosed:
            return False

    def send(self, to: str, data: Any) -> bool:
        """
        Send plain data to "primary", "all" or "slot:3". Return False when the channel is full or gone: nothing waits.

        Raises:
            ValueError: it is too large, or nested too deep; or `to` is no such name.
        """
        if len(to) > NAME_MAX or not is_shallow(data):
            raise ValueError(f"a name has up to {NAME_MAX} characters, and data is nested up to {DATA_DEPTH_MAX} deep")
        return self._send(Kind.MESSAGE, to, data)

    def _on_readable(self) -> None:
        try:
            received = self._channel.receive()
        except ChannelClosed:
            self._lose_primary()
            return
        taken = 0
        try:
            for message in received:
                taken += 1
                if isinstance(message, Unreadable):
                    self._distrust_primary(message.reason)
                    return
                self._handle(message)
        finally:
            close_all(each.fd for each in received[taken:] if isinstance(each, Received))
        self._acknowledge()
        if self._seen > self._settled or self._adopting:
            marks, self._adopting = self._adopting, []
            asyncio.get_running_loop().call_soon(self._settle_later, self._seen, marks, SETTLE_TURNS)

    def _settle_later(self, number: int, marks: list[Mark], turns: int) -> None:
        if turns > 1:
            asyncio.get_running_loop().call_soon(self._settle_later, number, marks, turns - 1)
            return
        for mark in marks:
            mark.end(ADOPTING)
        self._settle(number)

    def _settle(self, number: int) -> bool:
        """Have the primary forget every connection up to a number. Return False when it cannot be told now."""
        self._settled = max(number, self._settled)
        return self._acknowledge()

    def _handle(self, received: Received) -> None:
        message = received.message
        if isinstance(message, messages.Handoff):
            if received.fd is None:
                self._pass_up(message)
            else:
                self._adopt(message, received.fd, received.carried)
        elif isinstance(message, messages.Drain):
            self._end(message.deadline_s)
        elif isinstance(message, messages.Inspect):
            self._send(Kind.INSPECTED, _encodable(stacks.describe()[:TEXT_MAX]))
        elif isinstance(message, messages.Slots):
            self._slots_changed(message.slots, message.question, message.some_are_elsewhere)
        elif isinstance(message, messages.Event):
            if message.name == REFUSED:
                self._guard(self.routes.refuse, message.about["key"], message.about["for_s"])
                return
            self.routes.forget()
            if self._on_event is not None:
                self._guard(self._on_event, message.name, message.about)
        elif isinstance(message, messages.Sent) and self._on_message is not None:
            self._guard(self._on_message, message.name, message.data)

    def _adopt(self, message: messages.Handoff, fd: int, received: bytes) -> None:
        self._seen = message.number
        try:
            sock = connection_from(fd)
        except OSError:
            logger.exception("! connection %d is none", message.number)
            self._nacks.append(message.number)
            return
        sock.setblocking(False)
        self._adopted += 1
        self.open += 1
        is_refused = message.reason == REFUSED
        key = None
        try:
            mark = (
                NO_MARK
                if is_refused
                else self._journal.open(key_of(self._affinity, message.address, message.sticky_id))
            )
            mark.begin(ADOPTING)
            self._adopting.append(mark)
            key = self.routes.key_of(message.address, message.sticky_id)
            adopted = Adopted(
                sock,
                message.address,
                message.client_port,
                message.scheme,
                message.kind,
                message.method,
                message.path,
                message.upgrade,
                None if message.sticky_id is None else StickyId(message.sticky_id),
                None if message.new_sticky_id is None else StickyId(message.new_sticky_id),
                message.reason,
                message.peer_address,
                received,
                mark,
                None if is_refused else key,
            )
            self.routes.keys.enter(key, away=message.away)
            if is_refused:
                self.routes.keys.leave(key)  # it is not served, so it keeps no key here
                self._on_refused(adopted)
                return
            self.routes.learn(adopted.address, adopted.sticky_id)
            self._on_connection(adopted)
        except Exception:
            logger.exception("! connection %d could not be adopted", message.number)
            self.open -= 1
            self._nacks.append(message.number)
            self.routes.keys.leave(key)
            sock.close()

    def _answer_refused(self, adopted: Adopted) -> None:
        with adopted.sock as sock, contextlib.suppress(OSError):
            if adopted.kind == "http":
                sock.recv(64 * 1024)  # closing over unread bytes sends a reset
                sock.send(_REFUSAL)
                sock.shutdown(socket.SHUT_WR)
        self.closed(adopted)

    def _pass_up(self, message: messages.Handoff) -> None:
        """Say no to a connection whose descriptor this process had no room for; the primary has kept its own."""
        logger.error("! out of file descriptors (ulimit -n): connection %d goes to another worker", message.number)
        self._seen = message.number
        self._nacks.append(message.number)
        if message.away:
            key = self.routes.key_of(message.address, message.sticky_id)
            self.routes.keys.enter(key, away=True)
            self.routes.keys.leave(key)

    # Keys that are away

    def _slots_changed(self, slots: int, number: int, some_are_elsewhere: bool) -> None:
        """Say which live keys are away by this number of slots, as the answer to question `number`; 0 asks nothing."""
        self.routes.some_are_elsewhere = some_are_elsewhere
        if not number:
            return
        self.routes.forget()
        found = [short(key) for key in self.routes.keys.find_away(slots)]
        parts = [found[begin : begin + REPORT_KEYS] for begin in range(0, len(found), REPORT_KEYS)] or [[]]
        self._reports = deque((part, self._seen, number, False) for part in parts[:-1])
        self._reports.append((parts[-1], self._seen, number, True))
        self._report_keys()

    def _report_keys(self) -> None:
        """
        Say what is to be said of keys; what the channel has no room for is said at the next heartbeat, in one message.

        A key that has ended is said at once: asyncio closes the socket only after that, so a client that sees its end
        and comes back is not sent here again.
        """
        while self._reports:
            if not self._send(Kind.KEYS_AWAY, *self._reports[0]):
                return
            self._reports.popleft()
        live = self.routes.keys
        while live.has_ended:
            keys = live.take_ended()
            if not self._send(Kind.KEYS_ENDED, [short(key) for key in keys], self._seen):
                live.put_back(keys)
                return
            self.routes.forget(keys)

    def _acknowledge(self) -> bool:
        """
        Acknowledge every connection so far by one message, but first say which ones are not ours. Return False when the
        channel is full: it is tried again at the next heartbeat.
        """
        while self._nacks:
            if not self._send(Kind.NACK, self._nacks[0]):
                return False
            del self._nacks[0]
        acks = (self._seen, self._settled)
        if self._acked != acks:
            if not self._send(Kind.ACK, *acks):
                return False
            self._acked = acks
        return True

    def _report_ended(self) -> None:
        """Report what has ended. What finds no room in the channel is reported with the next that ends."""
        self._reporting = None
        while self._ended:
            part = dict(itertools.islice(self._ended.items(), ENDED_MAX))
            if not self._send(Kind.ENDED, part):
                return
            for peer_address in part:
                del self._ended[peer_address]

    async def _beat_forever(self) -> None:
        while not self.orphaned:
            if self._ended and self._reporting is None:
                self._report_ended()
            self._beat()
            self._acknowledge()
            self._report_keys()
            await asyncio.sleep(self._heartbeat_s)

    def _beat(self) -> None:
        """Say that the loop turns, whatever the statistics are: it is for silence, not for them, that a worker ends."""
        try:
            statistics = dict(self.load())
            if not is_plain(statistics):
                raise TypeError("the statistics are not plain data")
            self._send(Kind.BEAT, self.open, self._adopted, statistics)
        except Exception:
            if not self._load_failed:
                self._load_failed = True
                logger.exception("! the statistics of this worker cannot be told")
            self._send(Kind.BEAT, self.open, self._adopted, {})

    # Ending

    def _distrust_primary(self, reason: str) -> None:
        """
        Do as if the primary was gone, which sees it: whoever it was bringing here goes to another worker, and whoever
        is here is served on for a while.
        """
        logger.error("! a message of the primary cannot be read: %s", reason)
        self._lose_primary()
        self._channel.close()

    def _lose_primary(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._channel.fileno())
        self.orphaned = True
        logger.warning("! the primary is gone: serving %d connections for %g s more", self.open, self._orphan_grace_s)
        if self.open:
            loop.call_later(self._orphan_grace_s, self._end, 0)
        else:
            self._end(0)

    def _end(self, drain_s: float) -> None:
        assert self._drain_s is not None, "only a worker that runs is told to drain"
        if not self._drain_s.done():
            self._drain_s.set_result(drain_s)

    def _send(self, kind: Kind, *fields: Any) -> bool:
        if self.orphaned:
            return False
        try:
            return self._channel.send(kind, *fields)
        except ChannelClosed:
            return False  # the reader learns of it too, and acts

    @staticmethod
    def _guard(callback: Callable[..., None], *args: Any) -> None:
        try:
            callback(*args)
        except Exception:
            logger.exception("! %s failed", getattr(callback, "__qualname__", callback))


def _encodable(text: str) -> str:
    """Replace what is no text (a file's name may have it), for UTF-8 cannot say it."""
    return text.encode("utf-8", "replace").decode("utf-8")


_this: Worker | None = None


def new_sticky_id() -> StickyId:
    """
    Make a session's id that leads back to this worker's slot, for an application or a library that makes its own.

    Raises:
        NotAWorker: no primary started this process.
    """
    if _this is None:
        raise NotAWorker("a session's id leads to a worker, and this process is none")
    return _this.routes.new_sticky_id()
