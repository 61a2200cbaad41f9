"""
The protocol in JSON.

Pure: bytes in, structures out, and back. Commands stand one to a line; so does every answer (Centrifuge client
protocol, section 3.1). Payloads are embedded as they came, but for raw newlines, which can only be white space and
would end the line. A publication is put together from pieces rather than encoded: it is the one message that is written
for every member of a room.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw

from realtime.broker.base import ClientInfo, RawPublication, Room
from realtime.codes import ErrorCode
from realtime.errors import ClientError
from realtime.json_text import one_line
from realtime.protocol import shapes
from realtime.protocol.centrifuge.codec import BadFrame
from realtime.protocol.centrifuge.messages import Command, Error, Push, Result
from realtime.protocol.shapes import JSON, Pub, info_of
from realtime.surrogates import repair

NAME: Final = JSON
IS_BINARY: Final = False
BETWEEN: Final = b"\n"
PING: Final = b"{}"

_decoder = msgspec.json.Decoder(Command)
_encoder = msgspec.json.Encoder()


def decode(message: bytes | str) -> list[Command]:
    """
    Return the commands of one message, in order.

    Raises:
        BadFrame: nothing in it, malformed JSON, or a field of another type than the schema's.
    """
    try:
        if isinstance(message, bytes):
            message = message.decode()  # no later code checks a payload, and other bytes would end each reader
        if "\n" not in message:  # the usual message
            try:
                return [_decoder.decode(message)]
            except msgspec.DecodeError:
                return [_command(message)]
        lines = message.split("\n")
        if not lines[-1]:
            lines.pop()
        return [_command(line) for line in lines]
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadFrame(str(error)) from error


def _command(line: str) -> Command:
    """
    Return the command of one line. A lone surrogate, which JavaScript can cut out of a text, is repaired: the codec
    refuses it, and the client would lose its connection by one character of its user.
    """
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError:
        return _decoder.decode(repair(line.encode()))


def reply(id: int, method: str, result: Result) -> bytes:
    """Return the answer to command `id`."""
    return b'{"id":%d,"%b":%b}' % (id, method.encode(), _encoder.encode(result))


def presence_reply(id: int, entries: Sequence[bytes]) -> bytes:
    """As `Codec.presence_reply`."""
    return b'{"id":%d,"presence":{"presence":{%b}}}' % (id, b",".join(filter(None, entries)))


def error_reply(id: int, error: ClientError | ErrorCode) -> bytes:
    """Return the answer to a command that failed."""
    content = Error(error.code, error.message, error.temporary)
    return b'{"id":%d,"error":%b}' % (id, _encoder.encode(content))


def push(push: Push) -> bytes:
    """Return a push of a rare kind."""
    return b'{"push":%b}' % _encoder.encode(push)


def push_publication(room: Room, publication: RawPublication) -> bytes:
    """Return the push of a publication."""
    return _push_publication(room, publication, publication.data, b"")


def push_delta(room: Room, publication: RawPublication, delta: bytes | None) -> bytes:
    """
    Return the push for a client that negotiated deltas: the payload is then a JSON string, of the delta or of the whole
    text. A delta that cut a character in half cannot be one.
    """
    if delta is not None:
        try:
            return _push_publication(room, publication, _encoder.encode(delta.decode()), b',"delta":true')
        except UnicodeDecodeError:
            pass
    return _push_publication(room, publication, _encoder.encode(publication.data.decode()), b"")


def _push_publication(room: Room, publication: RawPublication, data: bytes, more: bytes) -> bytes:
    """
    Join the pieces of a publication's push. Zero values are left out (section 3.1). An offset is there only in a room
    with history, so an SDK never stores a position that no stream has.
    """
    parts = [b'{"push":{"channel":', _encoder.encode(room), b',"pub":{"data":', data]
    if publication.info is not None:
        parts += (b',"info":', _encoder.encode(info_of(publication.info)))
    if publication.offset:
        parts.append(b',"offset":%d' % publication.offset)
    if publication.tags:
        parts += (b',"tags":', _encoder.encode(publication.tags))
    if publication.time_ms:
        parts.append(b',"time":%d' % publication.time_ms)
    parts += (more, b"}}}")
    return b"".join(parts)


def push_join(room: Room, info: ClientInfo) -> bytes:
    """Return the push of a join."""
    return b'{"push":{"channel":%b,"join":{"info":%b}}}' % (_encoder.encode(room), _encoder.encode(info_of(info)))


def push_leave(room: Room, info: ClientInfo) -> bytes:
    """Return the push of a leave."""
    return b'{"push":{"channel":%b,"leave":{"info":%b}}}' % (_encoder.encode(room), _encoder.encode(info_of(info)))


def pub_of(publication: RawPublication, *, delta: bool = False) -> Pub:
    """Return a publication as it stands in a list of them; with `delta` the payload is a JSON string."""
    pub = shapes.pub_of(publication)
    if delta:
        pub.data = Raw(_encoder.encode(publication.data.decode()))
    return pub


presence_entries = shapes.presence_entries
payload = one_line
