"""Commands whose tasks begin at once, and in the next turn: a client sees no difference, whatever the interpreter."""

from __future__ import annotations

import json

import pytest

from realtime import App
from realtime.tasks import Begin, Lazily
from tests.realtime.protocol.test_commands import Waiting
from tests.support.aio import run_async
from tests.support.eager import EAGERLY
from tests.support.one_worker import OneWorker, until

BURST = 16


def open_app() -> App:
    app = App()
    app.room("r", open=True, history=100)
    return app


@pytest.mark.parametrize("begin", [Lazily(), EAGERLY], ids=["lazily", "eagerly"])
@pytest.mark.parametrize("in_one_message", [True, False])
@run_async
async def test_a_burst_of_publications_goes_to_the_broker_at_once_and_in_order(
    begin: Begin, in_one_message: bool
) -> None:
    app, broker = open_app(), Waiting()
    async with OneWorker(app, broker=broker, begin=begin) as worker:
        client, other = await worker.join(), await worker.join()
        await other.ask("subscribe", channel="r")
        await client.ask("subscribe", channel="r")
        commands = [json.dumps({"id": 10 + n, "publish": {"channel": "r", "data": n}}) for n in range(BURST)]
        last = json.dumps({"id": 50, "history": {"channel": "r", "limit": -1}})
        session = worker.session(client)
        for message in ["\n".join(commands)] if in_one_message else commands:
            session.receive(message)
        session.receive(last)
        assert [(await other.push("pub"))["pub"]["data"] for _ in range(BURST)] == list(range(BURST))
        assert broker.taken == BURST, "none waited for another's answer"
        assert not [each for each in client.heard if each.get("id", 0) >= 10]
        broker.may_answer.set()
        await until(lambda: client.heard[-1].get("id") == 50)
        assert [each["id"] for each in client.heard if each.get("id", 0) >= 10] == [*range(10, 10 + BURST), 50]
        await until(lambda: session.is_idle)


@pytest.mark.parametrize("begin", [Lazily(), EAGERLY], ids=["lazily", "eagerly"])
@run_async
async def test_commands_run_one_after_another(begin: Begin) -> None:
    app = open_app()
    async with OneWorker(app, begin=begin) as worker:
        client = await worker.join()
        for number in range(3):
            room = {"channel": "r"}
            replies = await client.say(
                {"id": 100 * number + 11, "subscribe": room},
                {"id": 100 * number + 12, "publish": {**room, "data": number}},
                {"id": 100 * number + 13, "unsubscribe": room},
                {"id": 100 * number + 14, "publish": {**room, "data": number}},
            )
            answers = [each for each in replies if "id" in each]
            assert [each["id"] % 100 for each in answers] == list(range(11, 11 + len(answers)))
            await until(lambda number=number: client.heard[-1].get("id") == 100 * number + 14)
            assert client.heard[-1]["error"]["code"] == 103


@pytest.mark.parametrize(("begin", "is_done"), [(Lazily(), False), (EAGERLY, True)], ids=["lazily", "eagerly"])
@run_async
async def test_a_task_that_waits_for_nothing_is_done_when_it_began_at_once(begin: Begin, is_done: bool) -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(1)

    task = begin(work())
    assert (task.done(), bool(done), begin.is_eager) == (is_done, is_done, is_done)
    await task
    assert done == [1]
