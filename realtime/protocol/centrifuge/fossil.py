"""
Deltas between two payloads, in Fossil's format.

Pure: two byte strings in, one out. The format is that of the Fossil version control system (fossil-scm.org, "Delta
Format"), as the Centrifuge client protocol uses it (section 11). A delta is written once per publication, so it may
cost more than its share of a delivery; it is never applied here.
"""

from __future__ import annotations

from typing import Final

BLOCK: Final = 16  # bytes of the source that are looked for as a whole
DIGITS: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"


def delta(source: bytes, target: bytes) -> bytes:
    """Return what makes `target` of `source`. It can be longer than `target`."""
    parts = [_number(len(target)), b"\n"]
    literal_at = at = 0
    if len(source) > BLOCK:
        blocks = _blocks(source)
        last = len(target) - BLOCK
        while at <= last:
            found = blocks.get(target[at : at + BLOCK])
            if found is None:
                at += 1
                continue
            begin, here = found, at
            while begin and here > literal_at and source[begin - 1] == target[here - 1]:
                begin, here = begin - 1, here - 1
            size = _common(source, found, target, at) + at - here
            parts += _literal(target, literal_at, here)
            parts += (_number(size), b"@", _number(begin), b",")
            literal_at = at = here + size
    assert literal_at <= len(target), "what was copied ends within the target"
    parts += _literal(target, literal_at, len(target))
    parts += (_number(checksum(target)), b";")
    return b"".join(parts)


def checksum(data: bytes) -> int:
    """Return the sum of the big-endian 32-bit words, of `data` filled up with zeros, modulo 2**32."""
    data += bytes(-len(data) % 4)
    return sum(int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data), 4)) & 0xFFFFFFFF


def _blocks(source: bytes) -> dict[bytes, int]:
    """Return where each block of the source begins; the first, where blocks are equal. Blocks do not overlap."""
    blocks: dict[bytes, int] = {}
    for at in range(0, len(source) - BLOCK + 1, BLOCK):
        blocks.setdefault(source[at : at + BLOCK], at)
    return blocks


def _common(source: bytes, i: int, target: bytes, j: int) -> int:
    """
    Count the bytes that are equal from two places on. Slices of 64 bytes are compared first: a loop over single bytes
    would cost more than all the rest of a delta.
    """
    most = min(len(source) - i, len(target) - j)
    step, size = 64, 0
    while size < most and source[i + size : i + size + step] == target[j + size : j + size + step]:
        size += step
    size = min(size, most)
    while size < most and source[i + size] == target[j + size]:
        size += 1
    return size


def _literal(target: bytes, begin: int, end: int) -> tuple[bytes, ...]:
    """Return the piece that inserts bytes of the target; nothing where there are none."""
    return (_number(end - begin), b":", target[begin:end]) if end > begin else ()


def _number(value: int) -> bytes:
    """Return a number in the 64 digits of the format, most significant first. Zero is one digit."""
    digits = bytearray()
    while True:
        digits.append(DIGITS[value & 63])
        value >>= 6
        if not value:
            digits.reverse()
            return bytes(digits)
