"""
Socket.IO by `realtime serve` with several workers: raw clients over WebSockets and by polling, rooms across workers,
and rooms that are shared with the Centrifuge protocol and the HTTP API.

The first half are the sentences of the official suite of Socket.IO (its cases 17 to 32), as cases of our own.
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.aio import run_async_for
from tests.support.official_suites import SOCKET, passes, suite
from tests.support.processes import free_port
from tests.support.redis_server import RedisServer
from tests.support.require import require
from tests.support.server import RunningServer
from tests.support.socketio_client import CentrifugeClient, PollingClient, SocketIOClient

APP = "tests/apps/socketio_app.py"
SUITE_CASES = 32
KEY = "a key of sixteen bytes"


def running(*options: str, workers: int = 3) -> RunningServer:
    return RunningServer(
        APP,
        "--anonymous",
        "--sticky",
        "none",
        "--commands-per-second",
        "0",
        *options,
        workers=workers,
        env={"REALTIME_API_KEY": KEY},
    )


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running() as one:
        one.wait_until_full()
        yield one


@pytest.fixture
def client(server: RunningServer) -> Iterator[SocketIOClient]:
    with SocketIOClient(server.url) as opened:
        yield opened


def joined(client: SocketIOClient) -> SocketIOClient:
    """Join the main namespace, and read the event that follows."""
    client.join()
    assert client.event() == ["auth", {}]
    return client


@pytest.mark.parametrize(("namespace", "head"), [("/", ""), ("/custom", "/custom,")])
@pytest.mark.parametrize("auth", [None, {"token": "123"}])
def test_connect_is_answered_with_an_id_and_the_events_of_on_connect(
    client: SocketIOClient, namespace: str, head: str, auth: Any
) -> None:
    client.join(namespace, auth)
    assert client.ids[namespace] != client.opened["sid"]
    assert client.next() == f'42{head}["auth",{json.dumps(auth or {}, separators=(",", ":"))}]'


def test_an_unknown_namespace_is_refused(client: SocketIOClient) -> None:
    client.say("0/random")
    assert client.next() == '44/random,{"message":"Invalid namespace"}'


@pytest.mark.parametrize("message", ["abc", '2["message"]'])
def test_before_connect_nothing_else_may_come(client: SocketIOClient, message: str) -> None:
    client.say(message)
    assert client.next() == ""


def test_a_client_that_left_may_come_again_and_the_connection_stays(client: SocketIOClient) -> None:
    joined(client).join("/custom")
    assert client.next() == '42/custom,["auth",{}]'
    client.say("1/custom,", '2["message","still here"]')
    assert client.event() == ["message-back", "still here"]
    client.say("1")
    joined(client)


def test_events_and_attachments_come_back(client: SocketIOClient) -> None:
    joined(client).say('2["message",1,"2",{"3":[true]}]')
    assert client.next() == '42["message-back",1,"2",{"3":[true]}]'
    header = '["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
    client.say(f"52-{header}", b"\1\2\3", b"\4" * 40_000)
    assert client.next() == f"452-{header}".replace("message", "message-back")
    assert [client.next(), client.next()] == [b"\1\2\3", b"\4" * 40_000]


def test_events_are_acknowledged_both_ways(client: SocketIOClient) -> None:
    joined(client).say('2456["message-with-ack",1,"2",{"3":[false]}]')
    assert client.next() == '43456[1,"2",{"3":[false]}]'
    client.say('52-789["message-with-ack",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]', b"\1", b"\2")
    assert client.next() == '462-789[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
    assert [client.next(), client.next()] == [b"\1", b"\2"]
    client.say('27["ask","how are you?"]')
    assert client.next() == '420["question","how are you?"]'
    client.say('30["fine",1]')
    assert client.next() == '437["fine",1]'


@pytest.mark.parametrize("message", ["abc", "2{}", "2abc[1]", '2["disconnect"]', "9", '511-["a"]', "0"])
def test_what_no_client_sends_closes_the_connection(client: SocketIOClient, message: str) -> None:
    joined(client).say(message)
    assert client.next() == ""


def test_a_client_that_polls_is_served_alike() -> None:
    with running(workers=1) as server, SocketIOClient(server.url) as other:
        joined(other)
        client = PollingClient(server.url)
        client.say("0")
        assert client.next().startswith('40{"sid":"')
        assert client.next() == '42["auth",{}]'
        client.say('21["enter","polled"]')
        assert client.next().startswith("431[[")
        other.ask("emit", ["polled"], [], "all", "hello", 1)
        assert client.next() == '42["hello",1]'
        client.say('27["ask","how are you?"]')
        assert client.next() == '420["question","how are you?"]'
        client.say('30["fine"]')
        assert client.next() == '437["fine"]'


@pytest.mark.slow
@pytest.mark.node
@run_async_for(600)
async def test_every_case_of_the_official_suite_passes(tmp_path: Path) -> None:
    directory = suite(SOCKET, tmp_path)
    limits = ("--socketio-ping", "0.3", "--socketio-ping-timeout", "0.2", "--message-bytes", "1000000")
    with running(*limits, workers=1) as server:
        await passes(directory, urlsplit(server.url).netloc, cases=SUITE_CASES, repeats=2)


# Several workers


def everywhere(stack: contextlib.ExitStack, url: str, room: str) -> list[tuple[int, SocketIOClient]]:
    """Return three clients in a room, each on another worker, and close all others."""
    found: dict[int, SocketIOClient] = {}
    while len(found) < 3:
        client = joined(stack.enter_context(SocketIOClient(url)))
        slot = client.ask("enter", room)[0][0]
        if found.setdefault(slot, client) is not client:
            client.ask("leave", room)
            client.say("1")
    return sorted(found.items(), key=lambda each: each[0])


@pytest.mark.parametrize("broker", ["local", "redis"])
def test_rooms_reach_across_workers(broker: str) -> None:
    with contextlib.ExitStack() as stack:
        options: tuple[str, ...] = ()
        if broker == "redis":
            require("redis")
            options = ("--redis", stack.enter_context(RedisServer(free_port())).url)
        server = stack.enter_context(running(*options))
        server.wait_until_full()
        (_, a), (_, b), (_, c) = everywhere(stack, server.url, "all")
        b.ask("enter", "b")
        c.ask("enter", "c")
        ways: list[tuple[list[str], list[str], str, str]] = [
            (["all"], [], "all", "abc"),
            (["b"], [], "all", "b"),
            (["b", "c"], [], "all", "bc"),
            (["all"], ["b"], "all", "ac"),
            ([], ["b", "c"], "all", "a"),
            ([b.ids["/"]], [], "all", "b"),
            (["all"], [b.ids["/"]], "all", "ac"),
            (["all"], [], "others", "bc"),
            ([], [], "others", "bc"),
            (["all", "b"], ["c"], "others", "b"),
            (["all"], [], "local", "a"),
            (["all"], [], "volatile", "abc"),
        ]
        for number, (to, without, how, _) in enumerate(ways):
            assert a.ask("emit", to, without, how, "n", number) == []
        a.ask("emit", ["all"], [], "all", "end")
        for name, client in (("a", a), ("b", b), ("c", c)):
            got = []
            while (event := client.event()) != ["end"]:
                got.append(event[1])
            assert got == [number for number, way in enumerate(ways) if name in way[3]], name


def test_what_is_done_to_connections_reaches_across_workers(server: RunningServer) -> None:
    with contextlib.ExitStack() as stack:
        found = everywhere(stack, server.url, "group")
        (_, a), (_, b), (_, c) = found
        (places,) = a.ask("group", ["group"], "find")
        assert places == [[client.ids["/"], slot, ["group"]] for slot, client in found]
        a.ask("group", ["group"], "enter", "more", "most")
        while a.ask("group", ["most"], "find")[0] != [[each.ids["/"], slot, ["group", "more", "most"]]
                                                      for slot, each in found]:  # fmt: skip
            pass
        a.ask("group", [b.ids["/"]], "leave", "more")
        while len(a.ask("group", ["more"], "find")[0]) > 2:
            pass
        assert a.ask("group", ["nothing is in it"], "call", 5, "question") == [{}]

        a.say('270["group",["group"],"call",20,"question",{"n":1}]')
        for client, answer in ((a, '["from a"]'), (b, "[1,2]"), (c, "[]")):
            question = str(client.next())
            assert question.endswith('["question",{"n":1}]')
            client.say(f"3{question.removeprefix('42').partition('[')[0]}{answer}")
        answers = {a.ids["/"]: "from a", b.ids["/"]: [1, 2], c.ids["/"]: None}
        assert json.loads(str(a.next()).removeprefix("4370")) == [answers]

        a.say('271["group",["group"],"call",0.2,"question"]')
        question = str(b.next())
        b.say(f"3{question.removeprefix('42').partition('[')[0]}[7]")
        assert str(a.next()).endswith('["question"]')
        (missing, given, silent, workers) = json.loads(str(a.next()).removeprefix("4371"))[0]
        assert (missing, given, sorted(silent)) == ("missing", {b.ids["/"]: 7}, sorted((a.ids["/"], c.ids["/"])))
        assert workers == []

        assert str(c.next()).endswith('["question"]')
        a.say('2["group",["group"],"disconnect"]')
        assert [client.next() for client in (a, b, c)] == ["41", "41", "41"]


def test_workers_tell_one_another_and_not_themselves(server: RunningServer) -> None:
    with contextlib.ExitStack() as stack:
        (_, a), (_, b), (_, c) = everywhere(stack, server.url, "tell")
        a.ask("tell others", 1, {"two": 2})
        a.ask("tell others", "is no number")
        a.ask("tell others", 3)
        for client in (b, c):
            while (told := client.ask("told")) != [[[1, {"two": 2}], [3]]]:
                assert len(told[0]) < 2
        assert a.ask("told") == [[]]
        server.log.wait_for("server event failed")


def publish_by_api(server: RunningServer, room: str, data: Any) -> None:
    """Publish as another program does."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    body = json.dumps({"channel": room, "data": data})
    connection.request("POST", "/api/publish", body, {"X-API-Key": KEY, "Content-Type": "application/json"})
    answer = connection.getresponse()
    assert (answer.status, "error" in json.loads(answer.read())) == (200, False)
    connection.close()


def test_a_declared_room_is_one_for_both_protocols_and_the_api(server: RunningServer) -> None:
    with contextlib.ExitStack() as stack:
        clients = everywhere(stack, server.url, "chat:one")
        ann = stack.enter_context(CentrifugeClient(server.url))
        ann.ask("subscribe", channel="chat:one")
        members = ann.ask("presence", channel="chat:one")["presence"]
        assert {client.ids["/"] for _, client in clients} < set(members)
        assert len(members) == 4
        writer = clients[0][1]
        expected: list[Any] = []
        for number in range(10):
            publish_by_api(server, "chat:one", {"api": number})
            ann.ask("publish", channel="chat:one", data={"ann": number})
            writer.ask("emit", ["chat:one"], [], "all", "message", {"emitted": number})
            writer.ask("emit", ["chat:one"], [], "all", "typing", number, True)
            expected += [{"api": number}, {"ann": number}, {"emitted": number}, (number, True)]
        events = [["typing", *each] if isinstance(each, tuple) else ["message", each] for each in expected]
        for _, client in clients:
            assert [client.event() for _ in events] == events
        published = [{"event": "typing", "args": list(each)} if isinstance(each, tuple) else each for each in expected]
        assert [ann.publication() for _ in published] == published
        history = ann.ask("history", channel="chat:one", limit=-1)["publications"]
        assert [each["data"] for each in history] == published


def test_what_a_client_itself_publishes_does_not_come_back_to_it(server: RunningServer) -> None:
    with contextlib.ExitStack() as stack:
        one, two = (joined(stack.enter_context(SocketIOClient(server.url))) for _ in range(2))
        ann = stack.enter_context(CentrifugeClient(server.url))
        ann.ask("subscribe", channel="chat:two")
        for each in (one, two):
            each.ask("enter", "chat:two")
        one.ask("emit", ["chat:two"], [], "others", "message", "from one")
        publish_by_api(server, "chat:two", "end")
        assert one.event() == ["message", "end"]
        assert [two.event(), two.event()] == [["message", "from one"], ["message", "end"]]
        assert ann.publication() == "from one"


def test_a_client_that_goes_leaves_its_rooms(server: RunningServer) -> None:
    with contextlib.ExitStack() as stack:
        ann = stack.enter_context(CentrifugeClient(server.url))
        ann.ask("subscribe", channel="chat:three")
        with SocketIOClient(server.url) as client:
            joined(client).ask("enter", "chat:three")
            assert len(ann.ask("presence", channel="chat:three")["presence"]) == 2
        while len(ann.ask("presence", channel="chat:three")["presence"]) > 1:
            pass
