"""
One Redis at a time: always the same server, or the master that sentinels name.

Runs in the worker. A link that is lost is taken up again with a pause of at most a second, and each time it is asked
anew where; a server that is no master is refused. While there is no link every call fails at once. Publications that
came meanwhile were missed: the broker is told when the link is lost, and when everything is in force again. Of a server
that takes no writes any more, because another became the master, the link is cut. This never repeats a command.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from typing import Any, Final, Protocol

from realtime.broker.address import Address
from realtime.broker.links import Keeper, Link, run_at
from realtime.broker.resp import CONNECT_S, CommandFailed, Connection, Word
from realtime.broker.scripts import Script
from realtime.errors import BrokerAway, BrokerUnavailable

PAUSES_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)

logger = logging.getLogger("realtime.broker.redis")


class Finder(Protocol):
    """Says which server it is."""

    @property
    def shown(self) -> str: ...

    async def find(self) -> Address: ...

    async def check(self, commands: Connection) -> None:
        """
        Raises:
            BrokerUnavailable: it is not that server.
        """


class Fixed:
    """Always the same server."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self.shown = address.shown

    async def find(self) -> Address:
        return self._address

    async def check(self, commands: Connection) -> None:
        """Whatever answers there is it."""


class Sentinels:
    """The master of a service, as the first sentinel says that knows it."""

    def __init__(self, sentinels: Iterable[Address], service: str, login: Address) -> None:
        self._sentinels = list(sentinels)
        self._service = service
        self._login = login
        self.shown = f"{service} at {','.join(each.shown for each in self._sentinels)}"

    async def find(self) -> Address:
        problem = "no sentinel"
        for sentinel in list(self._sentinels):
            try:
                address = await self._ask(sentinel)
            except BrokerUnavailable as error:
                problem = str(error)
                continue
            self._sentinels.remove(sentinel)
            self._sentinels.insert(0, sentinel)  # the next question goes to one that answers
            return address
        raise BrokerUnavailable(self.shown, problem)

    async def _ask(self, sentinel: Address) -> Address:
        connection = await Connection.connect(sentinel, name="realtime", on_lost=lambda _: None)
        try:
            async with asyncio.timeout(CONNECT_S):
                found = await connection.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        except CommandFailed as error:
            raise BrokerUnavailable(sentinel.shown, error.text) from error
        except TimeoutError as error:
            raise BrokerUnavailable(sentinel.shown, "no answer") from error
        finally:
            connection.close()
        if found is None:
            raise BrokerUnavailable(sentinel.shown, f"this sentinel knows no {self._service}")
        host, port = found
        return self._login.at(host.decode(), int(port))

    async def check(self, commands: Connection) -> None:
        try:
            role = (await commands.ask("ROLE"))[0].decode()
        except CommandFailed as error:
            raise BrokerUnavailable(commands.address.shown, error.text) from error
        if role != "master":  # a sentinel may have an old view, and a master that was deposed does not know it
            raise BrokerUnavailable(commands.address.shown, f"it is a {role}, and should be the master")


class OneRoute:
    """The way to the one server."""

    is_one = True
    __slots__ = ("_link",)

    def __init__(self, link: Link) -> None:
        self._link = link

    def link(self, tag: str) -> Link:
        return self._link

    def ask(self, tag: str, *words: Word) -> Awaitable[Any]:
        return self._link.commands.ask(*words)

    def run(self, tag: str, script: Script, keys: int, *arguments: Word) -> Awaitable[Any]:
        return run_at(self._link, script, keys, *arguments)


class OneNode:
    """`Nodes` that are one at a time."""

    publishing = "PUBLISH"

    def __init__(self, finder: Finder, keeper: Keeper, *, name: str, probe: bytes) -> None:
        self._finder, self._keeper = finder, keeper
        self._name, self._probe = name, probe
        self._route: OneRoute | None = None
        self._link: Link | None = None
        self._returning: asyncio.Task[None] | None = None

    @property
    def shown(self) -> str:
        return self._finder.shown

    @property
    def is_whole(self) -> bool:
        return self._link is not None

    @property
    def links(self) -> Iterable[Link]:
        return () if self._link is None else (self._link,)

    @property
    def route(self) -> OneRoute:
        if self._route is None:
            raise BrokerAway(self.shown, "there is no link now")
        return self._route

    async def start(self) -> None:
        await self._connect()

    async def _connect(self) -> None:
        """Take up the link, with everything that this worker has at the broker."""
        address = await self._finder.find()
        link = await Link.open(address, name=self._name, on_lost=self._lost, on_push=self._push)
        try:
            await self._finder.check(link.commands)
            link.probe = self._probe
            await asyncio.gather(
                *[link.events.ask("SUBSCRIBE", each) for each in (self._probe, *self._keeper.channels())]
            )
            route = OneRoute(link)
            await self._keeper.enter(route, lambda _: True)
            if link.is_lost:  # before it was ours: nobody else would see it
                raise BrokerUnavailable(self.shown, "the connection was lost")
        except CommandFailed as error:
            link.close()
            raise BrokerUnavailable(self.shown, error.text) from error
        except BaseException:
            link.close()
            raise
        link.seen()
        self._link, self._route = link, route

    def _lost(self, link: Link) -> None:
        if link is not self._link:
            return
        self._link = self._route = None
        self._keeper.on_lost()
        self._returning = asyncio.get_running_loop().create_task(self._return())

    async def _return(self) -> None:
        attempt = 0
        while True:
            await asyncio.sleep(PAUSES_S[min(attempt, len(PAUSES_S) - 1)])
            attempt += 1
            try:
                await self._connect()
            except BrokerUnavailable as error:
                logger.debug("- not back: %s", error)
                continue
            except Exception:
                logger.exception("! coming back to %s failed", self.shown)
                continue
            self._keeper.on_restored()
            return

    def _push(self, link: Link, message: list[Any]) -> None:
        if message[1] == self._probe:
            link.seen()
        else:
            self._keeper.on_message(message[1], message[2])

    async def subscribe(self, channel: bytes) -> None:
        await self.route.link("").events.ask("SUBSCRIBE", channel)

    async def unsubscribe(self, channel: bytes) -> None:
        await self.route.link("").events.ask("UNSUBSCRIBE", channel)

    def doubt(self, link: Link | None = None) -> None:
        if link is not None and link is self._link:
            logger.warning("! %s takes no writes: the link is cut", link.address.shown)
            link.cut()

    async def close(self) -> None:
        link, self._link, self._route = self._link, None, None
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.gather(self._returning, return_exceptions=True)
        if link is not None:
            link.close()
