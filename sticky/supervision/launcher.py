"""
Starts one worker process: its command, its environment, its channel and its journal. It is forked of a template, or
executed anew where none is in use.

Runs in the primary. It decides neither when nor where: the supervisor does, and owns the worker from then on. It keeps
no list of the workers that it has started, and never sends a message to one.
"""

from __future__ import annotations

import errno
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sticky.handoff.orphan_report import terms_of
from sticky.handoff.worker_handle import WorkerHandle
from sticky.keys.hashing import Slot
from sticky.loop.log_lines import WORKER_NOT_STARTED, log
from sticky.settings import ClusterSettings
from sticky.supervision.environment import Environment
from sticky.supervision.templates import Templates

SLOT: Final = "STICKY_SLOT"
"""The environment variable that names a worker's slot, for what reads nothing else."""

EnvOf = Callable[[Slot], Mapping[str, str]]


def worker_env(env: Mapping[str, str], env_of: EnvOf, slot: Slot) -> dict[str, str]:
    """Return the environment of a slot's worker. What the application says about its slot comes last, and wins."""
    return {**env, SLOT: str(slot), **env_of(slot)}


def worker_terms(settings: ClusterSettings, config: Any) -> str:
    """Return a digest of what a worker cannot change later: one with other terms is not adopted (orphans.py)."""
    affinity = settings.affinity.to_builtins()
    return terms_of([config, affinity, settings.secret, settings.secret_previous, settings.node])


class Launcher:
    """What all workers of this machine are started with."""

    def __init__(
        self,
        environment: Environment,
        settings: ClusterSettings,
        *,
        argv: Sequence[str],
        env_of: EnvOf,
        config: Any,
        node: str,
        secret: bytes,
        directory: str,
        templates: Templates | None = None,
    ) -> None:
        """
        Args:
            environment: starts the process.
            argv: the worker's command.
            env_of: returns the environment of a slot's worker; what it raises is logged.
            config: plain data for the application in the worker.
            node: the name of this machine, with which each worker's id begins.
            secret: what keys are hashed under.
            directory: the control directory, where a worker that has lost its primary looks for the next one; "" where
                there is none.
            templates: workers are forked of these, where one is in use; None where each is executed anew.
        """
        self._templates = templates
        self._environment = environment
        self._settings = settings
        self._argv = argv
        self._env_of = env_of
        self._config = config
        self._node = node
        self._secret = secret
        self._directory = directory
        self._terms = worker_terms(settings, config)

    def launch(self, slot: Slot, *, generation: int, now: float) -> WorkerHandle:
        """
        Start a worker. The caller must send it `boot_message`, receive from its channel, and reap it.

        Raises:
            OSError: it cannot be started, which is logged.
        """
        try:
            env = {**self._env_of(slot)}
        except Exception as error:
            reason = "its environment could not be made"
            log(logging.ERROR, WORKER_NOT_STARTED, slot=slot, reason=reason, exc_info=True)
            raise OSError(errno.EINVAL, "env_of failed") from error
        try:
            forked = None if self._templates is None else self._templates.start_worker(env)
            pid, channel = forked or self._environment.start_worker(self._argv, env)
        except OSError as error:
            log(logging.ERROR, WORKER_NOT_STARTED, slot=slot, program=self._argv[0], reason=error.strerror)
            raise
        except (TypeError, ValueError) as error:  # a variable or an argument is not text, or has a NUL in it
            log(logging.ERROR, WORKER_NOT_STARTED, slot=slot, program=self._argv[0], reason=error)
            raise OSError(errno.EINVAL, str(error)) from error
        return WorkerHandle(
            slot,
            pid,
            channel,
            worker_id=f"{self._node}-{slot}-{secrets.token_hex(4)}",
            generation=generation,
            now=now,
            lifetime=self._settings.lifetime.draw(),
            journal=self._environment.create_journal(),
        )

    def renew(self, then: Callable[[], None]) -> None:
        """Have workers start with the code that is installed now, and call back when they can be started."""
        if self._templates is None:
            then()
        else:
            self._templates.renew(then)

    def boot_message(self, worker: WorkerHandle, slots: int) -> dict[str, Any]:
        """Return the first message of all for a worker: the fields of `Boot`, as one of so many `slots`."""
        assert 0 <= worker.slot < slots, "keys hash to slots that exist, so no other slot has a worker"
        return {
            "slot": worker.slot,
            "slots": slots,
            "worker_id": worker.worker_id,
            "node": self._node,
            "generation": worker.generation,
            "config": self._config,
            "affinity": self._settings.affinity.to_builtins(),
            "secret": self._secret,
            "secret_previous": self._settings.secret_previous,
            "heartbeat_s": self._settings.heartbeat_s,
            "orphan_grace_s": self._settings.orphan_grace_s,
            "directory": self._directory,
            "hears_keys_stay": True,
            "terms": self._terms,
        }
