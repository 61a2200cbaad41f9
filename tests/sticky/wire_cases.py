"""Reads the cases in tests/wire/, whose README says how they are written, and feeds them to a parser in every way."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sticky.heads.first_bytes import NEED_MORE

WIRE = Path(__file__).parent.parent / "wire"

_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|([rnt\\]))(?:\{(\d+)\})?")
_LETTERS = {"r": "\r", "n": "\n", "t": "\t", "\\": "\\"}

# What may come right behind: a body, the next request, another protocol's start, and nothing good.
LEFT_OVER = (b"x", b"GET / HTTP/1.1\r\nHost: b\r\n\r\n", b"\r\n", b"\x00\xff\n", b"a: b\r\n\r\n")


@dataclass(frozen=True)
class Case:
    """One file: the bytes, and the answer's first word, its other words, and the lines below."""

    name: str
    data: bytes
    answer: str
    words: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return self.name


def load(folder: str) -> list[Case]:
    """Load the cases of a folder below tests/wire/. A folder without any is a mistake, not a success."""
    cases = [_load(path) for path in sorted((WIRE / folder).iterdir())]
    assert cases, f"no cases in {folder}"
    return cases


def unescape(text: str) -> bytes:
    """Make the bytes that a line of a case stands for."""

    def byte(match: re.Match[str]) -> str:
        hexadecimal, letter, times = match.groups()
        return (chr(int(hexadecimal, 16)) if hexadecimal else _LETTERS[letter]) * int(times or 1)

    return _ESCAPE.sub(byte, text).encode("latin-1")


def assert_same_in_every_way(parse: Callable[[bytes], object], data: bytes, expected: object, *, early: bool) -> None:
    """
    Feed `data` whole, with bytes after it, and every prefix of it: `expected` each time, or more is asked of a prefix.

    With `early` a prefix may give the answer before the last byte is there, without it none may.
    """
    assert parse(data) == expected
    for more in LEFT_OVER:
        assert parse(data + more) == expected, f"with {more!r} after it"
    answered = False
    for cut in range(len(data)):
        answer = parse(data[:cut])
        if answer != NEED_MORE:
            assert early, f"answered {answer} at byte {cut} already"
            assert answer == expected, f"at byte {cut}"
            answered = True
        else:
            assert not answered, f"asked for more at byte {cut}, after an answer"


def _load(path: Path) -> Case:
    lines = path.read_text(encoding="ascii").removesuffix("\n").split("\n")
    data: list[bytes] = []
    position = 0
    while lines[position].startswith("# "):
        position += 1
    while not lines[position].startswith("=== "):
        data.append(unescape(lines[position]))
        position += 1
    answer, _, words = lines[position].removeprefix("=== ").partition(" ")
    return Case(path.stem, b"".join(data), answer, words, tuple(lines[position + 1 :]))
