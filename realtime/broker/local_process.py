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
from typing import Final

import uvloop

from realtime import logs
from realtime.broker.framing import LOCAL_STOP_SIGNAL
from realtime.broker.local_server import LocalBrokerServer, WorkerLink
from realtime.log_lines import log
from sticky.handoff.orphan_report import VERSION, OrphanReport, PrimarySearch

LOCK_S: Final = 75.0  # for the broker before this one to end: longer than orphaned workers keep it (--orphan-grace)
LOCK_RETRY_S: Final = 0.05
PARENT_S: Final = 1.0  # between two checks whether the last worker has left, once primary and keeper are gone

TAKEN: Final = "local broker not started"  # another one serves the same path

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


async def serve(path: str, ready_fd: int | None, memory: int | None, search: PrimarySearch) -> None:
    """
    Serve until the primary sends `LOCAL_STOP_SIGNAL`, or until primary, keeper and every worker are gone.

    SIGTERM ends this process only when primary and keeper are gone. A service manager may send SIGTERM to all processes
    at once, and workers that drain still need their rooms.

    Args:
        path: of the socket.
        ready_fd: the liveness socket. It gets a line feed when the broker's socket is open, and its end says that
            primary and keeper are gone. This function owns it.
        memory: bytes that may be used.
        search: looks for the next primary of a process that has lost its primary and its keeper.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(LOCAL_STOP_SIGNAL, ended.set)
    server = LocalBrokerServer(memory)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # left by a broker that was killed
    before = os.umask(0o177)
    try:
        listener = await loop.create_unix_server(lambda: WorkerLink(server), path)
    finally:
        os.umask(before)
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
    listener.close()
    for peer in tuple(server.peers):
        peer.transport.close()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def main() -> None:
    """Run the local broker."""
    parser = argparse.ArgumentParser("realtime.broker.local_server")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--memory", type=int)
    parser.add_argument("--orphan", nargs=3, default=("", "", ""), metavar=("DIRECTORY", "NAME", "TERMS"))
    arguments = parser.parse_args()
    logs.set_up("broker")
    lock = take_lock(f"{arguments.socket}.lock")
    if lock is None:
        log(logger, logging.ERROR, TAKEN, socket=arguments.socket, reason="another local broker serves it")
        sys.exit(1)
    directory, name, terms = arguments.orphan
    search = PrimarySearch(directory, OrphanReport(VERSION, name, terms))
    uvloop.run(serve(arguments.socket, arguments.ready_fd, arguments.memory, search))


if __name__ == "__main__":
    main()
