"""
The primary: joins the acceptor, the dispatcher, the supervisor and the control socket in one loop.

Runs in the primary, one thread, no asyncio. Signal handlers only queue: the interpreter writes each signal's number to
a pipe, and the loop acts on it between two rounds.

| signal    | what happens                                                          |
|-----------|-----------------------------------------------------------------------|
| TERM, INT | stop accepting, drain every worker, end; a second one ends at once    |
| QUIT      | end at once                                                           |
| HUP       | reload: each worker is replaced when its successor is ready           |
| TTIN/TTOU | one worker more, one fewer                                            |
| USR1      | open the log files again (the `reopen_logs` hook)                     |
| CHLD      | a child ended; as PID 1 also a stranger                               |
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import secrets
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from sticky import listen, privileges
from sticky.acceptor import Acceptor
from sticky.addresses import Addresses
from sticky.affinity import Affinity
from sticky.balance import balance_named
from sticky.children import Child, Children
from sticky.control import ControlServer, Later
from sticky.crashes import Crashes
from sticky.errors import SettingsError
from sticky.handoff import Dispatcher
from sticky.hashing import Hashing, Slot
from sticky.launcher import Launcher
from sticky.notify import ServiceManager
from sticky.poller import READ, Poller
from sticky.refusals import Refusals
from sticky.settings import ClusterSettings
from sticky.supervisor import Supervisor

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

logger = logging.getLogger("sticky")


class Primary:
    """One run of a cluster, from binding to the exit status."""

    def __init__(
        self,
        settings: ClusterSettings,
        *,
        worker_argv: Sequence[str],
        worker_config: Any,
        children: Sequence[Child],
        env: Mapping[str, str],
        env_of: Callable[[Slot], Mapping[str, str]],
        hooks: Mapping[str, Sequence[Callable[[dict[str, Any]], None]]],
    ) -> None:
        """
        Bind every address and become the user that was asked for, so that what cannot be had is told before anything
        is started.

        Raises:
            SettingsError: an address is wrong or taken, there is no such user, or this process may not become it.
        """
        self._settings = settings
        self._hooks = hooks
        env = dict(env)
        self._manager = ServiceManager(env)
        identity = privileges.find(settings.user, settings.group)
        if settings.umask is not None:
            os.umask(settings.umask)
        self._listeners = _bind_all(settings.binds)
        self._pid_file = settings.pid_file
        if self._pid_file is not None:
            _write_pid(self._pid_file)
        try:
            identity.assume()
        except SettingsError:
            self._remove_files()
            raise
        self._counters: Counter[str] = Counter()
        self._poller = Poller(counters=self._counters)
        secret = settings.secret or secrets.token_bytes(32)
        self._hashing = Hashing(secret)
        self._node = settings.node or secrets.token_hex(4)
        launcher = Launcher(
            settings,
            argv=worker_argv,
            env_of=lambda slot: {**env, SLOT: str(slot), **env_of(slot)},
            config=worker_config,
            node=self._node,
            secret=secret,
        )
        self._crashes: Crashes
        self._acceptor: Acceptor
        self._supervisor = Supervisor(
            self._poller,
            launcher,
            settings=settings,
            counters=self._counters,
            hook=self._hook,
            on_first_ready=self._listen,
            on_reloaded=lambda: self._manager.ready(self._summary()),
            on_stopped=self._workers_stopped,
            on_given_back=lambda *given: self._acceptor.take_back(*given),
            on_ended=lambda worker, code: self._crashes.ended(worker, code),
            missed=lambda: self._crashes.now_refused(),
        )
        affinity, descriptors = Affinity(settings.affinity, self._hashing), _descriptor_limit()
        self._crashes = Crashes(
            self._poller, affinity, self._hashing, workers=self._supervisor, counters=self._counters
        )
        self._addresses = Addresses(
            trusts=affinity.trusts, most=settings.connections_per_address, descriptors=descriptors
        )
        self._refusals = Refusals(self._poller, descriptors=descriptors, tls=settings.tls, counters=self._counters)
        self._dispatcher = Dispatcher(
            self._poller,
            self._hashing,
            self._supervisor.live,
            balance=balance_named(settings.balance),
            patience_s=settings.patience_s,
            refusals=self._refusals,
            channels=self._supervisor,
            addresses=self._addresses,
            counters=self._counters,
            suspicion=self._crashes,
        )
        self._acceptor = Acceptor(
            self._poller,
            affinity,
            limits=settings.limits,
            handshake_s=settings.handshake_s,
            expects_proxy=settings.proxy_protocol,
            tls=settings.tls,
            raw=settings.raw,
            addresses=self._addresses,
            descriptors=descriptors,
            refusals=self._refusals,
            dispatcher=self._dispatcher,
            counters=self._counters,
        )
        self._supervisor.dispatcher = self._dispatcher
        self._children = Children(
            self._poller, children, env, on_ready=self._supervisor.start, on_failed=lambda: self._supervisor.stop(1)
        )
        self._control: ControlServer | None = None
        self._stopping = False
        self._status = 0
        self._ended = False

    # The loop

    def run(self) -> int:
        """
        Serve until stopped, and return the exit status: 0, 3 when no worker could boot, 128 + N when a signal ended it
        at once.

        Raises:
            SettingsError: the control socket cannot be made.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self._release)
            stack.enter_context(self._signals())
            if self._settings.control is not None:
                self._control = ControlServer(self._poller, self._settings.control, self._answer)
            self._hook("setup", {"addresses": [listen.written(each) for each in self._listeners]})
            if self._manager.watchdog_s:
                self._tell_alive()
            self._children.start()
            while not self._ended:
                self._poller.run_once()
        return self._status

    def _release(self) -> None:
        """Close every descriptor, and remove every file, that the primary made."""
        self._refusals.close()
        self._acceptor.release()
        self._remove_files()
        if self._control is not None:
            self._control.close()
        self._poller.close()

    def _remove_files(self) -> None:
        for listener in self._listeners:
            listen.unlink(listener) if listener.fileno() >= 0 else None
            listener.close()
        if self._pid_file is not None:
            with contextlib.suppress(OSError):  # another user's directory, when we have become somebody else
                os.unlink(self._pid_file)

    def _tell_alive(self) -> None:
        self._poller.after(self._manager.watchdog_s, self._tell_alive)
        self._manager.alive()

    def _summary(self) -> str:
        return f"{len(self._supervisor.live)} of {self._supervisor.wanted} workers serve"

    def _listen(self) -> None:
        if self._stopping:
            return
        self._acceptor.open(self._listeners, self._settings.backlog)
        addresses = [listen.written(listener) for listener in self._listeners]
        for address in addresses:
            logger.info("= listening on %s", address)
        self._manager.ready(self._summary())
        self._hook("listening", {"addresses": addresses})

    def _hook(self, name: str, fields: dict[str, Any]) -> None:
        for hook in self._hooks.get(name, ()):
            try:
                hook(fields)
            except Exception:
                self._counters["hooks_failed"] += 1
                logger.exception("! a hook for %s failed", name)

    # Signals

    @contextlib.contextmanager
    def _signals(self) -> Any:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        before = {number: signal.signal(number, _only_queue) for number in _SIGNALS}
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._poller.watch(reader.fileno(), READ, lambda events: self._on_signals(reader), on_failed=lambda: None)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._poller.forget(reader.fileno())
            reader.close()
            writer.close()

    def _on_signals(self, reader: socket.socket) -> None:
        for number in reader.recv(4096):
            if number in _SIGNALS and number != signal.SIGCHLD:  # a hook may have handlers of its own
                name = signal.Signals(number)
                logger.info("< %s", name.name)
                self._poller.guard(partial(self._on_signal, name))
        self._reap()

    def _on_signal(self, number: signal.Signals) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self.stop_now(128 + number) if self._stopping else self.stop()
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

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._poller.guard(partial(self._reaped, pid, status))

    def _reaped(self, pid: int, status: int) -> None:
        if not self._children.reaped(pid, status):
            self._supervisor.reaped(pid, status)

    # What can be asked of it

    def reload(self) -> None:
        """Replace every worker by a new one, one by one."""
        self._manager.reloading()
        self._supervisor.reload()

    def scale(self, workers: int) -> None:
        """Have so many workers."""
        self._supervisor.scale(workers)

    def drain(self, slot: Slot) -> bool:
        """Replace the worker of one slot. Return False when none serves there."""
        if slot not in self._supervisor.live:
            return False
        self._supervisor.reload([slot])
        return True

    def send(self, to: str, data: Any) -> int:
        """Send plain data to "all" workers or to "slot:3", and return to how many."""
        return self._supervisor.post.send(to, data)

    # Stopping

    def stop(self) -> None:
        """Accept nothing more, let every worker drain, then end the children and the loop."""
        self._begin_stopping()
        logger.info("= stopping: workers have %g s", self._settings.drain_s)
        self._supervisor.stop()

    def stop_now(self, status: int) -> None:
        """End everything at once."""
        self._begin_stopping()
        logger.warning("= stopping at once")
        self._supervisor.stop_now(status)
        self._children.kill()

    def _begin_stopping(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._manager.stopping()
        for listener in self._listeners:
            if listener.fileno() >= 0:
                listen.unlink(listener)
        self._dispatcher.close()
        self._acceptor.close()

    def _workers_stopped(self, status: int) -> None:
        self._begin_stopping()
        self._status = status
        self._children.stop(self._end)

    def _end(self) -> None:
        logger.info("= stopped")
        self._ended = True

    # Answers on the control socket

    def _answer(self, request: dict[str, Any]) -> dict[str, Any] | Later:
        command = request.get("command")
        if command == "status":
            return self.statistics()
        if command == "reload":
            self.reload()
        elif command == "scale" and type(request.get("workers")) is int:  # and not bool
            self.scale(request["workers"])
        elif command == "drain" and type(request.get("slot")) is int:
            if not self.drain(Slot(request["slot"])):
                return {"error": f"slot {request['slot']} has no worker that serves"}
        elif command == "inspect" and type(request.get("slot")) is int:
            later = Later()
            if self._supervisor.inspect(Slot(request["slot"]), lambda text: later.give({"text": text})):
                return later
            return {"error": f"slot {request['slot']} has no worker that serves"}
        elif command == "stop":
            self.stop_now(0) if request.get("now") else self.stop()
        else:
            return {"error": f"no such command: {command!r:.100}"}
        return {"ok": True}

    def statistics(self) -> dict[str, Any]:
        """Return a snapshot of everything the primary knows."""
        return {
            "pid": os.getpid(),
            "node": self._node,
            "control": self._settings.control,
            "addresses": [listen.written(each) for each in self._listeners if each.fileno() >= 0],
            "workers": self._supervisor.describe(),
            "wanted": self._supervisor.wanted,
            "reload": self._supervisor.describe_reload(),
            "live": sorted(self._supervisor.live),
            "children": self._children.describe(),
            "stopping": self._stopping,
            "before_head": self._acceptor.waiting,
            "homeless": self._dispatcher.homeless,
            "client_addresses": len(self._addresses),
            "away": len(self._dispatcher.away),
            "counters": dict(self._counters),
        }


def _only_queue(number: int, frame: Any) -> None:
    """The interpreter has written the number to the wake-up descriptor already."""


def _descriptor_limit() -> int:
    """Return how many files each process may have open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit if limit != resource.RLIM_INFINITY else sys.maxsize


def _bind_all(binds: Sequence[str]) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    try:
        for address in binds:
            listeners.append(listen.bind(address))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _write_pid(path: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as error:
        raise SettingsError("pid_file", f"{path} cannot be written: {error.strerror}") from error
