"""
Compressed messages on a WebSocket (permessage-deflate, RFC 7692), where the setting `compression` is on.

Pure: runs wherever it is called, knows no socket and no connection. Neither side takes its context over from message to
message (sections 7.1.1.1 and 7.1.1.2): so the compressed bytes are the same for every client, a broadcast is compressed
once, and between two messages a connection has no state of zlib's. It never inflates: websockets' extension does, for
websockets' `ServerProtocol`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

from websockets.exceptions import NegotiationError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.typing import ExtensionParameter

from realtime.transport.frames import BINARY, BINARY_WHOLE, TEXT, TEXT_WHOLE, Frames

THRESHOLD: Final = (
    128  # bytes from which it pays: a JSON text of 60 loses a tenth, of 150 a quarter, of 700 more than half
)

# Measured with pushes in JSON, zlib 1.2.13: 700 bytes become 282 in 6 us, 3,700 become 1,068 in 14 us. Level 6 takes a
# twelfth off that and twice the time; level 1 saves no time. A larger window and more memory save one byte in fifty at
# 30 kB and nothing below 4 kB, but then to set up zlib, which each message does, can cost more than to compress it.
LEVEL: Final = 3
WINDOW_BITS: Final = 12
MEMORY_LEVEL: Final = 5

_RSV1: Final = 0x40  # "Per-Message Compressed" (section 6)
_TAIL: Final = b"\x00\x00\xff\xff"  # of a flush; not sent (section 7.2.1)
_LARGEST_WINDOW: Final = 15  # reads what was written with any


class DeflatedFrames:
    """A `Framing`: each message is one WebSocket frame of one kind, compressed where that makes it shorter."""

    __slots__ = ("_compressed", "_plain", "name")
    takes_several = True

    def __init__(self, name: str, plain: Frames, first: int) -> None:
        self.name = name
        self._plain = plain
        self._compressed = Frames(name, first | _RSV1)

    def frame(self, payload: bytes) -> bytes:
        """Return `payload` as one unmasked frame, as a server sends it. A short one stays plain (section 6)."""
        if len(payload) < THRESHOLD:
            return self._plain.frame(payload)
        deflated = deflate(payload)
        if len(deflated) >= len(payload):
            return self._plain.frame(payload)
        return self._compressed.frame(deflated)

    def __repr__(self) -> str:
        return f"<frames {self.name}>"


def deflate(payload: bytes) -> bytes:
    """Return what a compressed message carries: raw deflate that refers to nothing before it, without the tail."""
    deflater = zlib.compressobj(LEVEL, zlib.DEFLATED, -WINDOW_BITS, MEMORY_LEVEL)
    deflated = deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)
    assert deflated.endswith(_TAIL), "a flush ends with an empty block"
    return deflated[: -len(_TAIL)]


DEFLATED_TEXT: Final = DeflatedFrames("websocket-text-deflated", TEXT, TEXT_WHOLE)
DEFLATED_BINARY: Final = DeflatedFrames("websocket-binary-deflated", BINARY, BINARY_WHOLE)


class Offers(ServerPerMessageDeflateFactory):
    """
    What is answered to a client that offers compression, by websockets' rules.

    Neither side takes a context over, asked or not. An offer is declined when its client cannot hold our window.
    """

    def __init__(self) -> None:
        super().__init__(server_no_context_takeover=True, client_no_context_takeover=True)

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        """
        Answer one offer.

        Raises:
            NegotiationError: it is declined; the client's next one may do.
        """
        answer, extension = super().process_request_params(params, accepted_extensions)
        if extension.local_max_window_bits < WINDOW_BITS:
            raise NegotiationError(f"the client's window has {extension.local_max_window_bits} bits")
        return answer, extension


OFFERS: Final = Offers()


def inflating() -> PerMessageDeflate:
    """Make the extension that inflates what any client sends; websockets bounds it by `max_size` of `ws_protocol`."""
    return PerMessageDeflate(
        remote_no_context_takeover=True,
        local_no_context_takeover=True,
        remote_max_window_bits=_LARGEST_WINDOW,
        local_max_window_bits=WINDOW_BITS,
    )
