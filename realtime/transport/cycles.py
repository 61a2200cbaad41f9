"""
One hosted request and its answer: what uvicorn's cycles lack.

Runs in the worker, between an application and the connection that brought its request (guarded.py).

- Head and first body of an answer leave in one segment (joined.py).
- An application that asks learns of a client that is gone, though only half of the connection is closed.
- A client of HTTP/1.0 gets neither chunks nor interim answers (RFC 9112, section 7.1; RFC 9110, section 10.1.1).
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import RequestResponseCycle as UvicornH11Cycle
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle as UvicornHttptoolsCycle

from realtime.transport.joined import JoiningTransport


class _Cycle:
    """
    One request and its answer. The other base of a class with this one is uvicorn's.

    uvicorn's protocols make their cycles themselves and offer no way to choose the class. So an object of theirs
    becomes one of ours (`__class__`) as soon as it is there, before the application runs. That works as long as no
    class here has slots or an `__init__`.
    """

    is_gone = False  # its client is taken for gone, and the application may know
    is_read = False  # the application has had the whole body

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.transport.hold()  # type: ignore[attr-defined]  # head and first body leave in one segment: joined.py
        await super().send(message)  # type: ignore[misc]

    async def receive(self) -> Any:
        """
        Give the application the next part of the body, or `http.disconnect`.

        A client that is gone is reported only once the application has the whole body: what it sent before it went is
        a whole request, and is to have its effect.
        """
        if not (self.is_gone and self.is_read):
            message = await super().receive()  # type: ignore[misc]
            if message["type"] != "http.request":
                return message
            if not (self.is_gone and self.is_read):
                self.is_read = not message["more_body"]
                return message
        self.disconnected = True
        self.transport.close()  # type: ignore[attr-defined]
        return {"type": "http.disconnect"}


class HttptoolsCycle(_Cycle, UvicornHttptoolsCycle):
    """Of a client that speaks HTTP/1.1."""


class H11Cycle(_Cycle, UvicornH11Cycle):
    """Of any client: h11 knows what HTTP/1.0 is."""


class OldHttptoolsCycle(HttptoolsCycle):
    """Of a client that speaks HTTP/1.0: an answer without a length is as long as the connection."""

    is_unsized = False

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            fields = [each for each in message.get("headers", ()) if each[0].lower() != b"transfer-encoding"]
            self.is_unsized = not any(name.lower() == b"content-length" for name, _ in fields)
            if self.is_unsized:
                self.chunked_encoding = False
            message = {**message, "headers": fields}
        elif self.is_unsized and message["type"] == "http.response.body":
            # uvicorn counts down to the end of a length that was said: let it be where this body ends
            self.expected_content_length = len(message.get("body", b"")) + bool(message.get("more_body"))
        await super().send(message)


def become_httptools_cycle(cycle: Any, joining: JoiningTransport, *, is_old: bool) -> None:
    """
    Have a cycle that uvicorn has just made behave as ours. Anything else is left alone.

    Args:
        cycle: of the request whose head was read last. Where that request is an upgrade, the cycle is an older one, and
            is ours already; or there is none.
        joining: what the answer is written to.
        is_old: the client speaks HTTP/1.0.
    """
    if type(cycle) is not UvicornHttptoolsCycle:
        return
    assert not cycle.response_started, "a cycle becomes ours before its application runs"
    cycle.transport = cast(asyncio.Transport, joining)
    cycle.__class__ = OldHttptoolsCycle if is_old else HttptoolsCycle
    if is_old:
        # HTTP/1.0 has no interim answers; a client of it would take 100 for the answer.
        cycle.waiting_for_100_continue = False


def become_h11_cycle(cycle: Any, joining: JoiningTransport) -> None:
    """As `become_httptools_cycle`. What HTTP/1.0 is, h11 knows by itself."""
    if type(cycle) is not UvicornH11Cycle:
        return
    assert not cycle.response_started, "a cycle becomes ours before its application runs"
    cycle.transport = cast(asyncio.Transport, joining)
    cycle.__class__ = H11Cycle
