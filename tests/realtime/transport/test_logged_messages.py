"""The conversation in the log at debug level: what is shown of a message, and what never is."""

from __future__ import annotations

from realtime.transport.deflate import DEFLATED_TEXT
from realtime.transport.frames import BINARY, TEXT
from realtime.transport.websocket_endpoint import SHOWN, sent_messages, shown


def test_no_token_and_no_header_of_a_client_is_shown() -> None:
    said = '{"id":1,"connect":{"token":"eyJ.a\\"b","headers":{"Authorization" : "Bearer x y","X-A":"1"},"data":{}}}'
    assert shown(said) == '{"id":1,"connect":{"token":"***","headers":{"Authorization":"***","X-A":"1"},"data":{}}}'
    assert shown('{"token":"cut with') == '{"token":"***"'


def test_a_long_message_is_shortened_after_its_secrets_were_taken_out() -> None:
    found = shown("x" * (SHOWN - 5) + '{"token":"secret of the client"}')
    assert "secret" not in found
    assert found.endswith("characters)")
    assert len(found) < SHOWN + 50


def test_each_message_of_a_buffer_is_shown() -> None:
    data = TEXT.frame(b"{}") + TEXT.frame(b'"' + b"x" * 200 + b'"') + BINARY.frame(bytes(70_000))
    first, second, third = sent_messages(data)
    assert first == "{}"
    assert second == f'"{"x" * 200}"'
    assert third == "70000 bytes"
    compressed = DEFLATED_TEXT.frame(b"a" * 1000)
    assert list(sent_messages(compressed)) == [f"{len(compressed) - 2} bytes"]
