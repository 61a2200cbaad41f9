"""
A Redis with a replica, watched by real sentinels, which are in a hurry: half a second without an answer is a death.

Every process is on a port of 127.0.0.1. Who asks for a state waits until the sentinels say that it is so.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from tests.support.processes import free_port
from tests.support.redis_cluster import ok, wait
from tests.support.redis_server import RedisServer, command_at

SERVICE = "rooms"
CONFIGURATION = """
port {port}
bind 127.0.0.1
dir {directory}
sentinel monitor {service} 127.0.0.1 {master} {quorum}
sentinel down-after-milliseconds {service} 500
sentinel failover-timeout {service} 3000
"""


class Sentinels:
    """A master, a replica, and `count` sentinels of which most have to agree."""

    def __init__(self, count: int = 1) -> None:
        self.servers = [RedisServer(free_port()), RedisServer(free_port())]
        self.master, self.replica = self.servers
        self.ports = [free_port() for _ in range(count)]
        self.url = f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.ports)}/{SERVICE}"
        self._directory = tempfile.TemporaryDirectory(prefix="sentinels-")
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for server in self.servers:
            server.start()
        ok(self.replica.command("REPLICAOF", "127.0.0.1", str(self.master.port)))
        wait(lambda: b"master_link_status:up" in self.replica.command("INFO", "replication"))
        for port in self.ports:
            path = Path(self._directory.name, f"{port}.conf")
            quorum = len(self.ports) // 2 + 1
            path.write_text(
                CONFIGURATION.format(
                    port=port, directory=path.parent, service=SERVICE, master=self.master.port, quorum=quorum
                )
            )
            argv = [self.master.program, str(path), "--sentinel"]
            log = path.with_suffix(".log").open("wb")
            with log:
                self._processes.append(subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT))
        others = len(self.ports) - 1
        wait(lambda: all(self._knows(port, others) for port in self.ports))

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
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
