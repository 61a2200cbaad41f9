"""
Finds the key in one segment of a request's path: for `/doc/{key}`, the name of the document.

Pure, used in the primary and in workers. Only paths of the pattern's form have a key: the same number of segments, and
the same other segments. The query never counts. Segments are compared as an application sees them, decoded once (RFC
3986, 2.1), so a document has one key however its name is written. An encoded slash stays within its segment.

It never changes a path.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

PLACE: Final = "{key}"

_DOTS: Final = (".", "..")  # clients resolve these before they send a request (RFC 3986, 5.2.4): they name no document


class PathKey:
    """A pattern such as `/doc/{key}`."""

    def __init__(self, pattern: str) -> None:
        """
        Raises:
            ValueError: it is no pattern. The text says why.
        """
        if not pattern.startswith("/"):
            raise ValueError(f"{pattern!r} does not begin with a slash")
        if any(each in "?#" or each.isspace() or not each.isprintable() for each in pattern):
            raise ValueError(f"{pattern!r} is no path: it must not have a query, a fragment or white space")
        self._segments = [unquote(each) for each in pattern.split("/")]
        if self._segments.count(PLACE) != 1:
            raise ValueError(f"{pattern!r} must have {PLACE} as one whole segment, once, as in /doc/{PLACE}")
        self._place = self._segments.index(PLACE)
        others = [each for each in self._segments if each != PLACE]
        if any("{" in each or "}" in each for each in others):
            raise ValueError(f"{pattern!r} has a brace outside of {PLACE}, the only placeholder")
        if any(each in _DOTS for each in others) or "" in self._segments[1:-1]:
            raise ValueError(f"{pattern!r} has an empty segment, or one of dots, which clients never send")

    def of(self, path: str) -> str | None:
        """
        Return the key in a path; None where the path has another form, or its key is empty.

        Args:
            path: as the client sent it, not decoded, without the query.
        """
        if path.count("/") != len(self._segments) - 1:
            return None
        segments = path.split("/")
        if "%" in path:
            segments = [unquote(each) for each in segments]
        assert len(segments) == len(self._segments), "decoding a segment makes no new one"
        key = segments[self._place]
        segments[self._place] = PLACE
        return key if segments == self._segments and key and key not in _DOTS else None
