"""Mistakes of an application that are refused when it is declared: each by its message, with file and line."""

from __future__ import annotations

import functools
import inspect
import uuid
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pytest

from realtime import App, Connection
from realtime.application.app import Application
from realtime.application.loader import load_target
from realtime.application.pattern import Pattern
from realtime.errors import ClientError, DeclarationError, RealtimeError, TargetError
from realtime.testing import TestServer
from tests.support.aio import run_async

if TYPE_CHECKING:
    from decimal import Decimal


class Colour(Enum):
    RED = "red"


def refused(declare: Callable[[App], object], *words: str) -> str:
    """Have an application declare something, and return the text by which it is refused."""
    app = App()
    with pytest.raises(DeclarationError) as found:  # noqa: PT012 - some mistakes show when all is declared
        declare(app)
        app.check()
    text = str(found.value)
    assert isinstance(found.value, RealtimeError), "a worker shows it without a traceback"
    for each in words:
        assert each in text, text
    return text


def line_of(function: Any) -> str:
    return f"{__file__}, line {inspect.unwrap(function).__code__.co_firstlineno}"


# Handlers that there are not


def test_a_handler_that_no_room_has_is_refused() -> None:
    class Chat:
        async def on_subscirbe(self, conn: Connection) -> None: ...

    text = refused(lambda app: app.room("chat:{name}")(Chat), "Chat.on_subscirbe", "did you mean `on_subscribe`?")
    assert text.startswith(line_of(Chat.on_subscirbe))
    assert "A room may have: on_subscribe, on_publish, on_leave, on_empty, accepts" in text


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("onSubscribe", "on_subscribe"),
        ("onpublish", "on_publish"),
        ("_on_subscribe", "on_subscribe"),
        ("on_subscribe_", "on_subscribe"),
        ("On_Leave", "on_leave"),
        ("accept", "accepts"),
        ("acepts", "accepts"),
    ],
)
def test_a_method_that_looks_like_a_handler_is_refused(name: str, meant: str) -> None:
    async def method(self: object, conn: Connection) -> None: ...

    text = refused(
        lambda app: app.room("chat:{name}")(type("Chat", (), {name: method})),
        f"Chat.{name} is no handler of a room; did you mean `{meant}`? A room may have: on_subscribe,",
    )
    assert text.startswith(line_of(method))


def test_a_handler_that_is_like_none_is_refused_with_those_that_there_are() -> None:
    class Chat:
        async def on_presence(self, conn: Connection) -> None: ...

    refused(lambda app: app.room("chat:{name}")(Chat), "is no handler of a room. A room may have: on_subscribe,")
    refused(lambda app: app.on_quit(print), "is no handler of an application. An application may have: on_c")  # type: ignore[attr-defined]


def test_methods_that_handlers_share_are_no_mistakes() -> None:
    async def method(self: object) -> None: ...

    names = ("publish", "subscribe", "leave", "accepted", "access", "once", "online", "_helper")
    App().room("chat:{name}")(type("Chat", (), dict.fromkeys(names, method)))


def test_what_cannot_be_called_is_no_handler() -> None:
    class Chat:
        on_subscribe = "everybody"

    refused(lambda app: app.room("chat:{name}")(Chat), "Chat.on_subscribe is a str, and no function", __file__)
    refused(lambda app: app.on_connect("everybody"), "a handler is a function, and no str", __file__)  # type: ignore[type-var]


def test_a_handler_that_no_application_has_is_refused() -> None:
    text = refused(lambda app: app.on_conect(print), "app.on_conect", "did you mean `on_connect`?")  # type: ignore[attr-defined]
    assert text.startswith(f"{__file__}, line ")
    assert not hasattr(App(), "on_conect")


def test_a_handler_of_a_room_on_an_application_is_refused_with_its_place() -> None:
    refused(lambda app: app.on_publish(print), "app.on_publish is a handler of a room", "@app.room(…)")  # type: ignore[attr-defined]


def test_a_handler_is_registered_once() -> None:
    def declare(app: App) -> None:
        app.on_message(lambda conn: None)
        app.on_message(lambda conn: None)

    refused(declare, "on_message is registered twice; before in", __file__)


# Annotations


def test_an_annotation_that_cannot_be_resolved_is_refused() -> None:
    async def on_message(conn: Connection, data: Unheard) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    text = refused(lambda app: app.on_message(on_message), "the annotation `Unheard` of `data` cannot be resolved")
    assert text.startswith(line_of(on_message))
    assert "name 'Unheard' is not defined" in text


def test_an_import_for_type_checkers_alone_is_refused_where_it_checks_data() -> None:
    async def on_message(conn: Connection, data: Decimal) -> None: ...

    refused(lambda app: app.on_message(on_message), "`Decimal` of `data`", "if TYPE_CHECKING:")


@run_async
async def test_annotations_that_check_nothing_need_no_names_at_run_time() -> None:
    class Said(msgspec.Struct):  # of the function around the handlers: seen where they are registered
        text: str

    app = App()

    @app.rpc("say")
    async def say(conn: Decimal, data: Said) -> Decimal:
        return data.text  # type: ignore[return-value]

    async with TestServer(app) as server:
        client = await server.connect()
        assert await client.rpc("say", {"text": "a"}) == "a"
        with pytest.raises(ClientError, match="`text`"):
            await client.rpc("say", {})


@run_async
async def test_an_annotation_may_name_what_stands_in_the_class_of_its_handler() -> None:
    app = App()

    @app.room("chat")
    class Chat:
        class Said(msgspec.Struct):
            text: str

        async def on_publish(self, conn: Connection, data: Said) -> Said:
            return data

    async with TestServer(app) as server:
        client = await server.connect()
        await client.subscribe("chat")
        with pytest.raises(ClientError, match="`text`"):
            await client.publish("chat", {})


# Decorators without parentheses


def test_rpc_without_parentheses_is_refused() -> None:
    async def rename(conn: Connection) -> None: ...

    text = refused(lambda app: app.rpc(rename), '`rename`: write @app.rpc("rename")')  # type: ignore[arg-type]
    assert text.startswith(line_of(rename))


def test_room_without_parentheses_is_refused() -> None:
    class Chat: ...

    refused(lambda app: app.room(Chat), '`Chat`: write @app.room("chat:{name}")', __file__)  # type: ignore[arg-type]


def test_a_room_decorates_a_class_and_no_function() -> None:
    async def chat(conn: Connection) -> None: ...

    refused(lambda app: app.room("chat")(chat), "@app.room('chat') decorates a class")  # type: ignore[type-var]


@pytest.mark.parametrize("name", ["on_connect", "on_message", "on_migrate", "on_startup", "on_shutdown"])
def test_a_handler_without_options_has_no_parentheses(name: str) -> None:
    text = refused(
        lambda app: getattr(app, name)(),
        f"@app.{name}(…): missing a required argument: 'function'; did you mean `@app.{name}`, without parentheses?",
    )
    assert text.startswith(f"{__file__}, line {inspect.currentframe().f_lineno - 3}: ")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (lambda app: app.rpc(), """'name'; write @app.rpc("rename"), with a name in parentheses"""),
        (lambda app: app.every(), "'seconds'; write @app.every(30), with seconds in parentheses"),
        (lambda app: app.every(3, onec="worker"), "argument 'onec'; write @app.every(30)"),
        (lambda app: app.on_disconnect(grace=3), "argument 'grace'; write `@app.on_disconnect` or `@app.on_disc"),
        (lambda app: app.on_connect(grace_s=3), "did you mean `@app.on_connect`, without parentheses?"),
        (lambda app: app.room(), "room '': this is no pattern; write chat:lobby or chat:{name}"),
    ],
)
def test_a_decorator_says_what_stands_in_its_parentheses(declare: Callable[[App], object], words: str) -> None:
    assert refused(declare, words).startswith(f"{__file__}, line ")


def test_a_handle_of_a_room_decorates_no_handler() -> None:
    text = refused(
        lambda app: app.room("chat").on_subscribe(print),  # type: ignore[attr-defined]
        "app.room('chat').on_subscribe is no decorator",
        "methods of the class that @app.room('chat') decorates. A room may have: on_subscribe, ",
    )
    assert text.startswith(f"{__file__}, line ")
    assert not hasattr(App().room("chat"), "on_subscribe")


# Patterns


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ("chat:{name}", "chat:{name}", "room 'chat:{name}' is declared twice"),
        ("chat:{name}", "chat:{id}", "room 'chat:{id}' matches the same rooms as 'chat:{name}'"),
        ("{*}", "{name}", "such as 'x'"),
        ("a:{x}", "{y}:b", "such as 'a:b'"),
    ],
)
def test_two_patterns_that_match_the_same_rooms_are_refused(one: str, other: str, words: str) -> None:
    def declare(app: App) -> None:
        app.room(one, open=True)
        app.room(other, open=True)

    refused(declare, words, f"(declared in {__file__}, line ")


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("chat:{name}", "chat:lobby", "chat:lobby"),
        ("chat:{name}", "chat:{a}:{b}", None),
        ("chat:{*}", "chat:{a}:{b}", "chat:x:x"),
        ("{a}", "a:b", None),
        ("{*}b", "a{*}", "ab"),
        ("{a}-{b}", "{c}", "x-x"),
        ("a", "b", None),
        ("a", "aa", None),
    ],
)
def test_the_common_rooms_of_two_patterns(one: str, other: str, common: str | None) -> None:
    assert Pattern(one).common(Pattern(other)) == Pattern(other).common(Pattern(one)) == common
    if common is not None:
        assert Pattern(one).match(common) is not None
        assert Pattern(other).match(common) is not None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chat:*", "room 'chat:*': `*` stands for no characters by itself; did you mean `chat:{*}`?"),
        ("{*}:*", "did you mean `{*}:{*}`?"),
        ("chat:{name", "room 'chat:{name': this is no pattern; write chat:lobby or chat:{name}"),
        (
            "chat:{name:int}",
            "'name:int' is no name for a variable; a type is the annotation of the handler's parameter",
        ),
        ("chat:{a}:{a}", "room 'chat:{a}:{a}': two variables have one name"),
        ("", "room '': this is no pattern"),
    ],
)
def test_a_name_that_is_no_pattern_is_refused(name: str, words: str) -> None:
    text = refused(lambda app: app.room(name, open=True), words)
    assert text.startswith(f"{__file__}, line ")


def test_a_room_is_declared_beside_a_pattern_that_says_less() -> None:
    app = App()
    for name in ("{*}", "chat:{name}", "chat:lobby", "chat:{name}:typing"):
        app.room(name, open=True)
    assert app.rooms.patterns[-1] == "{*}"


# Options


def test_an_option_that_there_is_not_is_refused_with_its_line() -> None:
    text = refused(
        lambda app: app.room("chat:lobby", histroy=5),  # type: ignore[call-arg]
        "room 'chat:lobby': there is no option `histroy`; did you mean `history`? options: presence, ",
    )
    assert text.startswith(f"{__file__}, line ")
    refused(lambda app: app.room("a", colour=5), "there is no option `colour`; options: presence, ")  # type: ignore[call-arg]


def test_options_that_declare_nothing_are_refused_with_their_line() -> None:
    text = refused(
        lambda app: app.room("chat:lobby", presence=True),
        "app.room('chat:lobby', …) has options and declares nothing",
        "open=True",
        "A handle of a room has no options: app.room('chat:lobby')",
    )
    assert text.startswith(f"{__file__}, line ")


@run_async
async def test_a_handle_with_options_does_not_publish() -> None:
    app = App()
    app.room("chat:{name}", open=True)
    async with TestServer(app):
        with pytest.raises(DeclarationError, match="has options and declares nothing"):
            await app.room("chat:lobby", history=10).publish("x")
        await app.room("chat:lobby").publish("x")


# Parameters


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (lambda conn, data, more: None, ["unsupported parameter `more`", "allowed: `conn`, `data`"]),
        (lambda data, conn: None, ["has `data` in the place of `conn`", "in order: `conn`, `data`"]),
        (lambda data: None, ["has `data` in the place of `conn`"]),
        (lambda *given: None, ["unsupported parameter `*given`", "functools.wraps"]),
        (lambda conn, *, limit: None, ["unsupported parameter `limit`"]),
    ],
)
def test_a_parameter_of_the_wrong_kind_is_refused(source: Callable[..., Any], words: list[str]) -> None:
    text = refused(lambda app: app.on_message(source), "handler `", "()` ", *words)
    assert text.startswith(line_of(source))


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("on_leave", lambda self, conn: None, "has `conn`, which it is not given: `member` is in that place"),
        ("on_leave", lambda self, data: None, "has `data`, which it is not given: `member` is in that place"),
        ("accepts", lambda self, conn, data: None, "has `data`, which it is not given: `tags` is in that place"),
    ],
)
def test_a_parameter_that_other_handlers_have_is_refused(name: str, source: Callable[..., Any], words: str) -> None:
    """It would get something else under the name by which an author knows it."""
    text = refused(lambda app: app.room("chat")(type("Chat", (), {name: source})), words, "; allowed: ")
    assert text.startswith(line_of(source))


def test_a_misspelt_variable_is_named() -> None:
    class Chat:
        async def on_publish(self, conn: Connection, nam: str, data: str) -> None: ...

    refused(
        lambda app: app.room("chat:{name}")(Chat),
        "unsupported parameter `nam`; did you mean `name`; allowed: `conn`, `data`, `name`",
    )


def test_a_variable_cannot_hide_the_data() -> None:
    class Files: ...

    refused(lambda app: app.room("files:{data}")(Files), "a variable cannot be called `data`")


def test_a_decorator_that_shows_the_signature_of_its_handler_is_none_of_these_mistakes() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*given: Any, **named: Any) -> Any:
            return function(*given, **named)

        return wrapper

    App().on_message(logged(lambda conn, data: None))


# Variables


def family(annotation: Any) -> App:
    app = App()

    class Table:
        async def on_subscribe(self, conn: Connection, number: Any) -> Any:
            return [type(number).__name__, str(getattr(number, "value", number))]

    Table.on_subscribe.__annotations__["number"] = annotation
    app.room("table:{number}")(Table)
    return app


@pytest.mark.parametrize(
    ("annotation", "good", "given", "bad"),
    [
        (int, "7", ["int", "7"], ["x", "07", "+7", "7.0", " 7", "1_0"]),
        (uuid.UUID, f"{uuid.UUID(int=7)}", ["UUID", f"{uuid.UUID(int=7)}"], ["x", uuid.UUID(int=7).hex]),
        (Colour, "red", ["Colour", "red"], ["RED", "blue"]),
        (Literal["a", "b"], "b", ["str", "b"], ["c"]),
        (str, "07", ["str", "07"], []),
    ],
)
@run_async
async def test_a_variable_is_converted_and_what_cannot_be_is_no_room(
    annotation: Any, good: str, given: list[str], bad: list[str]
) -> None:
    async with TestServer(family(annotation)) as server:
        client = await server.connect()
        assert (await client.subscribe(f"table:{good}"))["data"] == given
        for each in bad:
            with pytest.raises(ClientError, match="unknown channel") as found:
                await client.subscribe(f"table:{each}")
            assert found.value.code == 102


@pytest.mark.parametrize("annotation", [list[int], dict, Connection, float])
def test_a_variable_of_another_type_is_refused(annotation: Any) -> None:
    with pytest.raises(DeclarationError, match=r"annotates the variable `number` with .*; a variable can be str, int,"):
        family(annotation)


def test_handlers_agree_on_a_variable() -> None:
    class Table:
        async def on_subscribe(self, conn: Connection, number: int) -> None: ...

        async def on_leave(self, member: Any, number: str) -> None: ...

    refused(lambda app: app.room("table:{number}")(Table), "annotates the variable `number`", "another handler with")


# Targets


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Application]:
    """Load a file with this source, under a name of its own."""
    name = f"mistaken_{uuid.uuid4().hex}"
    monkeypatch.syspath_prepend(tmp_path)

    def load(source: str, attribute: str = "app", **options: Any) -> Application:
        (tmp_path / f"{name}.py").write_text(f"from realtime import App\n{source}\n")
        return load_target(f"{name}.py:{attribute}", tmp_path, **options)

    return load


def test_a_factory_is_called_where_the_target_says_so(load: Callable[..., Application]) -> None:
    source = "def create():\n    app = App()\n    app.room('made', open=True)\n    return app"
    assert load(source, "create()").rooms.patterns == ["made"]


def test_a_factory_is_called_where_the_option_says_so(load: Callable[..., Application]) -> None:
    source = "def create():\n    app = App()\n    app.room('made', open=True)\n    return app"
    assert load(source, "create", factory=True).rooms.patterns == ["made"]


def test_a_factory_needs_a_target(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="--factory: it needs a TARGET, such as app:create"):
        load_target(None, tmp_path, factory=True)


@pytest.mark.parametrize(
    ("source", "attribute", "words"),
    [
        ("def app():\n    return App()", "app", r", line 2: this is a factory, .*; write .*:app\(\) or --factory"),
        ("app = App()", "app()", "an? App is no factory"),
        ("async def app():\n    return App()", "app()", ", line 2: a factory is a plain function"),
        ("def app(settings):\n    return App()", "app()", "called without arguments, and this one needs some"),
        ("def app(environ, start_response): ...", "app", ", line 2: this is a WSGI application; wrap it: a2wsgi"),
        (
            "class Flask:\n    def __call__(self, environ, start_response): ...\napp = Flask()",
            "app",
            "WSGI application; .*asgiref.wsgi.WsgiToAsgi",
        ),
        ("def app(scope): ...", "app", "this is no ASGI application: it is not called as"),
        ("app = 7", "app", "a int is neither a realtime.App nor an ASGI application"),
        ("chat = App()", "chats", r"has no `chats`; did you mean `chat`\?"),
    ],
)
def test_a_target_that_cannot_be_served(
    load: Callable[..., Application], source: str, attribute: str, words: str
) -> None:
    with pytest.raises(TargetError, match=words):
        load(source, attribute)


def test_options_that_declare_nothing_are_found_when_the_target_is_loaded(load: Callable[..., Application]) -> None:
    with pytest.raises(DeclarationError, match=r"\.py, line 3: app\.room\('a', …\) has options"):
        load("app = App()\napp.room('a', history=3)")


def test_a_wsgi_application_cannot_be_mounted() -> None:
    def flask(environ: Any, start_response: Any) -> Any: ...

    refused(lambda app: app.mount("/", flask), __file__, "`flask` is a WSGI application; wrap it: a2wsgi")  # type: ignore[arg-type]


def test_a_mount_and_its_files_are_refused_with_their_line() -> None:
    refused(lambda app: app.static("/", "/nowhere/at/all"), __file__, "static: there is no directory /nowhere/at/all")
    refused(lambda app: app.mount("web", App()), __file__, "'web' does not begin with a slash")
