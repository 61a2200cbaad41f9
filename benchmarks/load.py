"""
The load: WebSocket clients that cost as little as Python allows, and a ledger of what they received.

A client does the handshake, sends texts, and reads frames; it understands what our server and the peer send (whole,
unmasked, unfragmented) and nothing else. A message is told by its number, `"n":123`.
"""

from __future__ import annotations

import asyncio
import os
import re
import struct
from collections.abc import Sequence

NUMBER = re.compile(rb'"n":(\d+)')
HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class LoadClient(asyncio.Protocol):
    """One client. `received` is the numbers of the messages it got, in order."""

    def __init__(self, path: str, greetings: Sequence[bytes]) -> None:
        self.received: list[int] = []
        self.answers = 0  # to what it sent
        self.ready = asyncio.get_running_loop().create_future()
        self._path = path
        self._greetings = greetings
        self._wanted = 0
        self._enough = asyncio.Event()
        self._pending = b""
        self._open = False
        self._transport: asyncio.Transport

    @classmethod
    async def join(cls, port: int, path: str, greetings: Sequence[bytes], address: str) -> LoadClient:
        """Connect from an address of the loopback network, send the greetings, and wait for an answer to each."""
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(
            lambda: cls(path, greetings), "127.0.0.1", port, local_addr=(address, 0)
        )
        await client.ready
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(HANDSHAKE.format(path=self._path).encode())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(ConnectionResetError("closed before it was ready"))

    def data_received(self, data: bytes) -> None:
        pending = self._pending + data if self._pending else data
        at = 0
        if not self._open:
            end = pending.find(b"\r\n\r\n")
            if end < 0:
                self._pending = pending
                return
            assert pending.startswith(b"HTTP/1.1 101"), pending[:200]
            self._open, at = True, end + 4
            for greeting in self._greetings:
                self.send(greeting)
            self._check_ready()
        while True:
            length, begin = _header(pending, at)
            if length < 0 or begin + length > len(pending):
                break
            found = NUMBER.findall(pending, begin, begin + length)
            if found:
                self.received.extend(map(int, found))
                if len(self.received) >= self._wanted:
                    self._enough.set()
            elif length > 2:
                self.answers += max(pending.count(b'"id":', begin, begin + length), 1)  # several may share a frame
                self._check_ready()
            at = begin + length
        self._pending = pending[at:]

    def _check_ready(self) -> None:
        if self.answers >= len(self._greetings) and not self.ready.done():
            self.ready.set_result(None)

    def send(self, text: bytes) -> None:
        """Send a text message, masked as a client has to (RFC 6455 section 5.3)."""
        mask = os.urandom(4)
        size = len(text)
        head = bytes([0x81, 0x80 | size]) if size < 126 else b"\x81\xfe" + struct.pack(">H", size)
        key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
        self._transport.write(head + mask + (int.from_bytes(text, "big") ^ key).to_bytes(size, "big"))

    async def has(self, count: int) -> None:
        """Wait until so many messages came."""
        self._wanted = count
        if len(self.received) < count:
            self._enough.clear()
            await self._enough.wait()

    def close(self) -> None:
        """Cut the connection."""
        self._transport.abort()


def _header(data: bytes, at: int) -> tuple[int, int]:
    """Return the length of the frame at `at` and where its payload begins; -1 when there is no whole header."""
    if len(data) - at < 2:
        return -1, at
    length = data[at + 1]
    if length < 126:
        return length, at + 2
    size = 2 if length == 126 else 8
    if len(data) - at < 2 + size:
        return -1, at
    return int.from_bytes(data[at + 2 : at + 2 + size], "big"), at + 2 + size


def faults(clients: Sequence[LoadClient], expected: int) -> list[str]:
    """Compare every client's ledger with 0, 1, 2 … `expected` - 1; return what is wrong with it."""
    wanted = list(range(expected))
    found = []
    for number, client in enumerate(clients):
        got = client.received
        if got != wanted:
            lost, doubled = len(set(wanted) - set(got)), len(got) - len(set(got))
            order = "" if got == sorted(got) else ", out of order"
            found.append(f"client {number}: {lost} lost, {doubled} doubled{order}")
    return found
