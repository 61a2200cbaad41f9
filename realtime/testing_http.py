"""
`TestHttp`: requests to what an application mounts, inside the test's own process.

    async with TestServer(app) as server, TestHttp(app) as http:
        client = await server.connect()
        await client.subscribe("chat:lobby")
        answer = await http.post("/say", json={"text": "hello"})
        assert answer.status == 201
        assert (await client.next("pub"))["data"] == {"text": "hello"}

The router is the real one: mounts by the longest prefix, their lifespans, static files, `/health`. There is no socket
and no HTTP parser, so what an ASGI server adds or refuses is not to be seen here. An answer is taken whole; an answer
that never ends times out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from realtime.api import Api
from realtime.application.app import Application, Receive, Scope, Send
from realtime.process.router import Router
from realtime.protocol.centrifuge import uni
from realtime.protocol.centrifuge.encoder import CentrifugeEncoder
from realtime.testing import AlwaysWell
from realtime.transport.stream import EVENTS

__all__ = ["TestHttp", "TestResponse"]

PATIENCE_S: Final = 5.0  # for an answer that never comes
HOST: Final = "testserver"


@dataclass(frozen=True, slots=True)
class TestResponse:
    """An answer. `headers` have names in lower case; of several with one name, the last."""

    __test__ = False  # pytest: this is no test, whatever it is called

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    def json(self) -> Any:
        """Return the value of the body, which is a JSON text."""
        return msgspec.json.decode(self.body)


class TestHttp:
    """What an application mounts, in this process. Use it as an asynchronous context manager, inside a `TestServer`."""

    __test__ = False

    def __init__(self, app: Application) -> None:
        """
        Args:
            app: whose mounts are asked; a `TestServer` runs it.
        """
        self._app = app
        self._router: Router | None = None

    async def __aenter__(self) -> TestHttp:
        api = Api(
            self._app.hub, self._app.bus, self._app, keys=(), encoder=CentrifugeEncoder(uni, EVENTS)
        )  # without keys it answers nothing
        self._router = Router(
            self._app,
            health=AlwaysWell(),
            websocket_paths=(),
            stream_paths=(),
            streams=_no_streams,
            api=api,
        )
        await self._router.startup()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        router, self._router = self._router, None
        if router is not None:
            await router.shutdown()

    async def get(self, path: str, **options: Any) -> TestResponse:
        """Ask for a page; as `request`."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> TestResponse:
        """Send something; as `request`."""
        return await self.request("POST", path, **options)

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        body: bytes = b"",
        client: str = "127.0.0.1",
        timeout_s: float = PATIENCE_S,
    ) -> TestResponse:
        """
        Send one request, and return the whole answer.

        Args:
            method: such as "GET".
            path: with its query, where there is one.
            headers: names in any case.
            json: sent as a JSON text, in place of `body`.
            body: sent as it is.
            client: the client's address.
            timeout_s: for the whole answer.

        Raises:
            TimeoutError: the answer did not come, or did not end; the text says which, and of what request.
            Exception: what the mounted application raised before it answered.
        """
        assert self._router is not None, "requests are sent within the block of `async with`"
        fields = {"host": HOST, **{name.lower(): value for name, value in (headers or {}).items()}}
        if json is not None:
            body = msgspec.json.encode(json)
            fields.setdefault("content-type", "application/json")
        if body:
            fields["content-length"] = str(len(body))
        exchange = _Exchange(body)
        serving = asyncio.ensure_future(
            self._router(_scope(method, path, fields, client), exchange.receive, exchange.send)
        )
        try:
            await asyncio.wait_for(serving, timeout_s)
        except TimeoutError:
            if not serving.cancelled():
                raise  # of the application itself
            raise TimeoutError(f"{method} {path}: {exchange.state} within {timeout_s:g} s") from None
        if exchange.status is None:
            raise AssertionError(f"{method} {path}: the application ended without an answer")
        return TestResponse(exchange.status, exchange.headers, bytes(exchange.body))


class _Exchange:
    """The client's side of one request."""

    def __init__(self, body: bytes) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self._request: bytes | None = body
        self._is_whole = False

    @property
    def state(self) -> str:
        """How far the answer has come, for a time-out."""
        if self.status is None:
            return "no answer began"
        return f"the answer {self.status} did not end ({len(self.body)} bytes came)"

    async def receive(self) -> dict[str, Any]:
        """Give the request's body; then nothing more comes, for the client waits."""
        if self._request is None:
            await asyncio.Event().wait()
        body, self._request = self._request, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Any) -> None:
        """Take a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            for name, value in message.get("headers", ()):
                self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")


def _scope(method: str, path: str, headers: Mapping[str, str], client: str) -> Scope:
    """Return a request as ASGI has it."""
    raw_path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(raw_path),
        "raw_path": raw_path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        "client": (client, 0),
        "server": (HOST, 80),
        "state": {},
    }


async def _no_streams(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse streams of realtime clients: tests have `TestServer.connect` for them."""
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b"streams are not served here\n"})
