"""
How an open WebSocket leaves this worker, or arrives from another one.

Runs in both workers, as a part of the transport. What passes between them is a descriptor and a `WebSocketExport`; this
file sends neither. It never says what a frame is, and never decides which connection moves.

**Theory of operation.** A transport without a loop's transport is *parked*: what is written to it waits in `Parked`,
and goes to the socket when it is attached. It is parked in the new worker while the session is restored, and in the old
one around the move:

            detach               export                    release
    OPEN ──────────────▶ PARKED ──────────────▶ OFFERED ──────────────▶ CLOSED
     │ ▲                  │  ▲ ▲                  ▲  │
     │ └──────attach──────┘  │ └────take_back─────┼──┘           PARKED ──abandon──▶ CLOSED
     │                       │                    │
     │                    imported                │
     └──────────────────export, nothing unsent────┘

- *Nothing unsent*: the old worker keeps its loop's transport, paused. Nobody reads or writes by it, and it is the copy
  of the descriptor that keeps the connection until the new worker has acknowledged.
- *Something unsent*: the loop would send the bytes in its buffer whenever the peer makes room, while the new worker
  sends them as well. So `detach` aborts the loop's transport behind a duplicate of the descriptor. asyncio discards its
  buffer at once. uvloop may still send in the turn of the abort; when it calls `connection_lost`, the number of bytes
  left is final, for it closes the descriptor next.
- A descriptor is aborted or closed here, never shut down: `shutdown` acts on the socket, so on the other worker's copy.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from abc import abstractmethod
from typing import Final, Self

from websockets.frames import Opcode

from realtime.transport.base import ClientSession
from realtime.transport.deflate import DEFLATED_BINARY, DEFLATED_TEXT
from realtime.transport.flood import FloodMeter
from realtime.transport.frames import BINARY, TEXT, apply_mask
from realtime.transport.parked import Parked
from realtime.transport.peer import Peer
from realtime.transport.websocket_endpoint import WebSocketEndpoint
from realtime.transport.websocket_export import FRAMINGS, WebSocketExport
from realtime.transport.websocket_flow import ABNORMAL, LOW_WATER, WebSocketFlow, WebSocketState

RSV1: Final = 0x40  # "Per-Message Compressed" (RFC 7692, section 6)
NO_MASK: Final = bytes(4)  # leaves a payload as it is
DEFLATED_MAX: Final = 2  # times the limit of a message: more of a compressed one is not kept

logger = logging.getLogger("realtime.websocket")


class WebSocketMove(WebSocketFlow):
    """The transport's part that moves it. The class that reads from the socket derives from this one."""

    __slots__ = ("_deflated", "_is_compressed", "_is_deflated", "_is_text", "_message")

    def __init__(self, endpoint: WebSocketEndpoint, peer: Peer) -> None:
        super().__init__(endpoint, peer)
        self._message: bytearray | None = None  # what came so far of one in fragments
        self._is_text = True  # that message
        self._is_deflated = False  # that message
        self._deflated: bytearray | None = None  # what came so far of it; None: not so, or too much to be kept
        self._is_compressed = False  # messages may be: the handshake said so

    @property
    def peer(self) -> Peer:
        """The other end of the connection."""
        return self._peer

    @property
    def session(self) -> ClientSession | None:
        """The session; None before the handshake is done, and once the connection has ended or is offered."""
        return self._session

    def hand_over(self, session: ClientSession) -> None:
        """Let another session have the connection from the next message on: it knows of the client already."""
        assert self._state is WebSocketState.OPEN, "what is closing or moving stays its session's"
        self._session = session

    @property
    def is_connecting(self) -> bool:
        """Whether the handshake is not done."""
        return self._state is WebSocketState.CONNECTING

    @property
    def is_parked(self) -> bool:
        """Whether it has to be attached before it goes on."""
        return self._state is WebSocketState.PARKED

    # In the old worker

    @property
    def can_move(self) -> str | None:
        """Why it cannot move to another worker now; None where it can."""
        if self._state is WebSocketState.CONNECTING:
            return "its handshake is not done"
        if self._state not in (WebSocketState.OPEN, WebSocketState.PARKED):
            return f"it is {self._state.value}"
        if self._message is not None and self._is_deflated and self._deflated is None:
            return "too much came of a compressed message in fragments"
        parked, transport = self._parked, self._transport
        if parked is not None and parked.farewell is not None:
            return "it is closing"
        if parked is not None and parked.detached is not None:
            return "its loop has not let go of it"
        if transport is None:
            return "it has no descriptor" if parked is None or parked.sock is None else None
        if not self._keeps_unsent:
            return "its TLS ends in this worker"
        if transport.is_closing():
            return "its peer is gone"
        if transport.get_write_buffer_size() > (0 if self._unsent is None else self._unsent.size):
            return "bytes of an earlier request are unsent"
        return None

    async def detach(self) -> None:
        """
        Take what was not sent out of the loop's buffer. Where nothing waits there, this does nothing and gives no turn
        away. The session reads nothing now, and `can_move` is None. Next is `export` in the same turn, or `attach`.

        Raises:
            OSError: there is no descriptor left for the duplicate. Nothing has changed.
        """
        assert self._state is WebSocketState.OPEN and self._held, "a session that reads nothing moves"  # noqa: PT018
        transport, unsent = self._transport, self._unsent
        buffered = transport.get_write_buffer_size()
        if not buffered:
            return
        assert unsent is not None, "what waits in the loop's buffer is noted"
        parked = Parked(socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())))
        parked.detached = asyncio.get_running_loop().create_future()
        self._park(parked)
        transport.abort()
        if not transport.get_write_buffer_size():  # asyncio has discarded it
            self._salvage(unsent.tail(buffered))
        await asyncio.shield(parked.detached)

    def _salvage(self, tail: bytes) -> None:
        """Put what was taken out of the loop's buffer in front of what was written since."""
        assert self._parked is not None, "it is detached"
        self._parked.pieces.insert(0, tail)
        self._unsent = None

    def _has_detached(self) -> bool:
        """Take the loop's `connection_lost` for the end of `detach`, where it is; say whether it was."""
        parked = self._parked
        if parked is None or parked.detached is None or self._state is not WebSocketState.PARKED:
            return False
        if self._unsent is not None:  # uvloop: the number is final only now
            buffered = self._transport.get_write_buffer_size()
            self._unsent.trim(buffered)
            self._salvage(self._unsent.tail(buffered))
        self._transport = None
        done, parked.detached = parked.detached, None
        if not done.done():
            done.set_result(None)
        return True

    @property
    def descriptor(self) -> int:
        """The descriptor's number, to be sent to the new worker. It stays ours."""
        if self._parked is not None and self._parked.sock is not None:
            return self._parked.sock.fileno()
        return int(self._transport.get_extra_info("socket").fileno())

    def export(self) -> WebSocketExport:
        """
        Return what the transport is, and neither read nor write from now on: it is offered to another worker. The
        session is let go of. `can_move` is None, and nothing waits in the loop's buffer. Next is `release` or
        `take_back`.
        """
        assert self.can_move is None, f"{self.can_move}"
        assert self._parked is not None or not self.buffered(), "`detach` takes out what waits in the loop's buffer"
        peer, parked = self._peer, self._parked or Parked()
        parked.acknowledged = self.acknowledged_bytes()
        parked.pieces = [b"".join(parked.pieces)]
        message = self._deflated if self._is_deflated else self._message
        self._session = None
        self._parked = parked
        self._held = True
        self._enter(WebSocketState.OFFERED)
        return WebSocketExport(
            address=peer.address,
            client_port=peer.client_port,
            scheme=peer.scheme,
            sticky_id=peer.sticky_id,
            new_sticky_id=peer.new_sticky_id,
            peer_address=peer.peer_address,
            is_compressed=self._is_compressed,
            framing=self.framing.name,
            received=bytes(self._pending),
            message=None if self._message is None or message is None else bytes(message),
            message_is_text=self._is_text,
            message_is_deflated=self._is_deflated,
            unsent=parked.pieces[0],
            congested_since_s=self._congested_since,
            acknowledged_then=self._acknowledged,
            acknowledged=parked.acknowledged,
            floods={} if self._flood is None else self._flood.paid(),
        )

    def release(self) -> None:
        """
        Forget the connection: the new worker has acknowledged it. The peer notices nothing, and no session is notified.
        Its end is counted as any other; where the loop has it, in a later turn. Harmless once it is closed.
        """
        if self._state is WebSocketState.OFFERED:
            self._let_go()

    def take_back(self) -> None:
        """
        Go on with the connection: the new worker has refused it. It is parked, as one that arrives: a session is
        restored, and `attach` follows. Where the connection has ended meanwhile, `attach` notifies the session of it.
        """
        if self._state is WebSocketState.OFFERED:
            self._enter(WebSocketState.PARKED)

    # In the new worker, and where a connection is taken back

    @classmethod
    def imported(cls, endpoint: WebSocketEndpoint, peer: Peer, export: WebSocketExport) -> Self:
        """
        Return the transport of a connection that another worker has exported. It is parked: a session is restored with
        it, which may write; then `attach` follows, or `abandon`.

        Args:
            endpoint: of this worker.
            peer: `export.peer`, with the mark and the key that it has here.
            export: belongs to the transport from now on.

        Raises:
            BadExport: another version wrote it.
        """
        export.check()
        transport = cls(endpoint, peer)
        parked = Parked()
        parked.acknowledged = export.acknowledged
        parked.message = export if export.message is not None else None
        parked.pieces.append(export.unsent)
        transport.framing = FRAMINGS[export.framing]
        transport._is_compressed = export.is_compressed
        transport._pending += export.received
        transport._congested_since = export.congested_since_s
        transport._acknowledged = export.acknowledged_then
        if export.floods:
            transport._flood = FloodMeter(endpoint.limits.flood, export.floods)
        transport._park(parked)
        return transport

    async def attach(self, session: ClientSession | None, sock: socket.socket | None = None) -> None:
        """
        Go on with the connection here: write what waits, in order, and read on in a later turn.

        Args:
            session: that which was restored with this transport. None: none could be, and `close` was called before.
            sock: the descriptor, of an imported connection. It belongs to the loop from now on.

        A peer that is gone is no error, nor is a socket that the loop does not take: the session learns of the end, and
        the connection is counted as lost.
        """
        self._session = session
        parked = self._parked
        assert session is not None or parked is None or parked.farewell, "without a session it only closes"
        if self._state is not WebSocketState.PARKED or parked is None:
            self._tell_session(*ABNORMAL)
            return
        if parked.detached is not None:
            await asyncio.shield(parked.detached)
        if self._transport is not None:
            self._go_live(is_new=False)
        else:
            parked.sock = sock or parked.sock
            assert parked.sock is not None, "an imported connection comes with its descriptor"
            try:
                await asyncio.get_running_loop().connect_accepted_socket(lambda: self, parked.sock)
            except OSError as error:
                logger.info("x %s: gone before it was attached: %s", self._peer, error)
            finally:
                if self._parked is parked:  # also where the task was cancelled
                    self._let_go()

    def abandon(self) -> None:
        """Forget an imported connection whose session could not be restored. Nothing was written or counted."""
        assert self._state is WebSocketState.PARKED, "what is attached is closed, and what is offered released"
        self._session = self._parked = None
        self._enter(WebSocketState.CLOSED)

    def _go_live(self, *, is_new: bool) -> None:
        """Do what waits for the loop's transport. `is_new`: it has read nothing yet."""
        parked, self._parked = self._parked, None
        assert parked is not None, "it was parked"
        since, acknowledged, self._congested_since = self._congested_since, self._acknowledged, None
        self._held = False
        self._enter(WebSocketState.OPEN)
        self._write_carried(parked.pieces[0], since, acknowledged)
        if parked.message is not None:
            self._read_again(parked.message)
        for piece in parked.pieces[1:]:
            self._send(piece)
        if parked.limits_unsent is not None:
            self.limit_unsent(parked.limits_unsent)
        if parked.farewell is not None:
            self.close(*parked.farewell)
        if self._state is WebSocketState.OPEN:
            if parked.is_held:
                self.pause_reading()
            elif self._pending or not is_new:
                self._rest()
            if since is not None and self._congested_since is None and self._session is not None:
                self._session.drained()

    def _write_carried(self, unsent: bytes, since: float | None, acknowledged: int) -> None:
        """Write what was written once already, whatever the limits say, and be congested as before."""
        if unsent:
            self._put(unsent)
        if since is not None and self.buffered() > LOW_WATER:
            if self._outbound_timer is not None:
                self._outbound_timer.cancel()
                self._outbound_timer = None
            self._begin_congestion(since, acknowledged)

    def _read_again(self, export: WebSocketExport) -> None:
        """Feed what came of the message in progress to `ws_protocol`, as one frame. No rate counts it."""
        payload = export.message or b""
        first = int(Opcode.TEXT if export.message_is_text else Opcode.BINARY)
        if export.message_is_deflated:
            first |= RSV1
        head = bytes((first, 0x80 | 127)) + len(payload).to_bytes(8, "big") + NO_MASK
        if export.message_is_deflated:
            self._is_deflated, self._deflated = True, bytearray(payload)
        self._feed(head + payload)

    def _let_go(self) -> None:
        """Close our copy of the descriptor, and count the connection as ended."""
        parked, self._parked = self._parked, None
        assert parked is not None, "it was parked"
        if parked.sock is not None:
            parked.sock.close()
        if self._transport is not None:
            self._enter(WebSocketState.CLOSED)
            self._transport.abort()  # which calls `connection_lost`
        else:
            self.connection_lost(None)

    def choose_framing(self, *, binary: bool) -> None:
        if self._is_compressed:
            self.framing = DEFLATED_BINARY if binary else DEFLATED_TEXT
        else:
            self.framing = BINARY if binary else TEXT

    # While it is parked

    def _park(self, parked: Parked) -> None:
        self._parked = parked
        self._held = True
        self._enter(WebSocketState.PARKED)

    def abort(self) -> None:
        if self._parked is not None and self._parked.detached is None:
            self._let_go()
        else:
            super().abort()

    def buffered(self) -> int:
        waiting = 0 if self._parked is None else sum(map(len, self._parked.pieces))
        return waiting + super().buffered()

    def acknowledged_bytes(self) -> int:
        if self._transport is None and self._parked is not None:
            return self._parked.acknowledged
        return super().acknowledged_bytes()

    def limit_unsent(self, wanted: bool) -> None:
        if self._parked is not None:
            self._parked.limits_unsent = wanted
        else:
            super().limit_unsent(wanted)

    def pause_reading(self) -> None:
        if self._parked is not None:
            self._parked.is_held = True
        else:
            super().pause_reading()

    def resume_reading(self) -> None:
        if self._parked is not None:
            self._parked.is_held = False
        else:
            super().resume_reading()

    # What is kept for a move

    @abstractmethod
    def _feed(self, frame: bytes | bytearray) -> None:
        """Pass a frame to `ws_protocol`, and do what follows."""

    def _keep_deflated(self, frame: bytes | bytearray, payload: int) -> None:
        """
        Keep what a fragment of a compressed message carries: the state of an inflater cannot be copied, so the new
        worker inflates it again. Too much is not kept: a message that inflates to next to nothing may go on for ever.
        """
        if frame[0] & 0x08 or len(frame) < payload + 6:
            return  # not a frame of a message, or none at all: `ws_protocol` says what it is
        if frame[0] & 0x0F:
            self._is_deflated = bool(frame[0] & RSV1)
            self._deflated = bytearray() if self._is_deflated else None
        if self._deflated is not None and payload:
            self._deflated += apply_mask(frame[-payload:], frame[-payload - 4 : -payload])
            if len(self._deflated) > DEFLATED_MAX * self._endpoint.limits.message_bytes:
                self._deflated = None
