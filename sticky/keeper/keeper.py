"""
The keeper's process: starts a primary, holds what must outlive it, and starts the next one when it dies.

Run as a program by the file's path, so small that nothing can go wrong with it: `python -I -S -E keeper.py …`
(start.py has the arguments). `realtime serve` becomes this process, so its process id is the public one; before that it
forks the first primary. It imports five modules of the standard library and its own package, but neither `sticky` as a
whole nor `realtime`.

Theory of operation
===================

    WAITING ──a start is due──▶ RUNNING ──the primary has stopped, or cannot start──▶ ENDED
       ▲                         │   ▲
       └───── the primary dies ──┘   └── a primary of an earlier keeper connects ── ADOPTING

**The deposit.** A primary puts copies of its descriptors here (lines.py): listeners, its ends of the worker channels,
pidfds, journals, liveness sockets, the secret. The keeper reads from none of them. So a primary's death closes no
channel and no listener: workers serve on, and new connections wait in the backlog. The next primary gets everything.

**A keeper that is killed** leaves everything as it is: its primary serves on. The next keeper of the same control
directory finds the primary's lock taken, so it starts none (ADOPTING). It waits for the primary to connect to its
socket, and to put everything again. That primary is no child of it; its end is seen by a pidfd.

**Whose children.** This process is a subreaper (start.py), so the children of a dead primary become its children. It
reaps them, and reports each to the primary that runs then.

**Signals** are passed on as lines. The primary itself ignores those of the terminal, which reach the whole foreground
group: a Ctrl-C would count twice. While the server stops, each primary that is started gets the signal anew.

**How a primary's end is judged.** One that has sent STOPPED, or that ends by itself before any primary ever was ready,
ends the server with its status: a wrong setting, an address in use. Every other end is a crash. The first crash is
followed by another primary at once, the next ones after `BACKOFF_S`. A primary without a sign of life for `SILENT_S`
(primary_process.py) is killed, which is a crash too.

**Errors.** Each callback is guarded: what it raises is logged, and the loop goes on. A primary whose lines cannot be
handled is killed, for the next one starts from a clean link.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time

if __name__ == "__main__":  # `sticky` itself would import the whole package: an empty one in its place finds ours
    _HERE = os.path.dirname(os.path.abspath(__file__))
    _PACKAGE = type(sys)("sticky")
    _PACKAGE.__path__ = [os.path.dirname(_HERE)]
    sys.modules["sticky"] = _PACKAGE

from collections.abc import Callable, Sequence

from sticky.keeper.directory import ControlDirectory, peer_of
from sticky.keeper.lines import AGAIN, DIRECTORY, FIRST, KEEPER_FD
from sticky.keeper.primary_process import PrimaryProcess
from sticky.keeper.report import (
    KEEPER_GIVES_UP,
    PRIMARY_ADOPTED,
    PRIMARY_AWAITED,
    PRIMARY_LOST,
    PRIMARY_NOT_STARTED,
    PRIMARY_RESTART_DELAYED,
    PRIMARY_SILENT,
    PRIMARY_STARTED,
    Report,
    describe_end,
)
from sticky.keeper.store import Store
from sticky.keeper.upgrade import Upgrade
from sticky.supervision.spawn import spawn

BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
STEADY_S = 10.0  # ready for so long: earlier crashes are forgotten
STARTS_MAX = 3  # crashes in a row before any primary was ready: the server is given up
END_S = 5.0  # for a primary to end that has closed its link
AWAIT_S = 0.2  # between two looks whether an earlier keeper's primary still lives
STANDSTILL_S = 5.0  # this process itself did not run for so long: the silence of others in that time is no fault
TICK_MS = 1000  # between two looks at the clock, at most
RETRY_MS = 20  # a link full of descriptors in flight (ETOOMANYREFS) gets no event
BATCH = 256  # lines in one round, so that signals are passed on in between
REAPED_MAX = 4096  # reports for a primary that is still to come

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
SIGNALS = (*STOP_SIGNALS, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2)


class Keeper:
    """This process."""

    def __init__(
        self, argv: Sequence[str], env: dict[str, str], *, directory: ControlDirectory, report: Report
    ) -> None:
        """
        Args:
            argv: the primary's command.
            env: its environment.
            directory: the control directory, which is removed at the end.
        """
        self._argv = argv
        self._env = env
        self._directory = directory
        self._report = report
        self._store = Store()
        self._poll = select.poll()
        self._callbacks: dict[int, tuple[Callable[[], object], Callable[[], object]]] = {}
        self._primary: PrimaryProcess | None = None
        self._start_at: float | None = None  # when the next primary is due
        self._crashes = 0  # in a row
        self._ever_ready = False
        self._stop_signals: list[str] = []  # that came, in their order
        self._stopped: int | None = None  # the status that a primary has announced
        self._reaped: list[str] = []  # reports for the next primary
        self._upgrade = Upgrade(report, self._spawn)
        self._awaits = False  # a primary of an earlier keeper, and the log has said so
        self._looked_at = time.monotonic()
        self.status: int | None = None
        """The exit status, once the server has ended."""

    # The loop

    def run(self, first: PrimaryProcess | None = None) -> int:
        """
        Serve until a primary has stopped, or none can be started. Return the exit status.

        Args:
            first: a primary that was started already, and waits for the deposit.
        """
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in (*SIGNALS, signal.SIGCHLD):
            signal.signal(number, lambda number, frame: None)  # the interpreter writes it to the wake-up descriptor
        self._watch(reader.fileno(), lambda: self._on_signals(reader), on_failed=lambda: None)
        self._guard(self._listen)
        if first is not None:
            self._watch_link(first)
            self._bring(first)
            self._reap()  # it may have ended before the handlers above were set
        else:
            self._start_at = time.monotonic()
        while self.status is None:
            for fd, _ in self._poll.poll(self._wait_ms()):
                callback, on_failed = self._callbacks.get(fd, (None, None))
                if callback is not None:
                    self._guard(callback, on_failed)
            self._guard(self._on_time)
        if self._upgrade.successor is not None:
            self._upgrade.successor.kill()
        self._guard(lambda: self._directory.remove(self._store.text("pid-file")))
        self._store.clear()
        return self.status

    def _watch(self, fd: int, callback: Callable[[], object], on_failed: Callable[[], object]) -> None:
        self._poll.register(fd, select.POLLIN)
        self._callbacks[fd] = (callback, on_failed)

    def _forget(self, fd: int) -> None:
        if self._callbacks.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def _guard(self, callback: Callable[[], object], on_failed: Callable[[], object] | None = None) -> None:
        """Call something. Whatever it raises is logged, and the keeper goes on."""
        try:
            callback()
        except Exception:  # noqa: BLE001 - `failed` logs it
            self._report.failed()
            if on_failed is not None:
                self._guard(on_failed)

    def _wait_ms(self) -> int:
        if self._primary is not None and self._primary.waits:
            return RETRY_MS
        if self._start_at is None:
            return TICK_MS
        return min(max(int((self._start_at - time.monotonic()) * 1000) + 1, 0), TICK_MS)

    def _on_time(self) -> None:
        now = time.monotonic()
        stood_still_s, self._looked_at = now - self._looked_at - TICK_MS / 1000, now
        if self._start_at is not None and self._start_at <= now:
            self._start_or_wait()
        primary = self._primary
        if primary is None:
            return
        primary.flush()
        self._upgrade.check(primary, now)
        if stood_still_s > STANDSTILL_S:
            primary.forgive(stood_still_s)
        if primary.ready_at is not None and now - primary.ready_at > STEADY_S:
            self._crashes = 0
        if primary.lost_at is not None and now - primary.lost_at > END_S:
            primary.lost_at = None  # it is killed once
            primary.kill()
        if silent_s := primary.silent_s(now):
            primary.alive_at = now  # it is killed once
            self._report.log("error", PRIMARY_SILENT, pid=primary.pid, silent_s=round(silent_s, 1))
            primary.kill()

    # Adopting a primary

    def _listen(self) -> None:
        listener = self._directory.listen()
        self._watch(listener.fileno(), lambda: self._on_connect(listener), on_failed=lambda: None)

    def _on_connect(self, listener: socket.socket) -> None:
        sock, _ = listener.accept()
        pid, uid = peer_of(sock)
        if self._primary is not None or uid not in (0, os.geteuid(), self._directory.owner):
            sock.close()
            return
        primary = self._primary = PrimaryProcess(pid, sock, now=time.monotonic())
        primary.pidfd = pidfd = os.pidfd_open(pid)
        self._start_at = None
        self._watch(sock.fileno(), lambda: self._on_link(primary), on_failed=primary.kill)
        self._watch(pidfd, lambda: self._on_primary_ended(None), on_failed=lambda: self._forget(pidfd))
        self._report.log("warning", PRIMARY_ADOPTED, pid=pid)
        for name in self._stop_signals:
            primary.send(f"SIGNAL {name}")

    def _start_or_wait(self) -> None:
        """Start a primary, unless one of an earlier keeper lives: it connects soon."""
        self._start_at = time.monotonic() + AWAIT_S  # also where looking for it fails
        if not self._directory.primary_lives():
            self._start()
            return
        if not self._awaits:
            self._awaits = True
            self._report.log("warning", PRIMARY_AWAITED, reason="a primary serves already, without a keeper")

    # Starting a primary

    def _start(self) -> None:
        """Start a primary, and bring it the deposit."""
        assert self._primary is None, "two primaries would read the same channels"
        self._start_at = None
        if (primary := self._spawn()) is None:
            self._start_later(1)
        else:
            self._bring(primary)

    def _spawn(self) -> PrimaryProcess | None:
        """Start the process of a primary; None where that fails."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            env = {**self._env, KEEPER_FD: str(theirs.fileno()), DIRECTORY: self._directory.path}
            pid = spawn(self._argv, env, theirs.fileno())
        except OSError as error:
            ours.close()
            self._report.log("error", PRIMARY_NOT_STARTED, program=self._argv[0], reason=error.strerror)
            return None
        finally:
            theirs.close()
        primary = PrimaryProcess(pid, ours, now=time.monotonic())
        self._watch_link(primary)
        return primary

    def _watch_link(self, primary: PrimaryProcess) -> None:
        self._watch(primary.sock.fileno(), lambda: self._on_link(primary), on_failed=primary.kill)

    def _bring(self, primary: PrimaryProcess) -> None:
        """Make a process the primary, and bring it the deposit."""
        self._primary = primary
        primary.started_at, primary.alive_at = time.monotonic(), None
        for line, fd in self._store.messages():
            primary.send(line, fd)
        primary.send(f"START {AGAIN if self._ever_ready else FIRST}")
        for line in [*self._reaped, *(f"SIGNAL {name}" for name in self._stop_signals)]:
            primary.send(line)
        self._reaped.clear()
        if self._ever_ready:
            self._report.log("warning", PRIMARY_STARTED, pid=primary.pid, descriptors=len(self._store))

    def _start_later(self, status: int) -> None:
        """Have another primary started, or give up where none was ever ready."""
        self._crashes += 1
        if not self._ever_ready and self._crashes >= STARTS_MAX:
            self._report.log("error", KEEPER_GIVES_UP, reason="no primary could be started", starts=self._crashes)
            self.status = status
            return
        delay_s = BACKOFF_S[min(self._crashes, len(BACKOFF_S)) - 1]
        if delay_s:
            self._report.log("warning", PRIMARY_RESTART_DELAYED, delay_s=delay_s)
        self._start_at = time.monotonic() + delay_s

    # What a primary sends

    def _on_link(self, primary: PrimaryProcess) -> None:
        for _ in range(BATCH):
            received = primary.receive()
            if received is None:
                break
            self._on_line(primary, *received)
        if primary.is_lost:
            self._forget(primary.sock.fileno())
            primary.lost_at = time.monotonic()

    def _on_line(self, primary: PrimaryProcess, line: str, fd: int | None) -> None:
        """Do what a line says. One that is unknown, of a later version, does nothing."""
        primary.alive_at = time.monotonic()
        word, _, rest = line.partition(" ")
        if primary is not self._primary:  # a successor: it has nothing to leave yet
            if word == "PREPARED" and self._primary is not None and not self._stop_signals:
                primary.is_prepared = True
                self._upgrade.prepared(self._primary, time.monotonic())
            elif word == "UNFIT":
                primary.unfit = rest
        elif word == "PUT" and fd is not None:
            kept, fd = fd, None
            if not self._store.put(rest, kept):
                self._report.log("error", KEEPER_GIVES_UP, reason="too many descriptors", name=rest)
        elif word == "SET":
            name, _, text = rest.partition(" ")
            self._store.set(name, text)
            self._report.as_json = self._store.text("log") == "json"
        elif word == "DROP":
            self._store.drop(rest)
        elif word == "READY":
            self._ever_ready = True
            primary.ready_at = primary.ready_at or time.monotonic()
        elif word == "UPGRADE":
            self._upgrade.start(primary, time.monotonic())
        elif word == "RELEASED":
            self._on_released(primary)
        elif word == "NOTIFY":
            self._report.notify(rest)
        elif word == "STOPPING":
            if not self._stop_signals:
                self._stop_signals.append("SIGTERM")
        elif word == "STOPPED":
            self._stopped = int(rest)
        elif word == "BECOME":
            self._directory.become(*rest.split())
        if fd is not None:
            os.close(fd)

    # Signals and ends

    def _on_signals(self, reader: socket.socket) -> None:
        for number in reader.recv(4096):
            if number in SIGNALS:
                self._on_signal(signal.Signals(number))
        self._reap()

    def _on_signal(self, number: signal.Signals) -> None:
        if number in STOP_SIGNALS:
            self._stop_signals.append(number.name)
            if self._start_at is not None:
                self._start_at = time.monotonic()  # stopping needs a primary, and no back-off
        if self._primary is not None and number is signal.SIGUSR2:
            if self._primary.ready_at is not None and not self._stop_signals:
                self._upgrade.start(self._primary, time.monotonic())
        elif self._primary is not None:
            self._primary.send(f"SIGNAL {number.name}")

    def _reap(self) -> None:
        """Reap every process that has ended: the primary, children of earlier ones, and as PID 1 any other."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            if self._primary is not None and pid == self._primary.pid:
                self._guard(lambda: self._on_primary_ended(code))  # noqa: B023 - at once
            elif self._upgrade.successor is not None and pid == self._upgrade.successor.pid:
                self._guard(lambda: self._on_successor_ended(code))  # noqa: B023 - at once
            elif self._primary is not None:
                self._primary.send(f"REAPED {pid} {status}")
            elif len(self._reaped) < REAPED_MAX:
                self._reaped.append(f"REAPED {pid} {status}")

    def _on_primary_ended(self, code: int | None) -> None:
        """Judge the end of the primary: see the head of this file. `code` is None for an adopted one."""
        primary, self._primary = self._primary, None
        assert primary is not None, "only a primary that is there can end"
        primary.is_reaped = True
        try:
            self._on_link_ended(primary)
        finally:
            self._close(primary)
        status = 1 if code is None else code if code >= 0 else 128 - code
        if self._stopped is not None or (code is not None and code >= 0 and not self._ever_ready):
            self.status = status if self._stopped is None else self._stopped
            return
        if (successor := self._upgrade.take()) is not None:
            self._bring(successor)
            return
        reason = "its end is known to another process" if code is None else describe_end(code)
        self._report.log("error", PRIMARY_LOST, pid=primary.pid, reason=reason)
        self._report.notify("STATUS=the primary was lost, and is started again")
        self._start_later(status)

    def _on_released(self, primary: PrimaryProcess) -> None:
        """Go on with the successor of a primary that reads nothing any more. Its process ends by itself."""
        self._primary = None
        self._close(primary)
        if (successor := self._upgrade.take()) is not None:
            self._bring(successor)
        else:  # it has ended meanwhile
            self._start_at = time.monotonic()

    def _close(self, primary: PrimaryProcess) -> None:
        """Close the descriptors of a primary that is none any more."""
        self._forget(primary.sock.fileno())
        primary.sock.close()
        if primary.pidfd is not None:
            self._forget(primary.pidfd)
            os.close(primary.pidfd)

    def _on_successor_ended(self, code: int) -> None:
        successor = self._upgrade.successor
        assert successor is not None, "the caller has found it"
        successor.is_reaped = True
        self._on_link_ended(successor)
        successor.sock.close()
        self._upgrade.ended(successor, self._primary, code)

    def _on_link_ended(self, primary: PrimaryProcess) -> None:
        """Handle the lines that a dead primary has sent before its end."""
        while (received := primary.receive()) is not None:
            self._on_line(primary, *received)
        self._forget(primary.sock.fileno())


def main(arguments: Sequence[str]) -> int:
    """
    Be the keeper.

    Args:
        arguments: the control directory, the descriptor of its lock, process id and link of the first primary
            (`NO_PRIMARY`: there is none), then the command of each later one.
    """
    os.set_inheritable(int(arguments[1]), False)  # this process has it, and no other
    first = PrimaryProcess.from_arguments(*arguments[2:4], now=time.monotonic())
    env = dict(os.environ)
    if env.get("WATCHDOG_PID") == str(os.getpid()):
        del env["WATCHDOG_PID"]  # the primary knows its own process id, and the variable is about ours
    report = Report(env.get("NOTIFY_SOCKET", ""))
    return Keeper(arguments[4:], env, directory=ControlDirectory(arguments[0]), report=report).run(first)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
