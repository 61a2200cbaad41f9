"""
The primary: joins the path of connections, the supervisor and the control socket in one loop.

Runs in the primary, one thread, no asyncio. It is the wiring and the order of start and stop; the parts have the rules.
Its poller and its environment are given to it, so that a test runs it without a process and with a clock of its own.

What each signal does stands in signal_actions.py.

**States** (`TRANSITIONS`):

    STARTING ──listen──▶ SERVING ──warn──▶ LAME_DUCK ──stop──▶ STOPPING ──ended──▶ STOPPED
        │                  │└───────────stop──────────────────────▲                   ▲
        │                  └──────────────release (to a successor)────────────────────┘
        └───────────────────────────────stop──────────────────────┘

**With a keeper** (`realtime serve`) the signals come as lines from there, and this process ignores those of the
terminal. A TERM that is sent to this process itself, as a service manager may do, is a stop, and never a second one.
After the death of an earlier primary, this one finds listeners, workers, sidecars and the secret at the keeper, and
goes on with them (takeover.py).

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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from sticky.accept.pending_connection import PendingConnection
from sticky.errors import SettingsError
from sticky.keys.hashing import Slot
from sticky.loop import log_lines
from sticky.loop.log_lines import log
from sticky.loop.poller import Poller
from sticky.process import commands
from sticky.process.binding import Binding
from sticky.process.control import ControlServer
from sticky.process.in_flight import InFlight
from sticky.process.keeper_link import KeeperLink
from sticky.process.primary_state import TRANSITIONS, PrimaryEvent, PrimaryState
from sticky.process.release import Release, take_counters, take_pending
from sticky.process.routing import Routing
from sticky.process.service_manager import ServiceManager
from sticky.process.signal_actions import SIGNALS, TERMINAL, act
from sticky.process.signals import ignore, queue, queued_signals
from sticky.settings import ClusterSettings
from sticky.supervision.adopted_processes import AdoptedProcesses
from sticky.supervision.environment import Environment
from sticky.supervision.hooks import ClusterHooks
from sticky.supervision.launcher import EnvOf, Launcher, worker_env
from sticky.supervision.readiness import LAME_DUCK, STOPPING, NodeReadiness
from sticky.supervision.sidecars import Sidecar, Sidecars
from sticky.supervision.supervisor import Supervisor
from sticky.supervision.templates import Templates
from sticky.supervision.workers import Workers

_BEFORE_STOP: Final = (PrimaryState.STARTING, PrimaryState.SERVING)


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
        keeper: KeeperLink | None = None,
        forks: bool = False,
    ) -> None:
        """
        Bind every address and become the user of the settings, so that an error is raised before anything is started.

        Args:
            poller: the loop; this run closes it. Its counters are those of the whole primary.
            environment: starts, signals and reaps processes.
            keeper: what started this process; None where this primary has no keeper.
            forks: workers are forked of a template, which their command can be. Needs a keeper.
            others: as `Cluster`.

        Raises:
            SettingsError: an address is wrong or taken, there is no such user, this process may not become it, or the
                control socket cannot be made.
        """
        self.state = PrimaryState.STARTING
        self._poller = poller
        self._environment = environment
        self._settings = settings
        cluster_hooks = ClusterHooks(hooks, counters=poller.counters)
        self._hook = cluster_hooks.run
        self._status = 0
        self._is_told_to_stop = False  # by the keeper
        self._is_released = False  # everything is left to a successor
        env = dict(env)
        self._keeper = KeeperLink() if keeper is None else keeper
        self._manager = ServiceManager(env, send=self._keeper.notify if self._keeper.is_linked else None)
        self._workers = Workers(poller, environment)
        self._processes = AdoptedProcesses(poller, environment, self._on_reaped)
        self._readiness = NodeReadiness(self._workers)
        self._drains_at_s: float | None = None  # in LAME_DUCK: when the drain begins, by the poller's clock
        self._node = settings.node or self._keeper.kept.texts.get("node") or secrets.token_hex(4)
        secret = settings.secret or self._keeper.take_bytes("secret") or secrets.token_bytes(32)
        self._keeper.set("node", self._node)
        self._keeper.put_bytes("secret", secret)
        self._binding = Binding(settings, self._keeper)
        self._pending: list[PendingConnection] = []  # left by an earlier primary
        take_counters(self._keeper, poller.counters)
        with contextlib.ExitStack() as undo:
            undo.callback(self._keeper.close)
            undo.callback(self._close_binding)
            self._binding.bind()
            self._routing = Routing(poller, self._workers, settings, secret=secret)
            undo.callback(self._routing.release)
            self._in_flight = InFlight(self._keeper, self._routing, poller.counters)
            path, answer = settings.control, partial(commands.answer, self)
            self._control = None if path is None else ControlServer(poller, path, answer)
            undo.pop_all()  # all that can fail is done
        env_of = partial(worker_env, env, env_of)
        argv = worker_argv if forks and keeper is not None else ()
        self._templates = Templates(poller, environment, self._processes, argv=argv, env_of=env_of)
        self._supervisor = self._make_supervisor(worker_argv, worker_config, env_of, secret, cluster_hooks)
        self._sidecars = self._make_sidecars(sidecars, env)

    def _make_supervisor(
        self, worker_argv: Sequence[str], worker_config: Any, env_of: EnvOf, secret: bytes, hooks: ClusterHooks
    ) -> Supervisor:
        """Make the supervisor over the routing. It starts nothing yet, and calls back once the poller runs."""
        poller, environment, settings = self._poller, self._environment, self._settings
        launcher = Launcher(
            environment,
            settings,
            argv=worker_argv,
            env_of=env_of,
            config=worker_config,
            node=self._node,
            secret=secret,
            directory=self._keeper.directory,
            templates=self._templates,
        )
        return Supervisor(
            poller,
            environment,
            self._processes,
            self._workers,
            launcher,
            self._routing.dispatcher,
            self._routing.crashes,
            self._readiness,
            deposit=self._keeper,
            settings=settings,
            counters=self._poller.counters,
            hooks=hooks,
            acceptor=self._routing.acceptor,
            on_first_ready=self._listen,
            on_reloaded=self._on_reloaded,
            on_stopped=self._on_workers_stopped,
        )

    def _make_sidecars(self, sidecars: Sequence[Sidecar], env: Mapping[str, str]) -> Sidecars:
        """Make the sidecars, whose readiness starts the workers."""
        return Sidecars(
            self._poller,
            self._environment,
            self._processes,
            sidecars,
            env,
            deposit=self._keeper,
            on_ready=lambda: self._templates.when_ready(self._start_workers, at_once=self._keeper.is_takeover),
            on_failed=lambda: self._supervisor.stop(1),
            on_stopped=self._on_all_stopped,
        )

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
            stack.enter_context(queued_signals(self._poller, SIGNALS, self._on_signals))
            if self._keeper.is_linked:
                ignore(TERMINAL)
            self.start()
            while self.state is not PrimaryState.STOPPED:
                self._poller.run_once()
                self._in_flight.note()
            if not self._is_released:
                self._keeper.stopped(self._status)
        return self._status

    def start(self) -> None:
        """Start the sidecars, and the workers when those are ready. The caller must run the poller, then `close`."""
        self._hook("setup", {"addresses": self._binding.addresses()})
        self._manager.keep_alive(self._poller)
        self._keeper.watch(
            self._poller,
            on_signal=self._on_keeper_signal,
            on_reaped=self._on_reaped,
            on_lost=lambda: queue(TERMINAL),
            on_linked=self._on_linked,
            on_release=self._release,
        )
        self._templates.renew()
        self._sidecars.start(self._keeper.kept)

    def _start_workers(self) -> None:
        self._supervisor.start(self._keeper.kept)
        self._pending = take_pending(self._keeper)
        self._keeper.drop_rest()

    def close(self) -> None:
        """Close every descriptor, and remove every file, that the primary made and no successor has."""
        self._routing.release()
        self._templates.close()
        if self._control is not None:
            self._control.close(is_released=self._is_released)
        self._close_binding()
        self._keeper.close()
        self._poller.close()

    def _close_binding(self) -> None:
        self._binding.close(is_released=self._is_released)

    def _summary(self) -> str:
        return f"{len(self._workers.live)} of {self._supervisor.wanted} workers serve"

    def _listen(self) -> None:
        if self.state is not PrimaryState.STARTING:
            return  # the worker became ready after a stop
        assert self._workers.live, "a client that is accepted now has a worker"
        self._transition(PrimaryEvent.LISTEN)
        self._routing.open(self._binding.listeners, self._settings.backlog)
        for pending in self._pending:
            self._routing.acceptor.adopt(pending)
        addresses = self._binding.addresses()
        for address in addresses:
            log(logging.INFO, log_lines.SERVER_LISTENING, address=address)
        if self._keeper.is_upgrade:
            self._sidecars.replace()
        self._keeper.ready()
        self._manager.ready(self._summary())
        self._hook("listening", {"addresses": addresses})

    def _on_reloaded(self) -> None:
        if not self._readiness.is_stopping:  # a manager knows that already
            self._manager.ready(self._summary())

    # Signals

    def _on_signals(self, numbers: Sequence[signal.Signals]) -> None:
        for number in numbers:
            if number is signal.SIGCHLD:
                continue
            if number is signal.SIGTERM and self._keeper.is_linked and self.state not in _BEFORE_STOP:
                continue  # to this process itself, and the keeper has passed on its own
            self._poller.guard(partial(self.handle_signal, number))
        self.reap()

    def _on_linked(self) -> None:
        """Introduce this primary to another keeper, after the one before it was killed."""
        ignore(TERMINAL)
        self._keeper.become()
        with contextlib.suppress(SettingsError):  # its directory may be another user's by now
            self._binding.write_pid()
        if self.state is PrimaryState.SERVING:
            self._keeper.ready()
            self._manager.ready(self._summary())
        elif self.state in (PrimaryState.LAME_DUCK, PrimaryState.STOPPING):
            self._keeper.stopping()

    def _on_keeper_signal(self, number: signal.Signals) -> None:
        """Handle a signal that the server got. The first stop stays one, whatever was sent to this process as well."""
        if number in (signal.SIGTERM, signal.SIGINT) and not self._is_told_to_stop:
            self._is_told_to_stop = True
            log(logging.INFO, log_lines.SIGNAL_RECEIVED, signal=number.name)
            if self.state in _BEFORE_STOP:
                self.stop()
        else:
            self.handle_signal(number)

    def handle_signal(self, number: signal.Signals) -> None:
        """Do what the table of signal_actions.py says."""
        log(logging.INFO, log_lines.SIGNAL_RECEIVED, signal=number.name)
        act(self, number)

    def reap(self) -> None:
        """Reap every process that has ended. One SIGCHLD may stand for many."""
        while (ended := self._environment.reap()) is not None:
            self._poller.guard(partial(self._on_reaped, *ended))

    def _on_reaped(self, pid: int, status: int | None) -> None:
        self._processes.reaped(pid)
        self._templates.reaped(pid)
        if not self._sidecars.reaped(pid, status):
            self._supervisor.reaped(pid, status)

    # What signals, the control socket and `Cluster` have it do

    @property
    def wanted(self) -> int:
        """How many workers there should be."""
        return self._supervisor.wanted

    def reopen_logs(self) -> None:
        """Have the hooks open the log files again."""
        self._hook("reopen_logs", {})

    def reload(self) -> bool:
        """Replace every worker by a new one, one by one. Return False when the server stops, or will soon."""
        if self._readiness.is_stopping:
            return False
        self._manager.reloading()
        self._supervisor.reload()
        return True

    def upgrade(self) -> bool:
        """Have a primary with the code of today take over. Return False where nothing can: no keeper, or no service."""
        return self.state is PrimaryState.SERVING and self._keeper.upgrade()

    def _release(self) -> None:
        if self.state is PrimaryState.SERVING:  # else this process ends anyway
            routing = self._routing
            Release(
                self._poller, routing.acceptor, routing.dispatcher, self._workers, self._keeper, self._on_released
            ).begin()

    def _on_released(self) -> None:
        self._is_released = True
        self._transition(PrimaryEvent.RELEASE)

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
        return self._supervisor.inspections.request_slot(slot, on_answer)

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
        self._poller.after(lame_duck_s, lambda: self._begin_drain() if self._drains_at_s is not None else None)

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
        self._keeper.stopping()
        self._binding.unlink()
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
            "keeper": self._keeper.describe(),
            "control": self._settings.control,
            "upgrade": {"failed": self._keeper.upgrade_failed},
            "addresses": self._binding.addresses(),
            "workers": self._workers.describe(),
            "wanted": self._supervisor.wanted,
            "reload": self._supervisor.describe_reload(),
            "live": sorted(self._workers.live),
            "sidecars": self._sidecars.describe(),
            "template": self._templates.describe(),
            "state": self.state.value,
            "stopping": self.state in (PrimaryState.STOPPING, PrimaryState.STOPPED),
            "unready": self._readiness.reasons(),
            "drains_in_s": None if self._drains_at_s is None else round(self._drains_at_s - self._poller.now(), 1),
            **self._routing.statistics(),
            "counters": dict(self._poller.counters),
        }
