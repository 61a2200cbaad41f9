"""
What gateway and router ask of a wire protocol: where it is served, and what its streams are.

Runs in the worker. Nothing here does anything: these are the shapes. What a session asks of its wire protocol is in
session/base.py, and what a transport asks of it in transport/base.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from realtime.codes import DisconnectCode
from realtime.transport.asgi import Receive, Scope, Send
from realtime.transport.base import ClientSession


@dataclass(frozen=True, slots=True)
class Endpoints:
    """
    Where a wire protocol is served: `websocket_paths` by WebSockets, `http_paths` by requests. `shutdown` is how a
    connection ends whose client is to go to another worker, whichever of several wire protocols it speaks. At
    `query_id_paths` sessions have ids in the query that lead to their worker (`Routes.new_query_id`).
    """

    websocket_paths: frozenset[str]
    http_paths: frozenset[str]
    shutdown: DisconnectCode
    query_id_paths: frozenset[str] = frozenset()

    def below(self, prefix: str) -> Endpoints:
        """Return the same endpoints below a path, such as "/rt"; "" leaves them where they are."""
        return replace(
            self,
            websocket_paths=frozenset(prefix + path for path in self.websocket_paths),
            http_paths=frozenset(prefix + path for path in self.http_paths),
            query_id_paths=frozenset(prefix + path for path in self.query_id_paths),
        )

    def beside(self, other: Endpoints) -> Endpoints:
        """Return these endpoints and those of another wire protocol. Connections of both end as these say."""
        assert not self.http_paths & other.http_paths, "a path belongs to one wire protocol"
        return replace(
            self,
            websocket_paths=self.websocket_paths | other.websocket_paths,
            http_paths=self.http_paths | other.http_paths,
            query_id_paths=self.query_id_paths | other.query_id_paths,
        )


class Streams(Protocol):
    """Serves a wire protocol's clients that have no WebSocket, as an ASGI application."""

    @property
    def open(self) -> Sequence[ClientSession]:
        """The sessions whose streams are not ending."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request to one of `Endpoints.http_paths`."""

    def statistics(self) -> dict[str, Any]:
        """Count the streams now, and what happened to those before."""
