"""
One client of the load: a connection that becomes a member of a room, and then counts what it gets.

Runs in the load client's event loop; there are thousands of it, so it has no task and no timer of its own. It answers
pings, passes marks to the run, and reports once how it failed. It never reconnects after an end: what it misses from
then on is lost, and shows in the ledger. A publication whose line was seen before, by any client, is not parsed again.
"""

from __future__ import annotations

import asyncio
import enum
import os
from time import perf_counter_ns
from typing import Final, Protocol, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from realtime.loadtest.errors import Failure
from realtime.loadtest.ledger import Account
from realtime.loadtest.marks import Mark
from realtime.loadtest.plan import Endpoint
from realtime.loadtest.websocket import BadStream, Closed, HandshakeRefused, WebSocket

BACKLOG_MAX: Final = 4 * 1024 * 1024  # bytes that a server has not read yet; above it nothing more is published
ALREADY_SUBSCRIBED: Final = 105  # the server has made it a member by itself, which is as good


class ErrorReply(Struct):
    code: int = 0
    message: str = ""
    temporary: bool = False

    def failure(self, step: str) -> Failure:
        """Return it as it is counted."""
        return Failure(step, self.code, self.message)


class ConnectReply(Struct):
    pong: bool = False


class Unsubscribed(Struct):
    code: int = 0
    reason: str = ""


class ServerPush(Struct):
    channel: str = ""
    pub: Raw | UnsetType = UNSET
    unsubscribe: Unsubscribed | None = None


class ServerMessage(Struct):
    """A reply or push of the server, as far as it matters here (Centrifuge client protocol, section 3.3)."""

    id: int = 0
    error: ErrorReply | None = None
    connect: ConnectReply | None = None
    push: ServerPush | None = None


_decode: Final = msgspec.json.Decoder(ServerMessage).decode


class Listener(Protocol):
    """What a client reports to: the run."""

    marks: dict[bytes, Mark]  # by the line that brought it

    def mark_of(self, line: bytes) -> Mark | None:
        """Return the mark of a publication that was not seen before, and keep it in `marks`."""

    def delivered(self, account: Account, mark: Mark, at_ns: int) -> None:
        """Count a delivery."""

    def joined(self, client: Client) -> None:
        """Note that it is a member now. The run opens its account."""

    def failed(self, client: Client, failure: Failure) -> None:
        """Note that it has ended. It reports nothing after that."""

    def refused(self, client: Client, number: int, failure: Failure, *, temporary: bool) -> None:
        """Note that a publication of this client was answered with an error."""


class Stage(enum.Enum):
    """How far a client is. It only goes on, never back: a client that ended is not used again."""

    OPENING = "opening"
    """The handshake is under way."""
    JOINING = "joining"
    """It has asked to connect and to subscribe."""
    MEMBER = "member"
    """It is in its room."""
    ENDED = "ended"


class Client(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_asked",
        "_id",
        "_listener",
        "_pongs",
        "_token",
        "_transport",
        "_websocket",
        "account",
        "address",
        "bytes_in",
        "bytes_out",
        "due_s",
        "number",
        "room",
        "stage",
    )

    def __init__(self, listener: Listener, number: int, room: str, address: Endpoint, token: str, due_s: float) -> None:
        self._listener = listener
        self.number = number
        self.room = room
        self.address = address
        self.due_s = due_s
        self.stage = Stage.OPENING
        self.account: Account | None = None
        self.bytes_in = self.bytes_out = 0
        self._token = token
        self._transport: asyncio.Transport | None = None
        self._websocket = WebSocket(address)
        self._pongs = False
        self._id = 2
        self._asked: dict[int, int] = {}  # publications without an answer: by command, their number

    # What it sends

    def _flush(self) -> None:
        """Write what the WebSocket has to send, if anything."""
        data = self._websocket.data_to_send()
        if data and self._transport is not None:
            self.bytes_out += len(data)
            self._transport.write(data)

    def _send(self, text: bytes) -> None:
        """Send a message; nothing once the server has begun to close, which ends the client soon after."""
        if self._websocket.is_open:
            self._websocket.send_text(text)
            self._flush()

    def _join(self) -> None:
        """Ask for everything in one frame, as the SDKs do."""
        token = {"token": self._token} if self._token else {}
        connect = msgspec.json.encode({"id": 1, "connect": {**token, "name": "bench"}})
        subscribe = msgspec.json.encode({"id": 2, "subscribe": {"channel": self.room}})
        self.stage = Stage.JOINING
        self._send(connect + b"\n" + subscribe)

    def publish(self, number: int, data: bytes) -> None:
        """Publish in its room. What a server does not read any more is not sent, and will be missed."""
        assert self._transport is not None, "it was connected"
        if self._transport.get_write_buffer_size() > BACKLOG_MAX:
            return
        self._id += 1
        self._asked[self._id] = number
        room = msgspec.json.encode(self.room)
        self._send(b'{"id":%d,"publish":{"channel":%b,"data":%b}}' % (self._id, room, data))

    def leave(self) -> None:
        """Send a close frame, and close. It is no failure."""
        if self.stage is not Stage.ENDED:
            self.stage = Stage.ENDED
            if self._transport is not None:
                if self._websocket.is_open:
                    self._websocket.close()
                    self._flush()
                self._transport.close()

    def fail(self, failure: Failure) -> None:
        """End, and report why. Harmless when it has ended."""
        if self.stage is not Stage.ENDED:
            self.stage = Stage.ENDED
            if self._transport is not None:
                self._transport.abort()
            self._listener.failed(self, failure)

    # What it receives

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has its methods, and another ancestor
        if self.stage is Stage.ENDED:
            self._transport.abort()
            return
        self._flush()

    def eof_received(self) -> None:
        """Take the server's end of the stream: it may complete a refusal. The transport then closes by itself."""
        try:
            self._websocket.receive_end()
        except HandshakeRefused as error:
            self.fail(self._failure(error))

    def connection_lost(self, exc: Exception | None) -> None:
        """End without a close frame of the server."""
        self._transport = None
        self.fail(Failure(self._step(), 0, problem(exc) if exc else "closed without a reason"))

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        now_ns = perf_counter_ns()
        self.bytes_in += len(data)
        try:
            events = self._websocket.receive(data)
            self._flush()  # the answers to pings and to a close frame
            if self.stage is Stage.OPENING and self._websocket.has_opened:
                self._join()
            for each in events:
                if isinstance(each, Closed):
                    self.fail(Failure(self._step(), each.code, each.reason or "closed"))
                else:
                    self._message(each, now_ns)
        except (HandshakeRefused, BadStream, msgspec.MsgspecError) as error:
            self.fail(self._failure(error))

    def _failure(self, error: Exception) -> Failure:
        """Return what a server did wrongly as it is counted."""
        if isinstance(error, HandshakeRefused):
            return Failure("handshake", error.status, error.reason)
        what = str(error) if isinstance(error, BadStream) else "what is not the protocol"
        return Failure(self._step(), 0, f"sends {what}")

    def _message(self, message: bytes, now_ns: int) -> None:
        """
        Take the lines of a message: publications, replies and pings.

        All members of a room get the same bytes. So a line that any client has parsed is found in `marks`, and costs a
        look-up and no parsing: with many clients that is what the load client's time is spent on.
        """
        listener, account = self._listener, self.account
        for line in message.split(b"\n"):
            mark = listener.marks.get(line)
            if mark is None:
                if line == b"{}":
                    self._ping()
                elif line:
                    self._reply(line, now_ns)
            elif account is not None:
                listener.delivered(account, mark, now_ns)

    def _ping(self) -> None:
        """Answer the protocol's ping where the server asked for that in its connect result."""
        if self._pongs and self.stage is not Stage.ENDED:
            self._send(b"{}")

    def _reply(self, line: bytes, now_ns: int) -> None:
        """
        Take a line that is no known publication.

        Raises:
            msgspec.MsgspecError: it is not of the protocol.
        """
        if self.stage is Stage.ENDED:
            return
        reply = _decode(line)
        if reply.push is not None:
            self._push(reply.push, line, now_ns)
        elif reply.id == 1:
            self._admitted(reply)
        elif reply.id == 2:
            self._subscribed(reply)
        else:
            number = self._asked.pop(reply.id, None)
            if number is not None and reply.error is not None:
                failure = reply.error.failure("publish")
                self._listener.refused(self, number, failure, temporary=reply.error.temporary)

    def _admitted(self, reply: ServerMessage) -> None:
        """Take the answer to `connect`. The answer to `subscribe` follows it, in the same message or a later one."""
        if reply.error is not None:
            self.fail(reply.error.failure("connect"))
        elif reply.connect is not None:
            self._pongs = reply.connect.pong

    def _subscribed(self, reply: ServerMessage) -> None:
        """Take the answer to `subscribe`: from here on the client is a member, and has an account."""
        if reply.error is not None and reply.error.code != ALREADY_SUBSCRIBED:
            self.fail(reply.error.failure("join"))
        elif self.stage is Stage.JOINING:
            self.stage = Stage.MEMBER
            self._listener.joined(self)

    def _push(self, push: ServerPush, line: bytes, now_ns: int) -> None:
        """Take a push: a publication that was not seen before, or the end of the membership. Joins do not count."""
        if push.pub is not UNSET and push.channel == self.room:
            mark = self._listener.mark_of(line)
            if mark is not None and self.account is not None:
                self._listener.delivered(self.account, mark, now_ns)
        elif push.unsubscribe is not None and push.channel == self.room:
            self.fail(Failure("stay", push.unsubscribe.code, push.unsubscribe.reason))

    def _step(self) -> str:
        """Return the step in which a failure happened now, in the words of `Failure`."""
        if self.stage is Stage.OPENING:
            return "handshake"
        return "connect" if self.stage is Stage.JOINING else "stay"


def problem(error: Exception) -> str:
    """Return the system's reason, in a few words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()  # asyncio's own text repeats the address
    return str(error) or type(error).__name__
