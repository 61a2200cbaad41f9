"""Wrong credentials: counted, logged once a second, and slower from answer to answer. Units, and one worker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from realtime.api import Api
from realtime.auth.credentials import ADDRESSES_MAX, API_KEY, SUBSCRIPTION_TOKEN, TOKEN, WrongCredentials
from realtime.auth.tokens import sign
from realtime.cli.status import wrong_credentials
from realtime.protocol.centrifuge import uni
from realtime.protocol.centrifuge.encoder import CentrifugeEncoder
from realtime.transport.stream import EVENTS
from tests.realtime.protocol.test_connecting import open_app
from tests.support.aio import run_async
from tests.support.client import Refused
from tests.support.one_worker import SECRET, OneWorker, until

HERE, THERE = "192.0.2.1", "192.0.2.2"
KEY = "0123456789abcdef-api"
LONG_S = 3600.0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def often(wrong: WrongCredentials, address: str) -> None:
    """Have so many wrong ones of an address that its next answer waits for as long as any may."""
    for _ in range(40):
        wrong.note(API_KEY, address, "")


def test_answers_wait_longer_and_longer_up_to_a_second_and_the_more_so_lately() -> None:
    clock = Clock()
    wrong = WrongCredentials(clock=clock)
    assert [wrong.note(TOKEN, HERE, "") for _ in range(8)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    assert wrong.note(TOKEN, THERE, "") == 0.05, "each address by itself"
    assert wrong.note(API_KEY, HERE, "") == 1.0, "whatever it is that is wrong"
    clock.now += 60
    assert wrong.note(TOKEN, HERE, "") == 0.2, "of 9 a quarter is left"
    clock.now += 1e9
    assert wrong.note(TOKEN, HERE, "") == 0.05
    assert wrong.counts == {TOKEN: 11, API_KEY: 1}


def test_an_ipv6_network_is_one_address() -> None:
    wrong = WrongCredentials()
    delays = [wrong.note(TOKEN, each, "") for each in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "unix", "")]
    assert delays == [0.05, 0.1, 0.05, 0.05, 0.05]


def test_the_number_of_counted_addresses_is_bounded_and_the_quietest_is_forgotten() -> None:
    wrong = WrongCredentials()
    for number in range(ADDRESSES_MAX):
        wrong.note(TOKEN, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", "")
    wrong.note(TOKEN, "10.0.0.0", "")
    wrong.note(TOKEN, HERE, "")
    assert len(wrong) == ADDRESSES_MAX
    assert wrong.note(TOKEN, "10.0.0.0", "") == 0.2
    assert wrong.note(TOKEN, "10.0.0.1", "") == 0.05


def test_they_are_logged_with_the_address_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    wrong = WrongCredentials(clock=clock)
    for _ in range(50):
        wrong.note(TOKEN, HERE, "why")
    clock.now += 1
    wrong.note(API_KEY, THERE, "because")
    assert [record.getMessage() for record in caplog.records] == [
        f"x wrong token address={HERE} reason=why more=0",
        f"x wrong API key address={THERE} reason=because more=49",
    ]


def test_the_status_adds_them_up_over_the_workers() -> None:
    workers = [{"statistics": {"wrong_credentials": counts}} for counts in ({TOKEN: 2}, {TOKEN: 1, API_KEY: 4}, {})]
    assert wrong_credentials([*workers, {"statistics": {}}]) == ["7 credentials were wrong: 4 for API key, 3 for token"]
    assert wrong_credentials(workers[2:]) == []


async def ask_api(api: Api, address: str, *headers: tuple[bytes, bytes]) -> int:
    """Ask what the API is, and return the status."""
    said: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    scope = {"type": "http", "method": "GET", "path": "/api/openapi.json", "headers": headers, "client": (address, 1)}
    await api(scope, receive, send)
    status: int = said[0]["status"]
    return status


@run_async
async def test_only_wrong_keys_wait_and_only_those_of_that_address() -> None:
    wrong = WrongCredentials(most_s=LONG_S)
    async with OneWorker(open_app()) as worker:
        api = Api(worker.hub, worker.bus, worker.app, keys=[KEY], encoder=CentrifugeEncoder(uni, EVENTS), wrong=wrong)
        often(wrong, HERE)
        spellings = [
            [(b"x-api-key", b"x" * 20)],
            [(b"authorization", b"apikey " + b"x" * 20)],
            [(b"authorization", b"ApiKey " + KEY.encode() + b"x")],
            [(b"x-api-key", b"wrong"), (b"authorization", b"apikey " + KEY.encode())],
            [(b"x-api-key", "ключ".encode())],
        ]
        before = wrong.counts[API_KEY]
        waiting = [asyncio.create_task(wrong_answer(api, spelling)) for spelling in spellings]
        assert await ask_api(api, HERE, (b"x-api-key", KEY.encode())) == 200, "the address has a right key too"
        assert await ask_api(api, HERE, (b"authorization", b"apikey " + KEY.encode())) == 200
        assert await ask_api(api, HERE) == 401, "none is no wrong one"
        assert await ask_api(api, THERE, (b"x-api-key", b"x" * 20)) == 401, "another address waits as for its first"
        assert wrong.counts[API_KEY] == before + len(spellings) + 1
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def wrong_answer(api: Api, spelling: list[tuple[bytes, bytes]]) -> int:
    return await ask_api(api, HERE, *spelling)


@run_async
async def test_only_wrong_tokens_wait_wherever_a_client_shows_one() -> None:
    app = open_app()
    app.room("$private", open=True)
    wrong = WrongCredentials(most_s=LONG_S)
    async with OneWorker(app, connect_s=2 * LONG_S, wrong=wrong) as worker:
        token = sign({"sub": "ana", "exp": 4e9}, SECRET)
        one, other = await worker.join(token=token), await worker.join(token=token)
        await one.ask("subscribe", channel="open", token=room_token("ana", "open"))
        often(wrong, "127.0.0.1")
        before = wrong.counts.copy()
        waiting = []
        for command, kind in (
            ({"subscribe": {"channel": "$private", "token": "x"}}, SUBSCRIPTION_TOKEN),
            ({"subscribe": {"channel": "$private", "token": room_token("ana", "open")}}, SUBSCRIPTION_TOKEN),
            ({"sub_refresh": {"channel": "open", "token": room_token("bob", "open")}}, SUBSCRIPTION_TOKEN),
            ({"refresh": {"token": sign({"sub": "ana"}, "y" * 32)}}, TOKEN),
            ({"refresh": {"token": sign({"sub": "bob"}, SECRET)}}, TOKEN),
            ({"connect": {"token": "x"}}, TOKEN),
            ({"connect": {"token": room_token("ana", "open")}}, TOKEN),
        ):
            method = next(iter(command))
            client = await worker.open() if method == "connect" else await worker.join(token=token)
            if method == "sub_refresh":
                await client.ask("subscribe", channel="open", token=room_token("ana", "open"))
            waiting.append(asyncio.create_task(client.ask(method, **command[method])))
            before[kind] += 1
            await until(lambda: wrong.counts == before)
        await other.ask("subscribe", channel="$private", token=room_token("ana", "$private"))
        await (await worker.join(token=token)).ask("subscribe", channel="open")
        with pytest.raises(Refused) as expired:  # too old is not wrong
            await other.ask("subscribe", channel="open", token=room_token("ana", "open", exp=1))
        assert expired.value.code == 109
        assert not any(task.done() for task in waiting)
        assert wrong.counts == before
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def room_token(user: str, room: str, exp: float = 4e9) -> str:
    return sign({"sub": user, "channel": room, "exp": exp}, SECRET)
