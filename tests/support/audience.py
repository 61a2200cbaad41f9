"""
An audience: raw clients of the Centrifuge protocol that write down all that reaches them, in a process of its own.

Run as `python -m tests.support.audience`; `AudienceHandle` starts it. Each line of standard input is an order in JSON,
and each line of standard output its answer, or `{"failed": …}`. No client connects again after an end. So a client that
is there at the end has had one connection all along.

Client i of the whole scenario is a member of room i mod rooms. The first client of each room publishes numbers there,
by a timetable that waits for no answer. Every tenth client has its messages compressed. A client that has got its first
publication has seen every earlier join: from then on joins and leaves are written down.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.uri import parse_uri

from realtime.loadtest.plan import Endpoint
from realtime.loadtest.websocket import Closed, WebSocket

ENTERING: Final = 40  # clients that connect at a time
COMPRESSED_EVERY: Final = 10
DEADLINE_S: Final = 120.0  # only a hang reaches it
ROOM: Final = "hall:{}"


class CompressedWebSocket(WebSocket):
    """A WebSocket that asks for compression, with a small window: there are hundreds of them."""

    __slots__ = ()

    def __init__(self, url: str) -> None:
        factory = ClientPerMessageDeflateFactory(server_max_window_bits=10, client_max_window_bits=10)
        self._protocol = ClientProtocol(parse_uri(url), extensions=[factory])
        self._parts = None
        self._protocol.send_request(self._protocol.connect())


class Member(asyncio.Protocol):
    """One client: a connection, which becomes a member of a room."""

    def __init__(self, audience: Audience, number: int, url: str) -> None:
        self.audience = audience
        self.number = number
        self.room = ROOM.format(number % audience.rooms)
        self.id = ""
        self.epoch = ""
        self.here = ("", 0)
        self.offsets: list[int] = []
        self.values: list[int] = []
        self.gap_s = 0.0  # the longest time between two publications, since the last look
        self.odd: list[str] = []
        """What must not reach it: an end, an error, a leave or a join of another."""
        self.sent = 0
        self.acknowledged: list[int] = []
        self._last_s = 0.0
        self._command = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: Any = None
        is_compressed = number % COMPRESSED_EVERY == COMPRESSED_EVERY - 1
        self._websocket = CompressedWebSocket(url) if is_compressed else WebSocket(Endpoint.parse(url))

    async def enter(self) -> None:
        """Connect, and become a member of the room."""
        await self._opened
        self.here = self._transport.get_extra_info("sockname")[:2]
        self.id = (await self.ask("connect"))["client"]
        self.epoch = (await self.ask("subscribe", channel=self.room, join_leave=True))["epoch"]

    def send(self, method: str, /, **fields: Any) -> asyncio.Future[dict[str, Any]]:
        """Send a command, and return its answer to come. It never raises: what went wrong is in `odd`."""
        self._command += 1
        answer = self._answers[self._command] = asyncio.get_running_loop().create_future()
        if self._websocket.is_open:
            self._websocket.send_text(msgspec.json.encode({"id": self._command, method: fields}))
            self._flush()
        return answer

    async def ask(self, method: str, /, **fields: Any) -> dict[str, Any]:
        answer = await self.send(method, **fields)
        assert method in answer, f"{method}: {answer}"
        result: dict[str, Any] = answer[method]
        return result

    def publish(self) -> None:
        """Publish the next number."""
        number, self.sent = self.sent, self.sent + 1

        def acknowledge(answer: asyncio.Future[dict[str, Any]]) -> None:
            if "publish" in answer.result():
                self.acknowledged.append(number)

        self.send("publish", channel=self.room, data=number).add_done_callback(acknowledge)

    def leave(self) -> None:
        """Close, and write nothing more down."""
        self.audience.left.add(self.number)
        self._transport.abort()

    # What comes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._flush()

    def data_received(self, data: bytes) -> None:
        for each in self._websocket.receive(data):
            if isinstance(each, Closed):
                self._is_odd(f"closed: {each.code} {each.reason}")
            else:
                for line in each.split(b"\n"):
                    self._line(line)
        self._flush()
        if self._websocket.has_opened and not self._opened.done():
            self._opened.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_odd(f"lost: {exc or 'end'}")
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result({"error": "lost"})
        if not self._opened.done():
            self._opened.set_exception(exc or ConnectionResetError("closed in the handshake"))

    def _flush(self) -> None:
        data = self._websocket.data_to_send()
        if data:
            self._transport.write(data)

    def _line(self, line: bytes) -> None:
        """Take a line. All members of a room get the same bytes, so a publication is parsed once."""
        known = self.audience.known.get(line)
        if known is not None:
            self._publication(*known)
        elif line == b"{}":
            if self._websocket.is_open:
                self._websocket.send_text(b"{}")
        elif line:
            reply = msgspec.json.decode(line)
            if "push" in reply:
                self._push(line, reply["push"])
            else:
                if "error" in reply:
                    self._is_odd(f"error: {reply['error']}")
                self._answers.pop(reply["id"]).set_result(reply)

    def _push(self, line: bytes, push: dict[str, Any]) -> None:
        if "pub" in push and push.get("channel") == self.room:
            known = self.audience.known[line] = (push["pub"]["offset"], push["pub"]["data"])
            self._publication(*known)
        elif not ("join" in push or "leave" in push) or self.offsets:
            self._is_odd(f"push: {push}")

    def _publication(self, offset: int, value: int) -> None:
        now_s = time.monotonic()
        if self.offsets:
            self.gap_s = max(self.gap_s, now_s - self._last_s)
        self._last_s = now_s
        self.offsets.append(offset)
        self.values.append(value)

    def _is_odd(self, what: str) -> None:
        if self.number not in self.audience.left:
            self.odd.append(f"{time.monotonic():.3f} {what}")

    def report(self, where: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "number": self.number,
            "room": self.room,
            "id": self.id,
            "epoch": self.epoch,
            "offsets": self.offsets,
            "values": self.values,
            "odd": self.odd,
            "where": where,
        }


class Audience:
    """The clients of this process, and the orders that it understands."""

    def __init__(self) -> None:
        self.rooms = 1
        self.members: list[Member] = []
        self.known: dict[bytes, tuple[int, int]] = {}
        self.left: set[int] = set()
        self._publishing: asyncio.Task[None] | None = None

    async def enter(self, clients: list[dict[str, Any]], rooms: int) -> Any:
        """Connect clients, each a number, a URL and the address that it comes from."""
        self.rooms = rooms
        turns = asyncio.Semaphore(ENTERING)

        async def enter(number: int, url: str, address: str) -> None:
            endpoint, member = Endpoint.parse(url), Member(self, number, url)
            async with turns:
                loop = asyncio.get_running_loop()
                await loop.create_connection(lambda: member, endpoint.host, endpoint.port, local_addr=(address, 0))
                await member.enter()
            self.members.append(member)

        await asyncio.gather(*(enter(**each) for each in clients))
        return [{"id": each.id, "room": each.room, "here": each.here} for each in self.members]

    async def publish(self, rate: float) -> Any:
        """Begin to publish, so often a second in each room whose publisher is here."""
        self._publishing = asyncio.create_task(self._publish(rate))

    async def _publish(self, rate: float) -> None:
        publishers = [each for each in self.members if each.number < self.rooms]
        due_s = time.monotonic()
        while publishers:  # one after the other, so that they are spread over the time
            for each in publishers:
                due_s += 1 / rate / len(publishers)
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                each.publish()

    async def least(self) -> Any:
        """Return how many publications each client has got at least, and whether something is odd."""
        return {
            "least": min((len(each.offsets) for each in self.members), default=0),
            "odd": any(each.odd for each in self.members),
        }

    async def progress(self) -> Any:
        """Return what is odd, and the longest gap of each client since the last look."""
        odd = [f"client {each.number}: {what}" for each in self.members for what in each.odd]
        gaps = [each.gap_s for each in self.members]
        for each in self.members:
            each.gap_s = 0.0
        return {"odd": odd, "gaps": gaps}

    async def presence(self, watchers: int) -> Any:
        """Ask so many clients of each room which clients are there."""
        asked = [each for each in self.members if each.number < watchers * self.rooms]
        answers = await asyncio.gather(*(each.ask("presence", channel=each.room) for each in asked))
        return [[each.room, sorted(answer["presence"])] for each, answer in zip(asked, answers, strict=True)]

    async def stop_publishing(self) -> Any:
        """Stop, wait for all answers, and return what was sent and what was acknowledged in each room."""
        assert self._publishing is not None, "`publish` comes first"
        self._publishing.cancel()
        await asyncio.gather(self._publishing, return_exceptions=True)
        publishers = [each for each in self.members if each.number < self.rooms]
        await _until(lambda: all(len(each.acknowledged) == each.sent or each.odd for each in publishers))
        return {each.room: {"sent": each.sent, "acknowledged": each.acknowledged} for each in publishers}

    async def finish(self, counts: dict[str, int], path: str) -> Any:
        """Wait until each client has what was published in its room, and write down what all have got."""
        await _until(lambda: all(len(each.offsets) >= counts[each.room] or each.odd for each in self.members))

        async def where(member: Member) -> dict[str, Any] | None:
            answer = await member.send("rpc", method="where", data={})
            found: dict[str, Any] | None = answer.get("rpc", {}).get("data")
            return found

        found = await asyncio.gather(*(where(each) for each in self.members if not _has_ended(each)))
        alive = iter(found)
        reports = [each.report(None if _has_ended(each) else next(alive)) for each in self.members]
        await asyncio.to_thread(Path(path).write_bytes, msgspec.json.encode(reports))

    async def leave(self) -> Any:
        """Close all."""
        for each in self.members:
            each.leave()


def _has_ended(member: Member) -> bool:
    return any("lost:" in each or "closed:" in each for each in member.odd)


async def _until(is_so: Any) -> None:
    """Wait until it is so, or the deadline is over: the report then says what is missing."""
    until_s = time.monotonic() + DEADLINE_S
    while not is_so() and time.monotonic() < until_s:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def serve() -> None:
    """Follow orders until standard input ends."""
    audience, orders = Audience(), asyncio.StreamReader(limit=2**26)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    async for line in orders:
        order = msgspec.json.decode(line)
        try:
            answer = await getattr(audience, order.pop("do"))(**order)
        except Exception as error:  # noqa: BLE001 - the edge of the process: the handle raises it
            answer = {"failed": repr(error)}
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(serve())
