"""
The primary: joins the path of connections, the supervisor and the control socket in one loop.

Runs in the primary, one thread, no asyncio. It is the wiring and the order of start and stop; the parts have the rules.
Its poller and its environment are given to it, so that a test runs it without a process and with a clock of its own.

| signal    | what happens                                                          |
|-----------|-----------------------------------------------------------------------|
| TERM, INT | lame duck, then stop accepting, drain every worker, end; another one  |
|           | ends the lame duck, and one after that ends at once                   |
| QUIT      | end at once                                                           |
| HUP       | reload: each worker is replaced when its successor is ready           |
| TTIN/TTOU | one worker more, one fewer                                            |
| USR1      | open the log files again (the `reopen_logs` hook)                     |
| CHLD      | a process ended: a worker, a sidecar, or as PID 1 any other           |

**States** (`TRANSITIONS`):

    STARTING ──listen──▶ SERVING ──warn──▶ LAME_DUCK ──stop──▶ STOPPING ──ended──▶ STOPPED
        │                   └───────────stop──────────────────────▲
        └───────────────────────────────stop──────────────────────┘

The start goes: bind, sidecars ready, workers started, first worker ready, listen. So an address that is taken is
reported before anything is started, and no client is accepted before a worker can serve it. The stop goes: warn the
load balancer, refuse, drain the workers, end the sidecars. In LAME_DUCK everything is served on, new clients included,
while the workers answer probes that the server stops. Another stop only makes it faster.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from sticky.accept import listen
from sticky.errors import SettingsError
from sticky.keys.hashing import Slot
from sticky.loop import log_lines
from sticky.loop.log_lines import log
from sticky.loop.poller import Poller
from sticky.process import commands, privileges
from sticky.process.control import ControlServer
from sticky.process.notify import ServiceManager
from sticky.process.primary_state import TRANSITIONS, PrimaryEvent, PrimaryState
from sticky.process.routing import Routing
from sticky.process.signals import queued_signals
from sticky.settings import ClusterSettings
from sticky.supervision.environment import Environment
from sticky.supervision.hooks import ClusterHooks
from sticky.supervision.launcher import Launcher
from sticky.supervision.readiness import LAME_DUCK, STOPPING, NodeReadiness
from sticky.supervision.sidecars import Sidecar, Sidecars
from sticky.supervision.supervisor import Supervisor
from sticky.supervision.workers import Workers

_SIGNALS: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR1,
    signal.SIGCHLD,
)

SLOT: Final = "STICKY_SLOT"
"""The environment variable that names a worker's slot, for what reads nothing else."""

EnvOf = Callable[[Slot], Mapping[str, str]]


def _worker_env(env: Mapping[str, str], env_of: EnvOf, slot: Slot) -> dict[str, str]:
    """Return the environment of a slot's worker. What the application says about its slot comes last, and wins."""
    return {**env, SLOT: str(slot), **env_of(slot)}


class Primary:
    """One run of a cluster, from binding to the exit status."""

    def __init__(
        self,
        poller: Poller,
        environment: Environment,
        settings: ClusterSettings,
        *,
        worker_argv: Sequence[str],
        worker_config: Any,
        sidecars: Sequence[Sidecar],
        env: Mapping[str, str],
        env_of: EnvOf,
        hooks: Mapping[str, Sequence[Callable[[dict[str, Any]], None]]],
    ) -> None:
        """
        Bind every address and become the user of the settings, so that an error is raised before anything is started.

        Args:
            poller: the loop; this run closes it. Its counters are those of the whole primary.
            environment: starts, signals and reaps processes.
            others: as `Cluster`.

        Raises:
            SettingsError: an address is wrong or taken, there is no such user, this process may not become it, or the
                control socket cannot be made.
        """
        self.state = PrimaryState.STARTING
        self._poller = poller
        self._environment = environment
        self._settings = settings
        self._counters = poller.counters
        cluster_hooks = ClusterHooks(hooks, counters=poller.counters)
        self._hook = cluster_hooks.run
        self._status = 0
        env = dict(env)
        self._manager = ServiceManager(env)
        self._workers = Workers(poller, environment)
        self._readiness = NodeReadiness(self._workers)
        self._drains_at_s: float | None = None  # in LAME_DUCK: when the drain begins, by the poller's clock
        self._node = settings.node or secrets.token_hex(4)
        secret = settings.secret or secrets.token_bytes(32)
        self._listeners: list[socket.socket] = []
        self._pid_file: str | None = None  # that this process has written: another's is never removed
        with contextlib.ExitStack() as undo:
            undo.callback(self._remove_files)
            self._bind()
            self._routing = Routing(poller, self._workers, settings, secret=secret)
            undo.callback(self._routing.release)
            self._control = self._open_control()
            undo.pop_all()  # all that can fail is done
        env_of_slot = partial(_worker_env, env, env_of)
        self._supervisor = self._make_supervisor(worker_argv, worker_config, env_of_slot, secret, cluster_hooks)
        self._sidecars = self._make_sidecars(sidecars, env)

    def _make_supervisor(
        self, worker_argv: Sequence[str], worker_config: Any, env_of: EnvOf, secret: bytes, hooks: ClusterHooks
    ) -> Supervisor:
        """Make the supervisor over the routing. It starts nothing yet, and calls back once the poller runs."""
        poller, environment, settings = self._poller, self._environment, self._settings
        launcher = Launcher(
            environment, settings, argv=worker_argv, env_of=env_of, config=worker_config, node=self._node, secret=secret
        )
        return Supervisor(
            poller,
            self._workers,
            launcher,
            self._routing.dispatcher,
            self._routing.crashes,
            self._readiness,
            settings=settings,
            counters=self._counters,
            hooks=hooks,
            acceptor=self._routing.acceptor,
            on_first_ready=self._listen,
            on_reloaded=self._on_reloaded,
            on_stopped=self._on_workers_stopped,
        )

    def _make_sidecars(self, sidecars: Sequence[Sidecar], env: Mapping[str, str]) -> Sidecars:
        """Make the sidecars, whose readiness starts the workers."""
        poller, environment = self._poller, self._environment
        return Sidecars(
            poller,
            environment,
            sidecars,
            env,
            on_ready=self._supervisor.start,
            on_failed=lambda: self._supervisor.stop(1),
            on_stopped=self._on_all_stopped,
        )

    def _open_control(self) -> ControlServer | None:
        path = self._settings.control
        return None if path is None else ControlServer(self._poller, path, partial(commands.answer, self))

    def _bind(self) -> None:
        """
        Bind every address, write the pid file, then give the privileges up that this may have needed.

        Raises:
            SettingsError: one of them is not possible.
        """
        identity = privileges.find(self._settings.user, self._settings.group)
        if self._settings.umask is not None:
            os.umask(self._settings.umask)
        self._listeners = listen.bind_all(self._settings.binds)
        if self._settings.pid_file is not None:
            _write_pid(self._settings.pid_file)
            self._pid_file = self._settings.pid_file
        identity.assume()

    def _transition(self, event: PrimaryEvent) -> None:
        after = TRANSITIONS.get((self.state, event))
        if after is None:
            raise AssertionError(f"primary: event {event.name} is illegal in state {self.state.name}")
        log(logging.DEBUG, log_lines.STATE, of="primary", before=self.state.value, after=after.value)
        self.state = after

    # The loop

    def run(self) -> int:
        """
        Serve until stopped, and return the exit status: 0, 3 when no worker could boot, 128 + N when a signal ended it
        at once.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            stack.enter_context(queued_signals(self._poller, _SIGNALS, self._on_signals))
            self.start()
            while self.state is not PrimaryState.STOPPED:
                self._poller.run_once()
        return self._status

    def start(self) -> None:
        """Start the sidecars, and the workers when those are ready. The caller must run the poller, then `close`."""
        self._hook("setup", {"addresses": [listen.address_of(each) for each in self._listeners]})
        if self._manager.watchdog_s:
            self._notify_alive()
        self._sidecars.start()

    def close(self) -> None:
        """Close every descriptor, and remove every file, that the primary made."""
        self._routing.release()
        if self._control is not None:
            self._control.close()
        self._remove_files()
        self._poller.close()

    def _remove_files(self) -> None:
        for listener in self._listeners:
            if listener.fileno() >= 0:
                listen.unlink(listener)
            listener.close()
        if self._pid_file is not None:
            with contextlib.suppress(OSError):  # its directory is another user's, when this process changed its user
                os.unlink(self._pid_file)

    def _notify_alive(self) -> None:
        self._poller.after(self._manager.watchdog_s, self._notify_alive)
        self._manager.alive()

    def _summary(self) -> str:
        return f"{len(self._workers.live)} of {self._supervisor.wanted} workers serve"

    def _listen(self) -> None:
        if self.state is not PrimaryState.STARTING:
            return  # the worker became ready after a stop
        assert self._workers.live, "a client that is accepted now has a worker"
        self._transition(PrimaryEvent.LISTEN)
        self._routing.open(self._listeners, self._settings.backlog)
        addresses = [listen.address_of(listener) for listener in self._listeners]
        for address in addresses:
            log(logging.INFO, log_lines.SERVER_LISTENING, address=address)
        self._manager.ready(self._summary())
        self._hook("listening", {"addresses": addresses})

    def _on_reloaded(self) -> None:
        if not self._readiness.is_stopping:  # a manager knows that already
            self._manager.ready(self._summary())

    # Signals

    def _on_signals(self, numbers: Sequence[signal.Signals]) -> None:
        for number in numbers:
            if number is not signal.SIGCHLD:
                log(logging.INFO, log_lines.SIGNAL_RECEIVED, signal=number.name)
                self._poller.guard(partial(self.handle_signal, number))
        self.reap()

    def handle_signal(self, number: signal.Signals) -> None:
        """Do what the table at the head of this file says."""
        if number in (signal.SIGTERM, signal.SIGINT):
            if self.state is PrimaryState.STOPPING:
                self.stop_now(128 + number)
            else:
                self.stop()
        elif number is signal.SIGQUIT:
            self.stop_now(128 + number)
        elif number is signal.SIGHUP:
            self.reload()
        elif number is signal.SIGTTIN:
            self._supervisor.scale(self._supervisor.wanted + 1)
        elif number is signal.SIGTTOU:
            self._supervisor.scale(self._supervisor.wanted - 1)
        elif number is signal.SIGUSR1:
            self._hook("reopen_logs", {})

    def reap(self) -> None:
        """Reap every process that has ended. One SIGCHLD may stand for many."""
        while (ended := self._environment.reap()) is not None:
            self._poller.guard(partial(self._on_reaped, *ended))

    def _on_reaped(self, pid: int, status: int) -> None:
        if not self._sidecars.reaped(pid, status):
            self._supervisor.reaped(pid, status)

    # Commands, of the control socket and of `Cluster`

    def reload(self) -> bool:
        """Replace every worker by a new one, one by one. Return False when the server stops, or will soon."""
        if self._readiness.is_stopping:
            return False
        self._manager.reloading()
        self._supervisor.reload()
        return True

    def scale(self, workers: int) -> None:
        """Have so many workers."""
        self._supervisor.scale(workers)

    def drain(self, slot: Slot) -> bool:
        """Replace the worker of one slot. Return False when none serves it."""
        if slot not in self._workers.live:
            return False
        self._supervisor.replace(slot)
        return True

    def inspect(self, slot: Slot, on_answer: Callable[[str], None]) -> bool:
        """Call back with what the worker of a slot is doing. Return False when none serves it."""
        return self._supervisor.inspect(slot, on_answer)

    def send(self, to: str, data: Any) -> int:
        """Send plain data to "all" workers or to "slot:3", and return to how many."""
        return self._supervisor.relay.send(to, data)

    # Stopping

    def stop(self) -> None:
        """
        Warn load balancers for the time of `lame_duck_s`; then accept nothing more, let every worker drain, and end the
        sidecars and the loop. Called again, it ends the warning.
        """
        if self.state is PrimaryState.SERVING and self._settings.lame_duck_s:
            self._begin_lame_duck(self._settings.lame_duck_s)
        else:
            self._begin_drain()

    def _begin_lame_duck(self, lame_duck_s: float) -> None:
        """Serve everything on, new clients included, while probes are answered that the server stops."""
        self._transition(PrimaryEvent.WARN)
        log(logging.INFO, log_lines.SERVER_LAME_DUCK, lame_duck_s=lame_duck_s)
        self._readiness.set(LAME_DUCK)
        self._manager.stopping(LAME_DUCK)
        self._drains_at_s = self._poller.now() + lame_duck_s
        self._poller.after(lame_duck_s, self._end_lame_duck)

    def _end_lame_duck(self) -> None:
        if self.state is PrimaryState.LAME_DUCK:  # else another stop has ended it
            self._begin_drain()

    def _begin_drain(self) -> None:
        self._begin_stopping()
        log(logging.INFO, log_lines.SERVER_STOPPING, drain_s=self._settings.drain_s)
        self._supervisor.stop()

    def stop_now(self, status: int) -> None:
        """Accept nothing more, kill every worker and sidecar, and end the loop with this exit status."""
        self._begin_stopping()
        log(logging.WARNING, log_lines.SERVER_STOPPING, drain_s=0)
        self._supervisor.stop_now(status)
        self._sidecars.kill()

    def _begin_stopping(self) -> None:
        if self.state in (PrimaryState.STOPPING, PrimaryState.STOPPED):
            return
        self._transition(PrimaryEvent.STOP)
        self._drains_at_s = None
        self._readiness.set(STOPPING)
        self._manager.stopping()
        for listener in self._listeners:
            if listener.fileno() >= 0:
                listen.unlink(listener)
        self._routing.close()

    def _on_workers_stopped(self, status: int) -> None:
        self._begin_stopping()  # no worker could boot, or a sidecar failed: nothing else has begun it
        self._status = status
        self._sidecars.stop()

    def _on_all_stopped(self) -> None:
        assert not self._workers.by_pid, "workers end before the sidecars that they need"
        log(logging.INFO, log_lines.SERVER_STOPPED, status=self._status)
        self._transition(PrimaryEvent.ENDED)

    def statistics(self) -> dict[str, Any]:
        """Return a snapshot of everything the primary knows."""
        return {
            "pid": os.getpid(),
            "node": self._node,
            "control": self._settings.control,
            "addresses": [listen.address_of(each) for each in self._listeners if each.fileno() >= 0],
            "workers": self._supervisor.describe(),
            "wanted": self._supervisor.wanted,
            "reload": self._supervisor.describe_reload(),
            "live": sorted(self._workers.live),
            "sidecars": self._sidecars.describe(),
            "state": self.state.value,
            "stopping": self.state in (PrimaryState.STOPPING, PrimaryState.STOPPED),
            "unready": self._readiness.reasons(),
            "drains_in_s": None if self._drains_at_s is None else round(self._drains_at_s - self._poller.now(), 1),
            **self._routing.statistics(),
            "counters": dict(self._counters),
        }


def _write_pid(path: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as error:
        raise SettingsError("pid_file", f"{path} cannot be written: {error.strerror}") from error
