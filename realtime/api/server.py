"""
The API for other programs, over HTTP.

Runs in the worker, below `/api`, where a key is configured; any worker of any machine answers alike. Methods, requests
and results are those of Centrifugo's HTTP API, so that its libraries serve (Centrifuge client protocol, section 14):
`POST /api/publish` and so on with the key in `X-API-Key`, several at once by `/api/batch`, and the older form
`POST /api` with `method` and `params`. `GET /api/openapi.json` describes it, `GET /api/tail?channel=…` follows a room.

This file reads requests and writes answers; what they mean is in methods.py. No handler of the application is asked:
a program that has the key may do anything.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET

from realtime.api.messages import BatchRequest, BatchResult, OlderRequest, Reply, bad_request
from realtime.api.methods import Methods, refused
from realtime.api.openapi import describe
from realtime.api.tail import tail
from realtime.auth.credentials import API_KEY, WrongCredentials
from realtime.cluster.bus import ClusterBus
from realtime.rooms.fanout import Encoder
from realtime.rooms.hub import Hub
from realtime.session.target import Emitter
from realtime.settings import Settings
from realtime.surrogates import repair
from realtime.transport.asgi import Receive, Scope, Send
from realtime.transport.http import JSON, headers_of, read_body, respond, respond_text

PREFIX: Final = "/api"
BODY_MAX: Final = 4 * 1024**2
"""Bytes of a request. A batch is larger than any one message; with more, one program would fill a worker's memory."""
ENCODED: Final = 2  # times as long as it is, a message can be in a request: Base64, or escaped
BATCH_MAX: Final = 1000
"""Requests in a batch. With `parallel` they all begin at once, so this bounds what one request can begin."""
OTHER_PATHS: Final = ("batch", "openapi.json", "tail")  # below `/api`, beside the methods


class Api:
    """
    The API in one worker, an ASGI application for the paths at and below `path`.

    It has no state between requests. Programs may call any worker of any machine, in any order: what a method changes
    goes through the broker.
    """

    def __init__(
        self,
        hub: Hub,
        bus: ClusterBus,
        emitter: Emitter,
        *,
        keys: Sequence[str],
        encoder: Encoder,
        wrong: WrongCredentials | None = None,
        message_bytes: int = Settings.message_bytes,
        own_prefix: str = Settings.own_prefix,
    ) -> None:
        """
        Args:
            hub: this worker's rooms.
            bus: reaches the sessions of all workers.
            emitter: sends events: the application.
            keys: each opens everything; without one there is no API.
            encoder: how a program that follows a room gets its publications.
            wrong: counts and slows keys that are wrong; none waits unless given.
            message_bytes: a setting of the same name; a message of that size fits into a request.
            own_prefix: a setting of the same name; the API is at `PREFIX` below it.
        """
        self.path = own_prefix + PREFIX
        self._wrong = WrongCredentials(most_s=0) if wrong is None else wrong
        self.keys = tuple(key.encode() for key in keys)
        self.body_max = max(BODY_MAX, ENCODED * message_bytes)
        self._hub = hub
        self._encoder = encoder
        self._methods = Methods(hub, bus, emitter)

    def has(self, path: str) -> bool:
        """Say whether there is an API, and a path is that of one of its methods. Below `path` all others get 404."""
        name = path.removeprefix(f"{self.path}/") if path != self.path else ""
        return bool(self.keys) and (name in ("", *OTHER_PATHS) or name in self._methods.by_name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve a request to `self.path`, or below it.

        The key is checked before anything of the body is read. So a request without one costs a head and an answer,
        and one with a wrong key some time as well, which makes guessing slow.
        """
        headers = headers_of(scope)
        name = scope["path"].removeprefix(self.path).strip("/")
        given = _key_of(headers)
        if not self._opens(given):
            if given:
                await self._wrong.slow(API_KEY, (scope.get("client") or ("",))[0], "it is none of --api-key")
            await respond_text(send, 401, b"X-API-Key is missing or wrong.\n")
        elif name == "openapi.json":
            await respond(send, 200, msgspec.json.encode(describe(self._methods, self.path)), JSON)
        elif name == "tail":
            await tail(self._hub, self._encoder, scope, receive, send)
        elif scope["method"] != "POST":
            await respond_text(send, 405, b"POST.\n", [(b"allow", b"POST")])
        elif (body := await read_body(receive, self.body_max)) is None:
            await respond_text(send, 413, b"The request is too large.\n")
        elif name and name != "batch" and name not in self._methods.by_name:
            await respond_text(send, 404, b"There is no such method.\n")
        else:
            await respond(send, 200, msgspec.json.encode(await self._answer(name, repair(body) or b"{}")), JSON)

    def _opens(self, given: str) -> bool:
        """Say whether a key is one of ours. How long it takes tells nothing of how much of it was right."""
        found = [hmac.compare_digest(given.encode(), known) for known in self.keys]
        return any(found)  # not in the comprehension: that would stop at the first, and tell which it was

    async def _answer(self, name: str, body: bytes) -> Any:
        """Return what is answered to a body that was read whole: of one method, of a batch, or in the older form."""
        try:
            if name == "batch":
                return await self._batch(msgspec.json.decode(body, type=BatchRequest))
            if not name:
                older = msgspec.json.decode(body, type=OlderRequest)
                name, body = older.method, bytes(older.params)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            return refused(bad_request(str(error)))
        return await self._methods.call(name, body)

    async def _batch(self, request: BatchRequest) -> BatchResult | Reply:
        """
        Run several requests. One that fails stops none of the others, which is what Centrifugo does.

        Returns:
            Their replies in the order of the requests, or one error where the batch itself is wrong: then none ran.
        """
        if len(request.commands) > BATCH_MAX or any(len(each) != 1 for each in request.commands):
            return refused(bad_request(f"at most {BATCH_MAX} commands, each of one method"))
        calls = [next(iter(each.items())) for each in request.commands]
        if request.parallel:
            replies = await asyncio.gather(*[self._methods.call(name, bytes(body)) for name, body in calls])
        else:
            replies = [await self._methods.call(name, bytes(body)) for name, body in calls]
        return BatchResult(
            [
                {"error": reply.error} if reply.error is not UNSET else {name: reply.result}
                for (name, _), reply in zip(calls, replies, strict=True)
            ]
        )


def _key_of(headers: Mapping[str, str]) -> str:
    """Return the key that a request has, in one of the two ways; nothing where it has none."""
    kind, _, credentials = headers.get("authorization", "").partition(" ")
    return headers.get("x-api-key", "") or (credentials if kind.lower() == "apikey" else "")
