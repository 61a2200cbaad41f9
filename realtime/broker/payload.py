"""
The bytes of a publication in Redis, and of a message on a room's channel.

Pure, in the worker. A payload is everything of a publication but its position. The position is the id of the stream's
entry, and stands beside the payload in a pub/sub message. Workers of two releases read each other's payloads during a
deploy, so fields are only ever added at the end, with a default (formats.py).
"""

from __future__ import annotations

from typing import Final

import msgspec

from realtime.broker.base import ClientInfo, RawPublication

# What a message on a channel begins with. lua/publish.lua, member_add.lua and member_remove.lua write these.
PUBLICATION: Final = b"p:"
JOIN: Final = b"j:"
LEAVE: Final = b"l:"

CANNOT_READ: Final = (ValueError, msgspec.MsgspecError)  # what the functions here raise for bytes of another release


class StoredPayload(msgspec.Struct, frozen=True, array_like=True):
    """A publication without its position."""

    data: bytes
    info: ClientInfo | None
    tags: dict[str, str] | None
    time_ms: int
    exclude: str = ""


pack_payload = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(StoredPayload).decode
_decode_info = msgspec.msgpack.Decoder(ClientInfo).decode


def read_payload(payload: bytes, epoch: str, offset: int) -> RawPublication:
    """
    Return the publication at a position.

    Raises:
        ValueError, MsgspecError: it is of a release that this one cannot read.
    """
    found = _decode(payload)
    return RawPublication(found.data, offset, epoch, found.info, found.tags, found.time_ms, found.exclude)


def read_message(text: bytes) -> tuple[bytes, RawPublication | ClientInfo]:
    """
    Return what a message on a channel is, and the publication, or the member that joins or leaves.

    Raises:
        ValueError, MsgspecError: it is of a release that this one cannot read.
    """
    kind = text[:2]
    if kind == PUBLICATION:
        _, epoch, offset, payload = text.split(b":", 3)
        return kind, read_payload(payload, epoch.decode(), int(offset))
    if kind in (JOIN, LEAVE):
        return kind, _decode_info(text[2:])
    raise ValueError(f"it begins with {kind!r}")
