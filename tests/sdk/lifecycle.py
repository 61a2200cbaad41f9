"""
How clients and subscriptions of the JavaScript SDK begin, wait, are told of and end, for each of its transports and
encodings: its registry, its states, `ready`, and tokens that it cannot fetch.
"""

from __future__ import annotations

from tests.sdk.puppet import Stage
from tests.sdk.scenarios import refused, room, token
from tests.support.aio import run_async
from tests.support.server import RunningServer


class Lifecycle:
    stage: type[Stage]

    @run_async
    async def test_a_room_is_subscribed_once_until_it_is_removed(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada, bela = await stage.enter_apart("Ada", "Bela")
            channel = room()
            await ada.subscribes(channel)
            await bela.subscribes(channel)
            assert await ada.do("subscriptions") == [channel]
            assert (await refused(ada.do("make", channel=channel)))[1].endswith("already exists")
            await ada.do("remove", channel=channel)
            assert (await ada.sees("unsubscribed", channel=channel))["code"] == 0
            assert (await bela.sees("leave", channel=channel))["info"]["client"] == ada.id
            assert await ada.do("subscriptions") == []
            await bela.do("publish", channel=channel, data="not for Ada")
            again = await ada.subscribes(channel)
            assert not again["was_recovering"], "what was removed left no position behind"
            await bela.do("publish", channel=channel, data="for both")
            await ada.sees("publication", channel=channel)
            assert [each["data"] for each in ada.all("publication", channel=channel)] == ["for both"]

    @run_async
    async def test_waiting_until_ready_ends_with_what_became_of_it(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada")
            await ada.do("ready", timeout_ms=20_000)
            await ada.do("subscribe", channel="closed:hall")
            assert (await refused(ada.do("ready", channel="closed:hall", timeout_ms=20_000)))[0] == 7, "it is over"
            assert ada.all("unsubscribed", channel="closed:hall", code=103)
            channel = room()
            await ada.do("subscribe", channel=channel, tokens=[{"fails": "nobody answers"}])
            assert await refused(ada.do("ready", channel=channel, timeout_ms=50)) == (1, "timeout")
            await ada.do("disconnect")
            assert (await refused(ada.do("ready")))[0] == 3, "it is disconnected"

    @run_async
    async def test_the_states_are_told_one_by_one(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada")
            channel = room()
            await ada.subscribes(channel)
            ada.relay.cut()
            await ada.sees("subscribed", channel=channel, count=2)
            await ada.do("disconnect")
            await ada.sees("disconnected")
            client = [each["to"] for each in ada.all("state")]
            assert client == ["connecting", "connected", "connecting", "connected", "disconnected"]
            room_ = [each["to"] for each in ada.all("subscription_state", channel=channel)]
            assert room_ == ["subscribing", "subscribed", "subscribing", "subscribed", "subscribing"]

    # Tokens

    @run_async
    async def test_a_token_that_cannot_be_fetched_is_asked_for_again(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada", tokens=[{"fails": "away"}, token("ada")])
            assert (ada.here["user"], len(ada.all("asked_for_token"))) == ("ada", 2)
            assert [each["code"] for each in ada.all("error")] == [5]
            await ada.subscribes("$staff", tokens=[{"fails": "away"}, token("ada", channel="$staff")])
            assert [each["code"] for each in ada.all("subscription_error", channel="$staff")] == [8]
            assert len(ada.all("connecting")) == 1

    @run_async
    async def test_who_may_have_no_token_gives_up(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            no = {"fails": "unauthorized"}
            ada = await stage.opens("Ada", tokens=[no])
            end = await ada.sees("disconnected")
            assert (end["code"], end["reason"]) == (1, "unauthorized")
            bela = await stage.enters("Bela", token=token("bela"))
            await bela.do("subscribe", channel="$staff", tokens=[token("bela", channel="$staff", exp=1), no])
            end = await bela.sees("unsubscribed", channel="$staff")
            assert (end["code"], end["reason"]) == (1, "unauthorized")
            await bela.subscribes(room())
            assert len(bela.all("connecting")) == 1, "the rest of it is none the worse"

    @run_async
    async def test_rooms_by_the_server_are_told_of_through_a_cut_and_asked_by_name(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            channel = room()
            ada = await stage.enters("Ada", token=token("ada", channels=[channel]))
            assert (await ada.sees("server_subscribed", channel=channel))["positioned"]
            await ada.do("publish", channel=channel, data=1)
            await ada.sees("server_publication", channel=channel, data=1)
            assert list(await ada.do("presence", channel=channel)) == [ada.id]
            assert await ada.do("presence_stats", channel=channel) == {"clients": 1, "users": 1}
            [kept] = (await ada.do("history", channel=channel, limit=-1))["publications"]
            assert kept["data"] == 1
            ada.relay.cut()
            await ada.sees("server_subscribing", channel=channel)
            again = await ada.sees("server_subscribed", channel=channel, count=2)
            assert (again["was_recovering"], again["recovered"]) == (True, True)
