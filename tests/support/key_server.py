"""
A key server that can be broken: a real socket on a port that it keeps, and one way to answer at a time.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from types import TracebackType
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

STEP_S = 0.05  # between two bytes of a slow answer


class Key:
    """A key pair, and the tokens that it signs."""

    def __init__(self, kid: str) -> None:
        self.kid = kid
        self._private = ec.generate_private_key(ec.SECP256R1())

    def public(self) -> dict[str, Any]:
        return {**json.loads(ECAlgorithm.to_jwk(self._private.public_key())), "kid": self.kid, "use": "sig"}

    def token(self, **claims: Any) -> str:
        return jwt.encode(claims, self._private, algorithm="ES256", headers={"kid": self.kid})


class KeyServer:
    """
    Publishes keys while `mode` is "up". Else it is: "fail" (status 503), "slow" or "slow head" (a byte now and then,
    without end), "garbage" (a page), "raw" (no HTTP), "huge", "circle" and "elsewhere" (redirects), "moved" (one
    redirect, then the keys).
    """

    def __init__(self, *keys: Key) -> None:
        self.keys = list(keys)
        self.mode = "up"
        self.asked = 0
        self.gone = threading.Event()  # set when a client has left in the middle of a slow answer
        self.port = 0
        self._listener: socket.socket | None = None
        self._ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/keys.json"

    def start(self) -> None:
        """Listen; harmless when it does."""
        if self._listener is not None:
            return
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        """Be away: whoever asks is refused."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def __enter__(self) -> KeyServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self.stop()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            head = b""
            while b"\r\n\r\n" not in head:
                part = client.recv(4096)
                if not part:
                    return
                head += part
            self.asked += 1
            self._answer(client, head.split(b" ")[1].decode())

    def _answer(self, client: socket.socket, path: str) -> None:
        mode = "up" if path == "/moved.json" else self.mode
        body = json.dumps({"keys": [key.public() for key in self.keys]}).encode()
        if mode == "up":
            client.sendall(_head("200 OK", len(body)) + body)
        elif mode == "fail":
            client.sendall(_head("503 Service Unavailable", 0))
        elif mode == "garbage":
            client.sendall(_head("200 OK", 20) + b"<html>Hello.</html>\n")
        elif mode == "raw":
            client.sendall(b"220 mail.example.com ESMTP\r\n\r\n")
        elif mode == "huge":
            self._without_end(client, _head("200 OK", 2**40), b"[" * 65536, 0.0)
        elif mode == "slow":
            self._without_end(client, _head("200 OK", 2**20), b"[", STEP_S)
        elif mode == "slow head":
            self._without_end(client, b"HTTP/1.1 200 OK\r\nX: ", b"x", STEP_S)
        else:
            target = {"circle": self.url, "elsewhere": "ftp://127.0.0.1/keys.json", "moved": "/moved.json"}[mode]
            client.sendall(b"HTTP/1.1 302 Found\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % target.encode())

    def _without_end(self, client: socket.socket, head: bytes, part: bytes, pause_s: float) -> None:
        try:
            client.sendall(head)
            while not self._ended.wait(pause_s):
                client.sendall(part)
        except OSError:
            self.gone.set()
            raise


def _head(status: str, length: int) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode()
