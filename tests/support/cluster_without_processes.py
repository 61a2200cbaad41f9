"""
A supervisor with all its parts, over fake processes and a fake clock: real code from the poller's callbacks to the
messages to workers, and no process, no waiting, no kernel.

    cluster = ClusterWithoutProcesses(workers=4)
    cluster.start()
    cluster.boot(0)                # the worker of slot 0 sends READY
    cluster.kill(0)                # and is killed from outside
    cluster.poller.run_for(1.0)
"""

from __future__ import annotations

import signal
import socket
from collections import Counter
from typing import Any

from sticky.handoff.channel import Kind, Unreadable
from sticky.handoff.dispatcher import Dispatcher
from sticky.handoff.messages import Beat, BootFailed, KeysAway, Message, Ready
from sticky.handoff.refusals import Refusals
from sticky.handoff.worker_handle import WorkerHandle, WorkerState
from sticky.keys.addresses import Addresses
from sticky.keys.affinity import Affinity, AffinitySettings
from sticky.keys.balance import least
from sticky.keys.hashing import Hashing, Slot
from sticky.loop.poller import HANGUP
from sticky.process.keeper_link import KeeperLink
from sticky.settings import ClusterSettings
from sticky.supervision.adopted_processes import AdoptedProcesses
from sticky.supervision.crashes import Crashes
from sticky.supervision.deposit import Kept
from sticky.supervision.launcher import Launcher
from sticky.supervision.readiness import NodeReadiness
from sticky.supervision.supervisor import Supervisor
from sticky.supervision.workers import Workers
from tests.support.fake_environment import FakeEnvironment, FakeProcess
from tests.support.fake_poller import READABLE, FakePoller
from tests.support.recorded_hooks import recorded_hooks

SECRET = b"s" * 32


class ClusterWithoutProcesses:
    """The supervisor's half of a primary."""

    def __init__(self, workers: int = 2, **settings: Any) -> None:
        self.settings = ClusterSettings(workers=workers, **{"hung_s": 6.0, "boot_s": 30.0, **settings})
        self.counters: Counter[str] = Counter()
        self.poller = FakePoller(counters=self.counters)
        self.environment = FakeEnvironment()
        self.workers = Workers(self.poller, self.environment)
        self.hooks: list[tuple[str, dict[str, Any]]] = []
        self.given_back: list[tuple[socket.socket, str, int, bytes]] = []
        self.refused: list[tuple[int, str]] = []
        self.first_ready = 0
        self.reloads_ended = 0
        self.stopped: list[int] = []
        hashing = Hashing(SECRET)
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
        launcher = Launcher(
            self.environment,
            self.settings,
            argv=["worker"],
            env_of=lambda slot: {"SLOT": str(slot)},
            config={"app": "demo"},
            node="node",
            directory="",
            secret=SECRET,
        )
        self.supervisor = Supervisor(
            self.poller,
            self.environment,
            AdoptedProcesses(self.poller, self.environment, lambda pid, status: self.supervisor.reaped(pid, status)),
            self.workers,
            launcher,
            self.dispatcher,
            crashes,
            NodeReadiness(self.workers),
            deposit=KeeperLink(),
            settings=self.settings,
            counters=self.counters,
            hooks=recorded_hooks(self.hooks, self.counters),
            acceptor=self,
            on_first_ready=self._on_first_ready,
            on_reloaded=self._on_reloaded,
            on_stopped=self.stopped.append,
        )

    def take_back(
        self, sock: socket.socket, peer_address: str, port: int, received: bytes, is_relayed: bool = False
    ) -> None:
        self.given_back.append((sock, peer_address, port, received))

    def _on_first_ready(self) -> None:
        self.first_ready += 1

    def _on_reloaded(self) -> None:
        self.reloads_ended += 1

    def start(self, *, ready: bool = True) -> None:
        """Start every slot, and have each worker become ready."""
        self.supervisor.start(Kept())
        for slot in range(self.settings.workers if ready else 0):
            self.boot(slot)

    # What workers do

    def starting(self, slot: int | None = None) -> WorkerHandle:
        """Return the one worker that boots, in a slot or in any."""
        [found] = [
            each
            for each in self.workers.by_pid.values()
            if each.state is WorkerState.STARTING and slot in (None, each.slot)
        ]
        return found

    def live(self, slot: int) -> WorkerHandle:
        return self.workers.live[Slot(slot)]

    def process(self, worker: WorkerHandle) -> FakeProcess:
        return self.environment.process(worker.pid)

    def send(self, worker: WorkerHandle, *messages: Message | Unreadable) -> None:
        """Have a worker send messages, and the primary receive them."""
        channel = self.process(worker).channel
        channel.inbox.extend(messages)
        self.poller.make_ready(channel.fileno(), READABLE)

    def boot(self, slot: int | None = None) -> WorkerHandle:
        """Have the worker that boots send READY. Return it."""
        worker = self.starting(slot)
        self.send(worker, Ready())
        return worker

    def beat(self, worker: WorkerHandle, connections: int = 0) -> None:
        self.send(worker, Beat(connections, connections, {}))

    def beat_all(self) -> None:
        """Have each worker that serves send its heartbeat."""
        for worker in list(self.workers.by_pid.values()):
            if worker.state in (WorkerState.READY, WorkerState.DRAINING):
                self.beat(worker)

    def run_alive(self, seconds: float) -> None:
        """Let time pass in which every worker that serves sends a heartbeat each second."""
        end = self.poller.passed_s + seconds
        while self.poller.passed_s < end:
            self.beat_all()
            self.poller.run_due(min(self.poller.passed_s + 1.0, end))

    def kill(self, worker: WorkerHandle, number: signal.Signals = signal.SIGKILL) -> None:
        """Have a worker end by a signal from outside, and the primary learn of it."""
        self.process(worker).kill(number)
        self.reap()

    def exit(self, worker: WorkerHandle, code: int = 0) -> None:
        """Have a worker end by itself, and the primary learn of it."""
        self.process(worker).exit(code)
        self.reap()

    def fail_boot(self, worker: WorkerHandle, text: str = "the new version is broken", code: int = 3) -> None:
        """Have a worker report that it cannot boot, and end."""
        self.send(worker, BootFailed(text))
        self.exit(worker, code)

    def end_channel(self, worker: WorkerHandle) -> None:
        """Have a worker close its channel, and nothing more."""
        channel = self.process(worker).channel
        channel.has_ended = True
        self.poller.make_ready(channel.fileno(), HANGUP)

    def reap(self) -> None:
        """Do what SIGCHLD has the primary do."""
        while (ended := self.environment.reap()) is not None:
            self.supervisor.reaped(*ended)

    def scale(self, workers: int) -> None:
        """Scale, and have each worker that is asked report that none of its keys belongs to another slot."""
        self.supervisor.scale(workers)
        for worker in list(self.workers.live.values()):
            slots = [fields for kind, fields in self.process(worker).channel.sent if kind is Kind.SLOTS]
            if slots and slots[-1][1]:
                self.send(worker, KeysAway([], 0, slots[-1][1], True))

    # What is seen from outside

    def states(self) -> dict[int, list[str]]:
        """Return the states of each slot's processes."""
        found: dict[int, list[str]] = {}
        for worker in sorted(self.workers.by_pid.values(), key=lambda each: each.pid):
            found.setdefault(worker.slot, []).append(worker.state.value)
        return found

    def events(self, name: str) -> list[dict[str, Any]]:
        return [fields for each, fields in self.hooks if each == name]

    def check(self) -> None:
        """Assert what holds after every step."""
        self.workers.check()
        assert set(self.workers.live.values()) <= set(self.workers.by_pid.values()), "a reaped worker is live"
        assert self.counters["callbacks_failed"] == 0, "a callback of the primary has raised"
