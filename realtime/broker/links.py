"""
A link to one Redis process: one connection for commands, one for pub/sub.

Runs in the worker. When either connection is lost, the link closes both. A link knows the run id of its process and
whether that process takes writes. It never reconnects and never chooses a server; nodes.py and cluster.py do.

**Run ids.** A process that replaced another one may lack acknowledged writes: it was a replica, or its disk lagged.
Each stream therefore stores the run id under which it was last written. A stream with another run id than the server's
gets a new epoch, so that no client sees a false `recovered: true`. In a cluster, streams also move between healthy
masters; `run_ids` then holds all run ids that count as good.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol, Self

from realtime.broker.address import RedisAddress
from realtime.broker.redis_connection import CommandFailed, RedisConnection, Word, ignore_failure
from realtime.broker.scripts import Script
from realtime.broker.sharded import ShardedEvents
from realtime.errors import BrokerUnavailable
from realtime.log_lines import log

SHARDED_AT_LEAST: Final = 7  # the first Redis version with SSUBSCRIBE
# Errors of a server that takes no writes now: its memory or disk is full, it is a replica, or it has too few replicas.
TAKES_NO_WRITES: Final = ("OOM", "MISCONF", "READONLY", "NOREPLICAS")
WRITTEN_MS: Final = 1000  # lifetime of the key that a probe writes
FACTS_S: Final = 3.0  # to read the server's facts, as long as a connection may take to open

logger = logging.getLogger("realtime.broker.redis")


class Route(Protocol):
    """The way of a command to the server that has its keys. `tag` is the hash tag of these keys."""

    is_one: bool  # all commands go to one server, and arrive in the order in which they were sent

    def link(self, tag: str) -> RedisLink:
        """
        Return the link to the server that has the keys of this tag.

        Raises:
            BrokerUnavailable: there is none now.
        """

    def request(self, tag: str, *words: Word) -> Awaitable[Any]: ...

    def run(self, tag: str, script: Script, keys: int, *arguments: Word) -> Awaitable[Any]: ...


class NodesOwner(Protocol):
    """The broker, as its `Nodes` see it: it says what must be in force at the servers, and receives events."""

    def channels(self) -> Iterable[bytes]:
        """Return the channels to subscribe to, without the probes' channels."""

    def on_message(self, channel: bytes, text: bytes) -> None: ...

    async def enter(self, route: Route, fresh: Callable[[RedisLink], bool]) -> None:
        """Take the lease, and register the members whose link is fresh."""

    def on_lost(self) -> None: ...

    def on_restored(self) -> None: ...

    def on_gap(self, channels: Iterable[bytes]) -> None: ...


class Nodes(Protocol):
    """The servers, and which of them has which keys."""

    publishing: str  # the command with which scripts publish

    @property
    def shown(self) -> str:
        """The servers' addresses, for logs and errors."""

    @property
    def is_whole(self) -> bool:
        """Whether every server is reachable and every subscription is in force."""

    @property
    def links(self) -> Iterable[RedisLink]: ...

    @property
    def route(self) -> Route:
        """
        The route that is open now.

        Raises:
            BrokerUnavailable: there is none.
        """

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def subscribe(self, channel: bytes) -> None: ...

    async def unsubscribe(self, channel: bytes) -> None: ...

    def recheck(self, link: RedisLink | None = None) -> None:
        """Check again which server has what. `link` is one whose server became read-only."""


class RedisLink:
    """
    Both connections to one process. Made by `open`.

    `probed_at` is when the last probe came back. `refuses` is the error with which the process refused the last write;
    it is empty once a probe was written again.
    """

    def __init__(self, address: RedisAddress, commands: RedisConnection, events: RedisConnection) -> None:
        self.address = address
        self.commands = commands
        self.events = events
        self.probe: bytes | None = None  # the channel of this link's probes
        self.probed_at = time.monotonic()
        self.refuses = ""
        self.facts: dict[bytes, str] = {}
        self.run_id = ""
        self.run_ids = ""  # this server's run id first, then those that count as good (cluster.py), divided by spaces
        self.is_lost = False

    @classmethod
    async def open(
        cls,
        address: RedisAddress,
        *,
        name: str,
        on_lost: Callable[[RedisLink], None],
        on_push: Callable[[RedisLink, list[Any]], None],
        sharded: bool = False,
    ) -> Self:
        """
        Open both connections and read the server's facts. The caller must call `close` later.

        Raises:
            BrokerUnavailable: the server does not answer, or is not of the kind that the URL names.
        """

        def lost(_: RedisConnection) -> None:
            if not link.is_lost:
                link.close()
                on_lost(link)

        early = asyncio.Event()  # set when a connection is lost before the link is open
        commands = await RedisConnection.connect(address, name=name, on_lost=lambda _: early.set())
        kind = ShardedEvents if sharded else RedisConnection
        try:
            events = await kind.connect(
                address, name=name, on_lost=lambda _: early.set(), on_push=lambda message: on_push(link, message)
            )
        except BaseException:
            commands.close()
            raise
        link = cls(address, commands, events)  # before the first push, which needs a subscription
        try:
            async with asyncio.timeout(FACTS_S):
                await link._read_facts(sharded=sharded)
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

    async def _read_facts(self, *, sharded: bool) -> None:
        """
        Read INFO: the mode, the version, and the run id.

        A process that became a replica and then a master again keeps its `run_id`, but may have lost writes. Its
        replication id then changed, and INFO shows a second one. The run id used here includes it.
        """
        shown = self.address.shown
        try:
            replies = await asyncio.gather(*[self.commands.request("INFO", each) for each in ("server", "replication")])
        except CommandFailed as error:
            log(
                logger, logging.WARNING, "failovers not detected", server=shown, reason=f"it refuses INFO: {error.text}"
            )
            return
        pairs = (line.partition(b":") for line in b"\n".join(replies).splitlines())
        self.facts = {name: value.decode() for name, _, value in pairs}
        mode = self.facts.get(b"redis_mode", "standalone")
        if mode != ("cluster" if sharded else "standalone") and b"redis_mode" in self.facts:
            scheme = {"cluster": "redis+cluster", "sentinel": "redis+sentinel"}.get(mode, "redis")
            raise BrokerUnavailable(shown, f"this Redis runs in {mode} mode, which needs a URL with {scheme}://")
        version = self.facts.get(b"redis_version", "")
        if sharded and version and int(version.partition(".")[0]) < SHARDED_AT_LEAST:
            raise BrokerUnavailable(
                shown,
                f"Redis {version} has no sharded pub/sub: a cluster of Redis {SHARDED_AT_LEAST} or newer is needed",
            )
        self.run_id = self.run_ids = self.facts.get(b"run_id", "")
        if self.run_id and self.facts.get(b"second_repl_offset", "-1") != "-1":
            self.run_id = self.run_ids = f"{self.run_id}+{self.facts.get(b'master_replid', '')}"

    def trusts_run(self, run_id: bytes | None) -> bool:
        """Return whether a stream written under that run id is as good as one that this server wrote."""
        text = b"" if run_id is None else run_id
        return text.decode() in self.run_ids.split(" ")

    def send_probe(self, publishing: str) -> None:
        """
        Publish a probe, and write one. The owner of the link must call `note_probe` when the published one arrives.

        A node without a probe channel has no hash slots. It publishes and stores nothing, so a PING is enough.
        """
        if self.probe is None:
            self.refuses = ""
            self.commands.request("PING").add_done_callback(self._check_ping)
            self.events.request_batch(("PING",)).add_done_callback(self._check_ping)
        else:
            self.commands.request(publishing, self.probe, "b").add_done_callback(ignore_failure)
            written = self.commands.request("SET", self.probe, "b", "PX", WRITTEN_MS)
            written.add_done_callback(self._check_write)

    def _check_ping(self, answered: asyncio.Future[Any]) -> None:
        if not answered.cancelled() and answered.exception() is None:
            self.note_probe()

    def _check_write(self, written: asyncio.Future[Any]) -> None:
        """Update `refuses` from a probe's write. Other commands cannot clear it: some succeed without memory."""
        if written.cancelled():
            return
        error = written.exception()
        if isinstance(error, CommandFailed):
            self.note_refusal(error)
            if error.code == "NOPERM":  # without permission to write probes, `refuses` could never be cleared
                self.refuses = ""
        elif error is None and self.refuses:
            log(logger, logging.WARNING, "= broker takes writes again", server=self.address.shown)
            self.refuses = ""

    def note_refusal(self, error: CommandFailed) -> None:
        """Note the error of a write, if it means that the server takes no writes now."""
        if error.code in TAKES_NO_WRITES:
            if not self.refuses:
                log(logger, logging.ERROR, "broker takes no writes", server=self.address.shown, reason=error.text)
            self.refuses = error.text

    def note_probe(self) -> None:
        """Note that a probe came back now."""
        self.probed_at = time.monotonic()

    def abort(self) -> None:
        """Cut the link. Its owner gets `on_lost`."""
        self.commands.close()

    def close(self) -> None:
        """Close both connections, without `on_lost`."""
        self.is_lost = True
        self.commands.close()
        self.events.close()


def run_at(link: RedisLink, script: Script, keys: int, *arguments: Word, asking: bool = False) -> Awaitable[Any]:
    """Run a script at one server, with that server's run ids where the script needs them."""
    run_ids = (link.run_ids,) if script.needs_run_ids else ()
    return script.run(link.commands, keys, *arguments, *run_ids, asking=asking)
