"""
What one frame of a client costs the worker: `python -m benchmarks.frames`.

Processor time of `data_received` for each kind of frame, over a transport that takes everything and does nothing; so
no system call is in it. Frames come 1,000 to a read, and singly. The best of several rounds counts: the others hold
what else the machine did.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from realtime.timing.timer_wheel import TimerWheel
from realtime.transport.base import Handshake, NoParameters, Transport
from realtime.transport.peer import Peer
from realtime.transport.websocket import WebSocketTransport
from realtime.transport.websocket_endpoint import WebSocketEndpoint, WebSocketLimits

ROUNDS: Final = 5
FRAMES: Final = 1000
MASK: Final = b"\x37\xfa\x21\x3d"
HEAD: Final = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
KINDS: Final = {
    "ping": b"\x89\x80" + MASK,
    "ping, 125 bytes": b"\x89\xfd" + MASK + bytes(125),
    "pong": b"\x8a\x80" + MASK,
    "text, 20 bytes": b"\x81\x94" + MASK + bytes(each ^ MASK[at % 4] for at, each in enumerate(b"x" * 20)),
    "empty fragment": b"\x00\x80" + MASK,
}


class _Session:
    log_fields: Mapping[str, Any] = {}
    is_patient = False

    def receive(self, message: bytes | str) -> None: ...

    def end(self, code: int, reason: str) -> None: ...

    def pong_received(self) -> None: ...

    def drained(self) -> None: ...

    def connection_lost(self, code: int, reason: str) -> None:
        assert code == 1006, (code, reason)


class _Sessions(NoParameters):
    subprotocols: Sequence[str] = ()

    def __call__(self, transport: Transport, handshake: Handshake, subprotocol: str | None) -> _Session:
        return _Session()


class _Nothing(asyncio.Transport):
    """A transport that takes everything and does nothing."""

    def write(self, data: Any) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def cost_us(frame: bytes, at_once: int) -> float:
    """Return the least processor time that one such frame took, in microseconds."""
    best = float("inf")
    for _ in range(ROUNDS):
        endpoint = WebSocketEndpoint(_Sessions(), wheel=TimerWheel(0.0), limits=_unlimited())
        protocol = WebSocketTransport(endpoint, Peer("203.0.113.7", 1), HEAD)
        protocol.connection_made(_Nothing())
        if not frame[0] & 0x80:
            protocol.data_received(b"\x01\x80" + MASK)  # a message begins
        pieces = [frame * at_once] * (FRAMES // at_once)
        begin = time.process_time()
        for piece in pieces:
            protocol.data_received(piece)
            while getattr(protocol, "_is_resting", False):  # noqa: ASYNC110 - the next turn of the loop
                await asyncio.sleep(0)
        best = min(best, (time.process_time() - begin) / FRAMES * 1e6)
        protocol.connection_lost(None)
    return best


def _unlimited() -> WebSocketLimits:
    """Return limits that nothing here meets, also where a version has fewer."""
    limits: Any = WebSocketLimits()
    if hasattr(limits, "flood"):
        from realtime.transport.flood import FloodLimits

        return WebSocketLimits(flood=FloodLimits(0, 0, 0))
    return WebSocketLimits()


async def main() -> None:
    print(f"{'frame':<20}{'in a read of 1,000':>22}{'singly':>12}   (microseconds of processor time each)")
    for name, frame in KINDS.items():
        print(f"{name:<20}{await cost_us(frame, FRAMES):>22.2f}{await cost_us(frame, 1):>12.2f}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
