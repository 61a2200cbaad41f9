"""
Clients of stock SDKs that become members of rooms, and what they noticed: centrifuge-js and centrifuge-python, each in
JSON and in Protobuf, and our own `realtime.js`. Each comes from an address of its own, through a relay.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from tests.sdk import test_node_sdk, test_python_sdk
from tests.sdk.puppet import Puppet, Stage
from tests.support.audience import ROOM
from tests.support.server import RunningServer

WATCHES = {"asks": {"joinLeave": True}}


class RealtimeStage(test_node_sdk.NodeStage):
    """Clients of `realtime.js`."""

    script = "realtime_puppet.mjs"


KINDS: dict[str, tuple[type[Stage], dict[str, Any]]] = {
    "centrifuge-js": (test_node_sdk.NodeStage, WATCHES),
    "centrifuge-js in Protobuf": (test_node_sdk.ProtobufStage, WATCHES),
    "realtime.js": (RealtimeStage, WATCHES),
    "centrifuge-python": (test_python_sdk.PythonStage, {}),
    "centrifuge-python in Protobuf": (test_python_sdk.ProtobufStage, {}),
}
ONCE = ("connecting", "connected", "subscribing", "subscribed")
NEVER = ("disconnected", "reconnecting", "unsubscribed", "error", "subscription_error")


class SdkClients:
    """The clients. Leaving the `with` block ends them."""

    def __init__(self) -> None:
        self.puppets: dict[Puppet, str] = {}  # the room of each
        self._stages = contextlib.AsyncExitStack()

    async def __aenter__(self) -> SdkClients:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stages.aclose()

    async def enter(self, servers: list[RunningServer], count: int, rooms: int) -> list[tuple[str, str]]:
        """Have `count` clients of each kind become members, on the servers in turn; return their rooms and ids."""
        found = []
        for server in servers:
            for kind, (stage_type, options) in KINDS.items():
                mine = [number for number in range(count) if servers[number % len(servers)] is server]
                stage = await self._stages.enter_async_context(stage_type(server)) if mine else None
                for number in mine:
                    assert stage is not None, "it was made for them"
                    last = len(self.puppets)
                    room = ROOM.format(last % rooms)
                    puppet = await stage.enters(f"{kind} {number}", f"127.62.{last // 250}.{last % 250 + 1}")
                    await puppet.subscribes(room, **options)
                    self.puppets[puppet] = room
                    found.append((room, puppet.id))
        return found

    async def wait_for(self, counts: dict[str, int]) -> None:
        """Wait until each has all that was published in its room; it has nothing else to wait for where it was cut."""
        await asyncio.gather(
            *(each.sees("publication", count=counts[room]) for each, room in self.puppets.items()),
            return_exceptions=True,  # what is missing is found by its ledger
        )

    def faults(self) -> list[str]:
        """Return what the clients noticed beside publications."""
        found = []
        for puppet in self.puppets:
            counts = {event: len(puppet.all(event)) for event in (*ONCE, *NEVER)}
            if counts != dict.fromkeys(ONCE, 1) | dict.fromkeys(NEVER, 0):
                found.append(f"{puppet.name}: { ({event: count for event, count in counts.items() if count}) }")
            kinds = [each["event"] for each in puppet.events]
            late = kinds[kinds.index("publication") :] if "publication" in kinds else []
            if noticed := [each for each in late if each in ("join", "leave")]:
                found.append(f"{puppet.name}: {len(noticed)} joins and leaves")
        return found

    def ledgers(self) -> Iterator[tuple[str, str, tuple[tuple[int, int], ...]]]:
        """Give each client's name, room, and what it has got: offset and number."""
        for puppet, room in self.puppets.items():
            yield puppet.name, room, tuple((each["offset"], each["data"]) for each in puppet.all("publication"))
