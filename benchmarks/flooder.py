"""
One client that floods: `python -m benchmarks.flooder PORT PATH KIND`, and what each kind of flood is.

It goes on until the server closes the connection, and prints the close code, and what it has sent. It takes what the
server says, unless the kind is of one that does not. For servers of one's own on this machine only.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, repeat
from typing import Final

MASK: Final = b"\0\0\0\0"  # leaves a payload as it is (RFC 6455, section 5.3)
HEAD: Final = (
    "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
OURS: Final = "/connection/websocket"
CLOSE_WAIT: Final = 8  # the kernel's tcp_states.h; the first byte of struct tcp_info has it
MOST_S: Final = 60.0
AT_ONCE: Final = 4096  # frames in one piece


def frame(first: int, payload: bytes = b"") -> bytes:
    """Return a client's frame."""
    size = len(payload)
    if size < 126:
        return bytes((first, 0x80 | size)) + MASK + payload
    return bytes((first, 0xFE)) + size.to_bytes(2, "big") + MASK + payload


def _commands(method: str) -> Iterator[bytes]:
    for number in count(2):
        said = {"send": {"data": number}} if method == "send" else {"id": number, "rpc": {"method": method, "data": 1}}
        yield frame(0x81, json.dumps(said).encode())


def _packed(frames: Iterator[bytes]) -> Iterator[bytes]:
    while True:
        yield b"".join(next(frames) for _ in range(AT_ONCE))


def _single_bytes() -> Iterator[bytes]:
    while True:
        for byte in frame(0x81, json.dumps({"id": 2, "rpc": {"method": "echo"}}).encode() + b" " * 60_000):
            yield bytes((byte,))


@dataclass(frozen=True, slots=True)
class Kind:
    """A flood: what it begins with, and what comes then without an end; and the code that ends it."""

    begin: bytes
    code: int
    is_deaf: bool = False

    def pieces(self, name: str) -> Iterator[bytes]:
        """Return what is sent, write by write."""
        repeated = {
            "pings": frame(0x89),
            "unread pings": frame(0x89, b"x" * 125),
            "pongs": frame(0x8A),
            "empty fragments": frame(0x00),
            "one-byte fragments": frame(0x00, b"x"),
        }
        if name in repeated:
            return repeat(repeated[name] * AT_ONCE)
        if name == "one-byte segments":
            return _single_bytes()
        return _packed(_commands("send" if name == "messages" else "echo"))


KINDS: Final = {
    "pings": Kind(b"", 1008),
    "unread pings": Kind(b"", 1008, is_deaf=True),
    "pongs": Kind(b"", 1008),
    "empty fragments": Kind(frame(0x01), 1008),
    "one-byte fragments": Kind(frame(0x01, b"x"), 1008),
    "one-byte segments": Kind(b"", 1008),
    "commands": Kind(b"", 3013),
    "messages": Kind(b"", 3013),
}


def flood(port: int, path: str, name: str, address: str = "127.0.0.1") -> tuple[int, int]:
    """
    Flood until the server has closed the connection. Return the close code, and the bytes that were sent.

    Raises:
        TimeoutError: it has not within a minute.
    """
    kind = KINDS[name]
    with socket.create_connection(("127.0.0.1", port), 30, source_address=(address, 0)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(HEAD.format(path=path).encode())
        received = bytearray()
        while b"\r\n\r\n" not in received:
            received += sock.recv(4096)
        said = Said()
        said.take(bytes(received.partition(b"\r\n\r\n")[2]))
        if path.startswith(OURS):
            sock.sendall(frame(0x81, b'{"id":1,"connect":{}}'))
            while b'"client"' not in (piece := sock.recv(4096)):
                said.take(piece)
            said.take(piece)
        sock.sendall(kind.begin)
        sent = _send(sock, kind.pieces(name), said, is_deaf=kind.is_deaf)
        with contextlib.suppress(ConnectionError):
            while not said.code and (piece := sock.recv(65536)):
                said.take(piece)
    return said.code or 1006, sent


def _send(sock: socket.socket, pieces: Iterator[bytes], said: Said, *, is_deaf: bool) -> int:
    """Send what there is until the server has said goodbye or ends the stream. Return how many bytes it took."""
    sent, rest, give_up_at = 0, b"", time.monotonic() + MOST_S
    sock.setblocking(False)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_WRITE if is_deaf else selectors.EVENT_WRITE | selectors.EVENT_READ)
            while time.monotonic() < give_up_at:
                for _, events in selector.select(0.1):
                    if events & selectors.EVENT_READ:
                        piece = sock.recv(65536)
                        said.take(piece)
                        if not piece or said.code:
                            return sent
                    if events & selectors.EVENT_WRITE:
                        rest = rest or next(pieces)
                        taken = sock.send(rest)
                        sent, rest = sent + taken, rest[taken:]
                if is_deaf and _has_ended(sock):
                    return sent
        raise TimeoutError("the server has not closed a connection that floods")
    except ConnectionError:
        return sent
    finally:
        sock.settimeout(30)


def _has_ended(sock: socket.socket) -> bool:
    """Say whether the server's end of the stream was sent, though nothing of it was read."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == CLOSE_WAIT


class Said:
    """What a server said after its handshake: the code of its close frame, once there is one."""

    def __init__(self) -> None:
        self.code = 0
        self._rest = bytearray()

    def take(self, piece: bytes) -> None:
        """Go on reading frames."""
        self._rest += piece
        at = 0
        while len(self._rest) - at >= 10 or (self._rest[at : at + 1] == b"\x88" and len(self._rest) - at >= 4):
            first, size = self._rest[at], self._rest[at + 1]
            head = 2 if size < 126 else 4 if size == 126 else 10
            size = size if size < 126 else int.from_bytes(self._rest[at + 2 : at + head], "big")
            if first == 0x88:
                self.code = self.code or int.from_bytes(self._rest[at + 2 : at + 4], "big")
            if len(self._rest) < at + head + size:
                break
            at += head + size
        del self._rest[:at]


if __name__ == "__main__":
    print(json.dumps(flood(int(sys.argv[1]), sys.argv[2], sys.argv[3])), flush=True)
