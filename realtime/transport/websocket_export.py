"""
An open WebSocket's transport as plain data, for the worker that goes on with the connection.

Pure: a structure and what is made of it. It travels beside the session's own state (`session/state.py`) and with the
descriptor. It never holds a message of the session's that is whole: those were delivered before.

Times are seconds of the machine's monotonic clock, which all of its processes share.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from realtime.transport.base import Framing
from realtime.transport.deflate import DEFLATED_BINARY, DEFLATED_TEXT
from realtime.transport.frames import BINARY, TEXT
from realtime.transport.peer import Peer
from sticky.handoff.journal import NO_MARK, Mark
from sticky.keys.hashing import Key

VERSION: Final = 1  # another one is refused, and its client reconnects

FRAMINGS: Final[dict[str, Framing]] = {each.name: each for each in (TEXT, BINARY, DEFLATED_TEXT, DEFLATED_BINARY)}


class BadExport(ValueError):
    """This worker cannot go on with a connection: another version wrote what it gets."""


class WebSocketExport(Struct, omit_defaults=True):
    """
    What a transport is, but for its descriptor. Every field has a default, so that a later version may add some.

    Attributes:
        version: of this structure.
        address, client_port, scheme, sticky_id, new_sticky_id, peer_address: of the peer, as `Peer` has them.
        is_compressed: messages may be; the handshake said so.
        framing: the name of the one that was chosen.
        received: bytes that were received and not read, in order: whole frames, and the beginning of one.
        message: what came of the fragmented message in progress, as its frames carried it. None: there is none.
        message_is_text, message_is_deflated: of that message.
        unsent: bytes that were written and not sent.
        congested_since_s: since when the peer has not taken everything; None when it has.
        acknowledged_then: what it had acknowledged when that was looked at last.
        acknowledged: what it has acknowledged now.
        floods: when each of its rates is paid off, by kind.
    """

    version: int = VERSION
    address: str = ""
    client_port: int = 0
    scheme: str = "http"
    sticky_id: str | None = None
    new_sticky_id: str | None = None
    peer_address: str = ""
    is_compressed: bool = False
    framing: str = TEXT.name
    received: bytes = b""
    message: bytes | None = None
    message_is_text: bool = True
    message_is_deflated: bool = False
    unsent: bytes = b""
    congested_since_s: float | None = None
    acknowledged_then: int = 0
    acknowledged: int = 0
    floods: dict[str, float] = {}

    def peer(self, *, mark: Mark = NO_MARK, key: Key | None = None) -> Peer:
        """Return the peer. Its mark and its key are those of the process that goes on with it."""
        return Peer(
            self.address,
            self.client_port,
            self.scheme,
            sticky_id=self.sticky_id,
            new_sticky_id=self.new_sticky_id,
            peer_address=self.peer_address,
            mark=mark,
            key=key,
        )

    def check(self) -> None:
        """
        Raises:
            BadExport: another version wrote it.
        """
        if self.version != VERSION:
            raise BadExport(f"a WebSocket of version {self.version}; this worker reads version {VERSION}")
        if self.framing not in FRAMINGS:
            raise BadExport(f"a WebSocket with the framing {self.framing!r}; this worker has none of this name")
