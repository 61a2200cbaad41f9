"""A refused client is told so in its own protocol, whatever it begins with, and nothing but its head is read."""

from __future__ import annotations

import asyncio
import socket

import pytest
from websockets.frames import CloseCode

from realtime.transport.handshake import Admission
from realtime.transport.peer import Peer
from realtime.transport.refused import RefusedConnection
from tests.support.aio import run_async

HANDSHAKE = (
    b"GET /anything HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)


class Owner:
    """Learns that the connection has ended."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()

    def ended(self, peer: Peer) -> None:
        self.lost.set()


async def told(said: list[bytes], received: bytes = b"") -> bytes:
    """Return all that a refused client is told which says this, piece by piece, and then reads to the end."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    owner = Owner()
    await loop.connect_accepted_socket(
        lambda: RefusedConnection(Peer("192.0.2.1"), received, Admission(), head_bytes=4096, owner=owner),
        ours,
    )
    for piece in said:
        await loop.sock_sendall(theirs, piece)
    answer = b""
    while data := await loop.sock_recv(theirs, 65536):
        answer += data
    theirs.close()
    await owner.lost.wait()
    return answer


@run_async
async def test_a_websocket_is_opened_and_closed_with_1013() -> None:
    for said, received in (
        ([HANDSHAKE + b"\r\n"], b""),
        ([HANDSHAKE, b"\r\n"], b""),
        ([b"\r\n"], HANDSHAKE),
        ([], HANDSHAKE + b"\r\n"),
        ([HANDSHAKE + b"\r\n" + b"\x81\x85AAAAhello"], b""),  # it does not wait for the answer
    ):
        answer = await told(said, received)
        head, _, frames = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert frames == b"\x88\x11\x03\xf5try again later"
        assert int.from_bytes(frames[2:4], "big") == CloseCode.TRY_AGAIN_LATER == 1013


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        HANDSHAKE.replace(b"Version: 13", b"Version: 12") + b"\r\n",
        HANDSHAKE + b"Origin: https://elsewhere.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 5000,
    ],
)
@run_async
async def test_anything_else_is_answered_503(said: bytes) -> None:
    answer = await told([said])
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"Connection: close\r\n" in answer
