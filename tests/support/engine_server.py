"""
A server of Engine.IO alone, in the test's own process: HTTP and WebSockets on one port, and users that send back.

    async with EngineServer() as server:
        sid = await server.open()
        await server.post(sid, "4hello")
        assert (await server.poll(sid)).text == "4hello"

Everything but the primary is the real thing: the HTTP parser, the WebSockets, the timers. `serve_engine` joins the
parts, also for a worker of a cluster (engine_worker.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from realtime.protocol.socketio.base import EngineLimits, EngineUser
from realtime.protocol.socketio.echo import Echo
from realtime.protocol.socketio.endpoints import endpoints
from realtime.protocol.socketio.engine import EngineConnection
from realtime.protocol.socketio.server import SocketIO, random_sid
from realtime.timing.timer_wheel import TimerWheel, run_wheel
from realtime.transport.adopted import ConnectionOwner, NoOwner
from realtime.transport.asgi_host import ASGIHost, HostedOptions, HostingWorker
from realtime.transport.guarded import HostedLimits
from realtime.transport.handshake import Admission
from realtime.transport.hosted_parsers import hosted_protocol
from realtime.transport.peer import Peer
from realtime.transport.websocket_endpoint import WebSocketEndpoint, WebSocketLimits
from sticky.keys.affinity import Affinity, AffinitySettings, Sticky
from sticky.keys.hashing import Hashing, Slot
from sticky.worker.routes import Routes
from tests.support.one_worker import until

PATH = "/engine.io"
FOREVER_S = 600.0  # a heartbeat that no test lives to see


class Recorder(Echo):
    """An `EngineUser` that also keeps what it got."""

    __slots__ = ("connection", "messages", "reasons")

    def __init__(self, connection: EngineConnection) -> None:
        super().__init__(connection)
        self.connection = connection
        self.messages: list[str | bytes] = []
        self.reasons: list[str] = []

    def message(self, data: str | bytes) -> None:
        self.messages.append(data)
        super().message(data)

    def closed(self, reason: str) -> None:
        self.reasons.append(reason)


@dataclass(frozen=True)
class Answer:
    """An answer of HTTP; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def refusal(self) -> tuple[int, Any]:
        """The status, and the number of the refusal."""
        return self.status, json.loads(self.body)["code"]


class OneSlot:
    """The worker as connections of a test know it: every request belongs here."""

    slot = Slot(0)
    worker_id = node = "here"

    def __init__(self) -> None:
        self.routes = Routes(Affinity(AffinitySettings(sticky=Sticky.NONE)), Hashing(bytes(16)), Slot(0))

    def give_back(self, fd: int, peer_address: str, port: int, received: bytes) -> bool:
        raise AssertionError("every request belongs here")


def serve_engine(
    users: Callable[[EngineConnection], EngineUser],
    *,
    worker: HostingWorker,
    owner: ConnectionOwner,
    wheel: TimerWheel,
    limits: EngineLimits,
    path: str = PATH,
    allowed_origins: tuple[str, ...] = (),
    new_sid: Callable[[], str] = random_sid,
) -> tuple[SocketIO, WebSocketEndpoint, ASGIHost]:
    """Join what serves Engine.IO at a path."""
    served = endpoints(path)
    socketio = SocketIO(users, wheel=wheel, limits=limits, allowed_origins=allowed_origins, new_sid=new_sid)
    endpoint = WebSocketEndpoint(
        socketio,
        wheel=wheel,
        limits=WebSocketLimits(message_bytes=limits.message_bytes, outbound_bytes=limits.outbound_bytes),
        admission=Admission(allowed_origins, compression=True, parameters=socketio),
        owner=owner,
    )
    host = ASGIHost(
        socketio.polling,
        worker=worker,
        owner=owner,
        endpoint=endpoint,
        websocket_paths=served.websocket_paths,
        options=HostedOptions(HostedLimits(), reads_query_ids=True),
    )
    return socketio, endpoint, host


class EngineServer:
    """The server. Use it as an asynchronous context manager."""

    def __init__(
        self,
        *,
        ping_s: float = FOREVER_S,
        pong_s: float = FOREVER_S,
        message_bytes: int = 1_000_000,
        outbound_bytes: int = 1_000_000,
        allowed_origins: tuple[str, ...] = (),
        users: Callable[[EngineConnection], Recorder] = Recorder,
    ) -> None:
        self._limits = EngineLimits(ping_s, pong_s, message_bytes, outbound_bytes)
        self._allowed_origins = allowed_origins
        self._users = users
        self._opened: list[ClientConnection] = []
        self.users: dict[str, Recorder] = {}
        """Of every connection that there was, by its id."""
        self.port = 0

    def _user(self, connection: EngineConnection) -> EngineUser:
        user = self.users[connection.sid] = self._users(connection)
        return user

    async def __aenter__(self) -> EngineServer:
        loop = asyncio.get_running_loop()
        self.wheel = TimerWheel(loop.time())
        self.socketio, self.endpoint, self.host = serve_engine(
            self._user,
            worker=OneSlot(),
            owner=NoOwner(),
            wheel=self.wheel,
            limits=self._limits,
            allowed_origins=self._allowed_origins,
        )
        self._turning = loop.create_task(run_wheel(self.wheel))
        peer = Peer("127.0.0.1", peer_address="127.0.0.1")
        self._server = await loop.create_server(lambda: hosted_protocol(self.host, peer, b""), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        self._turning.cancel()
        await asyncio.gather(self._turning, return_exceptions=True)
        for connection in list(self.endpoint.connections):
            connection.abort()
        for hosted in list(self.host.state.connections):
            hosted.transport.abort()  # type: ignore[attr-defined]
        for websocket in self._opened:
            await websocket.wait_closed()
        await until(lambda: not self.host.state.connections and not self.endpoint.connections)
        await self._server.wait_closed()

    # What a client does

    async def request(
        self,
        method: str,
        query: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        path: str = f"{PATH}/?",
    ) -> Answer:
        """Send a request on a connection of its own, and return the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(head(method, path + query, body, headers or {}) + (body or b""))
            return await read_answer(reader, is_head=method == "HEAD")
        finally:
            writer.close()

    async def begin(
        self, method: str, query: str, data: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send the head of a request and these bytes, and leave the rest to the test."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(head(method, f"{PATH}/?{query}", None, headers or {}) + data)
        return reader, writer

    async def open(self) -> str:
        """Shake hands by polling, and return the session's id."""
        answer = await self.request("GET", "EIO=4&transport=polling")
        assert answer.status == 200
        sid: str = json.loads(answer.text[1:])["sid"]
        return sid

    async def poll(self, sid: str) -> Answer:
        return await self.request("GET", f"EIO=4&transport=polling&sid={sid}")

    async def post(self, sid: str, packets: str | bytes, **headers: str) -> Answer:
        body = packets.encode() if isinstance(packets, str) else packets
        return await self.request("POST", f"EIO=4&transport=polling&sid={sid}", body, headers)

    async def held_poll(self, sid: str) -> asyncio.Task[Answer]:
        """Begin a poll, and return once the server holds it."""
        task = asyncio.ensure_future(self.poll(sid))
        polling = self.users[sid].connection.polling
        assert polling is not None, "the session polls"
        await until(lambda: polling.held is not None or task.done())
        return task

    async def websocket(self, sid: str | None = None, query: str = "EIO=4&transport=websocket") -> ClientConnection:
        """Open a WebSocket, and read nothing."""
        if sid is not None:
            query += f"&sid={sid}"
        # Ping frames of the client would be answered, and are none of its protocol.
        websocket = await connect(
            f"ws://127.0.0.1:{self.port}{PATH}/?{query}", compression=None, ping_interval=None, max_size=None
        )
        self._opened.append(websocket)
        return websocket

    async def upgraded(self) -> tuple[str, ClientConnection]:
        """Open a session by polling, and bring it to a WebSocket."""
        sid = await self.open()
        websocket = await self.websocket(sid)
        await websocket.send("2probe")
        assert await websocket.recv() == "3probe"
        await websocket.send("5")
        connection = self.users[sid].connection
        await until(lambda: connection.websocket is not None)
        return sid, websocket


def head(method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request."""
    fields = {"Host": "localhost", "Connection": "close", **headers}
    if body is not None:
        fields.setdefault("Content-Length", str(len(body)))
        fields.setdefault("Content-Type", "text/plain;charset=UTF-8")
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode()


async def read_answer(reader: asyncio.StreamReader, *, is_head: bool = False) -> Answer:
    """Read a whole answer."""
    status = int((await reader.readline()).split()[1])
    headers: dict[str, str] = {}
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    length = 0 if is_head or status == 204 else int(headers["content-length"])
    return Answer(status, headers, await reader.readexactly(length))


async def ends(websocket: ClientConnection) -> int | None:
    """Return the close code, once the server has closed a WebSocket on which nothing more comes."""
    with contextlib.suppress(ConnectionClosed):
        raise AssertionError(f"{await websocket.recv()!r} in place of the end")
    return websocket.close_code
