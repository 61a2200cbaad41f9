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

from realtime.auth.tokens import sign
from tests.sdk.conftest import SECRET
from tests.sdk.puppet import SdkError, Stage, addresses_apart
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
            await stage.enters("Bela")  # by then the SDK is loaded: a short life is not spent on that
            soon, good = token("ada", exp=time.time() + 5), token("ada", exp=time.time() + 600)
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
            ada = await stage.enters("Ada", token=token("ada"), ping_delay_s=1.5)
            channel = room()
            await ada.subscribes(channel)
            beside = await ProtocolClient.join(strict_server.websocket_url, token=token("bela"))
            await beside.ask("subscribe", channel=channel)
            sent = 0
            while beside.pings < 3:  # in which time ada would have been given up, or would have given up
                await beside.ask("publish", channel=channel, data=sent)
                await beside.push("pub")
                await asyncio.sleep(0.05)  # the traffic
                sent += 1
            await beside.close()
            await ada.sees("publication", count=sent)
            assert len(ada.all("connecting")) == len(ada.all("connected")) == 1

    @run_async
    async def test_pings_more_frequent_than_the_protocol_can_say_are_answered(
        self, hasty_server: RunningServer
    ) -> None:
        async with self.stage(hasty_server) as stage:
            ada = await stage.enters("Ada")
            beside = await ProtocolClient.join(hasty_server.websocket_url)
            while beside.pings < 3:  # in which time ada would have been closed for want of an answer
                await ada.calls("echo", "still there")
                await asyncio.sleep(0.05)  # the traffic
            await beside.close()
            assert len(ada.all("connecting")) == 1

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

    @run_async
    async def test_presence_counts_clients_and_users_on_all_workers(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            here, there = await addresses_apart(server, 2)
            ada = await stage.enters("Ada", here, token=token("ada"))
            again = await stage.enters("Ada again", there, token=token("ada"))
            bela = await stage.enters("Bela", there, data={"name": "Bela"})
            channel = room()
            for each in (ada, again, bela):
                await each.subscribes(channel)
            for each in (ada, bela):
                people = await each.do("presence", channel=channel)
                assert {client: info["user"] for client, info in people.items()} == {
                    ada.id: "ada",
                    again.id: "ada",
                    bela.id: "",
                }
                assert people[bela.id] == {"client": bela.id, "user": "", "info": {"name": "Bela"}, "room": None}
                assert await each.do("presence_stats", channel=channel) == {"clients": 3, "users": 2}

    @run_async
    async def test_joins_and_leaves_are_told_on_all_workers(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada, bela = await stage.enter_apart("Ada", "Bela")
            channel = room()
            await ada.subscribes(channel)
            await bela.subscribes(channel)
            joined = await ada.sees("join", channel=channel, count=2)
            assert joined["info"] == {"user": "", "client": bela.id, "info": {"name": "Bela"}, "room": None}
            await bela.do("unsubscribe", channel=channel)
            assert (await bela.sees("unsubscribed", channel=channel))["code"] == 0
            assert (await ada.sees("leave", channel=channel))["info"]["client"] == bela.id
            await bela.subscribes(channel)
            assert (await ada.sees("join", channel=channel, count=3))["info"]["client"] == bela.id
            await bela.do("disconnect")
            assert (await ada.sees("leave", channel=channel, count=2))["info"]["client"] == bela.id
            assert list(await ada.do("presence", channel=channel)) == [ada.id]

    @run_async
    async def test_after_unsubscribing_nothing_comes_and_on_return_what_was_missed(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada, bela = await stage.enter_apart("Ada", "Bela")
            channel, other = room(), room()
            for each in (ada, bela):
                await each.subscribes(channel)
                await each.subscribes(other)
            await bela.do("publish", channel=channel, data=1)
            await ada.sees("publication", channel=channel, data=1)
            await ada.do("unsubscribe", channel=channel)
            await bela.sees("leave", channel=channel)
            for number in (2, 3):
                await bela.do("publish", channel=channel, data=number)
            await bela.do("publish", channel=other, data="meanwhile")
            await ada.sees("publication", channel=other)
            assert [each["data"] for each in ada.all("publication", channel=channel)] == [1]
            assert (await refused(ada.do("publish", channel=channel, data=4)))[0] == 103
            back = await ada.subscribes(channel)
            assert (back["was_recovering"], back["recovered"]) == (True, True)
            await ada.sees("publication", channel=channel, count=3)
            assert [each["data"] for each in ada.all("publication", channel=channel)] == [1, 2, 3]

    @run_async
    async def test_history_is_read_from_both_ends_and_from_anywhere(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada, bela = await stage.enter_apart("Ada", "Bela")
            channel = room()
            for each in (ada, bela):
                await each.subscribes(channel)
            for number in range(1, 8):
                await ada.do("publish", channel=channel, data=number)

            async def read(**wanted: Any) -> list[int]:
                page = await bela.do("history", channel=channel, **wanted)
                assert (page["offset"], page["epoch"]) == (7, epoch)
                assert all(each["data"] == each["offset"] for each in page["publications"])
                assert all(each["info"]["client"] == ada.id for each in page["publications"])
                return [each["data"] for each in page["publications"]]

            epoch = (await bela.do("history", channel=channel, limit=0))["epoch"]
            since = {"offset": 4, "epoch": epoch}
            assert await read(limit=0) == []
            assert await read(limit=-1) == [1, 2, 3, 4, 5, 6, 7]
            assert await read(limit=3) == [1, 2, 3]
            assert await read(limit=3, reverse=True) == [7, 6, 5]
            assert await read(limit=-1, since=since) == [5, 6, 7]
            assert await read(limit=2, since=since) == [5, 6]
            assert await read(limit=-1, since=since, reverse=True) == [3, 2, 1]
            elsewhere = bela.do("history", channel=channel, limit=1, since={"offset": 4, "epoch": "other"})
            assert (await refused(elsewhere))[0] == 112

    # What is refused

    @run_async
    async def test_errors_come_with_their_codes(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada")
            await ada.subscribes("news:hall")
            denied = (103, "permission denied")
            assert await refused(ada.do("publish", channel="news:hall", data=1)) == denied, "nobody publishes there"
            assert await refused(ada.do("publish", channel=room(), data=1)) == denied, "not subscribed"
            assert await refused(ada.do("history", channel=room(), limit=1)) == denied, "not subscribed"
            assert await refused(ada.do("publish", channel="nowhere", data=1)) == (102, "unknown channel")
            assert await refused(ada.do("presence", channel="news:hall")) == (108, "not available")
            assert await refused(ada.calls("no_such")) == (104, "method not found")
            assert await refused(ada.calls("refuse")) == (1234, "no luck")
            assert await refused(ada.calls("break")) == (100, "internal server error")
            assert await ada.calls("echo", "fine") == "fine", "the connection is none the worse"
            assert len(ada.all("connecting")) == 1

    @pytest.mark.parametrize(
        ("channel", "code", "reason"),
        [
            ("nowhere", 102, "unknown channel"),
            ("closed:hall", 103, "permission denied"),
            ("$staff", 103, "permission denied"),
            ("open:" + 300 * "x", 107, "bad request"),
        ],
    )
    def test_a_refused_subscription_is_over(self, server: RunningServer, channel: str, code: int, reason: str) -> None:
        @run_async
        async def refusal() -> None:
            async with self.stage(server) as stage:
                ada = await stage.enters("Ada")
                await ada.do("subscribe", channel=channel)
                end = await ada.sees("unsubscribed", channel=channel)
                assert (end["code"], end["reason"]) == (code, reason)
                await ada.subscribes(room())

        refusal()

    @run_async
    async def test_a_private_room_opens_to_a_token_which_is_refreshed(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada", token=token("ada"))
            claims: dict[str, Any] = {"channel": "$staff", "info": {"desk": 3}}
            late, soon, good = (token("ada", exp=time.time() + left, **claims) for left in (-60, 3, 600))
            await ada.subscribes("$staff", tokens=[late, soon, good])
            assert ada.all("subscription_error")[0]["code"] == 109
            [info] = (await ada.do("presence", channel="$staff")).values()
            assert info["room"] == {"desk": 3}
            await ada.sees("asked_for_token", channel="$staff", count=3)
            await ada.do("publish", channel="$staff", data="hush")
            await ada.sees("publication", channel="$staff")
            assert ada.all("unsubscribed") == []

    # Apart from rooms

    @run_async
    async def test_calls_are_answered_whatever_they_carry(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada")
            for data in ({"a": [1, 2.5, None, "ü\n\u2028"]}, "text", 0, False, [], {}, "x" * 60_000):
                assert await ada.calls("echo", data) == data

    @run_async
    async def test_many_calls_at_once_get_their_own_answers(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada")
            assert await asyncio.gather(*[ada.calls("echo", n) for n in range(1, 201)]) == list(range(1, 201))

    # Subscribed by the server

    @run_async
    async def test_the_server_subscribes_at_connect_and_later(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            first, second, third = room(), room(), room()
            here, there = await addresses_apart(server, 2)
            ada = await stage.enters("Ada", here, token=token("ada", channels=[second]), data={"rooms": [first]})
            bela = await stage.enters("Bela", there, data={"name": "Bela"})
            await ada.calls("enter", third)
            for channel in (first, second, third):
                subscribed = await ada.sees("server_subscribed", channel=channel)
                assert subscribed["recoverable"]
                await bela.subscribes(channel)
                assert (await ada.sees("server_join", channel=channel, count=2))["info"]["client"] == bela.id
                await bela.do("publish", channel=channel, data=channel)
                got = await ada.sees("server_publication", channel=channel)
                assert (got["data"], got["offset"], got["info"]["client"]) == (channel, 1, bela.id)
            await ada.do("publish", channel=third, data="also from here")
            assert (await bela.sees("publication", data="also from here"))["info"]["user"] == "ada"
            await ada.calls("exit", first)
            await ada.sees("server_unsubscribed", channel=first)
            assert (await bela.sees("leave", channel=first))["info"]["client"] == ada.id
            await ada.do("subscribe", channel=second)
            assert (await ada.sees("unsubscribed", channel=second))["code"] == 105

    @run_async
    async def test_the_server_ends_a_subscription_that_the_client_began(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada")
            channel = room()
            await ada.subscribes(channel)
            await ada.calls("exit", channel)
            end = await ada.sees("unsubscribed", channel=channel)
            assert (end["code"], end["reason"]) == (2000, "server unsubscribe")
