"""
The stock JavaScript SDK, as it comes from npm, under Node against four workers. What is tested is in
scenarios.py, recovery.py, javascript.py and lifecycle.py.

`npm --prefix tests/sdk ci` installs it; without it these tests are skipped, or fail where REALTIME_REQUIRE has `node`.
"""

from __future__ import annotations

import asyncio
import json
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.conftest import REQUIRED
from tests.sdk.javascript import JavaScript
from tests.sdk.lifecycle import Lifecycle
from tests.sdk.puppet import DEADLINE_S, Puppet, SdkError, Stage
from tests.sdk.recovery import Moving, Recovery
from tests.sdk.scenarios import Scenarios, room
from tests.support.aio import run_async
from tests.support.relay import Relay
from tests.support.require import require
from tests.support.server import RunningServer

HERE = Path(__file__).parent
PACKAGES = ("centrifuge", "ws", "eventsource")


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    """Skip all of this, or fail, where Node or the SDK is missing; say how to get it."""
    require("node")
    if all((HERE / "node_modules" / package / "package.json").is_file() for package in PACKAGES):
        return
    sentence = "THE JAVASCRIPT SDK IS NOT TESTED: it is not installed, run `npm --prefix tests/sdk ci`"
    if "node" in REQUIRED:
        pytest.fail(f"{sentence}; REALTIME_REQUIRE does not allow to skip it", pytrace=False)
    pytest.skip(sentence)


class NodePuppet(Puppet):
    """A client in the Node process of its stage."""

    def __init__(self, name: str, relay: Relay, stage: NodeStage) -> None:
        super().__init__(name, relay)
        self._stage = stage

    async def do(self, order: str, **arguments: Any) -> Any:
        return await self._stage.order(self.name, order, arguments)


class NodeStage(Stage):
    """Puppets in one Node process, which speaks in lines of JSON."""

    script = "puppet.mjs"
    over: tuple[str, ...] = ()  # transport and encoding, as puppet.mjs has them

    async def __aenter__(self) -> NodeStage:
        self._puppets: dict[str, NodePuppet] = {}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._ids = count(1)
        pipe = asyncio.subprocess.PIPE
        self._node = await asyncio.create_subprocess_exec(
            require("node"), HERE / self.script, *self.over, stdin=pipe, stdout=pipe, limit=2**24
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._node.stdin is not None
        self._node.stdin.close()  # at which it ends
        try:
            await asyncio.wait_for(self._node.wait(), DEADLINE_S)
        except TimeoutError:
            self._node.kill()
            raise
        finally:
            await self._reading
            await super().__aexit__(kind, error, traceback)
        assert self._node.returncode == 0

    async def make(self, name: str, relay: Relay, url: str, options: dict[str, Any]) -> Puppet:
        puppet = self._puppets[name] = NodePuppet(name, relay, self)
        await puppet.do("open", url=url, **options)
        return puppet

    async def order(self, name: str, order: str, arguments: dict[str, Any]) -> Any:
        """Have one client do something, and return its answer."""
        id = next(self._ids)
        answer = self._answers[id] = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": id, "client": name, "do": order, **arguments})
        assert self._node.stdin is not None
        self._node.stdin.write(line.encode() + b"\n")
        return await asyncio.wait_for(answer, DEADLINE_S)

    async def _read(self) -> None:
        assert self._node.stdout is not None
        async for line in self._node.stdout:
            said = json.loads(line)
            if "event" in said:
                self._puppets[said.pop("client")].take(said)
                continue
            answer = self._answers.pop(said["answer"])
            if answer.done():
                continue  # nobody waits for it any more
            if "error" in said:
                answer.set_exception(SdkError(**said["error"]))
            else:
                answer.set_result(said["result"])
        for answer in self._answers.values():
            answer.cancel()


@pytest.mark.node
class TestNodeSDK(JavaScript, Lifecycle, Scenarios, Moving, Recovery):
    stage = NodeStage

    @run_async
    async def test_many_clients_of_one_process_hear_the_same(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            channel = room()
            clients = [await stage.enters(f"Client {n}", f"127.0.6.{n}") for n in range(1, 21)]
            await asyncio.gather(*[each.subscribes(channel) for each in clients])
            assert len({each.here["slot"] for each in clients}) > 1
            await asyncio.gather(*[each.do("publish", channel=channel, data=each.name) for each in clients])
            for each in clients:
                await each.sees("publication", count=20)
            said = [[each["data"] for each in client.all("publication")] for client in clients]
            assert all(each == said[0] for each in said), "in the same order"
            assert sorted(said[0]) == sorted(each.name for each in clients)


class ProtobufStage(NodeStage):
    over = ("websocket", "protobuf")


class HttpStreamStage(NodeStage):
    over = ("http_stream",)


class ProtobufHttpStreamStage(NodeStage):
    over = ("http_stream", "protobuf")


class SseStage(NodeStage):
    over = ("sse",)


@pytest.mark.node
class TestNodeSDKInProtobuf(JavaScript, Lifecycle, Scenarios, Moving, Recovery):
    stage = ProtobufStage


@pytest.mark.node
class TestNodeSDKOverHttpStream(JavaScript, Lifecycle, Scenarios, Recovery):
    stage = HttpStreamStage


@pytest.mark.node
class TestNodeSDKOverHttpStreamInProtobuf(JavaScript, Lifecycle, Scenarios, Recovery):
    stage = ProtobufHttpStreamStage


@pytest.mark.node
class TestNodeSDKOverEvents(JavaScript, Lifecycle, Scenarios, Recovery):
    stage = SseStage
