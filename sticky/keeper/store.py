"""
What the keeper keeps for the next primary: descriptors and short texts, each under a name.

Runs in the keeper. It owns the descriptors. It never reads from one, never registers one with a poller, and knows no
meaning of a name. Bounded: a primary that puts more than `NAMES_MAX` names has a bug, and further ones are refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

NAMES_MAX = 16_384  # 512 workers with three descriptors and one text each, twice during a reload, and room to spare


class Store:
    """
    The kept descriptors and texts.

    Invariant: a name has at most one descriptor and at most one text.
    """

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}
        self._texts: dict[str, str] = {}

    def put(self, name: str, fd: int) -> bool:
        """Keep a descriptor, in place of the one of that name. Return False, and close it, when there are too many."""
        if len(self._fds) >= NAMES_MAX and name not in self._fds:
            os.close(fd)
            return False
        before = self._fds.pop(name, None)
        assert before != fd, "a number that is kept is open, so the kernel gives it to nothing else"
        self._fds[name] = fd
        if before is not None:
            os.close(before)
        return True

    def set(self, name: str, text: str) -> bool:
        """Keep a text. Return False when there are too many."""
        if len(self._texts) >= NAMES_MAX and name not in self._texts:
            return False
        self._texts[name] = text
        return True

    def drop(self, name: str) -> None:
        """Close the descriptor and forget the text that have this name. Without any, nothing happens."""
        self._texts.pop(name, None)
        fd = self._fds.pop(name, None)
        if fd is not None:
            os.close(fd)

    def text(self, name: str, default: str = "") -> str:
        """Return the text of a name."""
        return self._texts.get(name, default)

    def messages(self) -> Iterator[tuple[str, int | None]]:
        """Give the lines that bring everything to a primary, each with its descriptor."""
        for name, text in self._texts.items():
            yield f"FACT {name} {text}", None
        for name, fd in self._fds.items():
            yield f"KEPT {name}", fd

    def clear(self) -> None:
        """Close everything."""
        for name in [*self._fds, *self._texts]:
            self.drop(name)

    def __len__(self) -> int:
        """Return how many descriptors are kept."""
        return len(self._fds)
