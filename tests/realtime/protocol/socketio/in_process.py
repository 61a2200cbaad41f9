"""
An Engine.IO connection inside a test: what the server writes is read frame by frame, what the client sends goes
straight to its namespaces. Everything above it is the real thing: packets, sessions, hub, application, and a broker in
memory.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from realtime import App
from realtime.protocol.socketio.namespaces import Namespaces, SocketIOUsers
from realtime.tasks import BEGIN
from realtime.transport.base import Handshake
from realtime.transport.frames import messages_in
from tests.support.one_worker import OneWorker

PATIENCE_S = 5.0


class EngineInProcess:
    """One client's connection: the server's `Engine` and the test's client in one."""

    def __init__(self, users: Callable[[EngineInProcess], Namespaces], **about: Any) -> None:
        self.handshake = Handshake("127.0.0.1", **about)
        self.takes_now = True
        self.is_paused = False
        self.reason: str | None = None
        self.writes: list[bytes] = []
        self._came: asyncio.Queue[str | bytes] = asyncio.Queue()
        self.user = users(self)

    # As the server's connection

    def write(self, frames: bytes) -> None:
        if self.reason is None:
            self.writes.append(frames)
            for message in messages_in(frames):
                self._came.put_nowait(message)

    def send(self, frames: bytes) -> None:
        self.write(frames)

    def close(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason
            self.user.closed(reason)
            self._came.put_nowait("")

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def is_congested_since(self) -> float | None:
        return None

    def buffered(self) -> int:
        return 0

    def acknowledged_bytes(self) -> int:
        return 0

    def limit_unsent(self, is_limited: bool) -> None:
        """Nothing waits in a kernel."""

    # As the client

    def say(self, *messages: str | bytes) -> None:
        """Send messages of Socket.IO: packets without the digit of Engine.IO, and attachments."""
        for message in messages:
            self.user.message(message)

    async def next(self) -> str | bytes:
        """Return the next message of the server, with the digit of Engine.IO; "" is the end of the connection."""
        return await asyncio.wait_for(self._came.get(), PATIENCE_S)

    def rest(self) -> list[str | bytes]:
        """Return what has come and was not read."""
        return [self._came.get_nowait() for _ in range(self._came.qsize())]

    async def join(self, namespace: str = "/", auth: Any = None) -> str:
        """Connect to a namespace, and return the id that the client has there."""
        head = "" if namespace == "/" else f"{namespace},"
        self.say(f"0{head}{'' if auth is None else json.dumps(auth)}")
        answer = await self.next()
        assert isinstance(answer, str) and answer.startswith(f"40{head}{{"), answer  # noqa: PT018
        fields = json.loads(answer.removeprefix(f"40{head}"))
        assert list(fields) == ["sid"]
        return str(fields["sid"])


class IOWorker(OneWorker):
    """One worker that clients of both protocols reach."""

    def __init__(self, app: App, **options: Any) -> None:
        super().__init__(app, secret=options.pop("secret", None), begin=BEGIN, **options)
        self.users = SocketIOUsers(self.protocol.services)

    def engine(self, **about: Any) -> EngineInProcess:
        """Begin a connection."""
        return EngineInProcess(self.users, **about)

    async def io(self, namespace: str = "/", auth: Any = None, **about: Any) -> tuple[EngineInProcess, str]:
        """Begin a connection, and join a namespace; return also the id."""
        engine = self.engine(**about)
        return engine, await engine.join(namespace, auth)
