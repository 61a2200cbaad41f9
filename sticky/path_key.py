"""
Finds the key that one segment of a request's path is: of `/doc/{key}`, the name of the document.

Pure, used in the primary and in workers. Exactly the paths of the pattern's form have a key: as many segments, the same
ones around it, and the query never counts. Segments are compared as an application sees them, decoded once (RFC 3986,
2.1), so that a document has one key however its name is written. A slash that is encoded stays within its segment.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

PLACE: Final = "{key}"

_DOTS: Final = (".", "..")  # what clients resolve before they ask (RFC 3986, 5.2.4): they name no document


class PathKey:
    """A pattern such as `/doc/{key}`."""

    def __init__(self, pattern: str) -> None:
        """
        Raises:
            ValueError: it is no pattern; its text says why.
        """
        if not pattern.startswith("/"):
            raise ValueError(f"{pattern!r} does not begin with a slash")
        if any(each in "?#" or each.isspace() or not each.isprintable() for each in pattern):
            raise ValueError(f"{pattern!r} is no path: a query, a fragment and white space have no place in it")
        self._segments = [unquote(each) for each in pattern.split("/")]
        if self._segments.count(PLACE) != 1:
            raise ValueError(f"{pattern!r} must have {PLACE} as one whole segment, once, as /doc/{PLACE} has it")
        self._place = self._segments.index(PLACE)
        others = [each for each in self._segments if each != PLACE]
        if any("{" in each or "}" in each for each in others):
            raise ValueError(f"{pattern!r} has a brace outside of {PLACE}: only {PLACE} stands for what differs")
        if any(each in _DOTS for each in others) or "" in self._segments[1:-1]:
            raise ValueError(f"{pattern!r} has an empty segment, or one of dots, which no client asks for")

    def of(self, path: str) -> str | None:
        """
        Return the key in a path, or None where the path has another form, or its key is empty.

        Args:
            path: as it came, not decoded, without the query.
        """
        if path.count("/") != len(self._segments) - 1:
            return None
        segments = path.split("/")
        if "%" in path:
            segments = [unquote(each) for each in segments]
        key = segments[self._place]
        segments[self._place] = PLACE
        return key if segments == self._segments and key and key not in _DOTS else None
