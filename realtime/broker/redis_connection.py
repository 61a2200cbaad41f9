"""
One pipelined connection to Redis.

Runs in the worker. All commands of one turn of the event loop leave in one write. Replies are matched to commands by
their order. When a caller is cancelled, its place in that order stays and is skipped. No caller therefore ever gets the
reply of another one. hiredis packs commands and parses replies.

A connection never reconnects and never repeats a command. nodes.py and cluster.py do that, because they know what a gap
means for rooms.

A connection used for pub/sub (RESP2) passes every push to `on_push`. The confirmations of SUBSCRIBE and UNSUBSCRIBE go
to their callers, in order.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Self

import hiredis

from realtime.broker.address import RedisAddress
from realtime.errors import BrokerUnavailable
from realtime.log_lines import log

CONNECT_S: Final = 3.0
WAITING_MAX: Final = 50_000  # commands without a reply; above it the connection counts as overloaded

logger = logging.getLogger("realtime.broker.redis")

Word = str | bytes | int | float


class CommandFailed(Exception):
    """Redis replied with an error. `code` is the first word of its text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        self.code = text.partition(" ")[0]


class RedisConnection(asyncio.Protocol):
    """
    One socket to Redis. `connect` makes it; once lost it stays lost.

    Invariant: `_waiting` has one place for each command without a reply, in the order in which they were sent. Pushes
    have no place in it.
    """

    def __init__(
        self,
        address: RedisAddress,
        *,
        on_lost: Callable[[RedisConnection], None],
        on_push: Callable[[list[Any]], None] | None = None,
    ) -> None:
        self.address = address
        self.is_lost = False
        self.scripts: set[str] = set()  # digests of the scripts whose text was sent on this connection
        self.on_lost = on_lost
        self._on_push = on_push
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)  # None is a reply, so "no reply yet" needs another value
        self._waiting: deque[asyncio.Future[Any]] = deque()  # one for each command without a reply, in their order
        self._turn: list[bytes] = []  # commands of this turn of the loop
        self._transport: Any = None

    @classmethod
    async def connect(
        cls,
        address: RedisAddress,
        *,
        name: str,
        on_lost: Callable[[RedisConnection], None],
        on_push: Callable[[list[Any]], None] | None = None,
    ) -> Self:
        """
        Connect, log in, and select the database. The caller must call `close` later.

        Raises:
            BrokerUnavailable: the server does not answer, or refuses the login.
        """
        loop = asyncio.get_running_loop()
        make = partial(cls, address, on_lost=on_lost, on_push=on_push)
        connection: Self | None = None
        try:
            context = None if address.tls is None else address.tls.context()
            async with asyncio.timeout(CONNECT_S):
                if address.path is not None:
                    _, connection = await loop.create_unix_connection(make, address.path)
                else:
                    _, connection = await loop.create_connection(make, address.host, address.port, ssl=context)
                await connection._log_in(name)
        except (OSError, TimeoutError) as error:
            if connection is not None:
                connection.close()
            why = getattr(error, "strerror", None) or str(error) or "no answer"
            what_to_do = "" if isinstance(error, ssl.SSLError) else ": is Redis running there?"
            raise BrokerUnavailable(address.shown, f"{why}{what_to_do}") from error
        except BaseException as error:  # a cancelled caller must leave no open socket behind
            if connection is not None:
                connection.close()
            if isinstance(error, CommandFailed):
                raise BrokerUnavailable(address.shown, error.text) from error
            raise
        return connection

    async def _log_in(self, name: str) -> None:
        """
        Log in, select the database, and set the name that CLIENT LIST shows.

        All commands leave in one write. The PING comes last: its reply proves that the server serves commands.
        """
        address = self.address
        first = []
        if address.password is not None:
            user = [address.username] if address.username else []
            first.append(self.request("AUTH", *user, address.password))
        if address.database:
            first.append(self.request("SELECT", address.database))
        first.append(self.request("CLIENT", "SETNAME", name))
        first.append(self.request("PING"))
        await asyncio.gather(*first)

    # Commands

    def request(self, *words: Word) -> asyncio.Future[Any]:
        """
        Send a command at the end of this turn.

        The future gets the reply, or raises `CommandFailed` or `BrokerUnavailable`.
        """
        return self._send(hiredis.pack_command(words))  # type: ignore[arg-type]

    def request_batch(self, *commands: tuple[Word, ...]) -> asyncio.Future[Any]:
        """Send commands that have one reply together, whose end a subclass recognises; otherwise as `request`."""
        return self._send(b"".join([hiredis.pack_command(words) for words in commands]))  # type: ignore[arg-type]

    def _send(self, packed: bytes) -> asyncio.Future[Any]:
        """
        Queue a packed command. Packing comes first: a command that cannot be packed raised before it had a place among
        the replies.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if self.is_lost or len(self._waiting) >= WAITING_MAX:
            future.set_exception(BrokerUnavailable(self.address.shown, "the connection is lost or overloaded"))
            return future
        self._waiting.append(future)
        assert len(self._waiting) > len(self._turn), "each command has its place before it is written"
        if not self._turn:
            loop.call_soon(self._flush)
        self._turn.append(packed)
        return future

    def _flush(self) -> None:
        """Write the commands of this turn at once: one write costs the kernel as much as one command."""
        assert self._turn, "_send() schedules this once, with the first command of a turn"
        turn, self._turn = self._turn, []
        if self._transport is not None and not self.is_lost:
            self._transport.write(b"".join(turn))

    # The socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """
        Read replies, and give each to its command. A reply that is cut waits in the reader. A server that does not
        speak RESP is disconnected: after one such byte no later reply could be matched to its command.
        """
        reader = self._reader
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not Ellipsis:
                self._handle_reply(reply)
        except hiredis.ProtocolError as error:
            log(
                logger,
                logging.ERROR,
                "x broker link closed",
                server=self.address.shown,
                reason=f"it does not speak RESP: {error}",
            )
            self._transport.abort()

    def _handle_reply(self, reply: Any) -> None:
        """Pass a push to `on_push`, and anything else to the command that it answers."""
        if self._on_push is not None and isinstance(reply, list) and reply and reply[0] in _PUSHES:
            self._on_push(reply)
            return
        self._resolve_next(CommandFailed(str(reply)) if isinstance(reply, hiredis.ReplyError) else reply)

    def _resolve_next(self, reply: Any) -> None:
        """Give the reply to the command that has waited longest."""
        if not self._waiting:
            log(
                logger,
                logging.ERROR,
                "x broker link closed",
                server=self.address.shown,
                reason="it sent a reply without a command",
            )
            self._transport.abort()
            return
        future = self._waiting.popleft()
        if future.done():
            return  # the caller was cancelled; its place is skipped
        if isinstance(reply, CommandFailed):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail every command without a reply, then notify the owner. Whether they ran is unknown."""
        assert not self.is_lost, "asyncio calls this once per connection"
        self.is_lost = True
        error = BrokerUnavailable(self.address.shown, "the connection was lost")
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # retrieved, so that asyncio logs nothing when the caller is gone
        self.on_lost(self)

    def close(self) -> None:
        """Abort the connection. All commands without a reply fail."""
        if self._transport is not None:
            self._transport.abort()


_PUSHES: Final = (b"message", b"smessage")


def ignore_failure(future: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a command sent on the side, so that asyncio does not log it as never retrieved."""
    if not future.cancelled():
        future.exception()
