"""A client of HTTP for tests: one connection, requests written as they are meant, answers read one by one."""

from __future__ import annotations

import json
import socket
from typing import Any

from tests.support.server import DEADLINE_S, ROOT

WHOSE = f"{ROOT / 'tests' / 'support' / 'whose.py'}:app"  # says who served a request


class Client:
    """One connection, with answers read one by one."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), DEADLINE_S, (address, 0))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = self.sock.makefile("rb")

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self) -> dict[str, Any]:
        status = self.stream.readline()
        headers = {}
        while (line := self.stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        if b" 100 " in status:
            return self.answer()
        assert b" 200 " in status, (status, headers)
        found: dict[str, Any] = json.loads(self.stream.read(int(headers["content-length"])))
        return {**found, "headers": headers}

    def get(self, session: str | None = None, extra: str = "") -> dict[str, Any]:
        self.send(request(session, extra))
        return self.answer()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stream.close()
        self.sock.close()


def request(session: str | None = None, extra: str = "", method: str = "GET", body: bytes = b"") -> bytes:
    cookie = f"Cookie: rt_session={session}\r\n" if session else ""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} /p HTTP/1.1\r\nHost: h\r\n{cookie}{length}{extra}\r\n".encode() + body
