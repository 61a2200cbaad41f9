"""
A real Redis Cluster for tests: masters, and replicas where a test wants them, each a process on a port of 127.0.0.1.

What redis-cli would do is done by commands: nodes meet, slots are given, one slot after another is moved. Nothing here
is assumed about time: who asks for something waits until every node says that it is so.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

from tests.support.processes import free_port
from tests.support.redis_server import DEADLINE_S, RedisServer

SLOTS = 16384
NODE_TIMEOUT_MS = 1000  # where a replica is to take over
PATIENT_MS = 5000  # where none is: a node that the machine holds up for a second is not dead


class RedisCluster:
    """
    `masters` nodes that share the slots evenly, then nodes that have none, then one replica of each master. With
    options of `tls` they speak nothing else.
    """

    def __init__(
        self,
        masters: int = 3,
        *,
        empty: int = 0,
        replicas: bool = False,
        tls: Sequence[str] = (),
        options: Sequence[str] = (),
        program: str | None = None,
    ) -> None:
        timeout_ms = NODE_TIMEOUT_MS if replicas else PATIENT_MS
        options = [*options, "--cluster-enabled", "yes", "--cluster-node-timeout", str(timeout_ms)]
        options += ["--cluster-allow-replica-migration", "no"]  # who loses its last slot stays a master
        if tls:
            options += ["--tls-cluster", "yes"]
        count = masters + empty + (masters if replicas else 0)
        ports: set[int] = set()
        while len(ports) < 2 * count:
            ports.add(free_port())
        self.bus: dict[int, int] = {}
        self.nodes = []
        for port, bus in zip(*[iter(ports)] * 2, strict=True):
            self.bus[port] = bus
            own = ["--cluster-port", str(bus)]
            self.nodes.append(RedisServer(port, tls=tls, options=[*options, *own], program=program))
        self.masters, self.empty = self.nodes[:masters], self.nodes[masters : masters + empty]
        self.replicas = self.nodes[masters + empty :]
        scheme = "rediss" if tls else "redis"
        self.url = f"{scheme}+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.masters)}"

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        first, *others = self.nodes
        for number, node in enumerate(self.nodes):
            ok(node.command("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1)))
        for node in others:
            ok(first.command("CLUSTER", "MEET", "127.0.0.1", str(node.port), str(self.bus[node.port])))
        share = SLOTS // len(self.masters)
        for number, node in enumerate(self.masters):
            last = SLOTS - 1 if node is self.masters[-1] else (number + 1) * share - 1
            ok(node.command("CLUSTER", "ADDSLOTSRANGE", str(number * share), str(last)))
        wait(lambda: all(f"cluster_known_nodes:{len(self.nodes)}" in self.info(node) for node in self.nodes))
        for master, replica in zip(self.masters, self.replicas, strict=False):
            name = self.name(master)
            wait(lambda name=name, replica=replica: replica.command("CLUSTER", "REPLICATE", name) == b"+OK\r\n")
        for replica in self.replicas:
            wait(lambda replica=replica: b"master_link_status:up" in replica.command("INFO", "replication"))
        self.wait_until_well()

    def start_again(self) -> None:
        """Start every node anew: they know one another, and have lost what they held."""
        for node in self.nodes:
            node.start()
        self.wait_until_well()

    def wait_until_well(self, nodes: Iterable[RedisServer] | None = None) -> None:
        """Wait until every node says that every slot has a master that serves."""
        asked = list(nodes or self.nodes)
        wait(lambda: all("cluster_state:ok" in self.info(node) for node in asked))

    @staticmethod
    def info(node: RedisServer) -> str:
        return node.command("CLUSTER", "INFO").decode()

    @staticmethod
    def name(node: RedisServer) -> str:
        return node.command("CLUSTER", "MYID").decode().split("\r\n")[1]

    def slot_of(self, key: str) -> int:
        return int(self.masters[0].command("CLUSTER", "KEYSLOT", key)[1:])

    def owner(self, slot: int, among: Iterable[RedisServer] | None = None) -> RedisServer:
        """Return the node that has a slot, as it says itself."""
        for node in among or (*self.masters, *self.empty):
            mine = next(line for line in node.command("CLUSTER", "NODES").decode().splitlines() if "myself" in line)
            for word in mine.split()[8:]:
                first, _, last = word.partition("-")
                if not word.startswith("[") and int(first) <= slot <= int(last or first):
                    return node
        raise AssertionError(f"nobody has {slot}")

    # Moving

    def move(self, slot: int, target: RedisServer) -> None:
        """Move one slot with everything in it."""
        source = self.begin_to_move(slot, target)
        self.move_keys(slot, source, target)
        self.end_to_move(slot, target)

    def begin_to_move(self, slot: int, target: RedisServer) -> RedisServer:
        source = self.owner(slot)
        ok(target.command("CLUSTER", "SETSLOT", str(slot), "IMPORTING", self.name(source)))
        ok(source.command("CLUSTER", "SETSLOT", str(slot), "MIGRATING", self.name(target)))
        return source

    def keys(self, slot: int, source: RedisServer, count: int = 100) -> list[str]:
        words = source.command("CLUSTER", "GETKEYSINSLOT", str(slot), str(count)).decode().split("\r\n")
        return words[2::2]

    def move_keys(self, slot: int, source: RedisServer, target: RedisServer, at_most: int | None = None) -> None:
        while keys := self.keys(slot, source, at_most or 100):
            for key in keys:
                source.command("MIGRATE", "127.0.0.1", str(target.port), key, "0", "5000")
            if at_most is not None:
                return

    def end_to_move(self, slot: int, target: RedisServer) -> None:
        name = self.name(target)
        for node in (target, *(each for each in (*self.masters, *self.empty) if each is not target)):
            ok(node.command("CLUSTER", "SETSLOT", str(slot), "NODE", name))
        # Whoever moves on before they have heard of it from one another leaves them in disagreement for good.
        wait(lambda: len({self._view(node) for node in self.nodes}) == 1)

    @staticmethod
    def _view(node: RedisServer) -> tuple[tuple[str, ...], ...]:
        """Return who has which slots at which epoch, as a node sees it."""
        lines = [
            line.split() for line in node.command("CLUSTER", "NODES").decode().splitlines() if " connected" in line
        ]
        shown = ((words[0], words[6], *(word for word in words[8:] if not word.startswith("["))) for words in lines)
        return tuple(sorted(shown))

    def stop(self) -> None:
        for node in self.nodes:
            node.close()

    def __enter__(self) -> RedisCluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def ok(reply: bytes) -> None:
    assert reply == b"+OK\r\n", reply


def wait(is_so: Callable[[], bool]) -> None:
    """Wait until it is so; nobody tells."""
    give_up_at = time.monotonic() + DEADLINE_S
    while True:
        with contextlib.suppress(OSError):
            if is_so():
                return
        assert time.monotonic() < give_up_at, "the nodes do not agree"
        threading.Event().wait(0.02)
