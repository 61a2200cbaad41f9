"""
What an application gets when it reads a room: its publications, and a page of them.

Runs in the worker. Plain data, decoded: the broker's own are JSON texts, kept as they came. Nothing here awaits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from realtime.broker import base
from realtime.broker.base import ClientInfo, Position


@dataclass(frozen=True, slots=True)
class Publication:
    """
    One message of a room.

    Attributes:
        data: what was published, decoded; the bytes themselves in a room that is `binary`.
        raw: the payload as it was published.
        offset, epoch: its place in the room's stream.
        info: the client that published it; None for a publication of the application.
        tags: short texts beside it.
        time_ms: when, in Unix time.
    """

    data: Any
    raw: bytes
    offset: int = 0
    epoch: str = ""
    info: ClientInfo | None = None
    tags: Mapping[str, str] | None = None
    time_ms: int = 0

    @classmethod
    def decode(cls, published: base.RawPublication, *, binary: bool) -> Publication:
        """Return what the broker keeps, decoded."""
        data = published.data if binary else msgspec.json.decode(published.data)
        return cls(
            data,
            published.data,
            published.offset,
            published.epoch,
            published.info,
            published.tags,
            published.time_ms,
        )

    @property
    def position(self) -> Position:
        """Its place in the room's stream: `history(since=…)` continues after it."""
        return Position(self.epoch, self.offset)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a room's history, and the position at the top of its stream."""

    publications: Sequence[Publication]
    top: Position
