"""
Departures of which the application hears: at least once, also when the worker is killed that would have told it, also
in the middle of telling; and nothing of those who come back within the grace.

Real workers, killed by -9. The application says what it hears on lines of the log, each with its worker's slot.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from realtime.rooms.connection_ends import REPLACED
from realtime.rooms.departures import IN_GRACE
from realtime.rooms.hub import LINK_RESTORED
from tests.support.aio import run_async
from tests.support.client import ProtocolClient
from tests.support.redis_server import RedisServer
from tests.support.require import require
from tests.support.server import RunningServer

APP = """
import asyncio, os
from realtime import App

app = App()

def say(*words):
    # one write: between the words others would speak
    print(" ".join(["HEARD", *map(str, words)]) + "\\n", end="", flush=True)

@app.on_connect
async def connect(conn, data):
    conn.user = data["user"]
    conn.state["colour"] = data.get("colour")
    return {"pid": os.getpid()}

@app.on_disconnect(grace_s=float(os.environ.get("END_GRACE_S", "0")))
async def disconnect(conn, code, reason):
    say("end", conn.user, code, conn.state["colour"])

@app.room("plain:{name}", presence=True)
class Plain:
    async def on_leave(self, member, name):
        say("leave", member.user, name)
        if name == "stuck" and os.path.exists(os.environ["STUCK"]):
            await asyncio.sleep(3600)

    async def on_empty(self, name):
        say("empty", name)

@app.room("kind:{name}", presence=True, grace_s=float(os.environ.get("GRACE_S", "30")))
class Kind:
    async def on_leave(self, member, name):
        say("leave", member.user, name, member.connection_id)

    async def on_empty(self, name):
        say("empty", name)

    async def on_publish(self, conn, data):
        return data
"""


class Scene:
    """A server of three workers, whose applications speak."""

    def __init__(self, server: RunningServer, directory: Path) -> None:
        self.server = server
        self.stuck = directory / "stuck"
        self.clients: list[ProtocolClient] = []

    async def join(self, user: str, number: int, *rooms: str, **data: Any) -> ProtocolClient:
        url = f"ws://127.0.0.1:{self.server.port}/connection/websocket"
        client = await ProtocolClient.join(url, f"127.0.70.{number}", data={"user": user, **data})
        self.clients.append(client)
        for room in rooms:
            await client.ask("subscribe", channel=room, join_leave=True)
        return client

    async def heard(self, *words: object) -> None:
        """Wait until the application said so."""
        line = " ".join(map(str, ("HEARD", *words)))
        await asyncio.to_thread(self.server.log.wait_for, f"{line}( |$)")

    async def away(self, count: int) -> None:
        """Wait until so many may come back, and would be found."""
        await asyncio.to_thread(self.server.log.wait_for, IN_GRACE, times=count)

    def how_often(self, *words: object) -> int:
        return len(self.server.log.find_all(" ".join(map(str, ("HEARD", *words))) + "( |$)"))


def staged(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test that takes a scene, and let its clients go when it ends."""

    @functools.wraps(test)
    async def run(scene: Scene, **arguments: Any) -> None:
        try:
            await test(scene, **arguments)
        finally:
            for client in scene.clients:
                await client.close()

    return run_async(run)


def pid(client: ProtocolClient) -> int:
    return int(client.connected["data"]["pid"])


def name(client: ProtocolClient) -> str:
    return str(client.connected["client"])


def kill(scene: Scene, client: ProtocolClient) -> None:
    assert pid(client) in scene.server.children(), "a worker that this test started"
    os.kill(pid(client), signal.SIGKILL)


@pytest.fixture(params=["local", "redis"])
def options(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    if request.param == "local":
        yield []
        return
    require("redis")
    with RedisServer() as redis:
        yield ["--redis", redis.url]


@pytest.fixture
def scene(options: list[str], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    (tmp_path / "app.py").write_text(APP)
    env = {"STUCK": str(tmp_path / "stuck"), **getattr(request, "param", {})}
    arguments = ["--sticky", "none", "--balance", "round-robin", "--anonymous", "--log-level", "debug", *options]
    with RunningServer(tmp_path / "app.py", *arguments, workers=3, env=env) as server:
        server.wait_until_full()
        yield Scene(server, tmp_path)


@staged
async def test_each_leave_is_heard_and_the_last_one_leaves_an_empty_room(scene: Scene) -> None:
    clients = [await scene.join(user, number, "plain:a") for number, user in enumerate(("ana", "ben", "cem"), 1)]
    assert len(set(map(pid, clients))) == 3, "each on its own worker"
    await clients[0].ask("unsubscribe", channel="plain:a")
    await scene.heard("leave", "ana", "a")
    clients[1].abort()
    await scene.heard("leave", "ben", "a")
    await scene.heard("end", "ben", 1006)
    assert scene.how_often("empty", "a") == 0
    await clients[2].close()
    await scene.heard("leave", "cem", "a")
    await scene.heard("empty", "a")
    await scene.heard("end", "cem", 1000)
    assert [scene.how_often(*words) for words in (("leave",), ("empty",), ("end",))] == [3, 1, 2]


@staged
async def test_the_departures_of_a_killed_worker_are_heard_on_another(scene: Scene) -> None:
    here = await scene.join("ana", 1, "plain:a", colour="red")
    other = await scene.join("ben", 2, "plain:b", colour="blue")
    assert pid(here) != pid(other)
    kill(scene, here)
    await scene.heard("leave", "ana", "a")
    await scene.heard("empty", "a")
    await scene.heard("end", "ana", 1006, "red")
    await other.close()
    await scene.heard("empty", "b")
    assert [scene.how_often(*words) for words in (("leave",), ("empty",), ("end",))] == [2, 2, 2]


@staged
async def test_a_handler_that_died_under_way_is_called_again(scene: Scene) -> None:
    scene.stuck.touch()
    client = await scene.join("ana", 1, "plain:stuck")
    watcher = await scene.join("ben", 2, "plain:other")
    await client.close()
    await scene.heard("leave", "ana", "stuck")
    assert scene.how_often("empty", "stuck") == 0
    os.kill(pid(client), signal.SIGSTOP)  # else its handler could go on before it is killed
    scene.stuck.unlink()
    kill(scene, client)
    await scene.heard("empty", "stuck")
    assert scene.how_often("leave", "ana", "stuck") == 2
    await watcher.close()


async def people(client: ProtocolClient, room: str) -> set[tuple[str, str]]:
    found = (await client.ask("presence", channel=room))["presence"]
    return {(client, info["user"]) for client, info in found.items()}


@pytest.mark.parametrize("how", ["cut", "killed"])
@staged
async def test_who_comes_back_within_the_grace_has_never_left(scene: Scene, how: str) -> None:
    watcher = await scene.join("wim", 1, "kind:a")
    first = await scene.join("ana", 2, "kind:a")
    assert pid(first) != pid(watcher)
    while (await watcher.push("join"))["join"]["info"]["user"] != "ana":
        pass
    known = name(first)
    if how == "killed":
        kill(scene, first)
    else:
        first.abort()
    await scene.away(1)
    again = await scene.join("ana", 3, "kind:a")
    assert name(again) != known
    assert await people(watcher, "kind:a") == {(name(watcher), "wim"), (known, "ana")}
    await again.ask("publish", channel="kind:a", data="it is me")
    told = await watcher.pushes.get()
    assert told["pub"]["info"]["client"] == known, "nobody heard of a leave or a join"
    await again.close()
    assert (await watcher.push("leave"))["leave"]["info"]["client"] == known
    await scene.heard("leave", "ana", "a", known)
    assert scene.how_often("leave", "ana") == 1
    assert await people(watcher, "kind:a") == {(name(watcher), "wim")}


@pytest.mark.parametrize("scene", [{"GRACE_S": "2"}], indirect=True)
@pytest.mark.parametrize("options", ["local"], indirect=True)
@staged
async def test_who_is_back_on_another_worker_stays_though_the_broker_loses_everything(scene: Scene) -> None:
    watcher = await scene.join("wim", 1, "kind:a")
    first, clock = [await scene.join(user, number, "kind:a") for number, user in enumerate(("ana", "ben"), 2)]
    first.abort()
    await scene.away(1)
    again = await scene.join("ana", 4, "kind:a")
    while pid(again) == pid(first):  # its old worker is not the one that has it now
        again = await scene.join("ana", 4, "kind:a")
    os.kill(scene.server.local_broker(), signal.SIGKILL)
    await asyncio.to_thread(scene.server.log.wait_for, LINK_RESTORED, times=3)
    clock.abort()  # whose grace ends after the other's
    await scene.heard("leave", "ben", "a", name(clock))
    assert (name(first), "ana") in await people(watcher, "kind:a")
    assert scene.how_often("leave", "ana") == 0


@pytest.mark.parametrize("scene", [{"GRACE_S": "0.3"}], indirect=True)
@staged
async def test_who_does_not_come_back_has_left(scene: Scene) -> None:
    watcher = await scene.join("wim", 1, "kind:a")
    gone = [await scene.join(user, number, "kind:a") for number, user in enumerate(("ana", "ben"), 2)]
    kill(scene, gone[0])
    gone[1].abort()
    left = {(await watcher.push("leave"))["leave"]["info"]["client"] for _ in gone}
    assert left == set(map(name, gone))
    await scene.heard("leave", "ana", "a", name(gone[0]))
    await scene.heard("leave", "ben", "a", name(gone[1]))
    assert await people(watcher, "kind:a") == {(name(watcher), "wim")}
    await watcher.close()
    await scene.heard("empty", "a")
    assert scene.how_often("empty") == 1


@staged
async def test_tabs_that_come_back_together_are_as_many_as_before(scene: Scene) -> None:
    watcher = await scene.join("wim", 1, "kind:a")
    tabs = [await scene.join("ana", number, "kind:a") for number in (2, 3, 4)]
    known = {*map(name, tabs)}
    for tab in tabs:
        tab.abort()
    await scene.away(3)
    back = await asyncio.gather(*[scene.join("ana", number, "kind:a") for number in (5, 6, 7)])
    assert {client for client, user in await people(watcher, "kind:a") if user == "ana"} == known
    for tab in back:
        await tab.close()
    assert {(await watcher.push("leave"))["leave"]["info"]["client"] for _ in tabs} == known


@pytest.mark.parametrize("scene", [{"END_GRACE_S": "3"}], indirect=True)
@staged
async def test_the_end_of_a_connection_is_not_heard_of_while_its_user_has_another(scene: Scene) -> None:
    first = await scene.join("ana", 1)
    ben = await scene.join("ben", 2)
    first.abort()
    again = await scene.join("ana", 3)
    kill(scene, ben)
    await scene.heard("end", "ben", 1006)
    await asyncio.to_thread(
        scene.server.log.wait_for, f"{REPLACED} connection={name(first)}"
    )  # by whichever worker it is
    await again.close()
    await scene.heard("end", "ana", 1000)
    assert scene.how_often("end", "ana") == 1


@run_async
async def test_the_departures_of_the_only_worker_are_heard_by_its_successor(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with RunningServer(
        tmp_path / "app.py", "--anonymous", *options, workers=1, env={"STUCK": str(tmp_path / "stuck")}
    ) as server:
        server.wait_until_full()
        scene = Scene(server, tmp_path)
        client = await scene.join("ana", 1, "plain:a", colour="red")
        kill(scene, client)
        await scene.heard("leave", "ana", "a")
        await scene.heard("empty", "a")
        await scene.heard("end", "ana", 1006, "red")
        await client.close()
