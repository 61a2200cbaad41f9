"""
The protocol for clients that only listen, in JSON.

Pure. Such a client needs no SDK: curl or a browser's EventSource will do. Its first message is a bare connect request,
and it gets bare pushes, without ids (Centrifuge client protocol, section 2.5). Everything else is as in json.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from realtime import codes
from realtime.broker.base import ClientInfo, ConnectionId, RawPublication, Room
from realtime.codes import DisconnectCode, ErrorCode
from realtime.errors import ClientError
from realtime.protocol.centrifuge import json
from realtime.protocol.centrifuge.codec import BadFrame
from realtime.protocol.centrifuge.messages import Command, ConnectCommand, Push, Result
from realtime.surrogates import read_repaired

NAME: Final = "uni"
IS_BINARY: Final = False
BETWEEN: Final = None
PING: Final = json.PING

_decoder = msgspec.json.Decoder(ConnectCommand)
_encoder = msgspec.json.Encoder()

_ENDS: Final = {
    codes.TOKEN_EXPIRED.code: codes.CONNECTION_EXPIRED,
    110: codes.CONNECTION_EXPIRED,  # `expired`, which only an application raises (protocol, section 2.5)
    codes.TOO_MANY_REQUESTS.code: codes.TOO_MANY_REQUESTS_END,
    codes.PERMISSION_DENIED.code: codes.DENIED,
}


def disconnect_for(error: ClientError | ErrorCode) -> DisconnectCode:
    """
    Return how a connection ends whose connect failed: there is no reply that could say so. What is temporary lets the
    client come back, whatever its code.
    """
    end = _ENDS.get(error.code, codes.SERVER_ERROR)
    return codes.SERVER_ERROR if error.temporary and not end.reconnects else end


def decode(message: bytes | str) -> list[Command]:
    """As `Codec.decode`: the one message that such a client sends."""
    try:
        text = message.encode() if isinstance(message, str) else message
        return [Command(id=1, connect=read_repaired(_decoder.decode, text or b"{}"))]
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadFrame(str(error)) from error


def reply(id: int, method: str, result: Result) -> bytes:
    """As `Codec.reply`; there is only the one to connect."""
    assert method == "connect", "a one-way client sends nothing else (section 2.5)"
    return b'{"%b":%b}' % (method.encode(), _encoder.encode(result))


def presence_entries(members: Mapping[ConnectionId, ClientInfo]) -> bytes:
    """Never called: such a client requests nothing."""
    raise AssertionError("a one-way client asks for nothing")


def presence_reply(id: int, entries: Sequence[bytes]) -> bytes:
    """Never called: such a client requests nothing."""
    raise AssertionError("a one-way client asks for nothing")


def error_reply(id: int, error: ClientError | ErrorCode) -> bytes:
    """Never called: see `disconnect_for`."""
    raise AssertionError("a one-way client gets an error as a disconnect")


def push(push: Push) -> bytes:
    """As `Codec.push`."""
    return _encoder.encode(push)


def push_publication(room: Room, publication: RawPublication) -> bytes:
    """As `Codec.push_publication`."""
    return _bare(json.push_publication(room, publication))


def push_delta(room: Room, publication: RawPublication, delta: bytes | None) -> bytes:
    """Never called: such a client negotiates nothing."""
    raise AssertionError("a one-way client has no deltas")


def push_join(room: Room, info: ClientInfo) -> bytes:
    """As `Codec.push_join`."""
    return _bare(json.push_join(room, info))


def push_leave(room: Room, info: ClientInfo) -> bytes:
    """As `Codec.push_leave`."""
    return _bare(json.push_leave(room, info))


def _bare(reply: bytes) -> bytes:
    """Return what stands in `{"push":…}`: a one-way client gets pushes without the wrapper (section 2.5)."""
    return reply[len(b'{"push":') : -1]


pub_of = json.pub_of
payload = json.payload
