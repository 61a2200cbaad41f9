"""
A client of some SDK on strings: tests order it about in one language, and read what its SDK told of in the same words.

`Stage` opens puppets, each through a relay of its own, so that each comes from an address of its own; `Puppet` takes
orders and keeps the SDK's events in order. What an order and an event are called is written in puppet.mjs; the SDK
behind them is for the subclasses.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self

from tests.support.client import ProtocolClient
from tests.support.relay import Relay
from tests.support.server import RunningServer

DEADLINE_S = 60.0  # only a hang reaches it
Event = dict[str, Any]


class SdkError(Exception):
    """What the SDK answered an order with. `code` is 0 where the SDK gave none."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message


class Puppet(ABC):
    """One client of an SDK. `events` is what the SDK told of, in order."""

    def __init__(self, name: str, relay: Relay) -> None:
        self.name = name
        self.relay = relay
        self.events: list[Event] = []
        self._grown = asyncio.Event()

    @abstractmethod
    async def do(self, order: str, **arguments: Any) -> Any:
        """
        Have the SDK do something, and return its answer.

        Raises:
            SdkError: the SDK answered with an error.
        """

    def take(self, event: Event) -> None:
        """Keep an event, and wake those who wait for it."""
        self.events.append(event)
        self._grown.set()

    def all(self, event: str, *, since: int = 0, **fields: Any) -> list[Event]:
        """Return the events of a kind so far, with these fields."""
        wanted = {"event": event, **fields}
        return [each for each in self.events[since:] if wanted.items() <= each.items()]

    async def sees(self, event: str, *, since: int = 0, count: int = 1, **fields: Any) -> Event:
        """Wait until there are so many events of a kind with these fields, and return the last of them."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while len(found := self.all(event, since=since, **fields)) < count:
                    self._grown.clear()
                    await self._grown.wait()
        except TimeoutError:
            told = "\n".join(map(str, self.events[-30:]))
            raise AssertionError(f"{self.name} did not see {count} x {event} {fields}, but:\n{told}") from None
        return found[count - 1]

    def mark(self) -> int:
        """Return where the events end now, for `since`."""
        return len(self.events)

    @property
    def here(self) -> Event:
        """What the application told on the last connect: user, slot, pid, address."""
        told: Event = self.all("connected")[-1]["data"]
        return told

    @property
    def id(self) -> str:
        """The id of the client's last connection."""
        return str(self.all("connected")[-1]["id"])

    async def subscribes(self, channel: str, **options: Any) -> Event:
        """Subscribe, and return what the SDK says of the subscription."""
        since = self.mark()
        await self.do("subscribe", channel=channel, **options)
        return await self.sees("subscribed", channel=channel, since=since)

    async def calls(self, method: str, data: Any = None) -> Any:
        return await self.do("rpc", method=method, data=data)


class Stage(ABC):
    """Where puppets play: one server, and whatever the SDK needs to run."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self._relays = contextlib.ExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._relays.close)

    @abstractmethod
    async def make(self, name: str, relay: Relay, url: str, options: dict[str, Any]) -> Puppet:
        """Make a client with the SDK's `options`, and tell it to connect."""

    async def opens(self, name: str, address: str = "127.0.6.1", **options: Any) -> Puppet:
        """Make a client that comes from `address`, and tell it to connect. Whether it does is to be seen."""
        relay = self._relays.enter_context(Relay(self.server.port, address, host=self.server.host))
        url = relay.url.replace("http", "ws", 1) + "/connection/websocket"
        return await self.make(name, relay, url, options)

    async def enters(self, name: str, address: str = "127.0.6.1", **options: Any) -> Puppet:
        """Make a client, and wait until it is connected."""
        puppet = await self.opens(name, address, **options)
        await puppet.sees("connected")
        return puppet

    async def enter_apart(self, *names: str) -> list[Puppet]:
        """Make clients that are served by different workers."""
        addresses = await addresses_apart(self.server, len(names))
        return [
            await self.enters(name, address, data={"name": name})
            for name, address in zip(names, addresses, strict=True)
        ]


async def addresses_apart(server: RunningServer, count: int) -> list[str]:
    """Return client addresses that are served by different workers."""
    found: dict[int, str] = {}
    last = 0
    while len(found) < count:
        last += 1
        address = f"127.0.7.{last}"
        client = await ProtocolClient.join(server.websocket_url, address)
        found.setdefault(client.connected["data"]["slot"], address)
        await client.close()
    return list(found.values())
