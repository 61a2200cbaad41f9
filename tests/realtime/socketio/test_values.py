"""What an `AsyncServer` sends, byte for byte: values of emits and answers, and refusals of `connect` handlers."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from realtime import socketio
from realtime.errors import ReservedEvent
from realtime.socketio import exceptions
from tests.realtime.protocol.socketio.in_process import EngineInProcess, IOWorker
from tests.support.aio import run_async
from tests.support.one_worker import until

VALUES = [
    pytest.param(None, "", id="None"),
    pytest.param("x", '"x"', id="str"),
    pytest.param(5, "5", id="int"),
    pytest.param(True, "true", id="bool"),
    pytest.param({"a": 1}, '{"a":1}', id="dict"),
    pytest.param(("a", "b"), '"a","b"', id="tuple"),
    pytest.param((), "", id="empty tuple"),
    pytest.param(["a", "b"], '["a","b"]', id="list"),
]


async def joined(worker: IOWorker, namespace: str = "/", auth: Any = None) -> tuple[EngineInProcess, str]:
    return await worker.io(namespace, auth)


@pytest.mark.parametrize(("value", "text"), VALUES)
@run_async
async def test_a_value_that_is_emitted(value: Any, text: str) -> None:
    sio = socketio.AsyncServer()
    async with IOWorker(sio.app) as worker:
        engine, sid = await joined(worker)
        await sio.emit("e", value, to=sid)
        assert await engine.next() == f'42["e"{text and ","}{text}]'
        await sio.emit("e", value)
        assert await engine.next() == f'42["e"{text and ","}{text}]'


@pytest.mark.parametrize(("value", "text"), VALUES)
@run_async
async def test_a_value_that_a_handler_returns(value: Any, text: str) -> None:
    sio = socketio.AsyncServer()

    @sio.event
    async def ask(sid: str) -> Any:
        return value

    async with IOWorker(sio.app) as worker:
        engine, _ = await joined(worker)
        engine.say('21["ask"]')
        assert await engine.next() == f"431[{text}]"


@run_async
async def test_bytes_are_attachments_both_ways() -> None:
    sio = socketio.AsyncServer()
    sio.on("ask", lambda sid, data: data)
    header = '{"_placeholder":true,"num":0}'
    async with IOWorker(sio.app) as worker:
        engine, _ = await joined(worker)
        await sio.emit("e", b"\1")
        assert [await engine.next(), await engine.next()] == [f'451-["e",{header}]', b"\1"]
        await sio.emit("e", {"a": [b"\2"]})
        assert [await engine.next(), await engine.next()] == [f'451-["e",{{"a":[{header}]}}]', b"\2"]
        engine.say(f'51-1["ask",{header}]', b"\3")
        assert [await engine.next(), await engine.next()] == [f"461-1[{header}]", b"\3"]


@pytest.mark.parametrize(
    ("outcome", "payload"),
    [
        (False, '{"message":"Connection rejected by server"}'),
        (exceptions.ConnectionRefusedError(), '{"message":"Connection rejected by server"}'),
        (exceptions.ConnectionRefusedError("denied"), '{"message":"denied"}'),
        (exceptions.ConnectionRefusedError("denied", "arg1", 2), '{"message":"denied","data":["arg1",2]}'),
        (exceptions.ConnectionRefusedError("m", {"k": 1}), '{"message":"m","data":{"k":1}}'),
        (KeyError("secret"), '{"message":"internal server error","data":{"code":100,"temporary":true}}'),
    ],
    ids=["False", "no words", "words", "words and two values", "words and one value", "another exception"],
)
@run_async
async def test_a_client_that_a_connect_handler_refuses(outcome: Any, payload: str) -> None:
    sio = socketio.AsyncServer()
    gone: list[str] = []

    @sio.on("connect", namespace="/ns")
    async def connect(sid: str, environ: dict[str, Any], auth: Any) -> Any:
        await sio.emit("welcome", to=sid, namespace="/ns")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    sio.on("disconnect", gone.append, namespace="/ns")
    async with IOWorker(sio.app) as worker:
        engine = worker.engine()
        engine.say("0/ns,")
        assert await engine.next() == f"44/ns,{payload}"
        engine.say("0/nope,")
        assert await engine.next() == '44/nope,{"message":"Invalid namespace"}'
        assert await engine.join() != "", "the connection goes on"
    assert gone == []


@pytest.mark.parametrize("answer", [None, True, 0, "", {}])
@run_async
async def test_any_other_value_of_a_connect_handler_admits(answer: Any) -> None:
    sio = socketio.AsyncServer()
    sio.on("connect", lambda sid, environ: answer)
    async with IOWorker(sio.app) as worker:
        await joined(worker)


@run_async
async def test_auth_is_none_where_the_client_sends_none_and_what_connect_emits_follows_the_answer() -> None:
    sio = socketio.AsyncServer(always_connect=True)

    @sio.event
    async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
        await sio.emit("auth", {"auth": auth}, to=sid)

    async with IOWorker(sio.app) as worker:
        for auth in (None, {"token": "t"}):
            engine, _ = await joined(worker, auth=auth)
            assert await engine.next() == f'42["auth",{json.dumps({"auth": auth}, separators=(",", ":"))}]'


@run_async
async def test_a_handler_that_raises_and_an_event_without_one_give_no_acknowledgement(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sio = socketio.AsyncServer()

    @sio.event
    async def fails(sid: str) -> None:
        raise KeyError("secret")

    @sio.event
    async def cannot(sid: str) -> Any:
        return object()

    sio.on("works", lambda sid: 1)
    async with IOWorker(sio.app) as worker:
        engine, _ = await joined(worker)
        with caplog.at_level(logging.ERROR, "realtime.socketio"):
            engine.say('21["fails"]', '22["fails","too much"]', '23["nothing"]', '24["cannot"]')
            await until(lambda: caplog.text.count("event failed") == 3)
        engine.say('25["works"]')
        assert await engine.next() == "435[1]"
        assert engine.rest() == []


@run_async
async def test_a_name_of_socketio_itself_is_refused() -> None:
    sio = socketio.AsyncServer()
    async with IOWorker(sio.app):
        with pytest.raises(ReservedEvent):
            await sio.emit("disconnect")
