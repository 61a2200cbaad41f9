"""
What an SDK has to be able to do here, whatever language it is for: test_python_sdk.py and test_node_sdk.py run each of
these with theirs. Clients come from different addresses and are served by different workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from itertools import count
from typing import Any

import pytest

from realtime.auth import sign
from tests.sdk.conftest import SECRET
from tests.sdk.puppet import SdkError, Stage
from tests.support.aio import run_async
from tests.support.client import ProtocolClient
from tests.support.server import RunningServer

_numbers = count(1)


def room(kind: str = "open") -> str:
    """Return a room in which nobody was yet."""
    return f"{kind}:{next(_numbers)}"


def token(user: str, **claims: Any) -> str:
    return sign({"sub": user, **claims}, SECRET)


async def refused(doing: Any) -> tuple[int, str]:
    """Return the code and the message with which the SDK answers."""
    with pytest.raises(SdkError) as caught:
        await doing
    return caught.value.code, caught.value.message


class Scenarios:
    stage: type[Stage]

    # Connecting

    @run_async
    async def test_a_client_without_a_token_is_anonymous(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada", data={"name": "Ada"})
            assert (ada.here["user"], ada.here["name"]) == ("", "Ada")
            assert ada.id

    @run_async
    async def test_a_client_with_a_token_is_who_it_says(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada", token=token("ada", info={"age": 36}))
            assert ada.here["user"] == "ada"
            channel = room()
            await ada.subscribes(channel)
            [info] = (await ada.do("presence", channel=channel)).values()
            assert (info["user"], info["info"]) == ("ada", {"age": 36})

    @run_async
    async def test_a_forged_token_ends_the_client(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            forged = sign({"sub": "ada"}, "somebody else's secret, of 32 bytes or more")
            ada = await stage.opens("Ada", token=forged)
            end = await ada.sees("disconnected")
            assert (end["code"], end["reason"]) == (3500, "invalid token")

    @run_async
    async def test_no_token_where_one_is_needed_ends_the_client(self, strict_server: RunningServer) -> None:
        async with self.stage(strict_server) as stage:
            ada = await stage.opens("Ada")
            assert (await ada.sees("disconnected"))["code"] == 3501

    @run_async
    async def test_an_expired_token_is_replaced_by_the_client(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            expired, good = token("ada", exp=time.time() - 60), token("ada", exp=time.time() + 600)
            ada = await stage.enters("Ada", tokens=[expired, good])
            assert len(ada.all("asked_for_token")) == 2
            assert ada.all("error")[0]["code"] == 109
            assert ada.here["user"] == "ada"

    @run_async
    async def test_a_token_that_expires_is_refreshed_without_a_reconnect(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            soon, good = token("ada", exp=time.time() + 3), token("ada", exp=time.time() + 600)
            ada = await stage.enters("Ada", tokens=[soon, good])
            await ada.sees("asked_for_token", count=2)
            assert (await ada.calls("echo", "still there")) == "still there"
            assert len(ada.all("connected")) == 1
            assert ada.all("error") == []

    @run_async
    async def test_who_is_refused_by_the_application_learns_why(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.opens("Ada", data={"refuse": 403})
            end = await ada.sees("disconnected")
            assert (end["code"], end["reason"]) == (403, "not today")
            bela = await stage.opens("Bela", data={"close": 4501})
            end = await bela.sees("disconnected")
            assert (end["code"], end["reason"]) == (4501, "not today")

    @run_async
    async def test_a_client_is_hung_up_on_and_comes_back_or_not_as_the_code_says(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada")
            with contextlib.suppress(SdkError):  # the answer may come too late
                await ada.calls("hang_up", {"code": 4001, "reason": "come back"})
            again = await ada.sees("connecting", code=4001)
            assert again["reason"] == "come back"
            await ada.sees("connected", count=2)
            with contextlib.suppress(SdkError):
                await ada.calls("hang_up", {"code": 4500, "reason": "stay away"})
            assert (await ada.sees("disconnected"))["code"] == 4500

    @run_async
    async def test_pings_keep_a_connection_that_has_traffic(self, strict_server: RunningServer) -> None:
        async with self.stage(strict_server) as stage:
            ada = await stage.enters("Ada", token=token("ada"), ping_delay_s=2)
            channel = room()
            await ada.subscribes(channel)
            beside = await ProtocolClient.join(strict_server.websocket_url, token=token("bela"))
            await beside.ask("subscribe", channel=channel)
            sent = 0
            while beside.pings < 4:  # in which time ada would have been given up, or would have given up
                await beside.ask("publish", channel=channel, data=sent)
                await beside.push("pub")
                await asyncio.sleep(0.05)  # the traffic
                sent += 1
            await beside.close()
            await ada.sees("publication", count=sent)
            assert len(ada.all("connecting")) == len(ada.all("connected")) == 1

    # In a room

    @run_async
    async def test_what_is_published_comes_back_and_reaches_another_worker(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada, bela = await stage.enter_apart("Ada", "Bela")
            assert ada.here["slot"] != bela.here["slot"]
            assert ada.here["address"] != bela.here["address"]
            channel = room()
            for each in (ada, bela):
                subscribed = await each.subscribes(channel)
                assert subscribed["recoverable"]
                assert not subscribed["was_recovering"]
            said = {"text": "Grüße, 你好", "big": 2**53 - 1, "nested": [None, True, {"a": 1.5}]}
            await ada.do("publish", channel=channel, data=said)
            for each in (ada, bela):
                got = await each.sees("publication", channel=channel)
                assert (got["data"], got["offset"]) == (said, 1)
                assert got["info"]["info"] == {"name": "Ada"}
                assert got["info"]["client"] == ada.id

    @run_async
    async def test_a_room_that_keeps_nothing_has_no_positions(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada, bela = await stage.enter_apart("Ada", "Bela")
            channel = room("plain")
            for each in (ada, bela):
                subscribed = await each.subscribes(channel)
                assert (subscribed["recoverable"], subscribed["position"]) == (False, None)
            await ada.do("publish", channel=channel, data="gone")
            assert (await bela.sees("publication", channel=channel))["offset"] == 0
            assert (await refused(ada.do("history", channel=channel, limit=1)))[0] == 108
            assert (await refused(ada.do("presence", channel=channel)))[0] == 108
            assert (await refused(ada.do("presence_stats", channel=channel)))[0] == 108

    @run_async
    async def test_the_application_publishes_with_tags(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada, bela = await stage.enter_apart("Ada", "Bela")
            channel = room("news")
            await ada.subscribes(channel)
            await bela.calls("announce", {"room": channel, "data": "flash", "tags": {"lang": "en"}})
            got = await ada.sees("publication", channel=channel)
            assert (got["data"], got["tags"], got["info"]) == ("flash", {"lang": "en"}, None)

    @run_async
    async def test_the_application_words_what_is_published(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada")
            channel = room("moderated")
            await ada.subscribes(channel)
            await ada.do("publish", channel=channel, data="kind")
            assert (await ada.sees("publication"))["data"] == {"said": "kind"}
            assert await refused(ada.do("publish", channel=channel, data="rude")) == (450, "mind your words")

    @run_async
    async def test_subscribing_brings_data_and_fetches_some(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada")
            subscribed = await ada.subscribes("news:hall", data={"seat": 7})
            assert subscribed["data"] == {"welcome": "hall", "brought": {"seat": 7}}
