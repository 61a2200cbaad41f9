"""
`TestServer`: an application served inside the test's own process, without a socket, a worker or a broker's process.

    async with TestServer(app) as server:
        alice = await server.connect(claims={"sub": "alice"})
        await alice.subscribe("chat:lobby")
        await alice.publish("chat:lobby", {"text": "hello"})
        assert (await alice.next("pub"))["data"] == {"text": "hello", "from": "alice"}

Rooms, protocol and handlers are the real ones; the broker is the one in memory, and a client's messages go straight
into its session. What only several processes show (stickiness, reloads, recovery after a crash) is not to be seen here.

A wait that ends in vain raises a `TimeoutError` that says what was waited for, in which room, and what came instead.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final

import jwt
import msgspec

import realtime
from realtime.application.app import Application
from realtime.application.source import did_you_mean
from realtime.auth.credentials import WrongCredentials
from realtime.broker.base import WorkerId
from realtime.broker.memory import MemoryBroker
from realtime.errors import ClientError, Disconnect
from realtime.parts import Parts
from realtime.protocol.centrifuge.server import Centrifuge
from realtime.session.registry import Home
from realtime.settings import Settings
from realtime.transport.base import Framing, Handshake
from realtime.transport.stream import LINES

__all__ = ["TestClient", "TestServer"]

PATIENCE_S: Final = 5.0  # for something that never comes: what is in the same process comes within milliseconds
KINDS: Final = ("pub", "join", "leave", "message", "subscribe", "unsubscribe", "refresh")
"""What the server sends unasked, as `TestClient.next` names it."""
SHOWN: Final = 5  # of what came instead, in the text of a time-out
SHOWN_CHARACTERS: Final = 80  # of each
TOKEN_S: Final = 3600
NORMAL_CLOSURE: Final = 1000  # RFC 6455, section 7.4.1: a client goes away by itself


class AlwaysWell:
    """A `HealthSource` of a process that serves tests."""

    def health(self) -> dict[str, Any]:
        """Return what `GET /health` answers."""
        return {"status": "ok"}


class _Transport:
    """A transport to a client in the same process. Takes everything at once."""

    framing: Framing = LINES
    has_close_frame = True

    def choose_framing(self, *, binary: bool) -> None:
        """Lines are text."""
        assert not binary

    def __init__(self, heard: Callable[[bytes], None], ended: Callable[[Disconnect], None]) -> None:
        self._heard = heard
        self._ended = ended
        self._closing = False

    def write(self, data: bytes) -> None:
        if not self._closing:
            self._heard(data)

    def close(self, code: int, reason: str) -> None:
        self._closing = True
        # Not within the session's own call, as with any transport.
        asyncio.get_running_loop().call_soon(self._ended, Disconnect(code, reason))

    def pause_reading(self) -> None:
        """Nothing waits here."""

    def resume_reading(self) -> None:
        """Nothing waits here."""

    def is_congested_since(self) -> float | None:
        return None

    def buffered(self) -> int:
        return 0

    def acknowledged_bytes(self) -> int:
        return 0

    def limit_unsent(self, is_limited: bool) -> None:
        """Nothing waits here."""


class TestServer:
    """An application in this process. Use it as an asynchronous context manager."""

    __test__ = False  # pytest: this is no test, whatever it is called

    def __init__(
        self,
        app: Application,
        *,
        anonymous: bool = True,
        rooms_per_connection: int = Settings.rooms_per_connection,
        timeout_s: float = PATIENCE_S,
    ) -> None:
        """
        Args:
            app: what is tested. One at a time: it belongs to this server until the block ends.
            anonymous: whether clients without a token may connect.
            rooms_per_connection: as the setting.
            timeout_s: how long a client waits for an answer, or for what the server sends, before it raises.
        """
        self._timeout_s = timeout_s
        self._app = app
        self._secret = secrets.token_hex(32)
        self._settings = Settings(
            anonymous=anonymous,
            rooms_per_connection=rooms_per_connection,
            commands_per_second=0,  # a test may send as fast as it can
            token_hmac_secret=self._secret,
        )
        self._clients: list[TestClient] = []

    async def __aenter__(self) -> TestServer:
        home = Home(0, "test", "test", realtime.__version__)
        self._parts = Parts(
            self._app,
            self._settings,
            broker=MemoryBroker(WorkerId("test")),
            home=home,
            health=AlwaysWell(),
            wrong=WrongCredentials(most_s=0),  # a test of a wrong token waits for nothing
        )
        # What is mounted is started by a `TestHttp`: most tests of rooms need none of it.
        await self._parts.start_without_mounts()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for client in self._clients:
            await client.close()
        await self._parts.close_without_mounts()

    def token(self, claims: Mapping[str, Any]) -> str:
        """
        Sign a token as the application's own backend would, and return it.

        Args:
            claims: what it says: `sub` is the user, `channel` makes it a token for one room.
        """
        return jwt.encode({"exp": int(time.time()) + TOKEN_S, **claims}, self._secret, algorithm="HS256")

    async def connect(
        self,
        *,
        claims: Mapping[str, Any] | None = None,
        data: Any = None,
        client: str = "127.0.0.1",
        headers: Mapping[str, str] | None = None,
    ) -> TestClient:
        """
        Connect a client, and have it admitted.

        Args:
            claims: what its token says; None connects without a token.
            data: what it sends for `on_connect`.
            client: its address.
            headers: of its handshake, names in lower case.

        Returns:
            The client, which `on_connect` has admitted.

        Raises:
            ClientError: the answer is an error, such as `Reject` from `on_connect`.
            Disconnect: the connection was closed.
            TimeoutError: there was no answer.
        """
        handshake = Handshake(client, headers=dict(headers or {}), transport="test")
        made = TestClient(self._parts.protocol, handshake, timeout_s=self._timeout_s)
        self._clients.append(made)
        fields: dict[str, Any] = {} if data is None else {"data": data}
        if claims is not None:
            fields["token"] = self.token(claims)
        made.connected = await made.ask("connect", **fields)
        return made


class TestClient:
    """
    One client of a `TestServer`.

    Attributes:
        connected: the answer to its connect; "data" is what `on_connect` returned.
        closed: how it ended, or None while it is connected.
    """

    __test__ = False

    def __init__(self, protocol: Centrifuge, handshake: Handshake, *, timeout_s: float = PATIENCE_S) -> None:
        self._timeout_s = timeout_s
        self._rooms: set[str] = set()
        self.connected: dict[str, Any] = {}
        self.closed: Disconnect | None = None
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pushes: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._number = 0
        self._session = protocol(_Transport(self._receive, self._end), handshake, None)

    # What a client does

    async def ask(self, method: str, /, **fields: Any) -> dict[str, Any]:
        """
        Send any command of the protocol, and return its result.

        Args:
            method: the command, such as "subscribe".
            fields: what the command has, as the protocol names it.

        Raises:
            ClientError: the answer is an error.
            Disconnect: the connection was closed instead.
            TimeoutError: there was no answer. The text names the command and its room or method.
        """
        if self.closed is not None:
            raise self.closed
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        self._session.receive(msgspec.json.encode({"id": self._number, method: fields}))
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await answer
        except TimeoutError:
            about = "".join(f" {fields[name]!r}" for name in ("channel", "method") if name in fields)
            problem = "its handler has not ended, or waits for something that does not come"
            raise TimeoutError(f"no answer to {method}{about} within {self._timeout_s:g} s: {problem}") from None
        if "error" in reply:
            error = reply["error"]
            raise ClientError(error["code"], error["message"], temporary=error.get("temporary", False))
        if method == "subscribe":
            self._rooms.add(fields["channel"])
        elif method == "unsubscribe":
            self._rooms.discard(fields["channel"])
        result: dict[str, Any] = reply[method]
        return result

    async def subscribe(self, room: str, **fields: Any) -> dict[str, Any]:
        """
        Enter a room, and return the protocol's result: "recovered", "publications", "epoch", "offset", "data".

        Args:
            room: the room's name.
            fields: `data`, `token`, `recover` and the like as the protocol has them.
        """
        return await self.ask("subscribe", channel=room, **fields)

    async def unsubscribe(self, room: str) -> None:
        """Leave a room."""
        await self.ask("unsubscribe", channel=room)

    async def publish(self, room: str, data: Any) -> None:
        """
        Publish into a room, through `on_publish`.

        Args:
            room: the room's name.
            data: anything that JSON can say.
        """
        await self.ask("publish", channel=room, data=data)

    async def presence(self, room: str) -> dict[str, Any]:
        """Return the members of a room, by connection id."""
        found: dict[str, Any] = (await self.ask("presence", channel=room))["presence"]
        return found

    async def history(self, room: str, limit: int = 100) -> list[dict[str, Any]]:
        """
        Return the publications that a room keeps, oldest first.

        Args:
            room: the room's name.
            limit: how many at most.
        """
        found: list[dict[str, Any]] = (await self.ask("history", channel=room, limit=limit))["publications"]
        return found

    async def rpc(self, method: str, data: Any = None) -> Any:
        """
        Call a method of the application, and return its answer.

        Args:
            method: the name in `@app.rpc`.
            data: what its handler gets.
        """
        return (await self.ask("rpc", method=method, data=data)).get("data")

    async def send(self, data: Any) -> None:
        """
        Send a message that expects no answer: the handler of `@app.on_message` gets it.

        Args:
            data: anything that JSON can say.
        """
        self._session.receive(msgspec.json.encode({"send": {"data": data}}))

    async def next(self, kind: str, room: str | None = None, *, timeout_s: float | None = None) -> dict[str, Any]:
        """
        Return what came next of a kind. What came before it is dropped.

        Args:
            kind: "pub", "join", "leave", "message", "subscribe", "unsubscribe" or "refresh".
            room: the room that it must be of; None for any.
            timeout_s: how long to wait, all in all; as long as the server says unless given.

        Raises:
            ValueError: there is no such kind.
            TimeoutError: it did not come. The text says what came instead.
            Disconnect: the connection was closed first.
        """
        if kind not in KINDS:
            raise ValueError(f"nothing of kind {kind!r} ever comes{did_you_mean(kind, KINDS)}: {', '.join(KINDS)}")
        patience_s = self._timeout_s if timeout_s is None else timeout_s
        others: list[str] = []
        try:
            async with asyncio.timeout(patience_s):
                while True:
                    push = await self._pushes.get()
                    if not push:
                        assert self.closed is not None, "an empty push is the end"
                        raise self.closed
                    if kind in push and room in (None, push.get("channel")):
                        found: dict[str, Any] = push[kind]
                        return found
                    others.append(_described(push))
        except TimeoutError:
            raise TimeoutError(self._in_vain(kind, room, others, patience_s)) from None

    def _in_vain(self, kind: str, room: str | None, others: list[str], patience_s: float) -> str:
        """Return the text for what did not come: what it was, what came instead, and where the client is."""
        of = "" if room is None else f" of room {room!r}"
        text = f"no {kind!r}{of} came within {patience_s:g} s"
        if others:
            more = "" if len(others) <= SHOWN else f", and {len(others) - SHOWN} more"
            text += f"; instead came: {', '.join(others[:SHOWN])}{more}"
        else:
            text += "; nothing else came"
        rooms = ", ".join(repr(each) for each in sorted(self._rooms)) or "no room"
        return f"{text}; the client is in {rooms}"

    async def close(self) -> None:
        """Go away. Harmless when the connection has ended."""
        if self.closed is None:
            self._end(Disconnect(NORMAL_CLOSURE, ""))
            await asyncio.sleep(0)

    # What its transport calls

    def _receive(self, data: bytes) -> None:
        for line in filter(None, data.split(b"\n")):
            reply = msgspec.json.decode(line, type=dict[str, Any])
            if "push" in reply:
                self._take_push(reply["push"])
            elif "id" in reply:
                answer = self._answers.pop(reply["id"])
                if not answer.done():  # it is, once its caller has given up
                    answer.set_result(reply)
            else:
                self._session.receive(b"{}")  # a ping

    def _take_push(self, push: dict[str, Any]) -> None:
        """Keep it for `next`, and keep track of the rooms in which the server puts the client by itself."""
        if "subscribe" in push:
            self._rooms.add(push["channel"])
        elif "unsubscribe" in push:
            self._rooms.discard(push["channel"])
        self._pushes.put_nowait(push)

    def _end(self, how: Disconnect) -> None:
        if self.closed is not None:
            return
        self.closed = how
        self._session.connection_lost(how.code, how.reason)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(how)
        self._pushes.put_nowait({})


def _described(push: dict[str, Any]) -> str:
    """Return what the server sent in a few words: its kind, its room, and the beginning of its content."""
    kind = next((each for each in KINDS if each in push), "something unknown")
    of = f" of {push['channel']!r}" if push.get("channel") else ""
    text = json.dumps(push.get(kind), ensure_ascii=False)
    return f"{kind}{of} {text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + '…'}"
