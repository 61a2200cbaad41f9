"""
This release beside the one before it, on one Redis: what a rolling deploy has for some minutes.

Two nodes of two workers each, real processes, each with the packages of its own release. Clients on both are in one
room. What one does, the other sees. And a release that would not be understood does not start, and says why.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from realtime.auth.tokens import sign
from realtime.broker.base import IgnoredEvents, WorkerId
from realtime.broker.formats import BEFORE, LOCAL, REDIS, Spoken, pack
from realtime.broker.keys import RedisKeys
from realtime.broker.local import LocalBroker
from realtime.broker.peers import ADVICE_STORED, NOT_UNDERSTOOD
from realtime.broker.unreadable import IGNORED
from realtime.errors import IncompatibleFormat
from tests.support.aio import eventually, run_async
from tests.support.client import ProtocolClient, Refused
from tests.support.redis_server import RedisServer
from tests.support.release_before import FIRST, unpack
from tests.support.require import require
from tests.support.server import ROOT, RunningServer

pytestmark = [pytest.mark.redis, pytest.mark.git]

APP = """
from realtime import App

app = App()
app.room("chat:{name}", presence=True, history=100, history_ttl_s=600, open=True)
app.room("plain:{name}", open=True)
"""
KEY, SECRET = "a key of sixteen bytes", "a secret of more than thirty-two bytes"
WORKERS = 2
READY = rf"ready[= (]+({WORKERS})[ /of]+\1"  # `ready=2/2`, and as 0.1 said it: `is ready (2 of 2)`


@dataclass(frozen=True)
class Node:
    """One node: its server, and how its own commands reach it."""

    name: str
    server: RunningServer
    packages: Path

    async def join(self, user: str = "", **claims: Any) -> ProtocolClient:
        token = {"token": sign({"sub": user, **claims}, SECRET)} if user else {}
        return await ProtocolClient.join(self.server.websocket_url, **token)

    def call(self, method: str, **fields: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        connection.request("POST", f"/api/{method}", json.dumps(fields), {"X-API-Key": KEY})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        assert response.status == 200, text
        answer = json.loads(text)
        assert "error" not in answer, answer
        return answer.get("result", answer)

    def visit(self, sticky_id: str | None = None) -> tuple[int, str | None]:
        """Return the slot that answers, and the sticky id that it gives."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        connection.request("GET", "/health", headers={"Cookie": f"rt_session={sticky_id}"} if sticky_id else {})
        response = connection.getresponse()
        slot: int = json.loads(response.read())["slot"]
        connection.close()
        given = re.match(r"rt_session=([^;]+)", response.getheader("Set-Cookie", ""))
        return slot, given and given[1]

    def command(self, *arguments: str) -> str:
        """Run a command of this node's own release."""
        argv = [sys.executable, "-m", "realtime", *arguments]
        done = subprocess.run(
            argv, cwd=self.packages, env=self.server.env, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout


def node(name: str, packages: Path, app: Path, redis: RedisServer, control: Path, *options: str) -> Node:
    env = {
        "PYTHONPATH": str(packages),
        "REALTIME_REDIS": redis.url,
        "REALTIME_API_KEY": KEY,
        "REALTIME_TOKEN_HMAC_SECRET": SECRET,
        "REALTIME_ANONYMOUS": "yes",
        "REALTIME_SECRET": "the same on both machines",
        "REALTIME_CONTROL": str(control / name),
    }
    server = RunningServer(app, *options, workers=WORKERS, env=env, cwd=packages)  # -m finds what is in cwd first
    return Node(name, server, packages)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of the release before."""
    return unpack(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    require("redis")
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def nodes(before: Path, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    """A node of the release before, and one of this release, which comes later as in a deploy."""
    directory = tmp_path_factory.mktemp("nodes")
    app = directory / "app.py"
    app.write_text(APP)
    control = tmp_path_factory.mktemp("c")
    old, new = (
        node(name, packages, app, redis, control, "--sticky", "session", "--balance", "round-robin")
        for name, packages in (("old", before), ("new", ROOT))
    )
    with old.server:
        old.server.log.wait_for(READY)
        with new.server:
            new.server.log.wait_for(READY)
            yield old, new
        for each in (old, new):
            lines = "\n".join(each.server.log.lines)
            assert "Traceback" not in lines
            assert IGNORED not in lines
            assert NOT_UNDERSTOOD not in lines


@pytest.fixture(params=["old to new", "new to old"])
def ways(request: pytest.FixtureRequest, nodes: tuple[Node, Node]) -> tuple[Node, Node]:
    """Both orders of the two nodes."""
    old, new = nodes
    return (old, new) if request.param == "old to new" else (new, old)


async def pushed(client: ProtocolClient, kind: str, user: str) -> None:
    """Wait for the join or leave of a user; a watcher gets its own join too."""
    while (await client.push(kind))[kind]["info"]["user"] != user:
        pass


def test_the_two_releases_are_two(nodes: tuple[Node, Node], before: Path) -> None:
    found = [os.path.realpath(f"/proc/{each.server.pid}/cwd") for each in nodes]
    assert found == [os.path.realpath(before), os.path.realpath(ROOT)]
    assert (before / "realtime" / "broker" / "redis.py").read_text() != Path(
        ROOT, "realtime", "broker", "redis.py"
    ).read_text()


@pytest.mark.parametrize("room", ["chat:both", "plain:both"])
@run_async
async def test_members_on_both_nodes_get_the_same_publications_in_one_order(
    nodes: tuple[Node, Node], room: str
) -> None:
    members = [await each.join() for each in nodes for _ in range(3)]
    for member in members:
        await member.ask("subscribe", channel=room)
    for number in range(10):
        await members[number % len(members)].ask("publish", channel=room, data=number)
        nodes[number % 2].call("publish", channel=room, data=f"by the API {number}")
    orders = [[(await member.push("pub"))["pub"] for _ in range(20)] for member in members]
    assert all([each["data"] for each in order] == [each["data"] for each in orders[0]] for order in orders)
    assert all([each.get("offset") for each in order] == [each.get("offset") for each in orders[0]] for order in orders)
    assert [each["data"] for each in orders[0]] == [
        each for number in range(10) for each in (number, f"by the API {number}")
    ]
    for member in members:
        await member.close()


@run_async
async def test_presence_joins_and_leaves_are_seen_on_the_other_node(ways: tuple[Node, Node]) -> None:
    here, there = ways
    room = f"chat:presence {here.name}"
    watcher, guest = await here.join("watcher"), await there.join("guest")
    await watcher.ask("subscribe", channel=room, join_leave=True)
    await guest.ask("subscribe", channel=room)
    await pushed(watcher, "join", "guest")
    for each in (watcher, guest):
        found = await each.ask("presence", channel=room)
        assert sorted(info["user"] for info in found["presence"].values()) == ["guest", "watcher"]
    for each in ways:
        assert each.call("presence_stats", channel=room) == {"num_clients": 2, "num_users": 2}
    await guest.close()
    await pushed(watcher, "leave", "guest")
    await watcher.close()


@run_async
async def test_a_client_that_was_away_recovers_on_the_other_node(ways: tuple[Node, Node]) -> None:
    here, there = ways
    room = f"chat:recovery {here.name}"
    client = await here.join()
    first = await client.ask("subscribe", channel=room)
    await client.ask("publish", channel=room, data=0)
    await client.push("pub")
    await client.close()
    for number in range(1, 7):
        (here, there)[number % 2].call("publish", channel=room, data=number)
    client = await there.join()
    position = {"epoch": first["epoch"], "offset": first.get("offset", 0) + 1}
    found = await client.ask("subscribe", channel=room, recover=True, **position)
    assert found["recovered"] is True
    assert [each["data"] for each in found["publications"]] == list(range(1, 7))
    await client.ask("publish", channel=room, data="after")
    assert (await client.push("pub"))["pub"]["data"] == "after"
    history = [each.call("history", channel=room, limit=100) for each in ways]
    assert history[0] == history[1]
    await client.close()


@run_async
async def test_an_idempotency_key_counts_on_both(ways: tuple[Node, Node]) -> None:
    here, there = ways
    room = f"chat:once {here.name}"
    first, second = (each.call("publish", channel=room, data=1, idempotency_key="k") for each in (here, there))
    assert first == second


@run_async
async def test_what_is_revoked_on_one_node_is_refused_on_the_other(ways: tuple[Node, Node]) -> None:
    here, there = ways
    user = f"eve, of {here.name}"
    kept, revoked = await there.join(user, jti=f"{user}, kept"), await there.join(user, jti=f"{user}, revoked")
    here.call("revoke_token", uid=f"{user}, revoked")
    assert (await revoked.wait_closed())[0] == 3005
    again = await ProtocolClient.open(there.server.websocket_url)
    with pytest.raises(Refused, match="token expired"):
        await again.ask("connect", token=sign({"sub": user, "jti": f"{user}, revoked"}, SECRET))
    await again.close()
    assert kept.closed is None
    here.call("invalidate_user_tokens", user=user)
    assert (await kept.wait_closed())[0] == 3005


@run_async
async def test_calls_about_a_user_reach_the_other_node(ways: tuple[Node, Node]) -> None:
    here, there = ways
    room, user = f"chat:granted {here.name}", f"user of {there.name}"
    client = await there.join(user)
    here.call("subscribe", user=user, channel=room)
    assert (await client.push("subscribe"))["channel"] == room
    here.call("unsubscribe", user=user, channel=room)
    assert (await client.push("unsubscribe"))["channel"] == room
    here.call("disconnect", user=user)
    assert (await client.wait_closed())[0] == 3503


@run_async
async def test_each_node_counts_what_both_serve(nodes: tuple[Node, Node]) -> None:
    room = "chat:counted"
    members = [await each.join() for each in nodes for _ in range(2)]
    for member in members:
        await member.ask("subscribe", channel=room)
    for each in nodes:
        assert each.call("channels", pattern=room)["channels"] == {room: {"num_clients": 4}}
        found = each.call("info")["nodes"]
        assert len(found) == 2 * WORKERS
        assert sum(one["num_clients"] for one in found) == 4
    releases = [one["version"] for one in nodes[1].call("info")["nodes"]]
    assert sorted(releases) == sorted(["0.1"] * WORKERS + [REDIS.release] * WORKERS)
    for member in members:
        await member.close()


def test_a_sticky_id_of_either_node_leads_to_the_same_slot_on_both(ways: tuple[Node, Node]) -> None:
    here, there = ways
    made = [here.visit() for _ in range(12)]
    assert {slot for slot, _ in made} == set(range(WORKERS))
    for slot, sticky_id in made:
        assert sticky_id is not None
        assert here.visit(sticky_id) == there.visit(sticky_id) == (slot, None)
    of_applications = [f"an-id-of-an-application-{number}" for number in range(12)]
    assert [here.visit(each) for each in of_applications] == [there.visit(each) for each in of_applications]


def test_each_node_says_how_it_is(nodes: tuple[Node, Node]) -> None:
    for each in nodes:
        for asking in nodes:  # an operator's shell may have the packages of either
            control = ("--control", each.server.env["REALTIME_CONTROL"])
            found = json.loads(asking.command("status", "--json", *control))
            assert len(found["workers"]) == WORKERS
            assert f"primary {each.server.pid}" in asking.command("status", *control)


@run_async
async def test_members_of_a_worker_that_dies_leave_on_the_other_node(ways: tuple[Node, Node]) -> None:
    here, there = ways
    room = f"chat:crash {here.name}"
    watcher, guest = await here.join("watcher"), await there.join("guest")
    await watcher.ask("subscribe", channel=room, join_leave=True)
    await guest.ask("subscribe", channel=room)
    await pushed(watcher, "join", "guest")
    for worker in json.loads(there.command("status", "--json"))["workers"]:
        os.kill(worker["pid"], signal.SIGKILL)
    await pushed(watcher, "leave", "guest")

    async def is_gone() -> bool:
        members = here.call("presence", channel=room)["presence"].values()
        return [each["user"] for each in members] == ["watcher"]

    await eventually(is_gone)
    await watcher.close()


def test_a_release_that_is_not_understood_does_not_start_and_says_why(redis: RedisServer, tmp_path: Path) -> None:
    """A release far ahead has used this Redis."""
    keys, ahead = RedisKeys("ahead"), Spoken(REDIS.format + 6, REDIS.format + 5, "9.0.0")
    redis.command("HSET", keys.formats, "stored", pack(ahead).decode())
    app = tmp_path / "app.py"
    app.write_text(APP)
    newcomer = node("newcomer", ROOT, app, redis, tmp_path, "--redis-prefix", "ahead").server
    newcomer.start()
    status = newcomer.wait(deadline_s=60)
    newcomer.stop()
    sentence = f"prefix ahead: what {ahead} stored there does not understand this {REDIS}: {ADVICE_STORED}"
    assert status not in (0, None)
    assert any(line.endswith(sentence) for line in newcomer.log.lines), newcomer.log.lines
    assert "Traceback" not in "\n".join(newcomer.log.lines)
    assert redis.command("EXISTS", keys.leases) == b":0\r\n"


def test_a_worker_does_not_use_the_local_broker_of_0_1_and_says_what_to_do(tmp_path: Path) -> None:
    """A reload keeps the local broker, and brings workers of the code that is installed then."""
    packages, path = unpack(tmp_path, FIRST), tmp_path / "b.sock"
    read, write = os.pipe()
    argv = [sys.executable, "-m", "realtime.broker.local_server", "--socket", str(path), "--ready-fd", str(write)]
    env = {**os.environ, "PYTHONPATH": str(packages)}
    with subprocess.Popen(argv, cwd=packages, env=env, pass_fds=[write]) as old:
        try:
            os.close(write)
            assert os.read(read, 1), "the local broker ended at once"
            with pytest.raises(IncompatibleFormat) as caught:
                asyncio.run(LocalBroker(str(path), WorkerId("n-0-00000000")).start(IgnoredEvents()))
        finally:
            os.close(read)
            old.kill()
    assert str(caught.value) == (
        f"the local broker at unix:{path}: {BEFORE} does not understand {LOCAL}: "
        "stop the server and start it again, for a reload leaves the local broker as it is"
    )


def test_a_reload_with_the_code_of_another_release_says_what_to_do_and_the_old_workers_go_on(tmp_path: Path) -> None:
    """The packages of 0.1 are replaced below a running server. Its primary goes on with the old code."""
    packages = unpack(tmp_path, FIRST)
    env = {"PYTHONPATH": str(packages), "REALTIME_CONTROL": str(tmp_path / "control")}
    with RunningServer(None, workers=1, env=env, cwd=packages) as server:
        for name in ("realtime", "sticky"):
            (packages / name).rename(packages / f"{name} of 0.1")
            (packages / name).symlink_to(ROOT / name)
        (packages / "realtime_cluster").symlink_to(ROOT / "realtime_cluster")
        server.send_signal(signal.SIGHUP)
        server.log.wait_for("reload given up")
        lines = "\n".join(server.log.lines)
        assert "that server runs code of another release: stop it and start it again" in lines
        assert "Traceback" not in lines
        assert http_status(server) == 200


def http_status(server: RunningServer) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/health")
    status = connection.getresponse().status
    connection.close()
    return status
