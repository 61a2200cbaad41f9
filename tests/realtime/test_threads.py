"""
Every method that users have does in any thread what it does on the event loop.

Each is called in a handler that is a plain function, in a thread of the test's own, and in a thread with an event loop
of its own; what it did is then looked at from outside, as clients and other parts of the server see it. A public method
for which there is no case here fails the first test.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import math
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from realtime import App, Connection
from realtime.application.room_handle import RoomHandle
from realtime.application.users import UserHandle
from realtime.errors import ClientError, DeclarationError, Disconnect, NoAcknowledgements
from realtime.session.state import Identity
from realtime.testing import TestClient, TestServer
from realtime.threads import from_any_thread, from_any_thread_at_once
from tests.support.aio import eventually, run_async

ROOM = "chat:a"

# What the worker and the wire protocol call, on the loop alone: no business of an application's.
WORKER = """
    accepts bind bus check connect disconnect empty has_end_hook hub is_socketio leave lost message migrate publish
    room_options
    room_patterns rpc_call sees_moves shutdown startup subscribe
    call_all emit_to end_all find_all has_namespace move_all take_event
"""
FOR_THE_WORKER = {f"App.{name}" for name in WORKER.split()} | {"RoomHandle.check", "App.__call__"}


@dataclass
class Scene:
    """A server with one client, ann, who is in `ROOM`, and what a call returned."""

    app: App
    server: TestServer
    ann: TestClient
    conn: Connection
    result: Any = None

    @property
    def room(self) -> RoomHandle:
        return self.app.room(ROOM)

    @property
    def user(self) -> UserHandle:
        return self.app.user("ann")

    @property
    def sessions(self) -> set[Any]:
        return self.server._parts.registry


def nothing(scene: Scene) -> None:
    """Stand for a handler's declaration."""


@dataclass
class Case:
    call: Callable[[Scene], Any]
    """In a thread."""
    check: Callable[[Scene], Awaitable[None]]
    """On the loop, afterwards."""


# What is seen of each call


async def is_told(scene: Scene) -> None:
    assert await scene.ann.next("message") == {"data": {"hello": 1}}


async def is_gone(scene: Scene) -> None:
    await eventually(lambda: _true(scene.ann.closed is not None))
    assert scene.ann.closed is not None
    assert (scene.ann.closed.code, scene.ann.closed.reason) == (4321, "enough")
    assert len(scene.sessions) == 0, "nobody pings it any more"
    await eventually(lambda: _is_empty(scene))


async def _true(value: bool) -> bool:
    return value


async def _is_empty(scene: Scene) -> bool:
    return (await scene.room.presence_stats()).clients == 0


async def is_in_another_room(scene: Scene) -> None:
    await scene.ann.next("subscribe", "chat:b")
    assert scene.conn.rooms == {ROOM, "chat:b"}


async def is_in_no_room(scene: Scene) -> None:
    await scene.ann.next("unsubscribe", ROOM)
    assert scene.conn.rooms == frozenset()


async def is_published(scene: Scene) -> None:
    assert (await scene.ann.next("pub", ROOM))["data"] == {"text": "hello"}
    assert scene.result.offset == 1
    assert len((await scene.room.history()).publications) == 1


async def has_page(scene: Scene) -> None:
    assert (list(scene.result.publications), scene.result.top.offset) == ([], 0)


async def is_forgotten(scene: Scene) -> None:
    assert not (await scene.room.history()).publications


async def has_members(scene: Scene) -> None:
    assert {id: (member.user, member.info) for id, member in scene.result.items()} == {scene.conn.id: ("ann", None)}


async def has_page_of_members(scene: Scene) -> None:
    assert [info.user for info in scene.result.members.values()] == ["ann"]


async def has_counts(scene: Scene) -> None:
    assert (scene.result.clients, scene.result.users) == (1, 1)


async def has_places(scene: Scene) -> None:
    assert [place.connection_id for place in scene.result] == [scene.conn.id]


async def is_revoked(scene: Scene) -> None:
    await eventually(lambda: _true(scene.ann.closed is not None))
    assert scene.ann.closed is not None
    assert scene.ann.closed.code == 3005


def returns(wanted: Callable[[Scene], Any]) -> Callable[[Scene], Awaitable[None]]:
    """Expect this result."""

    async def check(scene: Scene) -> None:
        assert scene.result == wanted(scene)

    return check


def registers(name: str) -> Callable[[Scene], Awaitable[None]]:
    async def check(scene: Scene) -> None:
        assert name in scene.app._on

    return check


async def has_declared(scene: Scene) -> None:
    await scene.ann.subscribe("late:x")
    assert await scene.ann.rpc("late") == 7
    assert scene.app.mounts[-1][0] == "/late"
    assert scene.app.statics[-1][0] == "/files"


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


def declare_all(scene: Scene) -> None:
    scene.app.room("late:{name}", open=True)
    scene.app.rpc("late")(lambda conn: 7)
    scene.app.mount("/late", asgi)
    scene.app.static("/files", Path(__file__).parent)


def declare_job(scene: Scene) -> str:
    with pytest.raises(DeclarationError, match="before a worker starts"):
        scene.app.every(5)(lambda: None)
    return "too late"


class Late:
    async def on_subscribe(self, conn: Connection) -> None: ...


async def has_declared_by_class(scene: Scene) -> None:
    await scene.ann.subscribe("decorated")


def refused_call(scene: Scene) -> Any:
    """Call a client that acknowledges nothing."""

    async def awaited(calling: Awaitable[Any]) -> str:
        with pytest.raises(NoAcknowledgements):
            await calling
        return "refused"

    try:
        calling: Any = scene.conn.call("question")
    except NoAcknowledgements:
        return "refused"
    return awaited(calling)


async def has_event(scene: Scene) -> None:
    assert await scene.ann.next("message") == {"data": {"event": "hello", "args": [1]}}


has_loop = returns(lambda scene: asyncio.get_running_loop())
DECLARED = Case(declare_all, has_declared)

CASES = {
    "Connection.send": Case(lambda scene: scene.conn.send({"hello": 1}), is_told),
    "Connection.disconnect": Case(lambda scene: scene.conn.disconnect(4321, "enough"), is_gone),
    "Connection.subscribe": Case(lambda scene: scene.conn.subscribe("chat:b"), is_in_another_room),
    "Connection.unsubscribe": Case(lambda scene: scene.conn.unsubscribe(ROOM), is_in_no_room),
    "Connection.emit": Case(lambda scene: scene.conn.emit("hello", 1), has_event),
    "Connection.call": Case(refused_call, returns(lambda scene: "refused")),
    "Connection.enter": Case(lambda scene: scene.conn.enter("chat:b"), is_in_another_room),
    "Connection.leave": Case(lambda scene: scene.conn.leave(ROOM), is_in_no_room),
    "Connection.to": Case(lambda scene: scene.conn.to("a", "b").rooms, returns(lambda scene: ("a", "b"))),
    "Connection.broadcast": Case(lambda scene: scene.conn.broadcast.sender, returns(lambda scene: scene.conn)),
    "Connection.rooms": Case(lambda scene: scene.conn.rooms, returns(lambda scene: {ROOM})),
    "Connection.roles": Case(lambda scene: scene.conn.roles, returns(lambda scene: {"staff"})),
    "Connection.describe": Case(lambda s: s.conn.describe(), returns(lambda scene: scene.conn.describe())),
    "Connection.snapshot": Case(lambda s: s.conn.snapshot(), returns(lambda scene: scene.conn.snapshot())),
    "Connection.restore": Case(
        lambda scene: Connection.restore(scene.conn.snapshot()).id, returns(lambda scene: scene.conn.id)
    ),
    "Connection.event_loop": Case(lambda scene: scene.conn.event_loop(), has_loop),
    "RoomHandle.publish": Case(lambda scene: scene.room.publish({"text": "hello"}), is_published),
    "RoomHandle.history": Case(lambda scene: scene.room.history(), has_page),
    "RoomHandle.forget_history": Case(lambda scene: scene.room.forget_history(), is_forgotten),
    "RoomHandle.presence": Case(lambda scene: scene.room.presence(), has_members),
    "RoomHandle.presence_page": Case(lambda scene: scene.room.presence_page(), has_page_of_members),
    "RoomHandle.presence_stats": Case(lambda scene: scene.room.presence_stats(), has_counts),
    "RoomHandle.event_loop": Case(lambda scene: scene.room.event_loop(), has_loop),
    "RoomHandle.__call__": Case(lambda scene: scene.app.room("decorated")(Late), has_declared_by_class),
    "UserHandle.connections": Case(lambda scene: scene.user.connections(), has_places),
    "UserHandle.is_online": Case(lambda scene: scene.user.is_online(), returns(lambda scene: True)),
    "UserHandle.disconnect": Case(lambda scene: scene.user.disconnect(4321, "enough"), is_gone),
    "UserHandle.revoke_tokens": Case(lambda scene: scene.user.revoke_tokens(), is_revoked),
    "UserHandle.subscribe": Case(lambda scene: scene.user.subscribe("chat:b"), is_in_another_room),
    "UserHandle.unsubscribe": Case(lambda scene: scene.user.unsubscribe(ROOM), is_in_no_room),
    "UserHandle.event_loop": Case(lambda scene: scene.user.event_loop(), has_loop),
    "App.run_cpu": Case(lambda scene: scene.app.run_cpu(math.factorial, 20), returns(lambda scene: math.factorial(20))),
    "App.user": Case(lambda scene: scene.app.user("ann").name, returns(lambda scene: "ann")),
    "App.event_loop": Case(lambda scene: scene.app.event_loop(), has_loop),
    "App.on_disconnect": Case(lambda scene: scene.app.on_disconnect(nothing), registers("on_disconnect")),
    "App.on_connect": Case(lambda scene: scene.app.on_connect(nothing), registers("on_connect")),
    "App.on_migrate": Case(lambda scene: scene.app.on_migrate(nothing), registers("on_migrate")),
    "App.on_message": Case(lambda scene: scene.app.on_message(nothing), registers("on_message")),
    "App.on_startup": Case(lambda scene: scene.app.on_startup(lambda: None), returns(lambda scene: scene.result)),
    "App.on_shutdown": Case(lambda scene: scene.app.on_shutdown(lambda: None), returns(lambda scene: scene.result)),
    "App.event": Case(lambda scene: scene.app.event("late")(nothing), returns(lambda scene: nothing)),
    "App.server_event": Case(lambda scene: scene.app.server_event("late")(nothing), returns(lambda scene: nothing)),
    "App.namespace": Case(lambda scene: scene.app.namespace("/x").namespace, returns(lambda scene: "/x")),
    "App.to": Case(lambda scene: scene.app.to("a").emit("hello"), returns(lambda scene: None)),
    "App.except_": Case(lambda scene: scene.app.except_("a").emit("hello"), returns(lambda scene: None)),
    "App.local": Case(lambda scene: scene.app.local.connections(), returns(lambda scene: [])),
    "App.volatile": Case(lambda scene: scene.app.volatile.emit("hello"), returns(lambda scene: None)),
    "App.emit": Case(lambda scene: scene.app.emit("hello"), returns(lambda scene: None)),
    "App.server_side_emit": Case(lambda scene: scene.app.server_side_emit("hello"), returns(lambda scene: None)),
    "App.every": Case(declare_job, returns(lambda scene: "too late")),
    "App.room": DECLARED,
    "App.rpc": DECLARED,
    "App.mount": DECLARED,
    "App.static": DECLARED,
}


def public(kind: type) -> set[str]:
    """Return what a user may call, or read as if it were stored."""
    names = {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}
    names |= {"__call__"} if "__call__" in vars(kind) else set()
    stored = set(kind.__dict__.get("__slots__", ())) - {"event_loop"}
    if kind is Connection:  # what it is, is stored in its session's state
        stored |= {*Identity.__struct_fields__, "info", "state"}
    return {f"{kind.__name__}.{name}" for name in names - stored}


def test_each_method_has_a_case() -> None:
    found = public(Connection) | public(RoomHandle) | public(UserHandle) | public(App)
    assert found - FOR_THE_WORKER == set(CASES)


# The ways of calling it


def by_a_handler(scene: Scene, call: Callable[[Scene], Any]) -> Awaitable[None]:
    """Call it in a handler that is a plain function."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def handle(conn: Connection) -> None:
        assert threading.current_thread() is not threading.main_thread()
        try:
            scene.result = call(scene)
        finally:
            loop.call_soon_threadsafe(done.set)

    scene.app.rpc("do")(handle)
    asking = asyncio.ensure_future(scene.ann.rpc("do"))

    async def wait() -> None:
        await done.wait()
        await asyncio.wait([asking], timeout=None if scene.ann.closed is None else 0)
        if asking.done() and not isinstance(asking.exception(), Disconnect):
            asking.result()

    return wait()


async def by_a_thread(scene: Scene, call: Callable[[Scene], Any]) -> None:
    scene.result = await asyncio.to_thread(call, scene)


async def by_another_loop(scene: Scene, call: Callable[[Scene], Any]) -> None:
    async def there() -> Any:
        result = call(scene)
        return await result if inspect.isawaitable(result) else result

    scene.result = await asyncio.to_thread(lambda: asyncio.run(there()))


WAYS = [by_a_handler, by_a_thread, by_another_loop]


def make_app() -> App:
    app = App()
    app.room("chat:{name}", open=True, presence=True, history=10)
    return app


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CASES)
@run_async
async def test_it_does_the_same(name: str, way: Callable[[Scene, Callable[[Scene], Any]], Awaitable[None]]) -> None:
    app = make_app()
    async with TestServer(app) as server:
        ann = await server.connect(claims={"sub": "ann", "roles": ["staff"], "iat": 1})
        await ann.subscribe(ROOM)
        [session] = server._parts.registry
        scene = Scene(app, server, ann, session.connection)
        await way(scene, CASES[name].call)
        assert not inspect.isawaitable(scene.result), "it is done"
        await CASES[name].check(scene)


# Around it


@run_async
async def test_what_a_thread_does_happens_in_its_order() -> None:
    app = make_app()

    @app.rpc("many")
    def many(conn: Connection) -> None:
        for number in range(50):
            conn.send(number)
            app.room(ROOM).publish(number)
        conn.disconnect(4000, "that was all")

    async with TestServer(app) as server:
        ann = await server.connect()
        await ann.subscribe(ROOM)
        with pytest.raises(Disconnect):
            await ann.rpc("many")
        seen = [push for push in iter(ann._pushes.get_nowait, {}) if "message" in push or "pub" in push]
    assert [push.get("message", push.get("pub"))["data"] for push in seen] == [n for n in range(50) for _ in "ab"]


@run_async
async def test_an_exception_reaches_the_thread_and_from_there_the_client() -> None:
    app = make_app()
    raised: list[ClientError] = []

    @app.rpc("enter")
    def enter(conn: Connection) -> None:
        try:
            conn.subscribe("undeclared")
        except ClientError as error:
            raised.append(error)
            raise

    async with TestServer(app) as server:
        ann = await server.connect()
        with pytest.raises(ClientError) as refused:
            await ann.rpc("enter")
    assert [error.code for error in raised] == [102]
    assert refused.value.code == 102


@run_async
async def test_a_handler_in_a_thread_that_ends_its_connection_goes_on_as_on_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it raises afterwards is logged: nobody has cancelled the task that waits for it."""
    app = make_app()

    @app.rpc("end")
    def end(conn: Connection) -> None:
        conn.disconnect()
        conn.send("nobody hears it")
        conn.disconnect()
        raise ValueError("after the end")

    async with TestServer(app) as server:
        ann = await server.connect()
        with pytest.raises(Disconnect):
            await ann.rpc("end")
        await eventually(lambda: _true("after the end" in caplog.text))


@run_async
async def test_the_rooms_of_on_connect_may_be_given_by_a_plain_function() -> None:
    app = make_app()

    @app.on_connect
    def connect(conn: Connection) -> None:
        conn.subscribe(ROOM)
        conn.state["seen"] = app.room(ROOM).presence_stats().clients  # type: ignore[attr-defined]

    async with TestServer(app) as server:
        ann = await server.connect()
        assert ROOM in ann.connected["subs"]
        [session] = server._parts.registry
        assert session.connection.state == {"seen": 0}


@run_async
async def test_plain_functions_at_the_start_and_the_end_may_publish() -> None:
    app, found = make_app(), []

    @app.on_startup
    def begin() -> None:
        app.room(ROOM).publish("begun")

    @app.on_shutdown
    def end() -> None:
        app.room(ROOM).publish("ended")
        found.extend(each.data for each in app.room(ROOM).history().publications)  # type: ignore[attr-defined]

    async with TestServer(app):
        pass
    assert found == ["begun", "ended"]


@run_async
async def test_many_threads_at_once_are_all_served() -> None:
    """More than there are threads for handlers: each waits for the loop, and the loop for none of them."""
    app = make_app()

    @app.rpc("publish")
    def publish(conn: Connection, data: int) -> None:
        app.room(ROOM).publish(data)

    async with TestServer(app) as server:
        clients = [await server.connect() for _ in range(40)]
        await asyncio.gather(*[client.rpc("publish", number) for number, client in enumerate(clients)])
        assert len((await app.room(ROOM).history(100)).publications) == 10
        assert (await app.room(ROOM).history()).top.offset == 40


word = contextvars.ContextVar("word", default="nothing")


class Homed:
    """Something of an event loop's, that has nothing else to do with the server."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop

    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        return self._loop

    @from_any_thread
    async def read(self) -> str:
        return word.get()

    @from_any_thread_at_once
    def read_at_once(self) -> str:
        return word.get()

    @from_any_thread
    async def wait(self) -> None:
        await asyncio.Event().wait()


@run_async
async def test_the_context_variables_of_a_caller_are_seen_in_both_directions() -> None:
    app, homed = App(), Homed(asyncio.get_running_loop())

    @app.rpc("read")
    def read(conn: Connection) -> list[Any]:
        seen = word.get()
        word.set("by the thread")
        return [seen, homed.read(), homed.read_at_once()]

    async with TestServer(app) as server:
        ann = await server.connect()
        word.set("by the client")
        assert await ann.rpc("read") == ["by the client", "by the thread", "by the thread"]
    assert word.get() == "by the client", "and changed for nobody else"


@run_async
async def test_on_the_loop_itself_nothing_waits() -> None:
    homed = Homed(asyncio.get_running_loop())
    assert homed.read_at_once() == "nothing"
    coroutine = homed.read()
    assert inspect.iscoroutine(coroutine)
    assert await coroutine == "nothing"


def test_what_no_worker_runs_is_done_at_once_or_says_why_not() -> None:
    assert Homed(None).read() == "nothing"
    with pytest.raises(RuntimeError, match="no worker runs this application"):
        App().room(ROOM).publish(1)
    with pytest.raises(RuntimeError, match="no worker runs this application"):
        App().user("ann").is_online()


def test_a_thread_that_waits_when_the_worker_ends_is_told_so() -> None:
    failed: list[BaseException] = []

    def wait(homed: Homed) -> None:
        try:
            homed.wait()
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    async def main() -> tuple[threading.Thread, Homed]:
        homed = Homed(asyncio.get_running_loop())
        thread = threading.Thread(target=wait, args=(homed,))
        thread.start()
        await eventually(lambda: _true(len(asyncio.all_tasks()) > 1))
        return thread, homed

    thread, homed = asyncio.run(main())
    thread.join(30)
    assert [str(error) for error in failed] == ["the worker has ended, so this call cannot run"]
    with pytest.raises(RuntimeError, match="the worker has ended"):
        homed.read()
    with pytest.raises(RuntimeError, match="the worker has ended"):
        homed.read_at_once()
