"""
A Redis with a replica, watched by real sentinels, which are in a hurry: half a second without an answer is a death.

Every process is on a port of 127.0.0.1. Who asks for a state waits until the sentinels say that it is so. Sentinels
that do not come to know their master and its replica are begun anew, on other ports: to bring them together is no test.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.support.processes import free_port
from tests.support.redis_cluster import ok, wait
from tests.support.redis_server import RedisServer, command_at

SERVICE = "rooms"
TRIES = 3
CONFIGURATION = """
port {port}
bind 127.0.0.1
dir {directory}
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel monitor {service} {host} {master} {quorum}
sentinel down-after-milliseconds {service} 500
sentinel failover-timeout {service} 3000
"""


class Sentinels:
    """
    A master, a replica, and `count` sentinels of which most have to agree. With options of `tls` all of them speak
    that; the sentinels also without, at `ports`. `host` is what all are called.
    """

    def __init__(self, count: int = 1, *, tls: Sequence[str] = (), host: str = "127.0.0.1") -> None:
        self._count, self._tls, self._host = count, list(tls), host
        self._choose()

    def _choose(self) -> None:
        """Choose ports, on which nothing runs yet."""
        options = ["--replica-announce-ip", self._host]
        self.servers = [RedisServer(free_port(), tls=self._tls, options=options) for _ in range(2)]
        self.master, self.replica = self.servers
        self.ports = [free_port() for _ in range(self._count)]
        public = self._tls_ports = [free_port() for _ in self.ports] if self._tls else self.ports
        scheme = "rediss" if self._tls else "redis"
        self.url = f"{scheme}+sentinel://{','.join(f'{self._host}:{port}' for port in public)}/{SERVICE}"
        self._directory = tempfile.TemporaryDirectory(prefix="sentinels-")
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for server in self.servers:
            server.start()
        ok(self.replica.command("REPLICAOF", self._host, str(self.master.port)))
        wait(lambda: b"master_link_status:up" in self.replica.command("INFO", "replication"))
        for port, tls_port in zip(self.ports, self._tls_ports, strict=True):
            path = Path(self._directory.name, f"{port}.conf")
            quorum = len(self.ports) // 2 + 1
            path.write_text(
                CONFIGURATION.format(
                    port=port,
                    directory=path.parent,
                    service=SERVICE,
                    host=self._host,
                    master=self.master.port,
                    quorum=quorum,
                )
            )
            argv = [self.master.program, str(path), "--sentinel"]
            if self._tls:
                argv += ["--tls-port", str(tls_port), "--tls-replication", "yes", *self._tls]
            log = path.with_suffix(".log").open("wb")
            with log:
                self._processes.append(subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT))
        others = len(self.ports) - 1
        try:
            wait(lambda: all(self._knows(port, others) for port in self.ports))
        except AssertionError as error:
            for log in Path(self._directory.name).glob("*.log"):
                error.add_note(f"{log.name}:\n{log.read_text()[-4000:]}")
            raise

    def _knows(self, port: int, others: int) -> bool:
        words = command_at(port, "SENTINEL", "MASTER", SERVICE).decode().split("\r\n")[2::2]
        facts = dict(zip(words[::2], words[1::2], strict=False))
        return (facts.get("num-slaves"), facts.get("num-other-sentinels")) == ("1", str(others))

    def wait_for_replica(self) -> None:
        """Wait until the replica has everything."""
        assert self.master.command("WAIT", "1", "20000") == b":1\r\n"

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for server in self.servers:
            server.close()
        self._directory.cleanup()

    def __enter__(self) -> Sentinels:
        for left in reversed(range(TRIES)):
            try:
                self.start()
            except BaseException as error:
                self.close()
                if not left or not isinstance(error, AssertionError):
                    raise
                print("! sentinels begin anew:", error, *getattr(error, "__notes__", ()), sep="\n")
                self._choose()
            else:
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
