"""
Several wire protocols in one worker: which of them serves a client is decided by the path of its first request.

Runs in the worker. `SessionsByPath` stands where WebSockets want one `SessionFactory`, `StreamsByPath` where gateway
and router want one `Streams`. Neither knows anything of a protocol.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from realtime.protocol.base import Streams
from realtime.transport.asgi import Receive, Scope, Send
from realtime.transport.base import ClientSession, Handshake, Parameters, SessionFactory, Transport


class SessionsByPath:
    """A `SessionFactory` of several."""

    def __init__(self, others: Mapping[str, SessionFactory], *, default: SessionFactory) -> None:
        """
        Args:
            others: by path.
            default: of all other paths.
        """
        self._others = others
        self._default = default
        offered = [*default.subprotocols, *(name for each in others.values() for name in each.subprotocols)]
        self.subprotocols: Sequence[str] = tuple(dict.fromkeys(offered))

    def read_parameters(self, path: str, query: Mapping[str, str]) -> Parameters:
        """See `ParameterReader`."""
        return self._others.get(path, self._default).read_parameters(path, query)

    def __call__(self, transport: Transport, handshake: Handshake, subprotocol: str | None) -> ClientSession:
        """Begin a session of the protocol at the client's path."""
        return self._others.get(handshake.path, self._default)(transport, handshake, subprotocol)


class StreamsByPath:
    """The `Streams` of several wire protocols."""

    def __init__(self, others: Mapping[str, Streams], *, default: Streams) -> None:
        """As `SessionsByPath`."""
        self._others = others
        self._default = default
        self._each = [default, *dict.fromkeys(others.values())]

    @property
    def open(self) -> Sequence[ClientSession]:
        """The sessions of all, whose streams are not ending."""
        return [session for each in self._each for session in each.open]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request by the protocol at its path."""
        await self._others.get(scope["path"], self._default)(scope, receive, send)

    def statistics(self) -> dict[str, Any]:
        """Add up what each counts."""
        found: Counter[str] = Counter()
        for each in self._each:
            found.update(each.statistics())
        return dict(found)
