"""Several wire protocols in one worker: the path of a request decides which one serves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from realtime import codes
from realtime.protocol.base import Endpoints
from realtime.protocol.by_path import SessionsByPath, StreamsByPath
from realtime.transport.base import ClientSession, Handshake, Parameters, Transport
from tests.support.aio import run_async

NO_TRANSPORT = cast(Transport, None)


class Wire:
    """A wire protocol that says which one it is."""

    def __init__(self, name: str, subprotocols: Sequence[str] = ()) -> None:
        self.name = name
        self.subprotocols = subprotocols
        self.open = cast(list[ClientSession], [name])
        self.served: list[str] = []

    def read_parameters(self, path: str, query: Mapping[str, str]) -> Parameters:
        return Parameters({**query, "read by": self.name})

    def __call__(self, transport: Transport, handshake: Handshake, subprotocol: str | None) -> ClientSession:
        return cast(ClientSession, self.name)

    def statistics(self) -> dict[str, int]:
        return {"slow": 1, self.name: 2}


class Streams(Wire):
    """The same for requests."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # type: ignore[override]
        self.served.append(scope["path"])


def test_a_session_is_of_the_protocol_at_its_path() -> None:
    one, other = Wire("one", ("a", "b")), Wire("other", ("b", "c"))
    sessions = SessionsByPath({"/x": other, "/y": other}, default=one)
    made = [sessions(NO_TRANSPORT, Handshake("", path=path), None) for path in ("/x", "/y", "/z")]
    assert made == ["other", "other", "one"]
    assert sessions.read_parameters("/x", {"q": "1"}).query == {"q": "1", "read by": "other"}
    assert sessions.read_parameters("/", {}).query == {"read by": "one"}
    assert sessions.subprotocols == ("a", "b", "c")


@run_async
async def test_a_request_is_served_by_the_protocol_at_its_path_and_all_are_counted_once() -> None:
    one, other = Streams("one"), Streams("other")
    streams = StreamsByPath({"/x": other, "/y": other}, default=one)
    for path in ("/x", "/y", "/z"):
        await streams({"path": path}, cast(Any, None), cast(Any, None))
    assert (one.served, other.served) == (["/z"], ["/x", "/y"])
    assert streams.open == ["one", "other"]
    assert streams.statistics() == {"slow": 2, "one": 2, "other": 2}


def test_endpoints_of_two_protocols_are_served_beside_each_other_and_end_as_the_first_says() -> None:
    one = Endpoints(frozenset(("/w",)), frozenset(("/h",)), codes.SHUTDOWN)
    other = Endpoints(frozenset(("/x",)), frozenset(("/x",)), codes.SLOW)
    both = one.beside(other)
    assert both == Endpoints(frozenset(("/w", "/x")), frozenset(("/h", "/x")), codes.SHUTDOWN)
    with pytest.raises(AssertionError):
        both.beside(other)
