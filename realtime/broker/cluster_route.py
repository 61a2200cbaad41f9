"""
The route of a command to the node of a cluster that has its keys, while hash slots move between nodes.

Runs in the worker. A command that was answered MOVED, ASK or TRYAGAIN did not run. It is sent again, to the node that
the newest map names, for at most `MOVING_S`. A command whose link was lost may have run, and is never sent again.

While a hash slot moves, publications are made at the node that has the keys already. The subscribers are still at the
old node, so the publication is published there once more. Joins and leaves of that moment are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from realtime.broker.hash_slots import HASH_SLOTS, Endpoint, hash_slot_of, read_redirection
from realtime.broker.links import RedisLink, run_at
from realtime.broker.redis_connection import CommandFailed, Word, ignore_failure
from realtime.broker.scripts import PUBLISH, Script
from realtime.errors import BrokerUnavailable

SHARDED_PUBLISH: Final = "SPUBLISH"
MOVING_S: Final = 3.0  # a hash slot moves within a moment; after this long the caller gets an error
AGAIN_S: Final = 0.02
REDIRECTIONS: Final = ("MOVED", "ASK", "TRYAGAIN")

Send = Callable[[RedisLink, bool], Awaitable[Any]]


class ClusterView(Protocol):
    """The cluster, as a route needs it."""

    @property
    def links_by_endpoint(self) -> Mapping[Endpoint, RedisLink]: ...

    async def reconcile_again(self, source: Endpoint | None = None) -> None:
        """Fetch the map anew, first from `source`, apply it, and return when that was tried."""


class DirectRoute:
    """
    The route to the node that the map names, without a second try.

    Reconciling uses it, and must not wait for itself. `slots` has the link of each hash slot; the cluster replaces it.
    """

    is_one = False

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self.slots: list[RedisLink | None] = [None] * HASH_SLOTS

    def link(self, tag: str) -> RedisLink:
        return self.link_of(hash_slot_of(tag))

    def link_of(self, hash_slot: int) -> RedisLink:
        """
        Return the link to the node of a hash slot.

        Raises:
            BrokerUnavailable: there is no link to that node now.
        """
        link = self.slots[hash_slot]
        if link is None:
            raise BrokerUnavailable(self._shown, f"no link to the node of hash slot {hash_slot}")
        return link

    def request(self, tag: str, *words: Word) -> Awaitable[Any]:
        return self.link(tag).commands.request(*words)

    def run(self, tag: str, script: Script, keys: int, *arguments: Word) -> Awaitable[Any]:
        return run_at(self.link(tag), script, keys, *arguments)


class ClusterRoute:
    """The route that follows hash slots that move."""

    is_one = False

    def __init__(self, shown: str, direct: DirectRoute, view: ClusterView) -> None:
        self._shown, self._direct, self._view = shown, direct, view

    def link(self, tag: str) -> RedisLink:
        return self._direct.link(tag)

    async def request(self, tag: str, *words: Word) -> Any:
        """
        Send a command, and again after each redirection. Return its reply.

        Raises:
            CommandFailed: the node refused the command.
            BrokerUnavailable: there is no link to the node, it was lost, or the hash slot moves for too long.
        """
        link = self._direct.link(tag)
        try:
            return await link.commands.request(*words)
        except CommandFailed as error:
            if error.code not in REDIRECTIONS:
                raise
            first = error

        def send(link: RedisLink, asking: bool) -> Awaitable[Any]:
            if asking:
                link.commands.request("ASKING").add_done_callback(ignore_failure)
            return link.commands.request(*words)

        return await self._follow(first, link, tag, send)

    async def run(self, tag: str, script: Script, keys: int, *arguments: Word) -> Any:
        """Run a script, and again after each redirection. Return its result, or raise as `request`."""
        link = self._direct.link(tag)
        try:
            return await run_at(link, script, keys, *arguments)
        except CommandFailed as error:
            if error.code not in REDIRECTIONS:
                raise
            first = error

        async def send(link: RedisLink, asking: bool) -> Any:
            reply = await run_at(link, script, keys, *arguments, asking=asking)
            if asking and script is PUBLISH:
                self._republish(tag, reply, *arguments[keys : keys + 2])
            return reply

        return await self._follow(first, link, tag, send)

    def _republish(self, tag: str, published: list[Any], channel: Word, payload: Word) -> None:
        """Publish again at the node that the hash slot is leaving: the subscribers are there."""
        epoch, offset, is_duplicate = published
        assert isinstance(payload, bytes), "RedisBroker.publish packs it"
        owner = self._direct.slots[hash_slot_of(tag)]
        if owner is not None and not is_duplicate:
            message = b"p:%b:%d:%b" % (epoch, offset, payload)  # as lua/publish.lua writes it
            owner.commands.request(SHARDED_PUBLISH, channel, message).add_done_callback(ignore_failure)

    async def _follow(self, error: CommandFailed, link: RedisLink, tag: str, send: Send) -> Any:
        """
        Send a command that did not run again, until it runs.

        Raises:
            CommandFailed: the node refused the command.
            BrokerUnavailable: a link was lost, or this takes longer than `MOVING_S`.
        """
        assert error.code in REDIRECTIONS, "any other error may mean that the command ran"
        try:
            async with asyncio.timeout(MOVING_S):
                while True:
                    target, asking = await self._next_target(error, link, tag)
                    try:
                        return await send(target, asking)
                    except CommandFailed as again:
                        if again.code not in REDIRECTIONS:
                            raise
                        error, link = again, target
        except TimeoutError as late:
            raise BrokerUnavailable(self._shown, f"the hash slot moves: {error.text}") from late

    async def _next_target(self, error: CommandFailed, link: RedisLink, tag: str) -> tuple[RedisLink, bool]:
        """Return the link to send the command to after a redirection, and whether ASKING must precede it."""
        if error.code == "TRYAGAIN":  # only some of its keys have moved
            await asyncio.sleep(AGAIN_S)
            return self._direct.link(tag), False
        there = read_redirection(error.text, link.address.host)
        links = self._view.links_by_endpoint
        if error.code == "ASK":
            if there not in links:
                await self._view.reconcile_again()
            links = self._view.links_by_endpoint
            if there in links:
                return links[there], True
            await asyncio.sleep(AGAIN_S)
            return self._direct.link(tag), False
        assert error.code == "MOVED", "the three redirections are handled one by one"
        await self._view.reconcile_again(there)
        target = self._direct.link(tag)
        if target is link:  # the node that gave the newest map does not know of the move yet
            await asyncio.sleep(AGAIN_S)
        return target, False
