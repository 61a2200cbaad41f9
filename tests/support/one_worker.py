"""
`OneWorker`: rooms, protocol and WebSockets of one worker, inside the test's own event loop and behind a real socket.

There is no primary and no gateway. The broker is the one in memory unless a test brings another, and the wheel turns
only when the test says so (`pass_time`): whoever wants to see a ping or a deadline does not wait for it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from realtime.application.app import Application
from realtime.auth.credentials import WrongCredentials
from realtime.auth.tokens import Tokens, sign
from realtime.broker.base import Broker, WorkerId
from realtime.broker.memory import MemoryBroker
from realtime.cluster.bus import ClusterBus
from realtime.cluster.mailbox import Mailbox
from realtime.protocol.centrifuge.encoder import difference
from realtime.protocol.centrifuge.server import Centrifuge
from realtime.rooms.census import LARGE
from realtime.rooms.hub import COMPARE_S, Hub
from realtime.session.registry import Home, Registry
from realtime.session.state import SessionLimits
from realtime.tasks import BEGIN, Begin
from realtime.timing.timer_wheel import TimerWheel
from realtime.transport.handshake import Admission
from realtime.transport.peer import Peer
from realtime.transport.websocket import WebSocketTransport
from realtime.transport.websocket_endpoint import WebSocketEndpoint, WebSocketLimits
from tests.support.client import DEADLINE_S, ProtocolClient

SECRET = "the secret of a worker in a test, of thirty-two bytes and more"
VERSION = "9.8.7"


async def until(is_so: Callable[[], object]) -> None:
    """Let the loop turn until it is so: for what comes about on the side, and of which nobody is told."""
    while not is_so():  # noqa: ASYNC110
        await asyncio.sleep(0)


class Client(ProtocolClient):
    """A client that also keeps everything that it heard, in order, and may leave the commands' form to the test."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[dict[str, Any]] = []
        self.answers_pings = True
        self._hearing = asyncio.Condition()

    async def _take(self, reply: dict[str, Any]) -> None:
        async with self._hearing:
            self.heard.append(reply)
            self._hearing.notify_all()
        if reply or self.answers_pings:
            if "id" in reply:
                self._answers.setdefault(reply["id"], asyncio.get_running_loop().create_future())
            await super()._take(reply)

    async def hear(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many replies came since the connection began, and return them all."""
        async with self._hearing:
            await asyncio.wait_for(self._hearing.wait_for(lambda: len(self.heard) >= count), DEADLINE_S)
            return list(self.heard)

    async def say(self, *commands: dict[str, Any]) -> list[dict[str, Any]]:
        """Send commands in one message, each with an id of its own choice, and return as many replies as follow."""
        before = len(self.heard)
        await self.send_raw("\n".join(map(json.dumps, commands)))
        return (await self.hear(before + len(commands)))[before:]

    async def stop_reading(self) -> None:
        """Take nothing more from the socket, so that what is sent to this client waits at the server."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    def read_on(self) -> None:
        """End `stop_reading`."""
        self._reading = asyncio.create_task(self._read())


class OneWorker:
    """One worker without its processes. Use it as an asynchronous context manager."""

    def __init__(
        self,
        app: Application,
        *,
        broker: Broker | None = None,
        sockets: WebSocketLimits | None = None,
        admission: Admission | None = None,
        secret: str | None = SECRET,
        large: int = LARGE,
        compare_s: float = COMPARE_S,
        wrong: WrongCredentials | None = None,
        begin: Begin = BEGIN,
        **limits: Any,
    ) -> None:
        """
        Args:
            app: what it serves.
            broker: not started; one in memory unless given.
            sockets: limits of the transport.
            admission: who may connect, and how.
            secret: of its tokens.
            large: members of a room above which joins and leaves are deferred.
            compare_s: seconds between two comparisons of positions.
            wrong: counts wrong tokens; none waits unless given.
            begin: begins tasks.
            limits: fields of `state.SessionLimits`.
        """
        self.app = app
        self.broker = broker or MemoryBroker(WorkerId("w"))
        self.wheel = TimerWheel(0.0)
        home, self.tokens, self.registry = Home(3, "w", "n", VERSION), Tokens(secret), Registry()
        self.hub = Hub(
            self.broker, app, hooks=app, difference=difference, worker=WorkerId("w"),
            large=large, compare_s=compare_s,
        )  # fmt: skip
        self.protocol = Centrifuge(
            app, self.hub, wheel=self.wheel, tokens=self.tokens, limits=SessionLimits(**limits), home=home,
            registry=self.registry, wrong=wrong, begin=begin,
        )  # fmt: skip
        mailbox = Mailbox(self.broker, self.hub.private, WorkerId("w"))
        self.bus = ClusterBus(
            home, self.broker, mailbox, self.hub.registry, self.hub.delivery, self.registry, self.tokens.revoked
        )
        self.endpoint = WebSocketEndpoint(self.protocol, wheel=self.wheel, limits=sockets, admission=admission)
        self.url = ""
        self._now_s = 0.0
        self._server: asyncio.Server
        self._clients: list[Client] = []

    async def __aenter__(self) -> OneWorker:
        await self.hub.start()
        await self.bus.start()
        self.app.bind(self.hub, self.bus)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: WebSocketTransport(self.endpoint, Peer("127.0.0.1")), "127.0.0.1", 0
        )
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for client in self._clients:
            client.abort()
            await client.wait_closed()
        for connection in list(self.endpoint.connections):
            connection.abort()
        await self._server.wait_closed()
        await self.bus.close()
        await self.hub.close()

    def pass_time(self, seconds: float) -> None:
        """Turn the wheel on, at once, by so many seconds."""
        self._now_s += seconds
        self.wheel.advance(self._now_s)

    async def open(self) -> Client:
        """Connect a socket; no command is sent."""
        client = await Client.open(self.url)
        self._clients.append(client)
        return client

    async def join(self, **fields: Any) -> Client:
        """Connect, and be admitted; `user`, where given, by a token that never ends."""
        if "user" in fields:
            fields["token"] = self.token(sub=fields.pop("user"), expire_at=0)
        client = await self.open()
        client.connected = await client.ask("connect", **fields)
        return client

    def token(self, **claims: Any) -> str:
        """Sign a token. `exp` in an hour unless it says otherwise."""
        return sign({"exp": time.time() + 3600, **claims}, SECRET)

    def session(self, client: Client) -> Any:
        """Return the session of an admitted client."""
        return next(each for each in self.registry if each.connection.id == client.connected["client"])
