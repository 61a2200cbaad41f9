"""
The templates: of which processes workers are forked, and when another one is started.

Runs in the primary. A template has imported what a worker needs, so a worker that is forked of it starts in a fraction
of the time, and shares its memory (sticky/worker/template.py). One template is in use at a time. A reload begins with a
new one, so that it brings new code of all that workers import, the application's or not. A template that is lost is
followed by another. Its workers stay: they are the keeper's children.

    NONE ──renew──▶ STARTING ──ready──▶ IN USE ──lost──▶ NONE, and another is started
                        └──lost, too late──▶ NONE       while the one before, if there is one, is in use

It decides nothing about workers. Where none is in use, the launcher executes a worker anew: slower, and as good.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sticky.handoff.channel import ChannelClosed, WorkerChannel
from sticky.handoff.fork_link import ForkFailed
from sticky.keys.hashing import Slot
from sticky.loop.log_lines import TEMPLATE_LOST, WORKER_NOT_FORKED, log
from sticky.loop.poller import READ, Poller
from sticky.supervision.adopted_processes import AdoptedProcesses
from sticky.supervision.environment import Environment, TemplateLink

READY_S: Final = 15.0  # for a template to import what a worker needs
AGAIN_S: Final = 5.0  # from the loss of a template to the next: what ends it may last


# What is read once, when a process is executed: by Python, the dynamic linker, the C library, OpenSSL.
INTERPRETER: Final = ("PYTHON", "LD_", "MALLOC_", "GLIBC_", "OPENSSL_")


@dataclass(slots=True, eq=False)
class _Template:
    pid: int
    link: TemplateLink
    interpreter: dict[str, str]  # the variables that its interpreter has read
    is_reaped: bool = False  # its pid may be another process's


class Templates:
    """The template in use, and the one that starts. The owner must call `close`."""

    def __init__(
        self,
        poller: Poller,
        environment: Environment,
        processes: AdoptedProcesses,
        *,
        argv: Sequence[str],
        env_of: Callable[[Slot], Mapping[str, str]],
    ) -> None:
        """
        Args:
            processes: gets each worker that is forked, for it is no child of the primary.
            argv: the command of a worker, which is that of a template; empty where none is started.
            env_of: returns the environment of a slot's worker. A template has that of slot 0.
        """
        self._poller = poller
        self._environment = environment
        self._processes = processes
        self._argv = argv
        self._env_of = env_of
        self._parent = os.getppid()  # the keeper: what it has inherited, it reaps
        self._in_use: _Template | None = None
        self._starting: _Template | None = None
        self._waiting: list[Callable[[], None]] = []  # for the one that starts
        self._is_closed = False

    def renew(self, then: Callable[[], None] = lambda: None) -> None:
        """Start another template, and call back once it is in use, or cannot be. At once where none is started."""
        self._waiting.append(then)
        self._drop_starting()
        self._start()
        if self._starting is None:
            self._go_on()

    def when_ready(self, then: Callable[[], None], *, at_once: bool = False) -> None:
        """Call back once the template that starts is in use, or cannot be; at once where none starts, or as asked."""
        if self._starting is None or at_once:
            then()
        else:
            self._waiting.append(then)

    def _start(self) -> None:
        if not self._argv or self._is_closed or not self._has_keeper:
            return
        try:
            env = self._env_of(Slot(0))
            pid, link = self._environment.start_template(self._argv, env)
        except Exception as error:  # noqa: BLE001 - of the cluster's own code; a worker tells what it is
            log(logging.WARNING, TEMPLATE_LOST, reason=error)
            return
        starting = self._starting = _Template(pid, link, _of_interpreter(env))
        self._poller.watch(
            starting.link.fileno(), READ, lambda events: self._on_readable(starting), on_failed=lambda: None
        )
        self._poller.after(READY_S, lambda: self._too_late(starting))

    def _on_readable(self, template: _Template) -> None:
        """Learn that a template is ready, or gone."""
        try:
            if not template.link.is_ready():
                return
        except ChannelClosed:
            self._lost(template)
            return
        if template is self._starting:
            before, self._in_use, self._starting = self._in_use, template, None
            if before is not None:
                self._drop(before)
            self._go_on()
        else:  # it says what nothing asked for
            self._lost(template)

    def _too_late(self, template: _Template) -> None:
        if template is self._starting:
            log(logging.WARNING, TEMPLATE_LOST, pid=template.pid, reason=f"not ready after {READY_S:g} s")
            self._drop_starting()
            self._go_on()

    def _lost(self, template: _Template) -> None:
        """Go on without a template. What waits for it has workers executed anew."""
        log(logging.WARNING, TEMPLATE_LOST, pid=template.pid, reason="it has ended")
        self._drop(template)
        if template is self._in_use:
            self._in_use = None
        if template is self._starting:
            self._starting = None
            self._go_on()
        self._poller.after(AGAIN_S, self._start_again)

    def _start_again(self) -> None:
        if self._in_use is None and self._starting is None:
            self._start()

    def _go_on(self) -> None:
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            self._poller.guard(then)

    def _drop_starting(self) -> None:
        starting, self._starting = self._starting, None
        if starting is not None:
            self._drop(starting)

    def _drop(self, template: _Template) -> None:
        """End a template. Its workers go on."""
        self._poller.forget(template.link.fileno())
        template.link.close()
        if not template.is_reaped:
            with contextlib.suppress(ProcessLookupError):
                self._environment.send_signal(template.pid, signal.SIGKILL)

    def reaped(self, pid: int) -> None:
        """Learn that a process has ended. One that is no template needs nothing."""
        for each in (self._in_use, self._starting):
            if each is not None and each.pid == pid:
                each.is_reaped = True

    def start_worker(self, env: Mapping[str, str]) -> tuple[int, WorkerChannel] | None:
        """Return the pid of a worker that was forked, and the primary's end of its channel; None where none was."""
        template = self._in_use
        if template is None or not self._has_keeper or template.interpreter != _of_interpreter(env):
            return None
        try:
            pid, pidfd, channel = self._environment.fork_worker(template.link, env)
        except ForkFailed as error:
            log(logging.WARNING, WORKER_NOT_FORKED, reason=error)
            return None
        except ChannelClosed:
            self._lost(template)
            return None
        self._processes.adopt(pid, pidfd)
        return pid, channel

    @property
    def _has_keeper(self) -> bool:
        """Whether the keeper lives that inherits workers. Without it, nothing says how a worker has ended."""
        return os.getppid() == self._parent

    def describe(self) -> dict[str, Any]:
        """Return a snapshot."""
        return {
            "pid": None if self._in_use is None else self._in_use.pid,
            "starting": None if self._starting is None else self._starting.pid,
        }

    def close(self) -> None:
        """End the templates: no worker is forked any more."""
        self._is_closed = True
        self._waiting.clear()
        self._drop_starting()
        in_use, self._in_use = self._in_use, None
        if in_use is not None:
            self._drop(in_use)


def _of_interpreter(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that have their effect before a worker can be forked."""
    return {name: value for name, value in env.items() if name.startswith(INTERPRETER)}
