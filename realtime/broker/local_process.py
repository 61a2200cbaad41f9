"""
The local broker's process: its socket, the lock of its path, and the liveness socket, which shows its end.

Runs beside the workers, started by the primary: `python -m realtime.broker.local_process --socket PATH`. It ends when
the primary says so, or when primary and keeper are gone and the last worker has left. The socket has mode 0600, because
every program that can connect may do everything. Two brokers on one path would split each room without a sign, hence
the lock. It knows nothing of rooms: local_server.py does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Final

import uvloop

from realtime import logs
from realtime.broker.local_command import LOCAL_STOP_SIGNAL
from realtime.broker.local_handover import HandoverFailed, MovedLink, hand_over, settle, take_over
from realtime.broker.local_server import LocalBrokerServer, WorkerLink
from realtime.log_lines import log
from sticky.handoff.orphan_report import VERSION, OrphanReport
from sticky.worker.primary_search import PrimarySearch

LOCK_S: Final = 75.0  # for the broker before this one to end: longer than orphaned workers keep it (--orphan-grace)
LOCK_RETRY_S: Final = 0.05
BACKLOG: Final = 1024
PARENT_S: Final = 1.0  # between two checks whether the last worker has left, once primary and keeper are gone

TAKEN: Final = "local broker not started"  # another one serves the same path
HANDED_OVER: Final = "local broker handed over"  # to a successor, in an upgrade
TAKEN_OVER: Final = "local broker taken over"  # by this process
NOT_HANDED_OVER: Final = "local broker not handed over"  # it serves on

logger = logging.getLogger("realtime.broker.local")


def take_lock(path: str) -> int | None:
    """
    Take the lock of a socket's path, so that two brokers never serve the same rooms. It lasts as long as this process.

    Returns:
        None when another broker holds it for longer than an ending one needs.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                os.close(fd)
                return None
            time.sleep(LOCK_RETRY_S)
        else:
            return fd


class LivenessSocket:
    """
    The liveness socket, whose end says that primary and keeper are gone; then the search for the next primary.

    It owns the socket.
    """

    def __init__(self, fd: int | None, search: PrimarySearch) -> None:
        """`fd`: of the socket; None for a process that nothing has started, which is no orphan."""
        self.is_orphaned = False
        self._search = search
        self._sock: socket.socket | None = None
        if fd is not None:
            self._watch(socket.socket(fileno=fd))

    def _watch(self, sock: socket.socket) -> None:
        """Report on a liveness socket that this process serves, and watch it."""
        sock.setblocking(False)
        self._sock = sock
        with contextlib.suppress(OSError):  # its end is seen next
            sock.send(b"\n")
        asyncio.get_running_loop().add_reader(sock.fileno(), self._on_readable, sock)

    def _on_readable(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(64)
        except BlockingIOError:
            return
        except ConnectionResetError:  # the other end was closed before the line feed was read
            data = b""
        if not data:
            self.close()
            self.is_orphaned = True
            self._search.start(self._on_found)

    def _on_found(self, sock: socket.socket) -> None:
        self.is_orphaned = False
        self._watch(sock)

    def close(self) -> None:
        """Watch and search no longer."""
        self._search.stop()
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None


class BrokerProcess:
    """This process, from its socket to its end."""

    def __init__(self, path: str, lock: int, server: LocalBrokerServer, listener: socket.socket) -> None:
        """
        Args:
            path: of the socket.
            lock: of the path; it moves to a successor.
            listener: the socket, which this process owns.
        """
        self._path = path
        self._lock = lock
        self._server = server
        self._listener = listener
        self._accepting: asyncio.Server | None = None
        self._handing_over: asyncio.Task[None] | None = None

    async def _accept(self) -> None:
        # Of a copy: this one stays open while nothing is accepted, so that workers wait and are not refused.
        self._accepting = await asyncio.get_running_loop().create_unix_server(
            lambda: WorkerLink(self._server), sock=self._listener.dup()
        )

    async def serve(self, ready_fd: int | None, search: PrimarySearch, moved: Sequence[MovedLink] = ()) -> None:
        """
        Serve until the primary sends `LOCAL_STOP_SIGNAL`, or until primary, keeper and every worker are gone.

        SIGTERM ends this process only when primary and keeper are gone. A service manager may send SIGTERM to all
        processes at once, and workers that drain still need their rooms.

        Args:
            ready_fd: the liveness socket. It gets a line feed when workers are served, and its end says that primary
                and keeper are gone. This function owns it.
            search: looks for the next primary of a process that has lost its primary and its keeper.
            moved: links of the process before this one.
        """
        loop, server = asyncio.get_running_loop(), self._server
        ended = asyncio.Event()
        loop.add_signal_handler(LOCAL_STOP_SIGNAL, ended.set)
        links = [(self._adopt(each), each.sock) for each in moved]  # all before the first one is read
        for link, sock in links:
            await loop.connect_accepted_socket(lambda link=link: link, sock)  # type: ignore[misc]
        server.resume_leases()
        await self._accept()
        liveness = LivenessSocket(ready_fd, search)
        loop.add_signal_handler(signal.SIGTERM, lambda: ended.set() if liveness.is_orphaned else None)
        sweeping = loop.create_task(server.sweep_forever())
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), PARENT_S)
            if liveness.is_orphaned and not server.peers:
                break
        liveness.close()
        sweeping.cancel()
        if self._accepting is not None:
            self._accepting.close()
        for peer in tuple(server.peers):
            peer.transport.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def _adopt(self, moved: MovedLink) -> WorkerLink:
        link = WorkerLink(self._server)
        link.worker, link.said_goodbye, link.unread = moved.worker, moved.said_goodbye, moved.unread
        self._server.adopt(link, moved.rooms)
        return link

    def hand_over(self, successor: WorkerLink) -> None:
        """Have everything moved to a successor, which has just asked for it. One that asks meanwhile gets nothing."""
        if self._handing_over is None or self._handing_over.done():
            self._handing_over = asyncio.get_running_loop().create_task(self._hand_over(successor))

    async def _hand_over(self, successor: WorkerLink) -> None:
        """Move everything, and end this process: nothing of it may touch a link any more. Or serve on."""
        assert self._accepting is not None, "a command came through it"
        self._accepting.close()
        links = await settle(self._server, successor)
        try:
            hand_over(self._server, successor, links, listener=self._listener.fileno(), lock=self._lock)
        except HandoverFailed as error:
            log(logger, logging.ERROR, NOT_HANDED_OVER, reason=error)
        except Exception:  # noqa: BLE001 - logged with its traceback, and the broker serves on
            log(logger, logging.ERROR, NOT_HANDED_OVER, reason="a bug", exc_info=True)
        else:
            log(logger, logging.INFO, HANDED_OVER, links=len(links))
            logging.shutdown()
            os._exit(0)
        successor.transport.abort()
        for link in links:
            link.transport.resume_reading()
        await self._accept()


def bind(path: str) -> socket.socket:
    """Open the socket of a broker that begins with nothing. The caller owns it, and has the lock."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # left by a broker that was killed
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    return listener


def main() -> None:
    """Run the local broker."""
    parser = argparse.ArgumentParser("realtime.broker.local_process")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--memory", type=int)
    parser.add_argument("--orphan", nargs=3, default=("", "", ""), metavar=("DIRECTORY", "NAME", "TERMS"))
    parser.add_argument("--take-over", action="store_true", help="take everything over from the broker that serves")
    arguments = parser.parse_args()
    logs.set_up("broker")
    server = LocalBrokerServer(arguments.memory, on_hand_over=lambda link: process.hand_over(link))
    moved: Sequence[MovedLink] = ()
    if arguments.take_over:
        try:
            taken = take_over(arguments.socket, server)
        except HandoverFailed as error:
            log(logger, logging.ERROR, TAKEN, socket=arguments.socket, reason=f"the broker does not hand over: {error}")
            sys.exit(1)
        lock, listener, moved = taken.lock, taken.listener, taken.links
        log(logger, logging.INFO, TAKEN_OVER, links=len(moved), streams=server.state.statistics()["streams"])
    else:
        found = take_lock(f"{arguments.socket}.lock")
        if found is None:
            log(logger, logging.ERROR, TAKEN, socket=arguments.socket, reason="another local broker serves it")
            sys.exit(1)
        lock, listener = found, bind(arguments.socket)
    directory, name, terms = arguments.orphan
    search = PrimarySearch(directory, OrphanReport(VERSION, name, terms))
    process = BrokerProcess(arguments.socket, lock, server, listener)
    uvloop.run(process.serve(arguments.ready_fd, search, moved))


if __name__ == "__main__":
    main()
