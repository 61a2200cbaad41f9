"""
Paths of the server that give way to routes of the application: the application is asked first.

Runs in the worker, as a part of the router, and only where a bare ASGI application is TARGET. ASGI has no way to ask an
application for its routes, so its answer decides: 404 says that it has none for this path, and the server's own answer
is sent in its place. Every other answer is the application's, as it comes and while it comes: nothing of it is kept
here, so a stream stays a stream. That holds for 405, a redirect and an exception too.

What follows from that:

- An application that answers every path (a single page for all, a login in front of all) hides these paths of ours.
  `--own-prefix` moves them out of its way.
- The application may have read the body before it answers 404. What it read is kept and read again, up to the size of
  the largest request that we take. Beyond that its 404 is sent: there is no whole request left for us.
- Ours begins when the application's call has ended, with all that a framework does after its answer.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

from realtime.transport.asgi import ASGIApp, Receive, Scope, Send


class RouteFound(Enum):
    """Whether the application has a route for the path, by its answer."""

    UNKNOWN = auto()  # it has not begun to answer
    ITS_OWN = auto()
    NONE = auto()  # it answered 404, of which nothing is sent


async def application_first(
    application: ASGIApp, own: ASGIApp, scope: Scope, receive: Receive, send: Send, *, most: int
) -> bool:
    """
    Let the application answer a request, or the server where the application has no route for it.

    Args:
        application: gets a copy of the scope.
        own: the server's answer; it gets the scope, and the whole body.
        scope: of an HTTP request.
        receive: as ASGI has it.
        send: as ASGI has it.
        most: bytes of a body that are kept for `own`.

    Returns:
        Whether the application answered.

    Raises:
        Exception: what the application or the server's own part raised.
    """
    asked = _Asked(receive, send, most)
    await application({**scope}, asked.receive, asked.send)
    if asked.found is RouteFound.ITS_OWN or not asked.is_whole:
        return True  # also without any answer: the ASGI server then reports that
    # An application that ended without an answer has no route either.
    await own(scope, asked.receive_again, send)
    return False


class _Asked:
    """One request, as the application has it until its answer begins."""

    def __init__(self, receive: Receive, send: Send, most: int) -> None:
        self.found = RouteFound.UNKNOWN
        self.is_whole = True  # nothing of what was read had to be thrown away
        self._receive = receive
        self._send = send
        self._most = most
        self._body: bytearray | None = None  # one piece, not the messages: each may have a single byte
        self._more_body = False
        self._is_gone = False

    async def receive(self) -> Any:
        """Give the application what comes, and keep it while the answer may still be ours."""
        message = await self._receive()
        if self.found is RouteFound.ITS_OWN:
            return message
        if message["type"] == "http.disconnect":
            self._is_gone = True
        elif self.is_whole:
            self._body = bytearray() if self._body is None else self._body
            self._body += message.get("body", b"")
            self._more_body = message.get("more_body", False)
            if len(self._body) > self._most:  # of no use in part
                self.is_whole, self._body = False, None
        return message

    async def send(self, message: Any) -> None:
        """Send the application's answer, unless it is that there is no route."""
        if self.found is RouteFound.UNKNOWN and message["type"] == "http.response.start":
            self.found = RouteFound.NONE if message["status"] == 404 and self.is_whole else RouteFound.ITS_OWN
            if self.found is RouteFound.ITS_OWN:
                self._body = None
        if self.found is RouteFound.ITS_OWN:
            await self._send(message)

    async def receive_again(self) -> Any:
        """Give what the application had read, then what comes."""
        assert self.found is not RouteFound.ITS_OWN, "a request is answered once: by the application, or by the server"
        if self._body is not None:
            body, self._body = bytes(self._body), None
            return {"type": "http.request", "body": body, "more_body": self._more_body}
        return {"type": "http.disconnect"} if self._is_gone else await self._receive()
