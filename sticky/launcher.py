"""
Starts one worker process: the command, its environment, its channel, and what it is told first.

Runs in the primary. It decides neither when nor where: the supervisor does, and owns the worker from then on. It keeps
no list of whom it has started, and never speaks to one.
"""

from __future__ import annotations

import errno
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sticky import journal
from sticky.channel import Channel
from sticky.hashing import Slot
from sticky.messages import from_worker
from sticky.settings import ClusterSettings
from sticky.spawn import descriptor_of, spawn
from sticky.worker import CHANNEL_FD
from sticky.worker_handle import WorkerHandle

logger = logging.getLogger("sticky")


class Launcher:
    """What all workers of this machine are started with."""

    def __init__(
        self,
        settings: ClusterSettings,
        *,
        argv: Sequence[str],
        env_of: Callable[[Slot], Mapping[str, str]],
        config: Any,
        node: str,
        secret: bytes,
    ) -> None:
        """
        Args:
            argv: the worker's command.
            env_of: the environment of a slot's worker.
            config: plain data for the application in it.
            node: the name of this machine, with which each worker's id begins.
            secret: what keys are hashed under.
        """
        self._settings = settings
        self._argv = argv
        self._env_of = env_of
        self._config = config
        self._node = node
        self._secret = secret

    def launch(self, slot: Slot, *, generation: int, now: float) -> WorkerHandle:
        """
        Start a worker. The caller owes it `boot_message`, listens to its channel, and reaps it.

        Raises:
            OSError: it cannot be started, which is logged.
        """
        try:
            env = {**self._env_of(slot)}
        except Exception as error:
            logger.exception("! slot %d: the environment of its worker could not be made", slot)
            raise OSError(errno.EINVAL, "env_of failed") from error
        try:
            channel, theirs = Channel.pair(from_worker)
            try:
                fd = descriptor_of(theirs)
                pid = spawn(self._argv, {**env, CHANNEL_FD: str(fd)}, fd)
            except (TypeError, ValueError) as error:  # of a variable, or an argument, that is no text
                channel.close()
                raise OSError(errno.EINVAL, str(error)) from error
            except BaseException:
                channel.close()
                raise
            finally:
                theirs.close()
        except OSError as error:
            logger.error("! slot %d: %s cannot be started: %s", slot, self._argv[0], error.strerror)
            raise
        return WorkerHandle(
            slot,
            pid,
            channel,
            worker_id=f"{self._node}-{slot}-{secrets.token_hex(4)}",
            generation=generation,
            now=now,
            lifetime=self._settings.lifetime.draw(),
            journal=journal.create(),
        )

    def boot_message(self, worker: WorkerHandle, slots: int) -> dict[str, Any]:
        """Return what a worker is told first, as one of so many `slots`."""
        return {
            "slot": worker.slot,
            "slots": slots,
            "worker_id": worker.worker_id,
            "node": self._node,
            "generation": worker.generation,
            "config": self._config,
            "affinity": self._settings.affinity.to_builtins(),
            "secret": self._secret,
            "heartbeat_s": self._settings.heartbeat_s,
            "orphan_grace_s": self._settings.orphan_grace_s,
        }
