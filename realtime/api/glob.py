"""
Patterns over the names of rooms, as the API's `channels` takes them.

Pure. `*` and `?` stand for any characters and for one, `[abc]`, `[a-z]` and `[!a]` for one of a set, `{a,b}` for one of
several texts, which may hold patterns themselves; `\\` takes the character behind it as it is. These are the globs of
Centrifugo's API. Alternatives are written out before they are compiled, so that the matching never backtracks into one
that it has left.
"""

from __future__ import annotations

import fnmatch
import re
from typing import Final

LENGTH_MAX: Final = 1024  # characters; a room's name has at most 255 bytes
ALTERNATIVES_MAX: Final = 256  # texts that `{a,b}{c,d}…` may stand for


class BadGlob(ValueError):
    """The pattern is none; the text says why."""


def compile_glob(pattern: str) -> re.Pattern[str]:
    """
    Return what matches whole names.

    Raises:
        BadGlob: a brace is not closed, or it is too long, or stands for too many texts.
    """
    if len(pattern) > LENGTH_MAX:
        raise BadGlob(f"a pattern has at most {LENGTH_MAX} characters")
    texts, end = _alternatives(pattern, 0, depth=0)
    assert end == len(pattern), "at depth 0 nothing but the end ends it"
    return re.compile("|".join(f"(?:{fnmatch.translate(each)})" for each in texts))


def _alternatives(pattern: str, at: int, *, depth: int) -> tuple[list[str], int]:
    """Write out the alternatives from `at` to the end, or inside braces to what closes them. Return that place too."""
    done: list[str] = []
    texts = [""]
    while at < len(pattern):
        char = pattern[at]
        if depth and char in ",}":
            done += texts
            if char == "}":
                return done, at
            texts, at = [""], at + 1
            continue
        if char == "{":
            inner, at = _alternatives(pattern, at + 1, depth=depth + 1)
            pieces = inner
        elif char == "\\":
            at += 1
            pieces = [_literal(pattern[at])] if at < len(pattern) else [_literal(char)]
        elif char == "[" and (end := _end_of_set(pattern, at)):
            pieces, at = [pattern[at:end]], end - 1
        else:
            pieces = [char if char in "*?" else _literal(char)]
        texts = [text + piece for text in texts for piece in pieces]
        if len(texts) + len(done) > ALTERNATIVES_MAX:
            raise BadGlob(f"a pattern stands for at most {ALTERNATIVES_MAX} texts")
        at += 1
    if depth:
        raise BadGlob("a `{` is not closed")
    return texts, at


def _end_of_set(pattern: str, at: int) -> int:
    """Return the place behind the set that begins at `at`, or 0 where it does not end: then `[` stands for itself."""
    begin = at + 2 if pattern[at + 1 : at + 2] == "!" else at + 1
    return pattern.find("]", begin + 1) + 1


def _literal(char: str) -> str:
    return f"[{char}]" if char in "*?[" else char
