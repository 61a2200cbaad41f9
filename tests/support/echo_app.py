"""
An application whose worker echoes WebSocket messages, over the transport that can move.

`realtime serve tests/support/echo_app.py` loads it in each worker. Sessions, moves and the transport are the server's
own; the Centrifuge protocol alone is replaced, by one in which each message is a command, and its answer the message
itself. The state of a session names the encoding of the client's handshake, which both workers know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import realtime.parts
from realtime import App
from realtime.protocol.centrifuge.codec import Codec
from realtime.protocol.centrifuge.dialect import CentrifugeDialect
from realtime.protocol.centrifuge.server import Centrifuge
from realtime.session.session import Session
from realtime.session.state import Liveness
from realtime.transport.base import Framing, Handshake, Transport
from realtime.transport.deflate import DEFLATED_BINARY, DEFLATED_TEXT
from realtime.transport.frames import BINARY, TEXT

app = App()


class EchoDialect(CentrifugeDialect):
    """Messages of any content, as text or binary, as they came."""

    def __init__(self, codec: Codec, framing: Framing) -> None:
        super().__init__(codec, framing)
        is_compressed = framing in (DEFLATED_TEXT, DEFLATED_BINARY)
        self._text: Framing = DEFLATED_TEXT if is_compressed else TEXT
        self._binary: Framing = DEFLATED_BINARY if is_compressed else BINARY

    def decode(self, message: bytes | str) -> Sequence[Any]:
        return [message]

    def is_publication(self, command: Any) -> bool:
        return False

    async def execute(self, session: Session, command: Any) -> None:  # type: ignore[override]
        is_text = isinstance(command, str)
        session.write(self._text.frame(command.encode()) if is_text else self._binary.frame(command))


class Echo(Centrifuge):
    """Begins and continues sessions as the server's own protocol does; they speak by `EchoDialect`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._echoes: dict[Framing, EchoDialect] = {}

    def __call__(self, transport: Transport, handshake: Handshake, subprotocol: str | None) -> Session:
        session = super().__call__(transport, handshake, subprotocol)
        session.disarm()  # no `connect` will come
        session.state.liveness = Liveness()
        return session

    def _dialect(self, codec: Codec, transport: Transport) -> CentrifugeDialect:
        transport.choose_framing(binary=codec.IS_BINARY)
        framing = transport.framing
        if framing not in self._echoes:
            self._echoes[framing] = EchoDialect(codec, framing)
        return self._echoes[framing]


realtime.parts.Centrifuge = Echo  # type: ignore[misc]
