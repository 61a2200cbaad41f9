"""
What the JavaScript SDK's documentation promises and centrifuge-python has not, or has otherwise: for each of its
transports and encodings. What both can do is in scenarios.py; what nothing of a server is asked for is the SDK's own.
"""

from __future__ import annotations

import contextlib

from tests.sdk.puppet import SdkError, Stage
from tests.sdk.scenarios import refused, room, token
from tests.support.aio import run_async
from tests.support.server import RunningServer

LONG = "the same in each of them, and long enough to be worth a difference: "


class JavaScript:
    stage: type[Stage]

    @property
    def over(self) -> tuple[str, ...]:
        """Transport and encoding; empty for WebSocket and JSON."""
        found: tuple[str, ...] = getattr(self.stage, "over", ())
        return found

    @property
    def is_protobuf(self) -> bool:
        return "protobuf" in self.over

    # The client

    @run_async
    async def test_messages_without_a_room_go_both_ways(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada")
            await ada.do("send", data={"hello": "server"})
            assert (await ada.sees("message"))["data"] == {"heard": {"hello": "server"}}
            await ada.calls("tell", ["hello", "client"])
            await ada.sees("message", data=["hello", "client"])

    @run_async
    async def test_the_transports_are_tried_in_order(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada", detour=True)
            assert ada.here["transport"] == (self.over or ("websocket",))[0]
            await ada.do("ready")
            channel = room()
            await ada.subscribes(channel)
            await ada.do("ready", channel=channel)
            await ada.do("publish", channel=channel, data=1)
            await ada.sees("publication", channel=channel)

    @run_async
    async def test_who_logs_in_or_out_connects_with_another_token(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada", token=token("ada"))
            for number, (text, user) in enumerate([(token("bela"), "bela"), ("", ""), (token("ada"), "ada")], 2):
                await ada.do("disconnect")
                await ada.do("set", token=text)
                await ada.do("connect")
                await ada.sees("connected", count=number)
                assert ada.here["user"] == user

    @run_async
    async def test_data_and_headers_go_with_each_connect(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada", data={"name": "Ada"}, headers={"X-Team": "blue"})
            assert (ada.here["name"], ada.here["headers"]) == ("Ada", {"x-team": "blue"})
            await ada.do("disconnect")
            await ada.do("set", data={"name": "Countess"}, headers={"Authorization": "Bearer é"})
            await ada.do("connect")
            await ada.sees("connected", count=2)
            assert (ada.here["name"], ada.here["headers"]) == ("Countess", {"authorization": "Bearer é"})

    @run_async
    async def test_data_is_fetched_for_each_connect(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada", counts=True)
            assert ada.here["asked"] == 1
            with contextlib.suppress(SdkError):  # the answer may come too late
                await ada.calls("hang_up", {"code": 4001, "reason": "again"})
            await ada.sees("connected", count=2)
            assert ada.here["asked"] == len(ada.all("asked_for_data"))
            assert ada.here["asked"] > 1

    @run_async
    async def test_commands_in_one_message_are_answered_each(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada, bela = await stage.enter_apart("Ada", "Bela")
            channel = room()
            for each in (ada, bela):
                await each.subscribes(channel)
            assert await ada.do("batch", channel=channel, count=40) == "last"
            for each in (ada, bela):
                await each.sees("publication", channel=channel, count=40)
                assert [got["data"] for got in each.all("publication", channel=channel)] == list(range(1, 41))

    @run_async
    async def test_a_message_over_the_limit_is_the_clients_end(self, server: RunningServer) -> None:
        """Over a WebSocket the SDK is told, and gives up; what goes beside a stream fails by itself."""
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada", timeout_s=4)
            if self.over[:1] in ((), ("websocket",)):
                assert (await refused(ada.do("rpc", method="echo", data="x" * 70_000)))[0] < 100, "the SDK's own word"
                end = await ada.sees("disconnected")
                assert (end["code"], end["reason"]) == (3, "message size limit exceeded")
            else:
                assert await refused(ada.do("rpc", method="echo", data="x" * 70_000)) == (1, "timeout")
                assert await ada.calls("echo", "still here") == "still here"

    # Subscriptions

    @run_async
    async def test_a_subscription_is_asked_what_a_client_is(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada")
            channel = room()
            await ada.subscribes(channel)
            await ada.do("in_room", channel=channel, what="publish", data=[1])
            assert list(await ada.do("in_room", channel=channel, what="presence")) == [ada.id]
            assert await ada.do("in_room", channel=channel, what="presence_stats") == 1
            page = await ada.do("in_room", channel=channel, what="history")
            assert [kept["data"] for kept in page["publications"]] == [[1]]

    @run_async
    async def test_what_a_subscription_is_asked_waits_until_it_is_one(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada")
            channel = room()
            await ada.do("subscribe", channel=channel)  # and nothing waits for it here
            await ada.do("in_room", channel=channel, what="publish", data="first")
            assert list(await ada.do("in_room", channel=channel, what="presence")) == [ada.id]

    @run_async
    async def test_a_subscriptions_history_from_anywhere_or_only_where_it_ends(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada")
            channel = room()
            epoch = (await ada.subscribes(channel))["position"]["epoch"]
            for number in range(1, 6):
                await ada.do("publish", channel=channel, data=number)

            async def numbers(**options: object) -> list[int]:
                page = await ada.do("in_room", channel=channel, what="history", options=options)
                assert (page["offset"], page["epoch"]) == (5, epoch)
                return [each["data"] for each in page["publications"]]

            assert await numbers(limit=0) == []
            assert await numbers(limit=100, since={"offset": 2, "epoch": epoch}) == [3, 4, 5]
            assert await numbers(limit=2, reverse=True) == [5, 4]
            lost = {"limit": 100, "since": {"offset": 2, "epoch": "another"}}
            asked = ada.do("in_room", channel=channel, what="history", options=lost)
            assert await refused(asked) == (112, "unrecoverable position")

    @run_async
    async def test_what_a_subscription_asks_for_is_given_where_the_room_has_it(self, server: RunningServer) -> None:
        """The room decides: what it has it gives unasked, and what it has not is left out and harms nobody."""
        asks = {"positioned": True, "recoverable": True, "joinLeave": True}
        async with self.stage(server) as stage:
            ada, bela = await stage.enter_apart("Ada", "Bela")
            for kind, has in (("open", True), ("plain", False)):
                channel = room(kind)
                told = await ada.subscribes(channel, asks=asks)
                assert (told["positioned"], told["recoverable"]) == (has, has)
                await bela.subscribes(channel, asks=asks)
                await bela.do("publish", channel=channel, data=kind)
                await ada.sees("publication", channel=channel, data=kind)
                assert (bela.id in [each["info"]["client"] for each in ada.all("join", channel=channel)]) == has
            assert ada.all("subscription_error") == bela.all("subscription_error") == []

    @run_async
    async def test_data_goes_with_each_subscribe(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada")
            first = await ada.subscribes("news:a", data={"seat": 1})
            await ada.do("unsubscribe", channel="news:a")
            await ada.do("set_in", channel="news:a", data={"seat": 2})
            second = await ada.subscribes("news:a")
            assert [told["data"]["brought"] for told in (first, second)] == [{"seat": 1}, {"seat": 2}]
            for number in (1, 2):
                fetched = await ada.subscribes("news:b", counts=True)
                assert fetched["data"]["brought"] == {"asked": number}
                await ada.do("unsubscribe", channel="news:b")

    @run_async
    async def test_a_subscription_begins_where_it_is_told_to(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada, bela = await stage.enter_apart("Ada", "Bela")
            channel = room()
            epoch = (await ada.subscribes(channel))["position"]["epoch"]
            for number in range(1, 6):
                await ada.do("publish", channel=channel, data=number)
            told = await bela.subscribes(channel, since={"offset": 2, "epoch": epoch})
            assert (told["was_recovering"], told["recovered"]) == (True, True)
            await bela.sees("publication", channel=channel, count=3)
            assert [each["data"] for each in bela.all("publication", channel=channel)] == [3, 4, 5]

    @run_async
    async def test_state_of_ones_own_is_loaded_first_and_again_only_where_something_is_lost(
        self, server: RunningServer
    ) -> None:
        async with self.stage(server) as stage:
            ada, bela = await stage.enter_apart("Ada", "Bela")
            channel = room("news")
            epoch = (await bela.subscribes(channel))["position"]["epoch"]

            async def announce(*numbers: int) -> None:
                for number in numbers:
                    await bela.calls("announce", {"room": channel, "data": number})

            await announce(1, 2, 3)
            states = [{"offset": 2, "epoch": epoch}, {"offset": 20, "epoch": epoch}]
            told = await ada.subscribes(channel, states=states)
            assert told["recovered"]
            await ada.sees("publication", channel=channel, data=3)
            await ada.do("disconnect")
            await announce(4, 5)
            await ada.do("connect")
            await ada.sees("publication", channel=channel, data=5)
            assert len(ada.all("asked_for_state")) == 1, "nothing was lost"
            await ada.do("disconnect")
            await announce(*range(6, 23))  # more than are kept
            mark = ada.mark()
            await ada.do("connect")
            await ada.sees("publication", channel=channel, data=22)
            assert len(ada.all("asked_for_state")) == 2
            assert [each["data"] for each in ada.all("publication", channel=channel, since=mark)] == [21, 22]

    @run_async
    async def test_differences_are_put_together_live_and_after_a_cut(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada, bela = await stage.enter_apart("Ada", "Bela")
            channel = room("drafts")
            await ada.subscribes(channel, delta="fossil")
            await bela.subscribes(channel)
            for number in range(5):
                await bela.do("publish", channel=channel, data=f"{LONG}{number} ä")
            await ada.sees("publication", channel=channel, count=5)
            mark = ada.mark()
            await ada.do("disconnect")
            for number in range(5, 8):
                await bela.do("publish", channel=channel, data=f"{LONG}{number} ö")
            await ada.do("connect")
            assert (await ada.sees("subscribed", channel=channel, since=mark))["recovered"]
            for number in range(8, 11):
                await bela.do("publish", channel=channel, data=f"{LONG}{number} 你")
            await ada.sees("publication", channel=channel, count=11)
            got = ada.all("publication", channel=channel)
            assert [each["data"][len(LONG) :].split()[0] for each in got] == [str(n) for n in range(11)]
            assert [each["offset"] for each in got] == list(range(1, 12))
            assert ada.all("error") == ada.all("subscription_error") == []

    @run_async
    async def test_a_filter_by_tags_and_another_one_later(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada, bela = await stage.enter_apart("Ada", "Bela")
            channel = room("tagged")

            async def announce(*said: tuple[int, str]) -> None:
                for number, ticker in said:
                    await bela.calls("announce", {"room": channel, "data": number, "tags": {"ticker": ticker}})

            await ada.subscribes(channel, tags={"key": "ticker", "cmp": "eq", "val": "A"})
            await announce((1, "A"), (2, "B"), (3, "A"))
            await ada.sees("publication", channel=channel, data=3)
            await ada.do("unsubscribe", channel=channel)
            await ada.do("set_in", channel=channel, tags={"key": "ticker", "cmp": "in", "vals": ["B", "C"]})
            await announce((4, "A"), (5, "B"))
            assert (await ada.subscribes(channel))["recovered"], "what a filter hides is not lost"
            await announce((6, "C"), (7, "A"), (8, "B"))
            await ada.sees("publication", channel=channel, data=8)
            assert [each["data"] for each in ada.all("publication", channel=channel)] == [1, 3, 5, 6, 8]
            wrong = {"key": "ticker", "cmp": "like", "val": "A"}
            await ada.do("subscribe", channel=room("tagged"), tags=wrong)
            assert (await ada.sees("unsubscribed", code=107))["reason"].startswith("bad request")

    @run_async
    async def test_bytes_that_are_no_json_are_for_who_speaks_protobuf(self, server: RunningServer) -> None:
        async with self.stage(server) as stage:
            ada, bela = await stage.enter_apart("Ada", "Bela")
            channel = room("bytes")
            await ada.do("hear_bytes", channel=channel)
            if not self.is_protobuf:
                assert (await ada.sees("unsubscribed", channel=channel))["code"] == 108
                return
            await bela.do("hear_bytes", channel=channel)
            for each in (ada, bela):
                await each.sees("subscribed", channel=channel)
            said = [list(range(256)), [0], [10, 13, 255], [0] * 50_000]
            for bytes_ in said:
                await bela.do("publish_bytes", channel=channel, bytes=bytes_)
            for each in (ada, bela):
                await each.sees("bytes", channel=channel, count=len(said))
                assert [got["bytes"] for got in each.all("bytes")] == said

    @run_async
    async def test_kinds_of_rooms_that_are_not_here_are_refused_and_nothing_else_suffers(
        self, server: RunningServer
    ) -> None:
        async with self.stage(server) as stage:
            ada = await stage.enters("Ada")
            for kind in ("Map", "MapClients", "MapUsers", "SharedPoll"):
                channel = room()
                await ada.do("subscribe", channel=channel, kind=kind)
                assert (await ada.sees("unsubscribed", channel=channel))["code"] == 108
            await ada.subscribes(room())
            assert len(ada.all("connecting")) == 1
