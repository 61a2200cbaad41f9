"""
A link to one Redis process: commands on one connection, pub/sub on another.

Runs in the worker. When either connection is lost, both are given up. A link knows which process it leads to (its
*life*), so that what another one has is not taken for the same, and whether it takes writes. It never connects
again and never decides which server that should be: nodes.py and cluster.py do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol, Self

from realtime.broker.address import Address
from realtime.broker.resp import CommandFailed, Connection, Word
from realtime.broker.scripts import Script
from realtime.broker.sharded import ShardedEvents
from realtime.errors import BrokerUnavailable

SHARDED_AT_LEAST: Final = 7  # the first Redis with SSUBSCRIBE
# How a server says that it takes no writes now: its memory or its disk is full, it is a replica, or has too few.
TAKES_NO_WRITES: Final = ("OOM", "MISCONF", "READONLY", "NOREPLICAS")
WRITTEN_MS: Final = 1000  # how long what a probe wrote is kept

logger = logging.getLogger("realtime.broker.redis")

OnMessage = Callable[[bytes, bytes], None]


class Route(Protocol):
    """The way of a command to the server that has its keys. `tag` is what these are hashed by in a cluster."""

    is_one: bool  # all commands go one way, and arrive in the order in which they were sent

    def link(self, tag: str) -> Link:
        """
        Raises:
            BrokerUnavailable: there is none now.
        """

    def ask(self, tag: str, *words: Word) -> Awaitable[Any]: ...

    def run(self, tag: str, script: Script, keys: int, *arguments: Word) -> Awaitable[Any]: ...


class Keeper(Protocol):
    """What has to be in force at the servers, and who hears of them: the broker."""

    def channels(self) -> Iterable[bytes]:
        """Return what is to be subscribed, beside probes."""

    def on_message(self, channel: bytes, text: bytes) -> None: ...

    async def enter(self, route: Route, fresh: Callable[[Link], bool]) -> None:
        """Take the lease, and register the members at the links that are fresh."""

    def on_lost(self) -> None: ...

    def on_restored(self) -> None: ...

    def on_gap(self, channels: Iterable[bytes]) -> None: ...


class Nodes(Protocol):
    """Which servers there are, and which of them has what."""

    publishing: str  # the command that scripts publish by

    @property
    def shown(self) -> str:
        """Where that is, for people."""

    @property
    def is_whole(self) -> bool:
        """Everything can be reached, and every subscription is in force."""

    @property
    def links(self) -> Iterable[Link]: ...

    @property
    def route(self) -> Route:
        """
        Raises:
            BrokerUnavailable: there is none now.
        """

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def subscribe(self, channel: bytes) -> None: ...

    async def unsubscribe(self, channel: bytes) -> None: ...

    def doubt(self, link: Link | None = None) -> None:
        """Look again at who has what: a link is lost on which a server says that it takes no writes."""


class Link:
    """
    Both connections to one process. `seen_at`: when the last probe came back. `refuses`: what the process said to the
    last write, if it takes none; empty once a probe was written again.
    """

    def __init__(self, address: Address, commands: Connection) -> None:
        self.address = address
        self.commands = commands
        self.events: Connection
        self.probe: bytes | None = None  # the channel on which it is seen that pub/sub passes
        self.seen_at = time.monotonic()
        self.refuses = ""
        self.facts: dict[bytes, str] = {}
        self.life = ""
        self.lives = ""  # this one's first, and then those whose streams are as good (cluster.py)
        self.is_lost = False

    @classmethod
    async def open(
        cls,
        address: Address,
        *,
        name: str,
        on_lost: Callable[[Link], None],
        on_push: Callable[[Link, list[Any]], None],
        sharded: bool = False,
    ) -> Self:
        """
        Connect twice. The caller owes `close`.

        Raises:
            BrokerUnavailable: nobody answers there, or it is no server for this.
        """

        def lost(_: Connection) -> None:
            if not link.is_lost:
                link.close()
                on_lost(link)

        early = asyncio.Event()
        commands = await Connection.connect(address, name=name, on_lost=lambda _: early.set())
        link = cls(address, commands)
        try:
            kind = ShardedEvents if sharded else Connection
            link.events = await kind.connect(
                address, name=name, on_lost=lambda _: early.set(), on_push=lambda message: on_push(link, message)
            )
            async with asyncio.timeout(3):
                await link._learn(sharded=sharded)
            if early.is_set():
                raise BrokerUnavailable(address.shown, "the connection was lost")
            commands.on_lost = link.events.on_lost = lost
        except TimeoutError as error:
            link.close()
            raise BrokerUnavailable(address.shown, "no answer") from error
        except BaseException:
            link.close()
            raise
        return link

    async def _learn(self, *, sharded: bool) -> None:
        """
        Learn what tells this server's process from any other: what another one has may lack what was acknowledged
        last, because it was a replica, or because the disk lagged behind. A process that was a replica in between, and
        became a master again, is another as well: its replication has another id since then, and knows an id before.
        """
        shown = self.address.shown
        try:
            told = await asyncio.gather(*[self.commands.ask("INFO", each) for each in ("server", "replication")])
        except CommandFailed as error:
            logger.warning("! %s: a failover would not be noticed: %s", shown, error.text)
            return
        pairs = (line.partition(b":") for line in b"\n".join(told).splitlines())
        self.facts = {name: value.decode() for name, _, value in pairs}
        mode = self.facts.get(b"redis_mode", "standalone")
        if mode != ("cluster" if sharded else "standalone") and b"redis_mode" in self.facts:
            scheme = {"cluster": "redis+cluster", "sentinel": "redis+sentinel"}.get(mode, "redis")
            raise BrokerUnavailable(shown, f"this is Redis as {mode}: the URL begins with {scheme}:// for that")
        version = self.facts.get(b"redis_version", "")
        if sharded and version and int(version.partition(".")[0]) < SHARDED_AT_LEAST:
            raise BrokerUnavailable(
                shown,
                f"Redis {version} has no sharded pub/sub: a cluster of Redis {SHARDED_AT_LEAST} or newer is needed",
            )
        self.life = self.lives = self.facts.get(b"run_id", "")
        if self.life and self.facts.get(b"second_repl_offset", "-1") != "-1":
            self.life = self.lives = f"{self.life}+{self.facts.get(b'master_replid', '')}"

    def has_life(self, life: bytes | None) -> bool:
        """Say whether a stream of that life is as good as one of this server's own."""
        text = b"" if life is None else life
        return text.decode() in self.lives.split(" ")

    def probe_by(self, publishing: str) -> None:
        """Send a probe, and write one; when what was sent comes back, `seen` has to be called."""
        if self.probe is None:  # there is nothing that this server would publish, or write
            self.refuses = ""
            for each in (self.commands, self.events):
                _unseen(each.ask("PING") if each is self.commands else each.ask_with(("PING",)), self)
        else:
            _unseen(self.commands.ask(publishing, self.probe, "b"))
            written = self.commands.ask("SET", self.probe, "b", "PX", WRITTEN_MS)
            written.add_done_callback(self._look_at_write)

    def _look_at_write(self, written: asyncio.Future[Any]) -> None:
        """Learn from a probe whether writes are taken. Others cannot say it: some need no memory, and pass."""
        if written.cancelled():
            return
        error = written.exception()
        if isinstance(error, CommandFailed):
            self.refused(error)
            if error.code == "NOPERM":  # who may write no probe does not learn when the others are taken again
                self.refuses = ""
        elif error is None and self.refuses:
            logger.warning("= %s takes writes again", self.address.shown)
            self.refuses = ""

    def refused(self, error: CommandFailed) -> None:
        """Note an answer to a write, if it says that none is taken."""
        if error.code in TAKES_NO_WRITES:
            if not self.refuses:
                logger.error("! %s takes no writes: %s", self.address.shown, error.text)
            self.refuses = error.text

    def seen(self) -> None:
        self.seen_at = time.monotonic()

    def cut(self) -> None:
        """Have it lost: whoever holds it is told."""
        self.commands.close()

    def close(self) -> None:
        """Give up both connections; nobody is told."""
        self.is_lost = True
        self.commands.close()
        if hasattr(self, "events"):
            self.events.close()


def _unseen(future: asyncio.Future[Any], link: Link | None = None) -> None:
    """Look at what became of a probe, so that asyncio does not call its failure unseen."""

    def look(done: asyncio.Future[Any]) -> None:
        if not done.cancelled() and done.exception() is None and link is not None:
            link.seen()

    future.add_done_callback(look)


def run_at(link: Link, script: Script, keys: int, *arguments: Word, asking: bool = False) -> Awaitable[Any]:
    """Run a script at one server."""
    life = (link.lives,) if script.says_life else ()
    return script.run(link.commands, keys, *arguments, *life, asking=asking)
