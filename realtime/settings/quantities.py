"""
Kinds of numbers that a setting can have: whole ones, sizes, shares, mode bits and lengths of time.

Pure, as kinds.py says. Every number has bounds, and is written with its unit or without; it is shown as a person would
write it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Whole:
    """
    A whole number within bounds, or one of a few words that stand for one.

    A boolean of TOML is refused, although Python counts it as a number.
    """

    low: int
    high: int
    words: tuple[tuple[str, int], ...] = ()

    @property
    def metavar(self) -> str:
        return "|".join(["N", *(word for word, _ in self.words)])

    @property
    def allowed(self) -> str:
        return " or ".join([f"a whole number from {self.low} to {self.high}", *(word for word, _ in self.words)])

    def parse(self, value: object) -> int:
        if isinstance(value, str):
            for word, number in self.words:
                if value.lower() == word:
                    return number
            if not re.fullmatch(r"-?[0-9]{1,18}", value):  # int() would also read "1_000", " 7" and "٣"
                raise ValueError
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise ValueError
        return value


@dataclass(frozen=True)
class Size:
    """A number of bytes: `65536`, `64KiB`, `1MiB`, `2GiB`."""

    low: int
    high: int
    metavar: str = "BYTES"

    @property
    def allowed(self) -> str:
        return f"a size from {size_text(self.low)} to {size_text(self.high)}, such as 65536 or 64KiB"

    def parse(self, value: object) -> int:
        if isinstance(value, str):
            match = re.fullmatch(r"([0-9]{1,15})\s*(|b|k|kb|kib|m|mb|mib|g|gb|gib)", value.strip().lower())
            if match is None:
                raise ValueError
            # k, kB and KiB are all 1024 bytes here: a limit that is 2 % larger than meant harms no one
            value = int(match[1]) * {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}[match[2][:1]]
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise ValueError
        return value


@dataclass(frozen=True)
class Share:
    """A part of the whole: `0.1`, `10%`. Without a sign of percent, 10 would be ten times the whole, and is refused."""

    metavar: str = "SHARE"
    allowed: str = "a share from 0 to 1, such as 0.1 or 10%"

    def parse(self, value: object) -> float:
        if isinstance(value, str):
            match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)(%?)", value.strip())
            if match is None:
                raise ValueError
            value = float(match[1]) / (100 if match[2] else 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError
        return float(value)


@dataclass(frozen=True)
class Octal:
    """Mode bits, as chmod(1) and umask(1) write them: `027`. A number of TOML has to say its base: `0o027`."""

    metavar: str = "OCTAL"
    allowed: str = "mode bits in octal from 000 to 777, such as 027"

    def parse(self, value: object) -> int:
        if isinstance(value, str):
            match = re.fullmatch(r"(?:0o)?([0-7]{1,4})", value.strip())
            if match is None:
                raise ValueError
            value = int(match[1], 8)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 0o777:
            raise ValueError
        return value


@dataclass(frozen=True)
class Seconds:
    """A length of time: `25`, `1.5`, `25s`, `500ms`, `2m`, `1h`."""

    low: float
    high: float
    metavar: str = "SECONDS"

    @property
    def allowed(self) -> str:
        return f"a time from {seconds_text(self.low)} to {seconds_text(self.high)}, such as 25, 25s, 500ms or 2m"

    def parse(self, value: object) -> float:
        if isinstance(value, str):
            match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(|ms|s|m|h)", value.strip().lower())
            if match is None:
                raise ValueError
            value = float(match[1]) * {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}[match[2]]
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise ValueError  # a NaN fails the comparison too, which is why it stands in this direction
        return float(value)


def size_text(size: int) -> str:
    """Write a size in its largest whole unit, as `Size` reads it: 64KiB."""
    assert size >= 0, "sizes have no sign"
    for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def seconds_text(seconds: float) -> str:
    """Write a length of time in its largest whole unit, as `Seconds` reads it: 25s, 500ms, 5m, 1h."""
    assert seconds >= 0, "lengths of time have no sign"
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    for unit, factor in (("h", 3600), ("m", 60)):
        if seconds and seconds % factor == 0:
            return f"{seconds / factor:g}{unit}"
    return f"{seconds:g}s"
