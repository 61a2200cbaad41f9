"""
The JSON shapes that clients and other programs both get: publications, members, and pages of them.

Pure. The wire protocol answers clients with these shapes, and the HTTP API answers programs with the same ones, so that
one description holds for both (Centrifuge client protocol, sections 3.3 and 14). Payloads are `msgspec.Raw`: JSON texts
that are neither parsed nor written anew. Nothing here knows a command, a session or a socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from realtime.broker.base import ClientInfo, ConnectionId, RawPublication

JSON: Final = "json"  # the name under which a census keeps what `presence_entries` made of it

_encoder = msgspec.json.Encoder()


class Info(Struct, omit_defaults=True):
    """
    ClientInfo. `user` and `client` are always written, also empty (section 3.1). The others are JSON of the
    application.
    """

    user: str
    client: str
    conn_info: Raw | UnsetType = UNSET
    chan_info: Raw | UnsetType = UNSET


class Pub(Struct, omit_defaults=True):
    """Publication. `offset` is 0 in a room without history; `time` is Unix time in milliseconds."""

    data: Raw
    info: Info | UnsetType = UNSET
    offset: int = 0
    tags: dict[str, str] | UnsetType = UNSET
    time: int = 0
    delta: bool = False


class PresenceResult(Struct):
    """The members of a room, by connection id. Always written, also where there is none."""

    presence: dict[str, Info]


class PresenceStatsResult(Struct):
    """How many members a room has, and how many users these are."""

    num_clients: int
    num_users: int


class HistoryResult(Struct):
    """A page of a stream. `epoch` and `offset` are of the stream's top, and not of the page's last publication."""

    publications: list[Pub]
    epoch: str
    offset: int


def info_of(info: ClientInfo) -> Info:
    """Return what is said of a client."""
    return Info(
        user=info.user,
        client=info.connection_id,
        conn_info=UNSET if info.conn_info is None else Raw(info.conn_info),
        chan_info=UNSET if info.chan_info is None else Raw(info.chan_info),
    )


def pub_of(publication: RawPublication) -> Pub:
    """Return a publication as it stands in a list of them."""
    return Pub(
        data=Raw(publication.data),
        info=UNSET if publication.info is None else info_of(publication.info),
        offset=publication.offset,
        tags=publication.tags or UNSET,
        time=publication.time_ms,
    )


def presence_entries(members: Mapping[ConnectionId, ClientInfo]) -> bytes:
    """Return members as the entries of a JSON object, without its braces; nothing for no members."""
    return _encoder.encode({connection_id: info_of(info) for connection_id, info in members.items()})[1:-1]
