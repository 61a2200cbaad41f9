"""The face of python-socketio: what it offers, what it refuses by name, and how `realtime serve` finds it."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import Any

import pytest
import socketio as stock

from realtime import socketio
from realtime.application.loader import load_target
from realtime.settings import Settings
from realtime.socketio import exceptions
from realtime.socketio.asgi_app import ASGIApp
from realtime.socketio.static_files import StaticThen
from tests.support.aio import run_async

APP = Path(__file__).parents[2] / "apps" / "face_app.py"

METHODS = [
    "call", "close_room", "disconnect", "emit", "enter_room", "event", "get_environ", "get_session", "leave_room",
    "on", "register_namespace", "rooms", "save_session", "send", "session", "sleep", "start_background_task",
    "transport",
]  # fmt: skip
OF_NAMESPACES = [
    "call", "close_room", "disconnect", "emit", "enter_room", "get_session", "leave_room",
    "rooms", "save_session", "send", "session", "trigger_event",
]  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_the_arguments_of_python_socketio(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(each.AsyncServer, name)) for each in (socketio, stock))
    assert list(ours.parameters) == list(theirs.parameters)
    wanted = {each.name: each.default for each in theirs.parameters.values()}
    assert {each.name: each.default for each in ours.parameters.values()} == wanted


@pytest.mark.parametrize("name", OF_NAMESPACES)
def test_a_namespace_has_the_methods_of_python_socketio(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(each.AsyncNamespace, name)) for each in (socketio, stock))
    assert list(ours.parameters)[: len(theirs.parameters)] == list(theirs.parameters)


@pytest.mark.parametrize("name", [each for each in dir(stock.exceptions) if each[0].isupper()])
def test_there_is_each_exception_of_python_socketio(name: str) -> None:
    assert issubclass(getattr(exceptions, name), exceptions.SocketIOError)


@pytest.mark.parametrize("name", [each for each in stock.AsyncServer.reason.__dict__ if each.isupper()])
def test_the_reasons_are_those_of_python_socketio(name: str) -> None:
    assert getattr(socketio.AsyncServer.reason, name) == getattr(stock.AsyncServer.reason, name)


@pytest.mark.parametrize("name", [each for each in dir(stock) if each[0].isupper() and each not in socketio.__all__])
def test_a_name_that_is_missing_is_refused_by_name(name: str) -> None:
    with pytest.raises(AttributeError, match=f"socketio: {name} is not supported: "):
        getattr(socketio, name)


def test_a_name_that_there_never_was_is_no_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'AsyncServr'"):
        socketio.AsyncServr  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'emitt'"):
        socketio.AsyncServer().emitt  # noqa: B018


@pytest.mark.parametrize("name", ["instrument", "attach", "handle_request", "shutdown", "manager", "eio", "environ"])
def test_a_method_that_is_missing_is_refused_by_name(name: str) -> None:
    with pytest.raises(AttributeError, match=f"AsyncServer.{name} is not supported: "):
        getattr(socketio.AsyncServer(), name)


@pytest.mark.parametrize(
    "given",
    [
        {"client_manager": object()},
        {"json": object()},
        {"serializer": "msgpack"},
        {"async_mode": "aiohttp"},
        {"allow_upgrades": False},
        {"cookie": "io"},
        {"transports": ["websocket"]},
    ],
    ids=lambda given: next(iter(given)),
)
def test_an_argument_that_has_no_place_is_refused_by_name(given: dict[str, Any]) -> None:
    with pytest.raises(exceptions.Unsupported, match=rf"AsyncServer\({next(iter(given))}="):
        socketio.AsyncServer(**given)


def test_arguments_that_python_socketio_does_not_have_are_mistakes() -> None:
    with pytest.raises(TypeError, match="'ping_intervall'"):
        socketio.AsyncServer(ping_intervall=5)


def test_arguments_become_settings_where_the_operator_says_nothing() -> None:
    sio = socketio.AsyncServer(
        ping_interval=(5, 1), ping_timeout=7, max_http_buffer_size=2_000, cors_allowed_origins=["http://A.example"],
        logger=True, async_mode="asgi", transports=["polling", "websocket"], cookie=None, always_connect=True,
    )  # fmt: skip
    settings = Settings().with_defaults(sio.app.setting_defaults)
    assert (settings.socketio_ping_s, settings.socketio_ping_timeout_s, settings.message_bytes) == (5.0, 7.0, 2_000)
    assert settings.allowed_origins == ("http://a.example",)
    kept = Settings(socketio_ping_s=9.0, message_bytes=70_000).with_defaults(sio.app.setting_defaults)
    assert (kept.socketio_ping_s, kept.socketio_ping_timeout_s, kept.message_bytes) == (9.0, 7.0, 70_000)
    plain = Settings().with_defaults(socketio.AsyncServer().app.setting_defaults)
    assert (plain.message_bytes, plain.allowed_origins) == (1_000_000, ())


@pytest.mark.parametrize(
    ("given", "origins"), [("*", ("*",)), ([], ("*",)), (None, ()), ("http://a.example", ("http://a.example",))]
)
def test_origins(given: Any, origins: tuple[str, ...]) -> None:
    sio = socketio.AsyncServer(cors_allowed_origins=given)
    assert Settings().with_defaults(sio.app.setting_defaults).allowed_origins == origins


def test_origins_cannot_be_a_function() -> None:
    with pytest.raises(exceptions.Unsupported, match="cors_allowed_origins"):
        socketio.AsyncServer(cors_allowed_origins=lambda origin: True)


@pytest.mark.parametrize("attribute", ["app", "bare", "sio"])
def test_realtime_serve_finds_it(attribute: str) -> None:
    app = load_target(f"{APP}:{attribute}", Path.cwd())
    assert app.is_socketio
    assert app.has_namespace("/admin")
    assert [path for path, _ in app.mounts] == ([""] if attribute == "app" else [])


def test_an_asgi_app_refuses_what_it_cannot_do() -> None:
    with pytest.raises(exceptions.Unsupported, match="its server is an AsyncServer"):
        ASGIApp(stock.AsyncServer(async_mode="asgi"))
    with pytest.raises(exceptions.Unsupported, match="--own-prefix"):
        ASGIApp(socketio.AsyncServer(), socketio_path="ws/socket.io")
    ASGIApp(socketio.AsyncServer(), socketio_path="/socket.io/")


@run_async
async def test_no_asgi_server_serves_it() -> None:
    for app in (ASGIApp(socketio.AsyncServer()), socketio.AsyncServer()):
        with pytest.raises(exceptions.Unsupported, match="realtime serve"):
            await app({"type": "lifespan"}, None, None)


@run_async
async def test_startup_and_shutdown_run_on_the_event_loop() -> None:
    seen: list[str] = []
    sio = socketio.AsyncServer()

    async def ends() -> None:
        seen.append("ends")

    app = ASGIApp(sio, on_startup=lambda: seen.append("begins"), on_shutdown=ends)
    assert app.as_application() is app.as_application() is sio.app
    for handlers in (sio.app._starting, sio.app._stopping):
        for handler in handlers:
            assert handler.is_coroutine
            await handler()
    assert seen == ["begins", "ends"]


class Answer:
    """What an ASGI application sent."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.headers: dict[bytes, bytes] = {}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.body += message.get("body", b"")


async def get(app: Any, path: str, method: str = "GET") -> Answer:
    answer = Answer()

    async def receive() -> dict[str, Any]:
        return await asyncio.get_running_loop().create_future()  # it stays

    await app({"type": "http", "method": method, "path": path, "headers": []}, receive, answer.send)
    return answer


@run_async
async def test_static_files(tmp_path: Path) -> None:
    (tmp_path / "public" / "sub").mkdir(parents=True)
    (tmp_path / "public" / "sub" / "index.html").write_text("below")
    (tmp_path / "public" / "a.js").write_text("script")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "index.html").write_text("page")

    async def other(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": []})

    files = {
        "/": str(tmp_path / "index.html"),
        "/static": str(tmp_path / "public"),
        "/typed": {"filename": str(tmp_path / "secret"), "content_type": "text/x-typed"},
    }
    app = StaticThen(files, other)
    assert (await get(app, "/")).body == b"page"
    assert (await get(app, "/static/a.js")).body == b"script"
    assert (await get(app, "/static/sub/")).body == b"below"
    assert (await get(app, "/typed")).headers[b"content-type"].startswith(b"text/x-typed")
    for path in ("/static/../secret", "/static//../../secret", "/static/none", "/static/\0", "/other", "/static/sub"):
        assert (await get(app, path)).status == 299, path
    assert (await get(app, "/", "POST")).status == 299
    assert (await get(StaticThen(files, None), "/other")).status == 404
