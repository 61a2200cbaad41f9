"""The methods of an `AsyncServer`, one by one, and the handlers that events reach."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from realtime import socketio
from realtime.session.plain import NotPlain
from realtime.socketio import exceptions
from tests.realtime.protocol.socketio.in_process import EngineInProcess, IOWorker
from tests.support.aio import run_async
from tests.support.one_worker import until


async def three(worker: IOWorker, namespace: str = "/") -> tuple[list[EngineInProcess], list[str]]:
    found = [await worker.io(namespace) for _ in range(3)]
    return [engine for engine, _ in found], [sid for _, sid in found]


async def heard(engines: list[EngineInProcess]) -> list[list[str | bytes]]:
    """Return what each client got, once the last event of all has come."""
    found = []
    for engine in engines:
        mine: list[str | bytes] = []
        while (message := await engine.next()) != '42["end"]':
            mine.append(message)
        found.append(mine)
    return found


# Emits


@run_async
async def test_emit_reaches_all_or_rooms_or_clients_each_once_and_none_that_is_skipped() -> None:
    sio = socketio.AsyncServer()
    async with IOWorker(sio.app) as worker:
        engines, (one, two, three_) = await three(worker)
        await sio.enter_room(one, "a")
        await sio.enter_room(two, "a")
        await sio.enter_room(two, "b")
        await sio.emit("all", 1)
        await sio.emit("a", 2, room="a")
        await sio.emit("both", 3, to=["a", "b"])
        await sio.emit("skip one", 4, skip_sid=one)
        await sio.emit("skip two", 5, skip_sid=[one, two])
        await sio.emit("one", 6, to=one)
        await sio.emit("two of them", 7, to=[one, three_])
        await sio.emit("rest of a", 8, room="a", skip_sid=two)
        await sio.send("hello", to=two)
        await sio.emit("nobody", 9, to="no such room")
        await sio.emit("nobody", 9, namespace="/nowhere")
        await sio.emit("end")
        assert await heard(engines) == [
            ['42["all",1]', '42["a",2]', '42["both",3]', '42["one",6]', '42["two of them",7]', '42["rest of a",8]'],
            ['42["all",1]', '42["a",2]', '42["both",3]', '42["skip one",4]', '42["message","hello"]'],
            ['42["all",1]', '42["skip one",4]', '42["skip two",5]', '42["two of them",7]'],
        ]


@run_async
async def test_a_room_may_be_any_value() -> None:
    sio = socketio.AsyncServer()
    async with IOWorker(sio.app) as worker:
        engine, sid = await worker.io()
        await sio.enter_room(sid, 17)  # type: ignore[arg-type]
        await sio.emit("e", room=17)  # type: ignore[arg-type]
        assert await engine.next() == '42["e"]'
        assert sio.rooms(sid) == [sid, "17"]


@run_async
async def test_events_of_one_task_come_in_its_order_whichever_way_they_take() -> None:
    sio = socketio.AsyncServer()

    @sio.event
    async def begin(sid: str) -> None:
        for number in range(20):
            await sio.emit("e", number, to=sid if number % 3 else None)

    async with IOWorker(sio.app) as worker:
        engine, _ = await worker.io()
        engine.say('2["begin"]')
        assert [await engine.next() for _ in range(20)] == [f'42["e",{number}]' for number in range(20)]


@run_async
async def test_a_callback_gets_the_arguments_of_the_acknowledgement() -> None:
    sio = socketio.AsyncServer()
    got: list[tuple[Any, ...]] = []

    async def later(*args: Any) -> None:
        got.append(args)

    async with IOWorker(sio.app) as worker:
        engine, sid = await worker.io()
        await sio.emit("q", 1, to=sid, callback=lambda *args: got.append(args))
        await sio.emit("q", 2, to=sid, callback=later)
        await sio.emit("next", to=sid)
        assert [await engine.next() for _ in range(3)] == ['420["q",1]', '421["q",2]', '42["next"]']
        engine.say('31["a",{"b":1}]', "30[]")
        await until(lambda: len(got) == 2)
        assert sorted(got, key=len) == [(), ("a", {"b": 1})]
        await sio.emit("q", to=str(uuid.uuid4()), callback=lambda: got.append(("never",)))
        for target in (None, "a room", [sid, "a room"]):
            with pytest.raises(exceptions.Unsupported, match="but to one client"):
                await sio.emit("q", to=target, callback=lambda: None)


@run_async
async def test_call_returns_one_value_a_tuple_or_none() -> None:
    sio = socketio.AsyncServer()
    async with IOWorker(sio.app) as worker:
        engine, sid = await worker.io()
        for number, (answer, expected) in enumerate([("[]", None), ("[1]", 1), ('[1,"b"]', (1, "b")), ("[[1]]", [1])]):
            call = asyncio.create_task(sio.call("q", ("x", 2), to=sid))
            assert await engine.next() == f'42{number}["q","x",2]'
            engine.say(f"3{number}{answer}")
            assert await call == expected
        call = asyncio.create_task(sio.call("q", sid=sid, timeout=None))
        await engine.next()
        engine.close("transport close")
        with pytest.raises(exceptions.TimeoutError, match="ended"):
            await call


@run_async
async def test_call_without_an_answer_is_a_time_out_and_without_a_client_a_mistake() -> None:
    sio = socketio.AsyncServer()
    async with IOWorker(sio.app) as worker:
        _, sid = await worker.io()
        with pytest.raises(exceptions.TimeoutError, match="did not acknowledge"):
            await sio.call("q", to=sid, timeout=0.01)
        with pytest.raises(TimeoutError):  # Python's own
            await sio.call("q", to="unknown", timeout=0.01)
        with pytest.raises(exceptions.TimeoutError, match="there is no client"):
            await sio.call("q", to=str(uuid.uuid4()), timeout=0.01)
        with pytest.raises(ValueError, match="to=sid"):
            await sio.call("q")


# Rooms and clients


@run_async
async def test_rooms_of_a_client() -> None:
    sio = socketio.AsyncServer()
    async with IOWorker(sio.app) as worker:
        engines, (one, two, _) = await three(worker)
        assert sio.rooms(one) == [one]
        await sio.enter_room(one, "b")
        await sio.enter_room(one, "a")
        await sio.enter_room(two, "a")
        assert sio.rooms(one) == [one, "a", "b"]
        await sio.leave_room(one, "b")
        await sio.leave_room(one, "never entered")
        assert sio.rooms(one) == [one, "a"]
        assert sio.rooms("unknown") == []
        assert sio.rooms(one, namespace="/chat") == []
        for unknown in ("unknown", str(uuid.uuid4())):
            with pytest.raises(KeyError):
                await sio.enter_room(unknown, "a")
            await sio.leave_room(unknown, "a")
            await sio.disconnect(unknown)
        await sio.leave_room("unknown", "a")
        await sio.close_room("a")
        await sio.close_room("no such room")
        await until(lambda: sio.rooms(one) == [one] and sio.rooms(two) == [two])
        await sio.emit("e", room="a")
        await sio.emit("end")
        assert await heard(engines) == [[], [], []]


@run_async
async def test_disconnect_puts_a_client_out_and_its_handler_knows_why() -> None:
    sio = socketio.AsyncServer()
    gone: list[Any] = []

    @sio.event
    async def disconnect(sid: str, reason: str) -> None:
        gone.append((sid, reason, (await sio.get_session(sid))["name"], sio.get_environ(sid)["REMOTE_ADDR"]))

    async with IOWorker(sio.app) as worker:
        engine, sid = await worker.io()
        await sio.save_session(sid, {"name": "ann"})
        await sio.disconnect(sid)
        assert await engine.next() == "41"
        await until(lambda: gone)
        assert gone == [(sid, sio.reason.SERVER_DISCONNECT, "ann", "127.0.0.1")]
        assert engine.reason is None, "the connection stays"
        await sio.disconnect(sid)
        await sio.disconnect("unknown")
        with pytest.raises(KeyError):
            await sio.get_session(sid)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("1", "client disconnect"),
        ("transport close", "transport close"),
        ("ping timeout", "ping timeout"),
        ("transport error", "transport error"),
        ("forced close", "transport error"),
    ],
)
@run_async
async def test_why_a_client_is_gone(end: str, reason: str) -> None:
    sio = socketio.AsyncServer()
    gone: list[tuple[str, str]] = []
    old: list[str] = []
    sio.on("disconnect", lambda sid, reason: gone.append((sid, reason)))
    sio.on("disconnect", old.append, namespace="/old")
    async with IOWorker(sio.app) as worker:
        engine, sid = await worker.io()
        other = await engine.join("/old")
        if end == "1":
            engine.say("1", "1/old,")
        else:
            engine.close(end)
        await until(lambda: gone and old)
        assert gone == [(sid, reason)]
        assert old == [other], "a handler that takes the id alone"


@run_async
async def test_sessions() -> None:
    sio = socketio.AsyncServer(namespaces=["/chat"])
    async with IOWorker(sio.app) as worker:
        engine, sid = await worker.io()
        other = await engine.join("/chat")
        assert await sio.get_session(sid) == {}
        (await sio.get_session(sid))["in place"] = 1
        assert await sio.get_session(sid) == {"in place": 1}
        assert await sio.get_session(sid) is await sio.get_session(sid)
        async with sio.session(sid) as session:
            session["name"] = "ann"
        assert await sio.get_session(sid) == {"in place": 1, "name": "ann"}
        await sio.save_session(sid, {"new": True})
        assert await sio.get_session(sid) == {"new": True}
        assert await sio.get_session(other, namespace="/chat") == {}, "each namespace has its own"
        for wrong in (("unknown", None), (other, None), (sid, "/chat")):
            with pytest.raises(KeyError):
                await sio.get_session(*wrong)
            with pytest.raises(KeyError):
                await sio.save_session(wrong[0], {}, wrong[1])
        with pytest.raises(NotPlain, match=r"\['socketio session'\]\['lock'\]"):
            await sio.save_session(sid, {"lock": asyncio.Lock()})


@run_async
async def test_the_environ_is_the_clients_request_for_as_long_as_it_is_there() -> None:
    sio = socketio.AsyncServer()
    seen: list[dict[str, Any]] = []
    sio.on("connect", lambda sid, environ: seen.append(environ))
    about: dict[str, Any] = {
        "path": "/socket.io/",
        "query": {"room": "a b"},
        "headers": {"host": "chat.example:8443", "cookie": "c=1", "x-real": "é", "content-type": "text/plain"},
        "scheme": "https",
        "transport": "polling",
    }
    async with IOWorker(sio.app) as worker:
        _, sid = await worker.io(**about)
        environ = sio.get_environ(sid)
        assert environ == seen[0]
        expected = {
            "REQUEST_METHOD": "GET", "PATH_INFO": "/socket.io/", "QUERY_STRING": "room=a+b",
            "REMOTE_ADDR": "127.0.0.1", "SERVER_NAME": "chat.example", "SERVER_PORT": "8443",
            "wsgi.url_scheme": "https", "HTTP_COOKIE": "c=1", "HTTP_X_REAL": "é", "CONTENT_TYPE": "text/plain",
        }  # fmt: skip
        assert {name: environ[name] for name in expected} == expected
        scope = environ["asgi.scope"]
        assert (scope["client"][0], scope["query_string"]) == ("127.0.0.1", b"room=a+b")
        assert (b"cookie", b"c=1") in scope["headers"]
        assert sio.transport(sid) == "polling"
        for ask in (sio.get_environ, sio.transport):
            with pytest.raises(KeyError):
                ask("unknown")


@run_async
async def test_background_tasks_and_sleep() -> None:
    sio = socketio.AsyncServer()

    async def work(number: int, *, more: int) -> int:
        await sio.sleep(0)
        await sio.sleep()
        return number + more

    async with IOWorker(sio.app):
        assert await sio.start_background_task(work, 1, more=2) == 3


# Handlers


@run_async
async def test_which_handler_gets_an_event() -> None:
    sio = socketio.AsyncServer(namespaces="*")

    class Chat(socketio.AsyncNamespace):
        def on_own(self, sid: str, data: Any) -> Any:
            return ["object", sid == self.sid, data]

        def on_named(self, sid: str, data: Any) -> Any:
            raise AssertionError("a function goes first")

        async def on_connect(self, sid: str, environ: dict[str, Any]) -> None:
            self.sid = sid

    chat = Chat("/chat")
    sio.register_namespace(chat)

    @sio.on("named", namespace="/chat")
    async def named(sid: str, data: Any) -> Any:
        return ["function", sid == chat.sid, data]

    @sio.event(namespace="/rest")
    def direct(sid: str, *args: Any) -> Any:
        return ["direct", *args]

    @sio.on("*", namespace="/rest")
    def rest(event: str, sid: str, *args: Any) -> Any:
        return [event, *args]

    @sio.on("everywhere", namespace="*")
    def everywhere(namespace: str, sid: str, *args: Any) -> Any:
        return [namespace, *args]

    @sio.on("*", namespace="*")
    async def anything(event: str, namespace: str, sid: str, *args: Any) -> Any:
        return [event, namespace, *args]

    expected = {
        "/rest": {"direct": '["direct",1]', "other": '["other",1]', "everywhere": '["everywhere",1]'},
        "/chat": {"named": '["function",true,1]', "everywhere": '["/chat",1]', "other": '["other","/chat",1]'},
        "/x/y": {"everywhere": '["/x/y",1]', "other": '["other","/x/y",1]'},
    }
    async with IOWorker(sio.app) as worker:
        for namespace, events in expected.items():
            engine, _ = await worker.io(namespace)
            for event, answer in events.items():
                engine.say(f'2{namespace},1["{event}",1]')
                assert await engine.next() == f"43{namespace},1[{answer}]"


@run_async
async def test_a_namespace_object_has_the_servers_methods_with_its_namespace() -> None:
    sio = socketio.AsyncServer()
    seen: list[Any] = []

    class Chat(socketio.AsyncNamespace):
        async def on_connect(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
            async with self.session(sid) as session:
                session["auth"] = auth
            await self.enter_room(sid, "r")

        async def on_my_event(self, sid: str, data: Any) -> Any:
            await self.emit("answer", data, room="r")
            await self.send("text", to=sid)
            await self.leave_room(sid, "r")
            seen.append((self.rooms(sid), await self.get_session(sid)))
            await self.save_session(sid, {})
            await self.close_room("r")
            seen.append(await self.call("q", to=sid))
            await self.disconnect(sid)

        def on_disconnect(self, sid: str) -> None:
            seen.append("gone")

    sio.register_namespace(Chat("/chat"))
    assert Chat().namespace == "/"
    assert Chat.reason.PING_TIMEOUT == "ping timeout"
    async with IOWorker(sio.app) as worker:
        engine, sid = await worker.io("/chat", {"n": 1})
        engine.say('2/chat,["my_event",5]')
        assert [await engine.next() for _ in range(3)] == [
            '42/chat,["answer",5]', '42/chat,["message","text"]', '42/chat,0["q"]',
        ]  # fmt: skip
        engine.say('3/chat,0["yes"]')
        assert await engine.next() == "41/chat,"
        await until(lambda: "gone" in seen)
        assert seen == [([sid], {"auth": {"n": 1}}), "yes", "gone"]
    with pytest.raises(ValueError, match="AsyncNamespace"):
        sio.register_namespace(object())  # type: ignore[arg-type]


@run_async
async def test_a_namespace_may_find_its_handlers_another_way() -> None:
    sio = socketio.AsyncServer()

    class Own(socketio.AsyncNamespace):
        async def trigger_event(self, event: str, *args: Any) -> Any:
            return [event, len(args)]

    sio.register_namespace(Own("/own"))
    async with IOWorker(sio.app) as worker:
        engine, _ = await worker.io("/own")
        engine.say('2/own,1["what ever",1,2]')
        assert await engine.next() == '43/own,1[["what ever",3]]'


@pytest.mark.parametrize("in_order", [False, True])
@run_async
async def test_async_handlers_says_whether_events_of_a_client_wait_for_one_another(in_order: bool) -> None:
    sio = socketio.AsyncServer(async_handlers=not in_order)
    may_end = asyncio.Event()
    began: list[int] = []

    @sio.event
    async def work(sid: str, number: int) -> int:
        began.append(number)
        await may_end.wait()
        return number

    async with IOWorker(sio.app) as worker:
        engine, _ = await worker.io()
        other, _ = await worker.io()
        engine.say('21["work",1]', '22["work",2]')
        other.say('23["work",3]')
        await until(lambda: 3 in began)
        assert began == ([1, 3] if in_order else [1, 2, 3])
        may_end.set()
        assert [await engine.next(), await engine.next()] == ["431[1]", "432[2]"]


@run_async
async def test_a_declared_room_of_the_application_below_has_clients_of_both_protocols() -> None:
    sio = socketio.AsyncServer()
    sio.app.room("chat:{name}", open=True, as_event="message")
    async with IOWorker(sio.app) as worker:
        engine, sid = await worker.io()
        await sio.enter_room(sid, "chat:a")
        other = await worker.join()
        await other.ask("subscribe", channel="chat:a")
        await other.ask("publish", channel="chat:a", data={"text": "hi"})
        assert await engine.next() == '42["message",{"text": "hi"}]'
        await sio.emit("message", {"text": "back"}, room="chat:a")
        assert [(await other.push("pub"))["pub"]["data"] for _ in range(2)] == [{"text": "hi"}, {"text": "back"}]
