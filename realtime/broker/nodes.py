"""
One Redis server at a time: always the same, or the master that sentinels name.

Runs in the worker. A lost link is reopened with growing pauses of at most one second. Before each attempt the server is
determined anew, and a server that is no master is refused. While there is no link, every call fails at once.

Publications of that time are missed. The broker is therefore notified when the link is lost, and again when everything
is in force. When the server becomes read-only because another one is the master now, the link is cut. This module never
repeats a command.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from typing import Any, Final, Protocol

from realtime.broker.address import RedisAddress
from realtime.broker.links import NodesOwner, RedisLink, run_at
from realtime.broker.redis_connection import CONNECT_S, CommandFailed, RedisConnection, Word
from realtime.broker.scripts import Script
from realtime.errors import BrokerAway, BrokerUnavailable
from realtime.log_lines import log

PAUSES_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)  # before the next attempt to connect; the last one repeats

logger = logging.getLogger("realtime.broker.redis")


class ServerFinder(Protocol):
    """Determines the server to connect to."""

    @property
    def shown(self) -> str:
        """The server or service, for logs and errors."""

    async def find(self) -> RedisAddress:
        """
        Return the address of the server, as of now.

        Raises:
            BrokerUnavailable: it cannot be determined.
        """

    async def check(self, commands: RedisConnection) -> None:
        """
        Check that the connection leads to the right server.

        Raises:
            BrokerUnavailable: it leads to another one.
        """


class FixedServer:
    """Always the same server."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self.shown = address.shown

    async def find(self) -> RedisAddress:
        return self._address

    async def check(self, commands: RedisConnection) -> None:
        """Accept any server at this address."""


class Sentinels:
    """The master of a service, as named by the first sentinel that knows it."""

    def __init__(self, sentinels: Iterable[RedisAddress], service: str, login: RedisAddress) -> None:
        self._sentinels = list(sentinels)
        self._service = service
        self._login = login
        self.shown = f"{service} at {','.join(each.shown for each in self._sentinels)}"

    async def find(self) -> RedisAddress:
        """Request the address from one sentinel after the other, until one knows the master."""
        problem = "no sentinel"
        for sentinel in list(self._sentinels):
            try:
                address = await self._request_master(sentinel)
            except BrokerUnavailable as error:
                problem = str(error)
                continue
            self._sentinels.remove(sentinel)
            self._sentinels.insert(0, sentinel)  # the next request goes first to one that answers
            return address
        raise BrokerUnavailable(self.shown, problem)

    async def _request_master(self, sentinel: RedisAddress) -> RedisAddress:
        """
        Request the master's address from one sentinel, on a connection of its own.

        Raises:
            BrokerUnavailable: the sentinel does not answer, or does not know the service.
        """
        connection = await RedisConnection.connect(sentinel, name="realtime", on_lost=lambda _: None)
        try:
            async with asyncio.timeout(CONNECT_S):
                found = await connection.request("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        except CommandFailed as error:
            raise BrokerUnavailable(sentinel.shown, error.text) from error
        except TimeoutError as error:
            raise BrokerUnavailable(sentinel.shown, "no answer") from error
        finally:
            connection.close()
        if found is None:
            raise BrokerUnavailable(sentinel.shown, f"this sentinel knows no {self._service}: check the service name")
        host, port = found
        return self._login.at(host.decode(), int(port))

    async def check(self, commands: RedisConnection) -> None:
        """Check that the server is a master. Its own answer counts, because a sentinel may be late."""
        try:
            role = (await commands.request("ROLE"))[0].decode()
        except CommandFailed as error:
            raise BrokerUnavailable(commands.address.shown, error.text) from error
        if role != "master":  # a sentinel's view may be old, and a deposed master may not know it yet
            raise BrokerUnavailable(commands.address.shown, f"it is a {role}, and should be the master")


class SingleRoute:
    """The route to the one server. It ignores the tag of a command: one server has all keys."""

    is_one = True
    __slots__ = ("_link",)

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    def link(self, tag: str) -> RedisLink:
        return self._link

    def request(self, tag: str, *words: Word) -> Awaitable[Any]:
        return self._link.commands.request(*words)

    def run(self, tag: str, script: Script, keys: int, *arguments: Word) -> Awaitable[Any]:
        return run_at(self._link, script, keys, *arguments)


class SingleNode:
    """
    `Nodes` with one server at a time.

    Invariant: `_link` and `_route` are set together, only after everything is in force at the server, and cleared
    together. Callers of `route` therefore never see a link on which a subscription or a member is missing.
    """

    publishing = "PUBLISH"

    def __init__(self, finder: ServerFinder, owner: NodesOwner, *, name: str, probe: bytes) -> None:
        self._finder, self._owner = finder, owner
        self._name, self._probe = name, probe
        self._route: SingleRoute | None = None
        self._link: RedisLink | None = None
        self._reconnecting: asyncio.Task[None] | None = None

    @property
    def shown(self) -> str:
        return self._finder.shown

    @property
    def is_whole(self) -> bool:
        return self._link is not None

    @property
    def links(self) -> Iterable[RedisLink]:
        return () if self._link is None else (self._link,)

    @property
    def route(self) -> SingleRoute:
        """The route, only while everything of this worker is in force at the server."""
        if self._route is None:
            raise BrokerAway(self.shown, "there is no link now")
        return self._route

    async def start(self) -> None:
        """Connect. There is no second try: a wrong address must end the start with its reason."""
        await self._connect()

    async def _connect(self) -> None:
        """
        Open the link, and put everything in force that this worker has at the broker.

        Raises:
            BrokerUnavailable: that failed; the link is closed again.
        """
        assert self._link is None, "only start() and _reconnect() connect, and never at the same time"
        address = await self._finder.find()
        link = await RedisLink.open(address, name=self._name, on_lost=self._lost, on_push=self._push)
        try:
            await self._finder.check(link.commands)
            link.probe = self._probe
            # First subscribe, then register: watchers of this worker thus get the joins of its own members.
            await asyncio.gather(
                *[link.events.request("SUBSCRIBE", each) for each in (self._probe, *self._owner.channels())]
            )
            route = SingleRoute(link)
            await self._owner.enter(route, lambda _: True)
            if link.is_lost:  # `_lost` ignored it, because it was not yet `self._link`
                raise BrokerUnavailable(self.shown, "the connection was lost")
        except CommandFailed as error:
            link.close()
            raise BrokerUnavailable(self.shown, error.text) from error
        except BaseException:
            link.close()
            raise
        link.note_probe()
        assert self._link is None, "two links would receive each message twice"
        self._link, self._route = link, route

    def _lost(self, link: RedisLink) -> None:
        """Notify the owner, and start to reconnect. A link that was never in force is ignored: `_connect` sees it."""
        if link is not self._link:
            return
        self._link = self._route = None
        assert self._reconnecting is None or self._reconnecting.done(), "a link is lost only after it was open"
        self._owner.on_lost()
        self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect())

    async def _reconnect(self) -> None:
        """Try to connect until it succeeds, then notify the owner. Only `close` ends this early."""
        attempt = 0
        while True:
            await asyncio.sleep(PAUSES_S[min(attempt, len(PAUSES_S) - 1)])
            attempt += 1
            try:
                await self._connect()
            except BrokerUnavailable as error:
                log(logger, logging.DEBUG, "- broker not connected", server=self.shown, reason=error)
                continue
            except Exception:  # noqa: BLE001 - logged with its traceback
                log(logger, logging.ERROR, "broker not connected", server=self.shown, exc_info=True)
                continue
            self._owner.on_restored()
            return

    def _push(self, link: RedisLink, message: list[Any]) -> None:
        """Pass on a message. A probe is none: it proves that pub/sub delivers, which an open socket does not."""
        if message[1] == self._probe:
            link.note_probe()
        else:
            self._owner.on_message(message[1], message[2])

    async def subscribe(self, channel: bytes) -> None:
        await self.route.link("").events.request("SUBSCRIBE", channel)

    async def unsubscribe(self, channel: bytes) -> None:
        await self.route.link("").events.request("UNSUBSCRIBE", channel)

    def recheck(self, link: RedisLink | None = None) -> None:
        """Close the link to a server that became read-only. Reconnecting then finds the new master."""
        if link is not None and link is self._link:
            log(
                logger,
                logging.WARNING,
                "x broker link closed",
                server=link.address.shown,
                reason="it takes no writes, another server is the master",
            )
            link.abort()

    async def close(self) -> None:
        """Close the link. The reconnecting task ends first, so that it opens no other."""
        link, self._link, self._route = self._link, None, None
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.gather(self._reconnecting, return_exceptions=True)
        if link is not None:
            link.close()
