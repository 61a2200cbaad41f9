"""
`Cluster`: the public face of `sticky`.

    cluster = Cluster(ClusterSettings(binds=("127.0.0.1:8000",), workers=4), worker_argv=[sys.executable, "worker.py"])
    sys.exit(cluster.run())

The process that calls `run` becomes the primary. Each worker is `worker_argv`, executed anew, or with `forks`, forked
of a process that was. There `Worker.connect` finds the channel. Nothing is started, and no signal is handled, before
`run`. It holds no state but its arguments.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sticky.keys.hashing import Slot
from sticky.loop.poller import Poller
from sticky.process.keeper_link import KeeperLink
from sticky.process.orphans import Orphans
from sticky.process.primary import Primary
from sticky.settings import ClusterSettings
from sticky.supervision.environment import OperatingSystem
from sticky.supervision.launcher import worker_terms
from sticky.supervision.sidecars import Sidecar

__all__ = ["Cluster", "ClusterSettings", "Sidecar"]


Hook = Callable[[dict[str, Any]], None]
Environment = Mapping[str, str]


class Cluster:
    """A primary and its workers."""

    def __init__(
        self,
        settings: ClusterSettings,
        *,
        worker_argv: Sequence[str],
        worker_config: Any = None,
        sidecars: Sequence[Sidecar] = (),
        env: Environment | None = None,
        env_of: Callable[[Slot], Environment] = lambda slot: {},
        on_listening: Callable[[list[str]], None] | None = None,
        hooks: Mapping[str, Hook] | None = None,
        forks: bool = False,
    ) -> None:
        """
        Args:
            settings: how it runs.
            worker_argv: the command of a worker.
            worker_config: plain data for `Worker.config`. It travels on the channel: no secret is in a command line.
            sidecars: processes that workers need, started before them and stopped after.
            env: the environment of all these; this process's own by default. `STICKY_SLOT` is added to a worker's.
            env_of: returns what a slot's worker has in its environment beside that.
            on_listening: called once with the addresses, when connections are accepted.
            hooks: called in the primary with a dictionary, by event. What a hook raises is logged. A hook that blocks
                keeps every client waiting.
            forks: the command of a worker calls `sticky.serve_as_template` before anything else, so that workers can be
                forked of one process. With a keeper alone: see `run`.

                - "setup": every address is bound, nothing is started: `addresses`
                - "fork": a worker's process was started: `slot`, `worker_id`, `pid`, as in the next three
                - "online": it is ready
                - "disconnect": its channel has ended
                - "exit": its process ended: also `status`, negative for a signal, and `expected`: it had been drained
                - "listening": connections are accepted: `addresses`
                - "message": a worker sent something to "primary": `from`, `data`
                - "reopen_logs": SIGUSR1 came
        """
        self.settings = settings
        self._worker_argv = worker_argv
        self._worker_config = worker_config
        self._sidecars = sidecars
        self._env = dict(os.environ if env is None else env)
        self._env_of = env_of
        self._forks = forks
        self._hooks = {name: [hook] for name, hook in (hooks or {}).items()}
        if on_listening is not None:
            self.on("listening", lambda fields: on_listening(fields["addresses"]))
        self._primary: Primary | None = None

    def on(self, event: str, hook: Hook) -> None:
        """Have another hook called for an event, after those it has."""
        self._hooks.setdefault(event, []).append(hook)

    def run(self, keeper: KeeperLink | None = None) -> int:
        """
        Be the primary until the cluster has stopped, and return the exit status: 0, 3 when no worker could boot,
        128 + N when signal N ended it at once.

        Without a keeper nothing outlives this process: when it dies, connects are refused, and workers serve what they
        have for `orphan_grace_s`. `realtime serve` has a keeper, which needs a command that it can start again.

        Args:
            keeper: what started this process, from `KeeperLink.from_environment`; None for a primary without a keeper.

        Raises:
            SettingsError: an address is wrong or taken, the user cannot be changed, or the control socket not be made.
        """
        if keeper is not None and not keeper.is_takeover:
            keeper.kept = Orphans(
                keeper.directory,
                terms=worker_terms(self.settings, self._worker_config),
                sidecar_terms={each.word: each.terms for each in self._sidecars},
                drain_s=self.settings.drain_s,
            ).collect()
        self._primary = Primary(
            Poller(),
            OperatingSystem(),
            self.settings,
            worker_argv=self._worker_argv,
            worker_config=self._worker_config,
            sidecars=self._sidecars,
            env=self._env,
            env_of=self._env_of,
            hooks=self._hooks,
            keeper=keeper,
            forks=self._forks,
        )
        return self._primary.run()

    # For hooks: what follows is for the thread that runs the primary, while it runs

    def send(self, to: str, data: Any) -> int:
        """
        Send plain data (what msgpack can carry) to "all" workers or to "slot:3": `on_message` there.

        Returns:
            The number of workers it was sent to. A worker with a full outbox does not count.

        Raises:
            ValueError: it is larger than 192 KiB.
        """
        return self._running.send(to, data)

    def reload(self) -> None:
        """Replace every worker by a new one, one by one; each old one drains."""
        self._running.reload()

    def scale(self, workers: int) -> None:
        """Have so many workers, from 1 to 512."""
        self._running.scale(workers)

    def drain(self, slot: int) -> bool:
        """Replace the worker of one slot; the old one drains. Return False when none serves there."""
        return self._running.drain(Slot(slot))

    def stop(self) -> None:
        """Accept nothing more, drain every worker, and have `run` return."""
        self._running.stop()

    def statistics(self) -> dict[str, Any]:
        """Return a snapshot of the primary and of every worker, as `realtime status --json` shows it."""
        return self._running.statistics()

    @property
    def _running(self) -> Primary:
        if self._primary is None:
            raise RuntimeError("the cluster does not run yet")
        return self._primary
