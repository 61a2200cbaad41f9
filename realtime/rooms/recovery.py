"""
What a returning client missed, decided from positions alone.

Runs in the worker; pure: streams and positions in, a decision out. It has no broker, no clock and no client. The rules
are those of the Centrifuge client protocol, section 6.1. One is added: `recovered` is true only where it is proved.

- `replay` says whether a page of history proves that nothing is missing after a position.
- `merge` joins what was read from the stream with what arrived while it was read.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from realtime.broker.base import History, Position, RawPublication


class Gap(Exception):
    """Publications are missing between what was read and what arrived."""

    def __init__(self, after: int, found: int) -> None:
        super().__init__(after, found)
        self.after, self.found = after, found

    def __str__(self) -> str:
        return f"offset {self.found} follows {self.after}"


class Replay(Struct, frozen=True):
    """Whether everything after a position is there, and if so what it is, oldest first."""

    recovered: bool
    publications: Sequence[RawPublication] = ()


def replay(since: Position, page: History) -> Replay:
    """
    Decide whether `page`, read after `since`, holds every publication between `since` and the page's top.

    Args:
        since: what the client has. An empty epoch is a client that was subscribed before the stream began.
        page: the publications after `since.offset`, and the top of the stream when they were read.
    """
    if since.epoch not in ("", page.top.epoch):
        return Replay(recovered=False)
    if since.offset > page.top.offset:
        return Replay(recovered=False)
    if since.offset == page.top.offset:
        return Replay(recovered=True)
    publications = [publication for publication in page.publications if publication.offset <= page.top.offset]
    wanted = range(since.offset + 1, page.top.offset + 1)
    if len(publications) != len(wanted):
        return Replay(recovered=False)
    if any(publication.offset != offset for publication, offset in zip(publications, wanted, strict=True)):
        return Replay(recovered=False)
    return Replay(recovered=True, publications=publications)


class Merged(Struct, frozen=True):
    """Publications without doubles, in order, and the position after the last."""

    publications: Sequence[RawPublication]
    position: Position


def merge(top: Position, read: Sequence[RawPublication], arrived: Sequence[RawPublication]) -> Merged:
    """
    Continue `read`, which ends at `top`, with those of `arrived` that come after it.

    Args:
        top: the top of the stream when `read` was read.
        read: what the client gets from the stream; ends at `top` where it is not empty.
        arrived: what came live meanwhile, perhaps twice, perhaps also contained in `read`.

    Raises:
        Gap: something between `top` and a later arrival is missing, or an arrival is of another epoch.
    """
    publications = list(read)
    offset = top.offset
    for publication in sorted(arrived, key=_offset):
        if publication.epoch != top.epoch:
            raise Gap(offset, publication.offset)
        if publication.offset <= offset:
            continue
        if publication.offset != offset + 1:
            raise Gap(offset, publication.offset)
        publications.append(publication)
        offset = publication.offset
    assert offset == top.offset or publications, "the position only moves with a publication"
    return Merged(publications, Position(top.epoch, offset))


def _offset(publication: RawPublication) -> int:
    return publication.offset
