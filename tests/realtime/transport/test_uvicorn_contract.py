"""
What asgi.py and hosted.py of realtime/transport/ take from uvicorn beyond its public interface, by name: an upgrade
that changes one of these fails here, and says which.
"""

from __future__ import annotations

import inspect

import pytest
from uvicorn import Config
from uvicorn.lifespan.on import LifespanOn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.h11_impl import RequestResponseCycle as H11Cycle
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

HTTP = [HttpToolsProtocol, H11Protocol]
PROTOCOLS = [*HTTP, WebSocketsSansIOProtocol]


async def nothing(scope: object, receive: object, send: object) -> None:
    """An application that is never called."""


def config() -> Config:
    made = Config(nothing, lifespan="off", log_config=None, http=HttpToolsProtocol, ws=WebSocketsSansIOProtocol)
    made.load()
    return made


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda each: each.__name__)
def test_the_constructors_take_what_they_took(protocol: type) -> None:
    names = list(inspect.signature(protocol).parameters)
    assert names == ["config", "server_state", "app_state", "_loop"]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", ["connection_made", "connection_lost", "data_received", "shutdown"])
def test_the_protocols_are_told_by_these_names(protocol: type, name: str) -> None:
    assert callable(getattr(protocol, name))


@pytest.mark.parametrize(
    ("protocol", "name", "parameters"),
    [
        (HttpToolsProtocol, "handle_websocket_upgrade", []),
        (H11Protocol, "handle_websocket_upgrade", ["event"]),
        *(
            (protocol, name, parameters)
            for protocol in HTTP
            for name, parameters in (
                ("on_response_complete", []),
                ("send_400_response", ["msg"]),
                ("_unset_keepalive_if_required", []),
            )
        ),
    ],
)
def test_what_is_overridden_or_called_in_http_is_there(protocol: type, name: str, parameters: list[str]) -> None:
    found = list(inspect.signature(getattr(protocol, name)).parameters)
    assert found == ["self", *parameters]


def lines_of(*things: object) -> str:
    return "\n".join(inspect.getsource(thing) for thing in things)  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", HTTP, ids=lambda each: each.__name__)
@pytest.mark.parametrize(
    "name", ["app", "client", "scheme", "flow", "transport", "cycle", "scope", "connections", "loop"]
)
def test_an_http_connection_keeps_these(protocol: type, name: str) -> None:
    assert f"self.{name} " in lines_of(protocol) or f"self.{name}:" in lines_of(protocol)


def test_an_upgrade_finds_what_was_asked() -> None:
    assert "self.url" in lines_of(HttpToolsProtocol.handle_websocket_upgrade)
    assert "event.target" in lines_of(H11Protocol.handle_websocket_upgrade)


def test_a_request_is_called_through_self_app_when_its_headers_are_complete() -> None:
    assert "app = self.app" in lines_of(HttpToolsProtocol.on_headers_complete)
    assert "self.client" in lines_of(HttpToolsProtocol.on_message_begin)
    assert "app = self.app" in lines_of(H11Protocol.handle_events)


@pytest.mark.parametrize("cycle", [RequestResponseCycle, H11Cycle])
def test_a_cycle_says_whether_it_is_answered_and_whether_the_connection_stays(cycle: type) -> None:
    source = lines_of(cycle)
    assert "self.response_complete = " in source
    assert "self.keep_alive = " in source
    assert "self.response_started = " in source


@pytest.mark.parametrize("cycle", [RequestResponseCycle, H11Cycle])
def test_a_cycle_can_become_ours_until_its_application_is_called(cycle: type) -> None:
    assert "__slots__" not in vars(cycle)
    assert "app(  # type: ignore[func-returns-value]" in lines_of(cycle.run_asgi)
    assert "self.scope, self.receive, self.send" in lines_of(cycle.run_asgi)
    for name in ("disconnected", "more_body", "response_started", "message_event", "waiting_for_100_continue"):
        assert f"self.{name} = " in lines_of(cycle)


def test_an_answer_without_chunks_counts_down_a_length() -> None:
    source = lines_of(RequestResponseCycle)
    assert "if self.chunked_encoding is None and" in source
    assert "self.expected_content_length -= num_bytes" in source
    assert "if self.expected_content_length != 0:" in source


@pytest.mark.parametrize("protocol", HTTP, ids=lambda each: each.__name__)
def test_an_http_connection_has_these_to_be_set(protocol: type) -> None:
    for name in ("access_log", "timeout_keep_alive"):
        assert f"self.{name} = " in lines_of(protocol.__init__)
    assert callable(protocol.timeout_keep_alive_handler)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["handshake_complete", "close_sent", "close_timer", "read_paused", "pong_timer"])
def test_a_websocket_says_how_far_it_is(name: str) -> None:
    assert f"self.{name} = " in lines_of(WebSocketsSansIOProtocol)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("handle_connect", ["event"]),
        ("start_keepalive", []),
        ("stop_keepalive", []),
        ("keepalive_timeout", []),
        ("handle_parser_exception", []),
    ],
)
def test_what_is_overridden_or_called_in_a_websocket_is_there(name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(WebSocketsSansIOProtocol, name)).parameters) == ["self", *parameters]


def test_a_websocket_that_is_shut_down_says_1012() -> None:
    assert "send_close(1012)" in lines_of(WebSocketsSansIOProtocol.shutdown)


def test_the_servers_state_has_what_connections_share() -> None:
    state = ServerState()
    assert (state.total_requests, state.connections, state.tasks) == (0, set(), set())
    state.default_headers = [(b"date", b"now")]
    assert isinstance(config().encoded_headers, list)


def test_a_lifespan_says_whether_it_failed_and_keeps_the_applications_state() -> None:
    lifespan = LifespanOn(config())
    assert lifespan.should_exit is False
    assert lifespan.state == {}
    assert inspect.iscoroutinefunction(lifespan.startup)
    assert inspect.iscoroutinefunction(lifespan.shutdown)
