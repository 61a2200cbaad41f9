"""
Repairs JSON texts that were cut in the middle of a character.

Pure. Half of a surrogate pair, `\\ud83d`, is valid by the grammar of RFC 8259 (section 8.2), but not every reader
accepts it. Such a text comes from a program that counts in UTF-16 and cut a text field; its sender made no mistake.
Each half is replaced by U+FFFD, as other servers do.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

Read = TypeVar("Read")

_ESCAPES: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole pair
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"  # half of one
    rb"|\\."
)


def repair(text: bytes) -> bytes:
    """Return a JSON text with U+FFFD for each half of a surrogate pair."""
    if b"\\u" not in text:
        return text
    return _ESCAPES.sub(lambda found: b"\\ufffd" if found[1] else found[0], text)


def read_repaired(read: Callable[[bytes], Read], text: bytes) -> Read:
    """
    Read a JSON text. If the reader refuses it, repair the text and read again.

    Raises:
        msgspec.DecodeError: the reader refuses the repaired text too.
    """
    try:
        return read(text)
    except msgspec.DecodeError:
        return read(repair(text))
