"""Each refusal is one sentence that names the server, what it said, and what to do."""

from __future__ import annotations

import pytest

from realtime.loadtest.errors import REASON_MAX, Failure, refusal

HERE = "ws://127.0.0.1:8000/connection/websocket"


@pytest.mark.parametrize(
    ("failure", "parts"),
    [
        (
            Failure("reach", 0, "connection refused"),
            ("does not answer (connection refused)", "does a server run there?"),
        ),
        (Failure("trust", 0, "self-signed certificate"), ("is not trusted (self-signed", "with --cafile")),
        (Failure("secure", 0, "wrong version number"), ("does not speak TLS", "are https and the port right")),
        (Failure("handshake", 404, "Not Found"), ("opens no WebSocket (answers Not Found (404))", "the whole path")),
        (Failure("handshake", 0, "sends no HTTP answer"), ("opens no WebSocket", "is http or https right?")),
        (
            Failure("connect", 3501, "bad request"),
            ("does not admit these clients", "--token T, or --secret-from-settings"),
        ),
        (Failure("connect", 3500, "invalid token"), ("does not admit these clients", "signed with its secret?")),
        (Failure("join", 102, "unknown channel"), ("let clients into chat:0", "such as --room 'chat:{n}'")),
        (Failure("join", 103, "permission denied"), ("let clients into chat:0", "or name a room that is open")),
        (Failure("publish", 103, "say something"), ("takes no publications in chat:0", "with --data")),
        (Failure("join", 4242, "no"), ("let clients into chat:0", "the server's log")),
    ],
)
def test_a_sentence_with_what_to_do(failure: Failure, parts: tuple[str, ...]) -> None:
    text = str(refusal(HERE, "chat:0", failure))
    assert HERE in text
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_what_a_server_says_stays_on_one_line_and_commands_no_terminal() -> None:
    said = Failure("join", 4000, "go\x1b[2J\r\naway" + "!" * 1000)
    assert said.reason.startswith("go [2J  away!")
    assert len(said.reason) == REASON_MAX
    assert said.kind.endswith("! (4000)")
