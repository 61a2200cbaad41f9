"""
A supervisor whose workers are processes that say nothing: what they would say, a test says, byte by byte.

Sockets, processes, signals and the loop are real; only the program that a worker runs is `sleep`. `Edge.turn` is one
round of the primary's loop.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from sticky.handoff.channel import Channel, Kind
from sticky.handoff.dispatcher import Dispatcher
from sticky.handoff.messages import from_primary, from_worker
from sticky.handoff.pending_handoff import PendingHandoff
from sticky.handoff.refusals import Refusals
from sticky.handoff.worker_handle import WorkerHandle, WorkerState
from sticky.keys.addresses import Addresses
from sticky.keys.affinity import Affinity, AffinitySettings
from sticky.keys.balance import least
from sticky.keys.hashing import Hashing, Slot
from sticky.lifetime import Lifetime
from sticky.loop.poller import Poller
from sticky.process.keeper_link import KeeperLink
from sticky.settings import ClusterSettings
from sticky.supervision.adopted_processes import AdoptedProcesses
from sticky.supervision.crashes import Crashes
from sticky.supervision.deposit import Kept
from sticky.supervision.environment import OperatingSystem
from sticky.supervision.launcher import Launcher
from sticky.supervision.readiness import NodeReadiness
from sticky.supervision.supervisor import Supervisor
from sticky.supervision.workers import Workers
from tests.support.recorded_hooks import recorded_hooks

TURN_S = 0.01  # at most, where nothing is due
PATIENT = {"heartbeat_s": 300.0, "hung_s": 600.0, "boot_s": 600.0}  # nobody sends a heartbeat


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Silent(Launcher):
    """Starts processes that say nothing."""

    def __init__(self) -> None:
        self.ends: dict[int, socket.socket] = {}  # of the channels, by pid

    def launch(self, slot: Slot, *, generation: int, now: float) -> WorkerHandle:
        channel, theirs = Channel.pair(from_worker)
        pid = os.posix_spawnp("sleep", ["sleep", "600"], os.environ)
        self.ends[pid] = theirs
        return WorkerHandle(
            slot, pid, channel, worker_id=f"w-{pid}", generation=generation, now=now, lifetime=Lifetime()
        )

    def renew(self, then: Callable[[], None]) -> None:
        then()

    def boot_message(self, worker: WorkerHandle, slots: int) -> dict[str, Any]:
        return {"slot": worker.slot}


class Edge:
    """The supervisor, and what is said to it."""

    def __init__(self, workers: int = 2, settings: Mapping[str, Any] | None = None) -> None:
        self.counters: Counter[str] = Counter()
        self.poller = Poller(counters=self.counters)
        self.silent = Silent()
        self.given_back: list[tuple[socket.socket, str, int, bytes]] = []
        self.hooks: list[tuple[str, dict[str, Any]]] = []
        environment = OperatingSystem()
        self.workers = Workers(self.poller, environment)
        hashing = Hashing(b"s" * 32)
        self.refusals = Refusals(self.poller, descriptors=1024, tls=False, counters=self.counters)
        self.dispatcher = Dispatcher(
            self.poller,
            hashing,
            self.workers.live,
            balance=least,
            patience_s=5.0,
            refusals=self.refusals,
            channels=self.workers,
            addresses=Addresses(Affinity(AffinitySettings()), most=None, descriptors=1024),
            counters=self.counters,
        )
        crashes = Crashes(
            self.poller,
            Affinity(AffinitySettings(), hashing),
            hashing,
            workers=self.workers,
            counters=self.counters,
        )
        self.supervisor = Supervisor(
            self.poller,
            environment,
            AdoptedProcesses(self.poller, environment, lambda pid, status: self.supervisor.reaped(pid, status)),
            self.workers,
            self.silent,
            self.dispatcher,
            crashes,
            NodeReadiness(self.workers),
            deposit=KeeperLink(),
            settings=ClusterSettings(workers=workers, boots_max=None, **{**PATIENT, **(settings or {})}),
            counters=self.counters,
            hooks=recorded_hooks(self.hooks, self.counters),
            acceptor=self,
            on_first_ready=lambda: None,
            on_reloaded=lambda: None,
            on_stopped=lambda status: None,
        )
        self.supervisor.start(Kept())

    def take_back(self, sock: socket.socket, peer_address: str, port: int, received: bytes) -> None:
        self.given_back.append((sock, peer_address, port, received))

    def turn(self) -> None:
        """Let the loop turn once, and reap who has ended."""
        self.poller.after(TURN_S, lambda: None)
        self.poller.run_once()
        for pid in list(self.workers.by_pid):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self.supervisor.reaped(pid, status)
                self.silent.ends.pop(pid).close()

    def worker(self, slot: int = 0) -> WorkerHandle:
        """Return a worker of a slot that is ready; it is told so where none is."""
        while True:
            if live := self.workers.live.get(Slot(slot)):
                return live
            for worker in list(self.workers.by_pid.values()):
                if worker.slot == slot and worker.state is WorkerState.STARTING:
                    Channel(self.silent.ends[worker.pid], from_primary).send(Kind.READY)
            if not any(each.slot == slot for each in self.workers.by_pid.values()):
                self.supervisor.fill_now(Slot(slot))  # back-off is not what is looked at here
            self.turn()

    def say(self, worker: WorkerHandle, data: bytes, fds: list[int] | None = None) -> None:
        """Say something in a worker's name; what the channel has no room for is not said."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            socket.send_fds(self.silent.ends[worker.pid], [data], fds or [], socket.MSG_DONTWAIT)

    def hand_over(self) -> tuple[PendingHandoff, socket.socket]:
        """Give a connection to some worker. Return it, and the client's end."""
        ours, client = socket.socketpair()
        handoff = PendingHandoff(ours, "127.0.0.1", "127.0.0.1", 1)
        handoff.kind = "raw"
        self.dispatcher.dispatch(handoff)
        return handoff, client

    def __enter__(self) -> Edge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.supervisor.stop_now(0)
        while self.workers.by_pid:
            self.turn()
        for sock, *_ in self.given_back:
            sock.close()
        self.refusals.close()
        self.poller.close()
