"""
JSON texts as bytes: whether a payload is one, and one without line breaks.

Pure. A payload is embedded in answers and publications as it came; these functions are what has to hold before that.
Nothing here builds a JSON text from values, and nothing parses one for its values.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw


def one_line(text: bytes) -> bytes:
    """Return a JSON text without raw newlines."""
    if b"\n" in text or b"\r" in text:
        return msgspec.json.format(text, indent=-1)
    return text


def is_text(data: bytes) -> bool:
    """Whether a payload that came in another encoding is one JSON text."""
    try:
        data.decode()
        msgspec.json.decode(data, type=Raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    return True
