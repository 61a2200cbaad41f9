"""
What transports log of their clients: the events that they share, and at debug level the conversation.

Runs in the worker. Lines about a client have its fields: `connection`, `user` and `address` once there is a session,
before that `address` alone. At debug level each message is a line:

    < message connection=5c1e… address=203.0.113.7 {"id":1,"connect":{"token":"***"}}
    > message connection=5c1e… address=203.0.113.7 {"id":1,"connect":{"client":"5c1e…"}}

No secret may get into the log this way. A message is shown without tokens, passwords and headers that stand for real
ones; of a binary message only the size is shown, for what is in it cannot be told from a secret. A message is one line,
whatever it holds: a client cannot write lines of its own into the log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Final

from sticky.loop.log_lines import line

SLOW_CLIENT: Final = "x slow client closed"
MESSAGE_TOO_LARGE: Final = "x message too large"
FLOOD: Final = "x flooding client closed"
HANDSHAKE_REFUSED: Final = "x handshake refused"
SESSION_FAILED: Final = "session failed"  # an error of ours: a traceback follows

SHOWN: Final = 500  # characters of a message in the log

# What a message may hold that no log should: tokens, headers that a client sends in place of real ones, and the stream
# id (`session`, of Engine.IO `sid`), with which anybody can send commands beside the stream.
_SECRET: Final = re.compile(
    r'"(token|authorization|cookie|password|secret|session|sid)"\s*:\s*"(?:[^"\\]|\\.)*"?', re.IGNORECASE
)


def shown(message: bytes | str) -> str:
    """Return a message as the log shows it: on one line, shortened, without tokens; of binary its size."""
    if not isinstance(message, str):
        return f"{len(message)} bytes"
    text = _SECRET.sub(r'"\1":"***"', message)  # before it is cut: half of a token would not be found
    text = text.replace("\r", "\\r").replace("\n", "\\n")
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(message)} characters)"


def as_shown(message: bytes | str, *, is_text: bool) -> bytes | str:
    """
    Return a message for `log_received` whose bytes do not say what they are.

    Args:
        message: as the client sent it.
        is_text: the client's encoding is text. Only then may a message be shown: in a binary one no token is found.
    """
    return message.decode(errors="replace") if is_text and isinstance(message, bytes) else message


def log_received(logger: logging.Logger, fields: Mapping[str, object], message: bytes | str) -> None:
    """Log a client's message. The caller has asked whether debug lines are wanted."""
    _log(logger, "<", fields, shown(message))


def log_sent(logger: logging.Logger, fields: Mapping[str, object], messages: Iterator[bytes | str]) -> None:
    """Log messages to a client, a line for each. The caller has asked whether debug lines are wanted."""
    for message in messages:
        _log(logger, ">", fields, shown(message))


def _log(logger: logging.Logger, mark: str, fields: Mapping[str, object], text: str) -> None:
    logger.debug("%s %s %s", mark, line("message", **fields), text, extra={"fields": {**fields, "text": text}})
