"""
The bytes of a publication in Redis.

Pure, in the worker. A payload is everything of a publication but its position. The position is the id of the stream's
entry, and stands beside the payload in a pub/sub message. Workers of two versions read each other's payloads during a
reload, so fields are only ever added at the end, with a default.
"""

from __future__ import annotations

import msgspec

from realtime.broker.base import ClientInfo, RawPublication


class StoredPayload(msgspec.Struct, frozen=True, array_like=True):
    """A publication without its position."""

    data: bytes
    info: ClientInfo | None
    tags: dict[str, str] | None
    time_ms: int
    exclude: str = ""


pack_payload = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(StoredPayload).decode


def read_payload(payload: bytes, epoch: str, offset: int) -> RawPublication:
    """Return the publication at a position."""
    found = _decode(payload)
    return RawPublication(found.data, offset, epoch, found.info, found.tags, found.time_ms, found.exclude)
