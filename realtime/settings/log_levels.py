"""
The setting of what is logged: one level for all, and others for the loggers that are named.

Pure: text in, a checked text out. `realtime.logs` reads the same text again; it is a text, so that it travels as one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

WORDS: Final = ("debug", "info", "warning", "error")
_LOGGER: Final = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")


@dataclass(frozen=True)
class LogLevels:
    """`info`, or `info,realtime.hub=debug`: a level, and levels of loggers."""

    metavar: str = "LEVEL"
    allowed: str = f"one of {', '.join(WORDS)}, with levels of loggers behind it, as in info,realtime.hub=debug"

    def parse(self, value: object) -> str:
        """
        Return the text in lower case, without blanks.

        Raises:
            ValueError: it is not of that form.
        """
        if not isinstance(value, str):
            raise ValueError
        level, *more = [part.strip() for part in value.split(",")]
        if level.lower() not in WORDS:
            raise ValueError
        found = [level.lower()]
        for part in more:
            name, _, least = (piece.strip() for piece in part.partition("="))
            if not _LOGGER.fullmatch(name) or least.lower() not in WORDS:
                raise ValueError(f"{part!r} is not LOGGER={'|'.join(WORDS)}")
            found.append(f"{name}={least.lower()}")
        return ",".join(found)
