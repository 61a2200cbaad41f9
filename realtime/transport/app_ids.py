"""
Ids that a hosted application makes and sends in a header, such as `Mcp-Session-Id`, so that they lead back here.

Runs in the worker, around the application. In an answer the value of the header that carries sessions gets a short tag
with this worker's slot; in a request the tag is taken off. So the primary and the other workers know where an id
belongs, the client sends back what it was given, and the application sees the ids that it made. An answer that repeats
the id of its request repeats it as the client spelt it. What bears no tag of ours passes as it is, in both directions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

from sticky.worker.routes import Routes

Send = Callable[[Any], Awaitable[None]]

ANSWERS: Final = ("http.response.start", "websocket.accept", "websocket.http.response.start")
WHITE_SPACE: Final = b" \t"  # around a value it is no part of it (RFC 9110, section 5.5)


class AppIds:
    """The header of that name, in the requests and answers of one worker. Holds nothing that changes."""

    __slots__ = ("_name", "_routes")

    def __init__(self, name: bytes, routes: Routes) -> None:
        """
        Args:
            name: the header's, in lower case.
            routes: knows the tags.
        """
        self._name = name
        self._routes = routes

    def plain(self, session: str | None) -> str | None:
        """Return a session that came in this header as the application knows it."""
        if session is None:
            return None
        try:
            return self._routes.untag(session.encode("latin-1")).decode("latin-1")
        except UnicodeEncodeError:  # a key in a path
            return session

    def translate(self, scope: MutableMapping[str, Any], send: Send) -> Send:
        """Take the tags off a request's ids, in its scope, and return a `send` that puts them on in its answer."""
        spelt: dict[bytes, bytes] = {}
        headers = scope.get("headers", ())
        if any(name.lower() == self._name for name, _ in headers):
            scope["headers"] = [self._receive(name, value, spelt) for name, value in headers]

        async def sending(message: Any) -> None:
            if message["type"] in ANSWERS and message.get("headers"):
                message = {**message, "headers": self._answer(message["headers"], spelt)}
            await send(message)

        return sending

    def _receive(self, name: bytes, value: bytes, spelt: dict[bytes, bytes]) -> tuple[bytes, bytes]:
        if name.lower() != self._name:
            return name, value
        app_id = self._routes.untag(value)
        spelt[app_id] = value
        return name, app_id

    def _answer(self, headers: Iterable[tuple[bytes, bytes]], spelt: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        answer = []
        for name, value in headers:
            if name.lower() == self._name and (app_id := value.strip(WHITE_SPACE)):
                value = spelt.get(app_id) or self._routes.tag(app_id)
            answer.append((name, value))
        return answer
