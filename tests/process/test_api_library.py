"""
The HTTP API as programs written for Centrifugo call it: every method by `cent`, the library for Python, as published.

It reads each answer into structures of its own and raises on what it does not know, or on an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cent
import pytest

from tests.process.test_api import ENV, KEY
from tests.sdk.conftest import APP
from tests.support.aio import run_async
from tests.support.client import ProtocolClient
from tests.support.server import RunningServer

ROOM = "open:library"
Call = Callable[[cent.Client], Any]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(APP, "--anonymous", workers=2, env=ENV) as running:
        running.wait_until_full()
        yield running


def caller(server: RunningServer) -> cent.Client:
    return cent.Client(f"{server.url}/api", KEY)


@run_async
async def test_what_it_publishes_is_kept_and_reaches_members_whom_it_sees(server: RunningServer) -> None:
    api = caller(server)
    member = await ProtocolClient.join(server.websocket_url)
    await member.ask("subscribe", channel=ROOM)
    first = api.publish(cent.PublishRequest(channel=ROOM, data={"n": 1}, tags={"k": "v"}))
    again = [api.publish(cent.PublishRequest(channel=ROOM, data=2, idempotency_key="once")) for _ in range(2)]
    several = api.broadcast(cent.BroadcastRequest(channels=[ROOM, "open:another"], data=3))
    assert [each.error for each in several.responses] == [None, None]
    assert [(await member.push("pub"))["pub"]["data"] for _ in range(3)] == [{"n": 1}, 2, 3]
    assert again[0].offset == again[1].offset == first.offset + 1
    page = api.history(cent.HistoryRequest(channel=ROOM, limit=10))
    assert [each.data for each in page.publications] == [{"n": 1}, 2, 3]
    assert page.publications[0].tags == {"k": "v"}
    since = cent.StreamPosition(offset=first.offset, epoch=page.epoch)
    assert [
        each.data for each in api.history(cent.HistoryRequest(channel=ROOM, limit=1, since=since)).publications
    ] == [2]
    assert api.presence(cent.PresenceRequest(channel=ROOM)).presence.keys() == {member.connected["client"]}
    assert api.presence_stats(cent.PresenceStatsRequest(channel=ROOM)).num_clients == 1
    assert api.channels(cent.ChannelsRequest(pattern="open:lib*")).channels[ROOM].num_clients == 1
    api.history_remove(cent.HistoryRemoveRequest(channel=ROOM))
    assert api.history(cent.HistoryRequest(channel=ROOM, limit=10)).publications == []
    await member.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda api: api.subscribe(cent.SubscribeRequest(user="nobody", channel=ROOM)),
        lambda api: api.unsubscribe(cent.UnsubscribeRequest(user="nobody", channel=ROOM, client="c", session="s")),
        lambda api: api.refresh(cent.RefreshRequest(user="nobody", client="c", expired=True)),
        lambda api: api.disconnect(
            cent.DisconnectRequest(user="nobody", whitelist=["c"], disconnect=cent.Disconnect(code=4000, reason="out"))
        ),
    ],
    ids=["subscribe", "unsubscribe", "refresh", "disconnect"],
)
def test_what_it_asks_of_a_user_is_taken(server: RunningServer, call: Call) -> None:
    call(caller(server))


def test_it_asks_for_several_things_at_once_and_for_the_nodes(server: RunningServer) -> None:
    api = caller(server)
    assert len(api.info(cent.InfoRequest()).nodes) == 2
    requests = [cent.PublishRequest(channel=ROOM, data=1), cent.InfoRequest()]
    published, info = api.batch(cent.BatchRequest(requests=requests, parallel=True)).replies
    assert published.offset
    assert info.nodes


def test_it_understands_a_refusal(server: RunningServer) -> None:
    with pytest.raises(cent.CentApiResponseError) as refusal:
        caller(server).publish(cent.PublishRequest(channel="nowhere", data=1))
    assert refusal.value.code == 102
    with pytest.raises(cent.CentUnauthorizedError):
        cent.Client(f"{server.url}/api", "another key").info(cent.InfoRequest())
