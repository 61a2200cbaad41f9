"""
A small client of the Centrifuge protocol for tests, over websockets' own client: it hides nothing.

`ProtocolClient` is one connection; `Follower` is a client that comes back: it resumes its room with its position after
every cut, and keeps a ledger of what it got.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from ssl import SSLContext
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

DEADLINE_S = 60.0


class Refused(AssertionError):
    """The server answered a command with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error)
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.temporary: bool = error.get("temporary", False)


class ProtocolClient:
    """One connection. Pushes are kept in `pushes`, in order."""

    def __init__(self) -> None:
        self.pushes: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.connected: dict[str, Any] = {}
        self.pings = 0
        self.closed: tuple[int, str] | None = None
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._id = 0
        self._socket: ClientConnection
        self._reading: asyncio.Task[None]

    @classmethod
    async def open(
        cls,
        url: str,
        address: str = "127.0.0.1",
        *,
        compression: str | None = None,
        ssl: SSLContext | None = None,
        **headers: str,
    ) -> ProtocolClient:
        """Connect a socket, from an address of the loopback network; no command is sent. `ssl`: for an URL of wss."""
        client = cls()
        client._socket = await connect(
            url,
            local_addr=(address, 0),
            additional_headers=headers,
            compression=compression,
            ssl=ssl,
            max_size=None,
            ping_interval=None,
        )
        client._reading = asyncio.create_task(client._read())
        return client

    @classmethod
    async def join(cls, url: str, address: str = "127.0.0.1", **connect_fields: Any) -> ProtocolClient:
        """Connect, and be admitted."""
        client = await cls.open(url, address)
        client.connected = await client.ask("connect", **connect_fields)
        return client

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                for line in str(message).split("\n"):
                    await self._take(json.loads(line))
        except ConnectionClosed:
            pass  # `closed` says how
        self.closed = (self._socket.close_code or 1006, self._socket.close_reason or "")
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError(f"closed: {self.closed}"))
        self.pushes.put_nowait({})

    async def _take(self, reply: dict[str, Any]) -> None:
        if not reply:
            self.pings += 1
            await self._socket.send("{}")
        elif "push" in reply:
            self.pushes.put_nowait(reply["push"])
        elif not (answer := self._answers.pop(reply["id"])).done():  # who asked may have been stopped meanwhile
            answer.set_result(reply)

    async def ask(self, method: str, /, **fields: Any) -> dict[str, Any]:
        """Send a command and return its result.

        Raises:
            Refused: the answer is an error.
            ConnectionResetError: the connection ended before the answer.
        """
        self._id += 1
        answer = self._answers[self._id] = asyncio.get_running_loop().create_future()
        with contextlib.suppress(ConnectionClosed):
            await self._socket.send(json.dumps({"id": self._id, method: fields}))
        if self.closed is not None and not answer.done():
            raise ConnectionResetError(f"closed: {self.closed}")
        async with asyncio.timeout(DEADLINE_S):  # wait_for of 3.11 may swallow it that who asks is stopped
            reply = await answer
        if "error" in reply:
            raise Refused(reply["error"])
        result: dict[str, Any] = reply[method]
        return result

    def expect(self, id: int) -> asyncio.Future[dict[str, Any]]:
        """Have the whole answer to a command of this id, which the test itself sends."""
        answer = self._answers[id] = asyncio.get_running_loop().create_future()
        return answer

    async def send_raw(self, text: str | bytes) -> None:
        await self._socket.send(text)

    async def push(self, kind: str) -> dict[str, Any]:
        """Return the next push of a kind ("pub", "join", …); others before it are dropped."""
        while True:
            if self.pushes.empty():
                async with asyncio.timeout(DEADLINE_S):
                    found = await self.pushes.get()
            else:
                found = self.pushes.get_nowait()  # no timer for what is there: a ledger takes half a million
            if kind in found:
                return found
            if not found:
                raise ConnectionResetError(f"closed: {self.closed}")

    async def wait_closed(self) -> tuple[int, str]:
        """Wait until the connection is gone; return the close code and reason."""
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.shield(self._reading)
        assert self.closed is not None
        return self.closed

    @property
    def sticky_id(self) -> str:
        """The sticky id that the cookie of the handshake's answer has."""
        assert self._socket.response is not None, "the handshake is done"
        found: str = self._socket.response.headers["Set-Cookie"].partition("=")[2].partition(";")[0]
        return found

    def pause_reading(self) -> None:
        """Read nothing from the socket, until `resume_reading`."""
        self._socket.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._socket.transport.resume_reading()

    async def close(self) -> None:
        await self._socket.close()
        await self._reading

    def abort(self) -> None:
        """Cut the socket without a word."""
        self._socket.transport.abort()


class Follower:
    """A subscriber that comes back after each cut, resuming where it was. `got` is what it received, in order."""

    def __init__(self, url: str, room: str, address: str) -> None:
        self.url, self.room, self.address = url, room, address
        self.got: list[Any] = []
        self.offsets: list[int] = []
        self.cuts = 0
        self.unrecovered = 0
        self.refused_connects: list[str] = []
        self.subscribed = asyncio.Event()
        self._grown = asyncio.Event()
        self._position: tuple[str, int] | None = None
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            try:
                await self._once()
            except (ConnectionResetError, ConnectionClosed):
                self.cuts += 1
            except (OSError, InvalidHandshake, EOFError) as error:
                self.refused_connects.append(repr(error))
                await asyncio.sleep(0.05)  # a back-off, as every client has one

    async def _once(self) -> None:
        client = await ProtocolClient.join(self.url, self.address)
        try:
            recover = {}
            if self._position is not None:
                recover = {"recover": True, "epoch": self._position[0], "offset": self._position[1]}
            result = await client.ask("subscribe", channel=self.room, **recover)
            if recover and not result.get("recovered"):
                self.unrecovered += 1
            epoch = result["epoch"]
            self._position = (epoch, result.get("offset", 0))
            for publication in result.get("publications", ()):
                self._take(epoch, publication)
            self.subscribed.set()
            while True:
                self._take(epoch, (await client.push("pub"))["pub"])
        finally:
            client.abort()

    def _take(self, epoch: str, publication: dict[str, Any]) -> None:
        self.got.append(publication["data"])
        self.offsets.append(publication["offset"])
        self._position = (epoch, publication["offset"])
        self._grown.set()

    async def wait_for(self, count: int, deadline_s: float = 120.0) -> None:
        """Wait until so many publications came."""
        async with asyncio.timeout(deadline_s):
            while len(self.got) < count:
                self._grown.clear()
                await self._grown.wait()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
