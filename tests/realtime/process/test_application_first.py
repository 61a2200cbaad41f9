"""Paths that give way: the application's answer, or the server's where the application says 404."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest

from realtime.process.application_first import application_first
from tests.support.aio import eventually, run_async

MOST = 100


class Exchange:
    """A request with a body in parts, and what is answered."""

    def __init__(self, *parts: bytes) -> None:
        self.scope: dict[str, Any] = {"type": "http", "path": "/health", "method": "POST"}
        self.inbox = deque(
            {"type": "http.request", "body": part, "more_body": number < len(parts)}
            for number, part in enumerate(parts, 1)
        )
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> Any:
        return self.inbox.popleft() if self.inbox else {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def serve(self, application: Any) -> bool:
        return await application_first(application, own, self.scope, self.receive, self.send, most=MOST)

    async def has_begun(self) -> bool:
        return len(self.sent) == 2

    @property
    def status(self) -> Any:
        return next(message["status"] for message in self.sent if message["type"] == "http.response.start")

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def answer(send: Any, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def read(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def own(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, 200, b"ours, of " + await read(receive))


@pytest.mark.parametrize("status", [200, 201, 302, 401, 403, 405, 500])
@run_async
async def test_every_answer_but_404_is_the_applications(status: int) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, status, await read(receive))

    exchange = Exchange(b"what ", b"was sent")
    assert await exchange.serve(application)
    assert (exchange.status, exchange.body) == (status, b"what was sent")


@run_async
async def test_of_a_404_nothing_is_sent_and_the_server_answers_in_its_place() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        scope["path"] = "changed"
        await send({"type": "http.response.early_hint", "links": []})
        await answer(send, 404, b"no such page")

    exchange = Exchange(b"body")
    assert not await exchange.serve(application)
    assert exchange.scope["path"] == "/health", "the application has a scope of its own"
    assert (exchange.status, exchange.body) == (200, b"ours, of body")
    assert len(exchange.sent) == 2


@pytest.mark.parametrize("parts_read", [0, 1, 2, 3])
@run_async
async def test_the_server_gets_the_whole_body_however_much_the_application_has_read(parts_read: int) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(parts_read):
            await receive()
        await answer(send, 404, b"")
        if parts_read == 1:
            await receive()  # as a framework does that reads on after its answer

    exchange = Exchange(b"one ", b"two ", b"three")
    assert not await exchange.serve(application)
    assert exchange.body == b"ours, of one two three"


@run_async
async def test_after_a_body_that_is_too_large_to_keep_the_404_is_the_answer() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await read(receive)
        await answer(send, 404, b"no such page")

    exchange = Exchange(b"x" * MOST, b"x")
    assert await exchange.serve(application)
    assert (exchange.status, exchange.body) == (404, b"no such page")
    at_most = Exchange(b"x" * MOST)
    assert not await at_most.serve(application)
    assert at_most.status == 200


@run_async
async def test_an_answer_that_goes_on_is_passed_while_it_comes() -> None:
    heard = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await heard.wait()
        await send({"type": "http.response.body", "body": b" last"})

    exchange = Exchange(b"")
    serving = asyncio.ensure_future(exchange.serve(application))
    await eventually(exchange.has_begun)
    assert exchange.body == b"first"
    heard.set()
    assert await serving
    assert exchange.body == b"first last"


@run_async
async def test_an_application_that_ends_without_an_answer_has_no_route() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    exchange = Exchange(b"body")
    assert not await exchange.serve(application)
    assert exchange.body == b"ours, of body"
    too_large = Exchange(b"x" * MOST, b"xx")

    async def reads_all(scope: Any, receive: Any, send: Any) -> None:
        await read(receive)

    assert await too_large.serve(reads_all)
    assert too_large.sent == [], "as the server reports it that calls the application"


@run_async
async def test_a_client_that_left_while_the_application_read_has_left_for_the_server_too() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        exchange.inbox.append({"type": "http.request", "body": b"never", "more_body": False})
        await answer(send, 404, b"")

    heard: list[str] = []

    async def own(scope: Any, receive: Any, send: Any) -> None:
        heard.extend([(await receive())["type"] for _ in range(2)])

    exchange = Exchange(b"body")
    await application_first(application, own, exchange.scope, exchange.receive, exchange.send, most=MOST)
    assert heard == ["http.request", "http.disconnect"]


@run_async
async def test_what_the_application_raises_is_no_404() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("a bug of the application")

    exchange = Exchange(b"")
    with pytest.raises(LookupError, match="a bug"):
        await exchange.serve(application)
    assert exchange.sent == []
