"""`TestHttp`: requests to what is mounted, beside the clients of a `TestServer`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from realtime import App
from realtime.testing import TestServer
from realtime.testing_http import TestHttp
from tests.support.aio import run_async


def make_app(lives: list[str]) -> App:
    app = App()
    app.room("chat:{name}", open=True)

    async def say(request: Request) -> Response:
        await app.room("chat:lobby").publish(await request.json())
        assert request.client is not None
        return JSONResponse({"query": dict(request.query_params), "from": request.client.host}, status_code=201)

    async def never(request: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def on_and_on(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"some"
            await asyncio.Event().wait()

        return StreamingResponse(parts())

    async def broken(request: Request) -> Response:
        raise LookupError("a bug of the application")

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        lives.append("begun")
        yield
        lives.append("ended")

    routes = [
        Route("/say", say, methods=["POST"]),
        Route("/never", never),
        Route("/stream", on_and_on),
        Route("/broken", broken),
    ]
    app.mount("/web", Starlette(routes=routes, lifespan=lifespan))
    return app


@run_async
async def test_a_request_reaches_what_is_mounted_and_a_client_what_that_publishes() -> None:
    lives: list[str] = []
    app = make_app(lives)
    async with TestServer(app) as server, TestHttp(app) as http:
        assert lives == ["begun"]
        client = await server.connect()
        await client.subscribe("chat:lobby")
        answer = await http.post("/web/say?a=1", json={"text": "hello"}, client="192.0.2.1")
        assert answer.status == 201
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {"query": {"a": "1"}, "from": "192.0.2.1"}
        assert (await client.next("pub"))["data"] == {"text": "hello"}
        assert (await http.get("/nowhere")).status == 404
    assert lives == ["begun", "ended"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/web/never", r"GET /web/never: no answer began within 0\.05 s"),
        ("/web/stream", r"GET /web/stream: the answer 200 did not end \(4 bytes came\) within 0\.05 s"),
    ],
)
@run_async
async def test_a_time_out_says_what_was_waited_for(path: str, words: str) -> None:
    app = make_app([])
    async with TestServer(app), TestHttp(app) as http:
        with pytest.raises(TimeoutError, match=words):
            await http.get(path, timeout_s=0.05)


@run_async
async def test_what_the_application_raises_is_raised_in_the_test() -> None:
    app = make_app([])
    async with TestServer(app), TestHttp(app) as http:
        with pytest.raises(LookupError, match="a bug of the application"):
            await http.get("/web/broken")
