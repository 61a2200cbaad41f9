"""
All nodes of a Redis Cluster at a time, with sharded pub/sub (Redis 7 or newer).

Runs in the worker. One link leads to each master. *Settling* brings links and subscriptions in line with the cluster's
map: it is done again and again until everything is in force, whenever something speaks against that: a link was lost, a
node took a subscription back because the slot has left it (`sunsubscribe`), a command was answered MOVED, or a round of
the broker has passed. Rooms that were without a subscription for a moment are told as a gap; others go on untouched.

A command answered MOVED, ASK or TRYAGAIN did not run: it is sent again, to whom the newest map names, as long as
`MOVING_S`. A command whose link was lost may have run: it is never sent again.

A stream that a cluster moved from one master to another is whole. One that a replica took over when its master died may
have lost its end. Both are found under another server's life: it is as good as the finder's own where that server is a
master still, in the same map (`lives`).

While a slot moves, publications are made where the keys are already, and subscribers are where they were: what was
published there is said once more at the old place. Joins and leaves of that moment are not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from itertools import groupby
from typing import Any, Final

from realtime.broker.address import Address, Where
from realtime.broker.hash_slots import (
    SLOTS,
    Endpoint,
    Map,
    channel_slot,
    read_map,
    read_redirection,
    slot_of,
    tag_within,
)
from realtime.broker.links import Keeper, Link, run_at
from realtime.broker.nodes import PAUSES_S
from realtime.broker.resp import CONNECT_S, CommandFailed, Connection, Word
from realtime.broker.scripts import PUBLISH, Script
from realtime.broker.sharded import ShardedEvents
from realtime.errors import BrokerAway, BrokerUnavailable

MOVING_S: Final = 3.0  # a slot changes hands in a moment; whoever waits longer is told
AGAIN_S: Final = 0.02
REDIRECTIONS: Final = ("MOVED", "ASK", "TRYAGAIN")

logger = logging.getLogger("realtime.broker.redis")

Send = Callable[[Link, bool], Awaitable[Any]]


class DirectRoute:
    """The way to the node that the map names, without a second try: for settling, which waits for nobody."""

    is_one = False

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self.slots: list[Link | None] = [None] * SLOTS

    def link(self, tag: str) -> Link:
        link = self.slots[slot_of(tag)]
        if link is None:
            raise BrokerUnavailable(self._shown, "the node that has this room is away")
        return link

    def ask(self, tag: str, *words: Word) -> Awaitable[Any]:
        return self.link(tag).commands.ask(*words)

    def run(self, tag: str, script: Script, keys: int, *arguments: Word) -> Awaitable[Any]:
        return run_at(self.link(tag), script, keys, *arguments)


class Cluster:
    """`Nodes` that are many at a time; and the way to each, which follows what moves."""

    publishing = "SPUBLISH"
    is_one = False

    def __init__(self, where: Where, keeper: Keeper, *, name: str, probe: Callable[[str], str]) -> None:
        """`probe` gives the channel of this worker's probes for a tag."""
        self.shown = where.shown
        self._where, self._keeper, self._name, self._probe = where, keeper, name, probe
        self._links: dict[Endpoint, Link] = {}
        self._fresh: set[Link] = set()  # links at which members have to be registered
        self._direct = DirectRoute(self.shown)
        self._subscribed: dict[bytes, Link] = {}
        self._knowing: Endpoint | None = None  # the node whose map is newest, as one says that does not have a slot
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()  # replaced after each time
        self._settling: asyncio.Task[None] | None = None
        self._is_whole = self._was_lost = False

    @property
    def is_whole(self) -> bool:
        return self._is_whole

    @property
    def links(self) -> Iterable[Link]:
        return self._links.values()

    @property
    def route(self) -> Cluster:
        if not self._links:
            raise BrokerAway(self.shown, "there is no link now")
        return self

    async def start(self) -> None:
        try:
            await self._settle()
        except CommandFailed as error:
            raise BrokerUnavailable(self.shown, error.text) from error
        if not self._is_whole:
            raise BrokerUnavailable(self.shown, "not every slot has a node that answers")
        self._settling = asyncio.get_running_loop().create_task(self._keep_settled())

    async def close(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.gather(self._settling, return_exceptions=True)
        links, self._links, self._is_whole = self._links, {}, False
        self._direct.slots = [None] * SLOTS
        for link in links.values():
            link.close()

    def doubt(self, link: Link | None = None) -> None:
        self._wake.set()

    # The way of a command

    def link(self, tag: str) -> Link:
        return self._direct.link(tag)

    async def ask(self, tag: str, *words: Word) -> Any:
        link = self._direct.link(tag)
        try:
            return await link.commands.ask(*words)
        except CommandFailed as error:
            if error.code not in REDIRECTIONS:
                raise
            first = error

        def send(link: Link, asking: bool) -> Awaitable[Any]:
            if asking:
                link.commands.ask("ASKING").add_done_callback(_look)
            return link.commands.ask(*words)

        return await self._follow(first, link, tag, send)

    async def run(self, tag: str, script: Script, keys: int, *arguments: Word) -> Any:
        link = self._direct.link(tag)
        try:
            return await run_at(link, script, keys, *arguments)
        except CommandFailed as error:
            if error.code not in REDIRECTIONS:
                raise
            first = error

        async def send(link: Link, asking: bool) -> Any:
            reply = await run_at(link, script, keys, *arguments, asking=asking)
            if asking and script is PUBLISH:
                self._say_again(tag, reply, *arguments[keys : keys + 2])
            return reply

        return await self._follow(first, link, tag, send)

    def _say_again(self, tag: str, published: list[Any], channel: Word, payload: Word) -> None:
        """Tell the subscribers at the node that a slot is leaving what was published at the one it moves to."""
        epoch, offset, seen = published
        assert isinstance(payload, bytes), "as it was packed"
        owner = self._direct.slots[slot_of(tag)]
        if owner is not None and not seen:
            message = b"p:%b:%d:%b" % (epoch, offset, payload)  # as lua/publish.lua writes it
            owner.commands.ask(self.publishing, channel, message).add_done_callback(_look)

    async def _follow(self, error: CommandFailed, link: Link, tag: str, send: Send) -> Any:
        """
        Send a command that did not run again, until it runs.

        Raises:
            CommandFailed: it was refused.
            BrokerUnavailable: a link was lost, or this takes too long.
        """
        try:
            async with asyncio.timeout(MOVING_S):
                while True:
                    target, asking = await self._next_way(error, link, tag)
                    try:
                        return await send(target, asking)
                    except CommandFailed as again:
                        if again.code not in REDIRECTIONS:
                            raise
                        error, link = again, target
        except TimeoutError as late:
            raise BrokerUnavailable(self.shown, f"the slot moves: {error.text}") from late

    async def _next_way(self, error: CommandFailed, link: Link, tag: str) -> tuple[Link, bool]:
        """Return where to send a command after such an error, and whether by ASKING."""
        if error.code == "TRYAGAIN":  # some of its keys have moved
            await asyncio.sleep(AGAIN_S)
            return self._direct.link(tag), False
        there = read_redirection(error.text, link.address.host)
        if error.code == "ASK":
            if there not in self._links:
                await self._settle_again()
            if there in self._links:
                return self._links[there], True
            await asyncio.sleep(AGAIN_S)
            return self._direct.link(tag), False
        self._knowing = there
        await self._settle_again()
        target = self._direct.link(tag)
        if target is link:  # whoever drew the newest map has not heard of it yet
            await asyncio.sleep(AGAIN_S)
        return target, False

    async def _settle_again(self) -> None:
        """Have everything settled anew, and wait until that was tried."""
        self._wake.set()
        await self._settled.wait()

    # Subscriptions

    async def subscribe(self, channel: bytes) -> None:
        try:
            async with asyncio.timeout(MOVING_S + CONNECT_S):
                await self._subscribe(channel)
        except TimeoutError as late:
            raise BrokerUnavailable(self.shown, "a room could not be subscribed in time") from late

    async def _subscribe(self, channel: bytes) -> None:
        while True:
            link = self._direct.slots[channel_slot(channel)]
            if link is None:
                raise BrokerUnavailable(self.shown, "the node that has this room is away")
            try:
                await self._subscribe_at(link, [channel])
            except CommandFailed as error:
                if error.code not in REDIRECTIONS:
                    raise
                if error.code == "MOVED":
                    self._knowing = read_redirection(error.text, link.address.host)
            if channel in self._subscribed:
                return
            await self._settle_again()  # the slot left that node meanwhile

    async def _subscribe_at(self, link: Link, channels: list[bytes]) -> None:
        """Subscribe to channels that are all of one slot."""
        events = _sharded(link)
        for channel in channels:  # noted before: the node may take it back as soon as it has given it
            self._subscribed[channel] = link
        try:
            await events.tell("SSUBSCRIBE", *channels)
        except BaseException:
            for channel in channels:
                if self._subscribed.get(channel) is link:
                    del self._subscribed[channel]
            raise

    async def unsubscribe(self, channel: bytes) -> None:
        link = self._subscribed.pop(channel, None)
        if link is None or link.is_lost:
            if self._direct.slots[channel_slot(channel)] is None:
                raise BrokerUnavailable(self.shown, "the node that has this room is away")
            return
        try:
            await _sharded(link).tell("SUNSUBSCRIBE", channel)
        except CommandFailed as error:  # the slot has left that node, and the subscription with it
            logger.debug("- %s: %s", link.address.shown, error.text)

    def _push(self, link: Link, message: list[Any]) -> None:
        kind, channel = message[0], message[1]
        if kind == b"sunsubscribe":
            if self._subscribed.get(channel) is link:
                del self._subscribed[channel]
                self._wake.set()
            elif channel == link.probe:
                link.probe = None
                self._wake.set()
        elif channel == link.probe:
            link.seen()
        else:
            self._keeper.on_message(channel, message[2])

    # Links

    def _lost(self, link: Link) -> None:
        endpoint = (link.address.host, link.address.port)
        if self._links.get(endpoint) is not link:
            return
        self._forget(endpoint)
        logger.warning("! the link to the node %s is lost", link.address.shown)
        self._is_whole = False
        self._wake.set()
        if not self._links and not self._was_lost:
            self._was_lost = True
            self._keeper.on_lost()

    def _forget(self, endpoint: Endpoint) -> None:
        """Have this node no longer, and nothing at it."""
        link = self._links.pop(endpoint)
        self._fresh.discard(link)
        self._direct.slots = [None if each is link else each for each in self._direct.slots]
        self._subscribed = {channel: each for channel, each in self._subscribed.items() if each is not link}

    # Settling

    async def _keep_settled(self) -> None:
        while True:
            await self._wake.wait()
            attempt = 0
            while True:
                self._wake.clear()
                try:
                    await self._settle()
                except (BrokerUnavailable, CommandFailed) as error:
                    self._is_whole = False
                    logger.debug("- not settled: %s", error)
                except Exception:
                    self._is_whole = False
                    logger.exception("! settling the nodes at %s failed", self.shown)
                settled, self._settled = self._settled, asyncio.Event()
                settled.set()
                if self._is_whole:
                    break
                await asyncio.sleep(PAUSES_S[min(attempt, len(PAUSES_S) - 1)])
                attempt += 1

    async def _settle(self) -> None:
        """
        Bring links, subscriptions and members in line with the cluster's map, as far as that goes now.

        Raises:
            BrokerUnavailable: no node gives a map, or members could not be registered.
            CommandFailed: likewise.
        """
        found = await self._read_map()
        wanted = found.masters | {each.master for each in found.ranges}
        for endpoint in self._links.keys() - wanted:
            link = self._links[endpoint]
            logger.info("= the node %s is no master any more", link.address.shown)
            self._forget(endpoint)
            link.close()
        self._assign(found)
        missing = [endpoint for endpoint in wanted if endpoint not in self._links]
        if missing:
            await asyncio.gather(*[self._open(endpoint) for endpoint in missing])
            self._assign(found)
        await asyncio.gather(*[self._put_probe(link) for link in tuple(self._links.values())])
        regained = await self._subscribe_missing()
        is_whole = None not in self._direct.slots and all(
            channel in self._subscribed for channel in self._keeper.channels()
        )
        if self._fresh:
            fresh = set(self._fresh)
            await self._keeper.enter(self._direct, fresh.__contains__)
            self._fresh -= fresh
        self._is_whole = is_whole and not self._wake.is_set()
        if self._was_lost and is_whole:
            self._was_lost = False
            self._keeper.on_restored()
        elif regained:
            self._keeper.on_gap(regained)

    async def _read_map(self) -> Map:
        """Ask for the map: first who is said to know, then whom we have a link to, then whoever may answer."""
        problem = BrokerUnavailable(self.shown, "no node answers")
        knowing, self._knowing = self._knowing, None
        asked: dict[Endpoint, None] = dict.fromkeys([knowing] if knowing is not None else [])
        asked |= dict.fromkeys([*self._links, *((seed.host, seed.port) for seed in self._where.seeds)])
        for endpoint in asked:
            try:
                link = self._links.get(endpoint)
                return await draw_map(
                    self._where.login.at(*endpoint), self._name, None if link is None else link.commands
                )
            except BrokerUnavailable as error:
                problem = error
        raise problem

    async def _open(self, endpoint: Endpoint) -> None:
        address: Address = self._where.login.at(*endpoint)
        try:
            link = await Link.open(address, name=self._name, on_lost=self._lost, on_push=self._push, sharded=True)
        except BrokerUnavailable as error:
            logger.debug("- no link to a node: %s", error)
            return
        self._links[endpoint] = link
        self._fresh.add(link)

    def _assign(self, found: Map) -> None:
        """Have every slot lead where the map says, and know whose streams are as good as whose."""
        slots: list[Link | None] = [None] * SLOTS
        for each in found.ranges:
            slots[each.first : each.last + 1] = [self._links.get(each.master)] * (each.last + 1 - each.first)
        self._direct.slots = slots
        lives = {link.life for endpoint, link in self._links.items() if endpoint in found.masters and link.life}
        for link in self._links.values():
            link.lives = " ".join([link.life, *sorted(lives - {link.life})])

    async def _put_probe(self, link: Link) -> None:
        """Have this link probed through a slot that its node has."""
        slots = self._direct.slots
        if link.probe is not None and slots[channel_slot(link.probe)] is link:
            return
        own = {slot for slot, owner in enumerate(slots) if owner is link}
        link.probe = None
        if not own:
            return
        probe = self._probe(tag_within(own)).encode()
        try:
            await _sharded(link).tell("SSUBSCRIBE", probe)
        except (CommandFailed, BrokerUnavailable) as error:
            logger.debug("- no probe at %s: %s", link.address.shown, error)
        else:
            link.probe = probe
            link.seen()

    async def _subscribe_missing(self) -> list[bytes]:
        """Subscribe to whatever is not subscribed where it belongs. Return what is now."""
        slots = self._direct.slots
        by_slot = sorted((channel_slot(channel), channel) for channel in self._keeper.channels())
        groups: list[tuple[Link, list[bytes]]] = []
        for slot, pairs in groupby(by_slot, key=lambda pair: pair[0]):
            link = slots[slot]
            missing = [channel for _, channel in pairs if self._subscribed.get(channel) is not link]
            if link is not None and missing:
                groups.append((link, missing))
        done = await asyncio.gather(
            *[self._subscribe_at(link, channels) for link, channels in groups], return_exceptions=True
        )
        wanted = set(self._keeper.channels())
        regained: list[bytes] = []
        for (link, channels), error in zip(groups, done, strict=True):
            if error is not None:
                logger.debug("- no subscription at %s: %s", link.address.shown, error)
                continue
            for channel in channels:
                if channel in wanted:
                    regained.append(channel)
                else:  # given up meanwhile
                    await self.unsubscribe(channel)
        return regained


async def draw_map(address: Address, name: str, commands: Connection | None = None) -> Map:
    """
    Ask a node for its map, on a connection of its own where there is none.

    Raises:
        BrokerUnavailable: it does not answer, or is in no cluster.
    """
    own = None
    try:
        if commands is None:
            commands = own = await Connection.connect(address, name=name, on_lost=lambda _: None)
        async with asyncio.timeout(CONNECT_S):
            slots, nodes = await asyncio.gather(commands.ask("CLUSTER", "SLOTS"), commands.ask("CLUSTER", "NODES"))
        return read_map(slots, nodes, address.host)
    except (CommandFailed, TimeoutError, ValueError) as error:
        raise BrokerUnavailable(address.shown, str(error) or "no answer") from error
    finally:
        if own is not None:
            own.close()


def _sharded(link: Link) -> ShardedEvents:
    assert isinstance(link.events, ShardedEvents), "every node's link is opened so"
    return link.events


def _look(asked: asyncio.Future[Any]) -> None:
    """See what became of a command on the side, so that asyncio does not call its failure unseen."""
    if not asked.cancelled():
        asked.exception()
