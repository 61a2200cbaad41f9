"""
`Cluster`: the public face of `sticky`.

    cluster = Cluster(ClusterSettings(binds=("127.0.0.1:8000",), workers=4), worker_argv=[sys.executable, "worker.py"])
    sys.exit(cluster.run())

The process that calls `run` becomes the primary. Each worker is `worker_argv`, executed anew; it takes up its end by
`Worker.connect`. Nothing is started, and no signal is handled, before `run`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sticky.affinity import AffinitySettings
from sticky.children import Child
from sticky.errors import SettingsError
from sticky.first_bytes import HeadLimits
from sticky.primary import Primary

__all__ = ["Child", "Cluster", "ClusterSettings"]


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """How a cluster runs. Times are in seconds."""

    binds: tuple[str, ...] = ("127.0.0.1:8000",)
    workers: int = 1
    affinity: AffinitySettings = field(default_factory=AffinitySettings)
    secret: bytes | None = None  # at least 16 bytes; None: drawn at start, and affinity ends with the primary
    balance: str = "least"  # for connections without a key; or "round-robin"
    proxy_protocol: bool = False  # trusted peers begin with a PROXY header
    tls: bool = False  # TLS ends in the workers
    raw: bool = False  # no HTTP: nothing is peeked at, the address decides
    limits: HeadLimits = field(default_factory=HeadLimits)
    backlog: int = 2048
    handshake_s: float = 10.0  # from a connection's start to its whole head
    patience_s: float = 10.0  # for a worker to have room for it
    drain_s: float = 60.0
    heartbeat_s: float = 1.0
    hung_s: float = 6.0
    boot_s: float = 30.0
    orphan_grace_s: float = 60.0
    control: str | None = None
    pid_file: str | None = None
    node: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= 512:
            raise SettingsError("workers", f"{self.workers} is not from 1 to 512")
        if not self.binds:
            raise SettingsError("binds", "there is no address to listen on")
        if self.hung_s < 2 * self.heartbeat_s:
            raise SettingsError("hung_s", "it must be at least twice heartbeat_s, else healthy workers are killed")


class Cluster:
    """A primary and its workers."""

    def __init__(
        self,
        settings: ClusterSettings,
        *,
        worker_argv: Sequence[str],
        worker_config: Any = None,
        children: Sequence[Child] = (),
        env: Mapping[str, str] | None = None,
        on_listening: Callable[[list[str]], None] | None = None,
        hooks: Mapping[str, Callable[[dict[str, Any]], None]] | None = None,
    ) -> None:
        """
        Args:
            settings: how it runs.
            worker_argv: the command of a worker.
            worker_config: plain data for `Worker.config`. It travels on the channel: no secret is in a command line.
            children: processes that workers need, started before them and stopped after.
            env: the environment of all these; this process's own by default.
            on_listening: called once with the addresses, when connections are accepted.
            hooks: called in the primary with a dictionary, by event: "fork", "online", "listening", "message",
                "disconnect", "exit", "reopen_logs". What a hook raises is logged.
        """
        self.settings = settings
        self._worker_argv = worker_argv
        self._worker_config = worker_config
        self._children = children
        self._env = dict(os.environ if env is None else env)
        self._hooks = dict(hooks or {})
        if on_listening is not None:
            told = self._hooks.get("listening")

            def listening(fields: dict[str, Any]) -> None:
                on_listening(fields["addresses"])
                if told is not None:
                    told(fields)

            self._hooks["listening"] = listening
        self._primary: Primary | None = None

    def run(self) -> int:
        """
        Be the primary until the cluster has stopped, and return the exit status: 0, 3 when no worker could boot,
        128 + N when signal N ended it at once.

        Raises:
            SettingsError: an address is wrong or taken.
        """
        self._primary = Primary(
            self.settings,
            worker_argv=self._worker_argv,
            worker_config=self._worker_config,
            children=self._children,
            env=self._env,
            hooks=self._hooks,
        )
        return self._primary.run()
