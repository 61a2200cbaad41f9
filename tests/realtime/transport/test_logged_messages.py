"""The conversation in the log at debug level: what is shown of a message, and what never is."""

from __future__ import annotations

from realtime.transport.client_log import SHOWN, as_shown, shown
from realtime.transport.deflate import DEFLATED_TEXT
from realtime.transport.frames import BINARY, TEXT, messages_in
from realtime.transport.stream import BARE, EVENTS, LINES
from realtime.transport.stream import messages_in as stream_messages_in


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
    first, second, third = map(shown, messages_in(data))
    assert first == "{}"
    assert second == f'"{"x" * 200}"'
    assert third == "70000 bytes"
    compressed = DEFLATED_TEXT.frame(b"a" * 1000)
    assert list(map(shown, messages_in(compressed))) == [f"{len(compressed) - 2} bytes"]


def test_so_is_each_message_of_a_stream() -> None:
    for framing in (LINES, EVENTS):
        data = framing.frame(b'{"id":1}') + framing.frame(b"{}")
        assert list(map(shown, stream_messages_in(data, framing))) == ['{"id":1}', "{}"]
    assert list(map(shown, stream_messages_in(b"\x03abc\x03def", BARE))) == ["8 bytes"]


def test_a_message_is_one_line_whatever_a_client_puts_into_it() -> None:
    assert shown("{}\n12:00:00 info 0/1 ! forged\r\n") == "{}\\n12:00:00 info 0/1 ! forged\\r\\n"


def test_what_is_shown_of_a_binary_encoding_is_its_size_also_where_it_looks_like_text() -> None:
    assert shown(as_shown(b'{"token":"secret"}', is_text=True)) == '{"token":"***"}'
    assert shown(as_shown(b"\x0a\x06secret", is_text=False)) == "8 bytes"
