"""
Keeps every slot filled: starts workers, listens to them, replaces those that die or hang, reloads, scales, stops.

Runs in the primary. It moves the states of `worker_handle.TRANSITIONS` and owns `live`, the table of who serves which
slot now. It never touches a client's connection: when a worker is lost it tells the dispatcher.

- A worker that died is replaced at once the first time, then after 1, 2, 4 … 30 s, until one of its slot has lived for
  a while.
- A worker whose event loop was silent for `hung_s` is asked for its stacks (SIGUSR2), killed, and replaced.
- A worker that has lived long enough, by the bounds it drew, is replaced as in a reload.
- While nothing was ever ready, `boots_max` failed boots in a row end the start: what failed is told once.
- A reload goes slot by slot: the old worker retires when the new one is ready. A new version that does not boot ends
  the reload, and every old worker goes on.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sticky.channel import Channel, ChannelClosed, Kind, Received
from sticky.handoff import Dispatcher
from sticky.hashing import Slot
from sticky.poller import HANGUP, READ, WRITE, Poller
from sticky.post import Post
from sticky.settings import WORKERS_MAX, ClusterSettings
from sticky.spawn import descriptor_of, spawn
from sticky.worker import CHANNEL_FD, EXIT_BOOT
from sticky.worker_handle import Event, State, WorkerHandle

BACKOFF_S: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
STEADY_S: Final = 10.0  # a worker that lived so long clears its slot's record of failures
KILL_GRACE_S: Final = 5.0  # after the drain's end
INSPECT_S: Final = 2.0  # for a worker to say what it is doing
DUMP_S: Final = 0.5  # for writing the stacks of a hung worker
WATCH_SHARE: Final = 0.25  # of `hung_s`: how often silence is looked for

READY_LINE: Final = "= slot %d: worker %d is ready (%d of %d)"
RELOAD_FAILED_LINE: Final = "! reload given up: the workers that were serving go on"
SILENT_LINE: Final = "! slot %d: worker %d was silent for %.1f s: its stacks follow"
AGE_LINE: Final = "= slot %d: worker %d is to be replaced: %s"
ENDED_LINE: Final = "x slot %d: worker %d ended (%s)"
BOOT_FAILED_LINE: Final = "! slot %d: worker %d cannot boot"

logger = logging.getLogger("sticky")

Hook = Callable[[str, dict[str, Any]], None]


class Supervisor:
    """All workers of this machine."""

    def __init__(
        self,
        poller: Poller,
        *,
        settings: ClusterSettings,
        argv: Sequence[str],
        env_of: Callable[[Slot], Mapping[str, str]],
        config: Any,
        node: str,
        secret: bytes,
        counters: dict[str, int],
        hook: Hook,
        on_first_ready: Callable[[], None],
        on_reloaded: Callable[[], None],
        on_stopped: Callable[[int], None],
        on_given_back: Callable[[socket.socket, str, int, bytes], None],
    ) -> None:
        """
        Args:
            env_of: the environment of a slot's worker.
            on_first_ready: called once, when the first worker is ready.
            on_reloaded: called when a reload has ended, well or not.
            on_stopped: called with the exit status, when no worker is left.
            on_given_back: given a connection that a worker gave back: as `Door.take_back`.
        """
        self.live: dict[Slot, WorkerHandle] = {}
        self.workers: dict[int, WorkerHandle] = {}  # every process that is not reaped, by pid
        self.dispatcher: Dispatcher | None = None  # set once by the primary, before `start`
        self._poller = poller
        self._settings = settings
        self._argv = argv
        self._env_of = env_of
        self._config = config
        self._wanted = settings.workers
        self._node = node
        self._secret = secret
        self._counters = counters
        self._hook = hook
        self._on_first_ready = on_first_ready
        self._on_reloaded = on_reloaded
        self._on_stopped = on_stopped
        self._on_given_back = on_given_back
        self.post = Post(
            poller,
            self.live,
            say=self._say,
            read_from=self._read_from,
            on_message=lambda message: hook("message", message),
            counters=counters,
        )
        self._generation = 1
        self._failures: dict[Slot, int] = {}
        self._boots_failed = 0  # in a row, while nothing was ever ready
        self._ever_ready = False
        self._told: str | None = None  # the last boot failure that was logged
        self._reloading: deque[Slot] = deque()  # slots whose worker is still to be replaced
        self._successors: dict[Slot, WorkerHandle] = {}
        self._inspections: dict[int, Callable[[str], None]] = {}  # by the pid of who is asked
        self._reload_failed: str | None = None  # why the last reload was given up
        self._stopping = False
        self._status = 0

    # Starting

    def start(self) -> None:
        """Start a worker in every slot, and begin to look for silence."""
        for number in range(self._wanted):
            self._start(Slot(number))
        self._poller.after(self._settings.hung_s * WATCH_SHARE, self._watch)

    def _start(self, slot: Slot) -> WorkerHandle | None:
        if self._stopping or slot >= self._wanted:
            return None
        channel, theirs = Channel.pair()
        try:
            fd = descriptor_of(theirs)
            pid = spawn(self._argv, {**self._env_of(slot), CHANNEL_FD: str(fd)}, fd)
        except OSError as error:
            channel.close()
            logger.error("! slot %d: %s cannot be started: %s", slot, self._argv[0], error.strerror)
            self._failed(slot)
            return None
        finally:
            theirs.close()
        worker_id = f"{self._node}-{slot}-{secrets.token_hex(4)}"
        now = self._poller.now()
        worker = WorkerHandle(
            slot,
            pid,
            channel,
            worker_id=worker_id,
            generation=self._generation,
            now=now,
            lifetime=self._settings.lifetime.draw(),
        )
        self.workers[pid] = worker
        self._poller.watch(channel.fileno(), READ, lambda events: self._heard(worker, events))
        self._say(worker, Kind.BOOT, self._boot(worker))
        self._counters["started"] += 1
        self._hook("fork", _who(worker))
        return worker

    def _boot(self, worker: WorkerHandle) -> dict[str, Any]:
        return {
            "slot": worker.slot,
            "slots": self._wanted,
            "worker_id": worker.worker_id,
            "node": self._node,
            "generation": worker.generation,
            "config": self._config,
            "affinity": self._settings.affinity.to_builtins(),
            "secret": self._secret,
            "heartbeat_s": self._settings.heartbeat_s,
            "orphan_grace_s": self._settings.orphan_grace_s,
        }

    # Talking to them

    def _say(self, worker: WorkerHandle, kind: Kind, *fields: Any) -> None:
        """Say something, now or when the channel has room again."""
        if not worker.say(kind, *fields):
            self.wants_write(worker, True)

    def wants_write(self, worker: WorkerHandle, wanted: bool) -> None:
        """Have `_heard` told when the worker's channel has room."""
        worker.wants_write = wanted
        self._watch_channel(worker)

    def _read_from(self, worker: WorkerHandle, wanted: bool) -> None:
        """Have what the worker says wait in its channel, or read on."""
        worker.is_held = not wanted
        self._watch_channel(worker)

    def _watch_channel(self, worker: WorkerHandle) -> None:
        if worker.state is not State.GONE:
            mask = (HANGUP if worker.is_held else READ) | (WRITE if worker.wants_write else 0)
            self._poller.change(worker.channel.fileno(), mask)

    # Listening to them

    def _heard(self, worker: WorkerHandle, events: int) -> None:
        assert self.dispatcher is not None, "the primary set it"
        if events & WRITE:
            self.dispatcher.flush(worker)
        if not events & ~WRITE:
            return
        try:
            messages = worker.channel.receive()
        except ChannelClosed:
            self._lost(worker)
            return
        for message in messages:
            self._take(worker, message)

    def _take(self, worker: WorkerHandle, message: Received) -> None:
        assert self.dispatcher is not None, "the primary set it"
        kind, fields = message.kind, message.fields
        if kind is Kind.ACK:
            self.dispatcher.acknowledge(worker, fields[0], fields[1])
        elif kind is Kind.BEAT:
            worker.beat(fields[0], fields[1], fields[2], self._poller.now())
        elif kind is Kind.NACK:
            self.dispatcher.take_back(worker, fields[0])
        elif kind is Kind.READY and worker.state is State.STARTING:
            self._ready(worker)
        elif kind is Kind.BOOT_FAILED:
            worker.boot_error = fields[0]
        elif kind is Kind.RETIRE and self.live.get(worker.slot) is worker and not self._stopping:
            self.reload([worker.slot])
        elif kind is Kind.INSPECTED:
            tell = self._inspections.pop(worker.pid, None)
            if tell is not None:
                tell(fields[0])
        elif kind is Kind.MESSAGE:
            self.post.carry(worker, fields[0], fields[1])
        elif kind is Kind.GIVE_BACK:
            if message.fd is None:
                self._counters["lost_given_back"] += 1
                logger.error("! out of file descriptors: a connection on its way between workers is lost (ulimit -n)")
            else:
                self._on_given_back(socket.socket(fileno=message.fd), fields[0], fields[1], message.carried)

    def _ready(self, worker: WorkerHandle) -> None:
        assert self.dispatcher is not None, "the primary set it"
        slot = worker.slot
        worker.move(Event.READY)
        worker.ready_at = worker.heard_at = self._poller.now()
        self._successors.pop(slot, None)
        self._boots_failed = 0
        self._told = None
        predecessor = self.live.get(slot)
        self.live[slot] = worker
        logger.info(READY_LINE, slot, worker.pid, len(self.live), self._wanted)
        self._poller.after(STEADY_S, lambda: self._steady(worker))
        if not self._ever_ready:
            self._ever_ready = True
            self._on_first_ready()
        self._hook("online", _who(worker))
        self._tell_others(worker, "online")
        if predecessor is not None:
            self._retire(predecessor)
        self.dispatcher.slot_filled()
        if self._stopping or slot >= self._wanted:
            self._take_out(worker)
        else:
            if worker.generation < self._generation:  # it began before the reload that is going on, or has gone by
                self._reloading.append(slot)
            self._reload_next()

    def _steady(self, worker: WorkerHandle) -> None:
        if worker.state is State.READY:
            self._failures.pop(worker.slot, None)

    def _tell_others(self, worker: WorkerHandle, event: str) -> None:
        for other in self.workers.values():
            if other is not worker and other.state in (State.READY, State.DRAINING):
                self._say(other, Kind.EVENT, event, _who(worker))

    # Losing them

    def _lost(self, worker: WorkerHandle) -> None:
        """The channel ended: the process is dead or dying. Its connections go on at once; it is reaped by itself."""
        if worker.state is State.GONE:
            return
        assert self.dispatcher is not None, "the primary set it"
        before = worker.state
        worker.move(Event.EXIT)
        self._poller.forget(worker.channel.fileno())
        worker.channel.close()
        if self.live.get(worker.slot) is worker:
            del self.live[worker.slot]
        self.dispatcher.worker_lost(worker)
        self._hook("disconnect", _who(worker))
        self._tell_others(worker, "exit")
        if before is not State.DRAINING and worker.ready_at is not None:
            self._counters["died"] += 1
            if worker.slot not in self.live and worker.slot not in self._successors:
                self._start_later(worker.slot)

    def reaped(self, pid: int, status: int) -> None:
        """Learn that a child ended. A stranger's end (we may be PID 1) is nobody's concern."""
        worker = self.workers.pop(pid, None)
        if worker is None:
            return
        self._hear_last_words(worker)
        code = os.waitstatus_to_exitcode(status)
        if worker.boot_error is None:
            level = logging.INFO if code == 0 else logging.WARNING
            logger.log(level, ENDED_LINE, worker.slot, pid, _describe_end(code))
        self._hook("exit", {**_who(worker), "status": code, "expected": worker.is_retired})
        if self._stopping:
            if not self.workers:
                self._on_stopped(self._status)
        elif worker.ready_at is None:
            self._boot_failed(worker, code)

    def _hear_last_words(self, worker: WorkerHandle) -> None:
        """Take what a dead process had said; its channel may be held open by a child of its own."""
        if worker.state is not State.GONE:
            try:
                while messages := worker.channel.receive():
                    for message in messages:
                        self._take(worker, message)
            except ChannelClosed:
                pass  # the end of its words
        self._lost(worker)

    def _boot_failed(self, worker: WorkerHandle, code: int) -> None:
        self._counters["boots_failed"] += 1
        text = worker.boot_error or f"it ended before it was ready ({_describe_end(code)})"
        if text != self._told:  # once, however many workers fail in the same way
            self._told = text
            logger.error(BOOT_FAILED_LINE + "\n%s", worker.slot, worker.pid, text.rstrip())
        if self._successors.get(worker.slot) is worker:
            del self._successors[worker.slot]
            if worker.generation < self._generation:  # what it tried to be is not wanted any more
                self._reloading.appendleft(worker.slot)
                self._reload_next()
                return
            self._reloading.clear()
            self._reload_failed = text
            logger.error(RELOAD_FAILED_LINE)
            self._on_reloaded()
            if worker.slot in self.live:
                return
        self._failed(worker.slot)

    def _failed(self, slot: Slot) -> None:
        if not self._ever_ready:
            self._boots_failed += 1
            if self._settings.boots_max is not None and self._boots_failed >= self._settings.boots_max:
                logger.error("! no worker could boot, %d times in a row: giving up", self._boots_failed)
                self.stop(EXIT_BOOT)
                return
        self._start_later(slot)

    def _start_later(self, slot: Slot) -> None:
        failures = self._failures.get(slot, 0)
        self._failures[slot] = failures + 1
        delay_s = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
        if delay_s:
            logger.warning("= slot %d: another worker in %g s", slot, delay_s)
        self._poller.after(delay_s, lambda: self._start_if_empty(slot))

    def _start_if_empty(self, slot: Slot) -> None:
        starting = any(each.slot == slot and each.state is State.STARTING for each in self.workers.values())
        if slot not in self.live and not starting:
            self._start(slot)

    def _watch(self) -> None:
        """Look for workers that do not come up, or whose event loop does not turn."""
        now = self._poller.now()
        for worker in list(self.workers.values()):
            self._look_for_silence(worker, now)
            self._look_for_age(worker, now)
        self._poller.after(self._settings.hung_s * WATCH_SHARE, self._watch)

    def _look_for_silence(self, worker: WorkerHandle, now: float) -> None:
        starting = worker.state is State.STARTING
        silent_s = now - (worker.started_at if starting else worker.heard_at)
        bound_s = self._settings.boot_s if starting else self._settings.hung_s
        may_be_silent = worker.slot == self._settings.inspected or worker.state in (State.HUNG, State.GONE)
        if may_be_silent or silent_s < bound_s:
            return
        if worker.is_held:  # it may have said that it lives
            worker.heard_at = now
            return
        self._counters["hung"] += 1
        logger.error(SILENT_LINE, worker.slot, worker.pid, silent_s)
        worker.move(Event.SILENT)
        if self.live.get(worker.slot) is worker:
            del self.live[worker.slot]
        if not starting:  # before that it may not know the signal, and would die of it unheard
            _signal(worker.pid, signal.SIGUSR2)
        self._kill_later(worker, DUMP_S)

    def _look_for_age(self, worker: WorkerHandle, now: float) -> None:
        if worker.ready_at is None or self.live.get(worker.slot) is not worker or self._stopping:
            return
        if worker.slot in self._reloading or worker.slot in self._successors:
            return
        why = worker.lifetime.ended(pid=worker.pid, age_s=now - worker.ready_at, adopted=worker.adopted)
        if why is not None:
            logger.info(AGE_LINE, worker.slot, worker.pid, why)
            self._counters["lived_out"] += 1
            self.reload([worker.slot])

    def _kill_later(self, worker: WorkerHandle, delay_s: float) -> None:
        def kill() -> None:
            if worker.pid in self.workers:
                logger.warning("x slot %d: worker %d is killed", worker.slot, worker.pid)
                _signal(worker.pid, signal.SIGKILL)

        self._poller.after(delay_s, kill)

    # Changing them

    def reload(self, slots: Sequence[Slot] | None = None) -> None:
        """Replace the workers of these slots, or of all, one by one."""
        if self._stopping:
            return
        self._reload_failed = None
        if slots is None:
            self._generation += 1
            logger.info("= reloading %d workers", self._wanted)
        for slot in range(self._wanted) if slots is None else slots:
            if slot not in self._reloading and slot not in self._successors:
                self._reloading.append(Slot(slot))
        self._reload_next()

    def _reload_next(self) -> None:
        while self._reloading and not self._successors:
            slot = self._reloading.popleft()
            if slot not in self.live:  # it is being started anyway, or is to be later: then now
                self._failures.pop(slot, None)
                self._start_if_empty(slot)
                continue
            successor = self._start(slot)
            if successor is not None:
                self._successors[slot] = successor
        if not self._reloading and not self._successors:
            self._on_reloaded()

    def describe_reload(self) -> dict[str, Any]:
        """Return how the last reload is doing: how many workers are still to be replaced, and why it was given up."""
        return {
            "generation": self._generation,
            "left": len(self._reloading) + len(self._successors),
            "failed": self._reload_failed,
        }

    def scale(self, workers: int) -> None:
        """Have so many workers, at least one. New slots are started, the highest are retired."""
        before, self._wanted = self._wanted, min(max(workers, 1), WORKERS_MAX)
        if before != self._wanted:
            logger.info("= scaling from %d to %d workers", before, self._wanted)
        for number in range(before, self._wanted):
            self._start_if_empty(Slot(number))
        for number in range(self._wanted, before):
            worker = self.live.get(Slot(number))
            if worker is not None:
                self._take_out(worker)

    def _take_out(self, worker: WorkerHandle) -> None:
        if self.live.get(worker.slot) is worker:
            del self.live[worker.slot]
        self._retire(worker)

    def _retire(self, worker: WorkerHandle) -> None:
        """Have a worker bring its clients elsewhere and end. It is not live any more."""
        if worker.state is not State.READY:
            return
        worker.move(Event.DRAIN)
        worker.is_retired = True
        self._say(worker, Kind.DRAIN, self._settings.drain_s)
        self._kill_later(worker, self._settings.drain_s + KILL_GRACE_S)

    @property
    def wanted(self) -> int:
        """How many workers there should be."""
        return self._wanted

    # Stopping

    def stop(self, status: int = 0) -> None:
        """Have every worker drain and end; `on_stopped` follows. Workers that are still starting are killed."""
        if self._stopping:
            return
        self._stopping, self._status = True, status
        self._reloading.clear()
        for worker in list(self.workers.values()):
            if worker.state is State.READY:
                self._take_out(worker)
            elif worker.state is State.STARTING:
                _signal(worker.pid, signal.SIGKILL)
        if not self.workers:
            self._on_stopped(status)

    def stop_now(self, status: int) -> None:
        """Kill every worker; `on_stopped` follows."""
        self._stopping, self._status = True, status
        for worker in self.workers.values():
            _signal(worker.pid, signal.SIGKILL)
        if not self.workers:
            self._on_stopped(status)

    # Looking at them

    def inspect(self, slot: Slot, tell: Callable[[str], None]) -> bool:
        """
        Have `tell` told what the worker of a slot is doing. Return False when none serves there.

        One whose event loop does not turn cannot say; the stacks of its threads then go to the log.
        """
        worker = self.live.get(slot)
        if worker is None:
            return False
        self._inspections[worker.pid] = tell
        self._say(worker, Kind.INSPECT)

        def give_up() -> None:
            if self._inspections.get(worker.pid) is tell:
                del self._inspections[worker.pid]
                if worker.pid in self.workers:
                    _signal(worker.pid, signal.SIGUSR2)
                tell(f"worker {worker.pid} does not answer: the stacks of its threads are in the server's log")

        self._poller.after(INSPECT_S, give_up)
        return True

    def describe(self) -> list[dict[str, Any]]:
        """Return a snapshot of every worker, by slot."""
        now = self._poller.now()
        workers = sorted(self.workers.values(), key=lambda worker: (worker.slot, worker.pid))
        return [worker.describe(now) for worker in workers]


def _who(worker: WorkerHandle) -> dict[str, Any]:
    return {"slot": worker.slot, "worker_id": worker.worker_id, "pid": worker.pid}


def _describe_end(code: int) -> str:
    if code >= 0:
        return f"status {code}"
    return f"killed by {signal.Signals(-code).name}"


def _signal(pid: int, number: signal.Signals) -> None:
    """Signal a child that is not reaped yet: its number cannot be another's."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        logger.debug("= process %d is gone already", pid)
