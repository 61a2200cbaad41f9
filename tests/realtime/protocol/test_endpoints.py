"""What the URL of a client's first request says, by the rules of the protocol: `cf_connect`, ping frames, one way."""

from __future__ import annotations

import pytest

from realtime.protocol.centrifuge.endpoints import ENDPOINTS, read_parameters

TWO_WAY = "/connection/websocket"


@pytest.mark.parametrize("path", sorted(ENDPOINTS.websocket_paths | ENDPOINTS.http_paths | {"/of/no/one"}))
def test_the_first_message_never_stays_in_the_query(path: str) -> None:
    asked = {"cf_connect": '{"token":"secret"}', "a": "1"}
    assert read_parameters(path, asked).query == {"a": "1"}
    assert asked["cf_connect"], "the caller's own query is not changed"


def test_the_first_message_counts_where_a_client_cannot_send_one() -> None:
    every = sorted(ENDPOINTS.websocket_paths | ENDPOINTS.http_paths)
    taken = {path for path in every if read_parameters(path, {"cf_connect": "{}"}).first == b"{}"}
    assert taken == {"/connection/sse", "/connection/uni_sse", "/connection/uni_websocket"}
    assert all(read_parameters(path, {"cf_connect": ""}).first is None for path in every)


def test_clients_of_the_one_way_paths_only_listen() -> None:
    every = sorted(ENDPOINTS.websocket_paths | ENDPOINTS.http_paths)
    one_way = {path for path in every if read_parameters(path, {}).is_one_way}
    assert one_way == {path for path in every if "/uni_" in path}


def test_below_a_prefix_an_endpoint_is_the_same() -> None:
    for path in sorted(ENDPOINTS.websocket_paths | ENDPOINTS.http_paths):
        asked = {"cf_connect": "{}"}
        assert read_parameters(f"/rt{path}", asked) == read_parameters(path, asked)


@pytest.mark.parametrize(("asked", "wanted"), [("true", True), ("false", False), ("1", False), ("", False)])
def test_ping_frames_are_asked_for_by_one_word(asked: str, wanted: bool) -> None:
    parameters = read_parameters(TWO_WAY, {"cf_ws_frame_ping_pong": asked})
    assert parameters.wants_ping_frames is wanted
    assert parameters.query == {"cf_ws_frame_ping_pong": asked}, "handlers have seen it so far, and still do"
