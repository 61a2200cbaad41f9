"""
A storm of clients that connect, get an answer and leave, again and again, while a test deploys what they connect to.

Half of them send a request, half open a WebSocket and connect by the protocol. Nothing is excused: a connect that is
refused, a reset, an end before the answer and a wrong status each are a sentence in `failures`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final

CLIENTS: Final = 8
ANSWER_S: Final = 60.0  # only a hang reaches it
PAUSE_S: Final = 0.01  # between two connects of one client
REQUEST: Final = b"GET /health HTTP/1.1\r\nHost: chat.example.com\r\nConnection: close\r\n\r\n"
HANDSHAKE: Final = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: chat.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
COMMAND: Final = b'{"id":1,"connect":{}}'
MASK: Final = bytes(4)  # a client has to mask; by zeros the text stays readable
FRAME: Final = bytes([0x81, 0x80 | len(COMMAND)]) + MASK + COMMAND
GOODBYE: Final = bytes([0x88, 0x82]) + MASK + (1000).to_bytes(2)

Visit = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[str]]


class ConnectStorm:
    """The clients, in a thread of their own while the `with` block runs."""

    def __init__(self, port: Callable[[], int]) -> None:
        """
        Args:
            port: where the next client connects; called in the thread of the clients.
        """
        self.answered: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self._port = port
        self._addresses = itertools.cycle(f"127.28.2.{number}" for number in range(1, 251))
        self._enough = False
        self._grown = threading.Condition()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> ConnectStorm:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._enough = True
        self._thread.join()

    def wait_for_more(self, count: int) -> None:
        """Wait until so many more clients of each kind were answered, or one was not."""
        with self._grown:
            wanted = {kind: self.answered[kind] + count for kind in ("request", "websocket")}
            self._grown.wait_for(
                lambda: bool(self.failures) or all(self.answered[kind] >= most for kind, most in wanted.items()),
                ANSWER_S,
            )
            assert self.failures or all(self.answered[kind] >= most for kind, most in wanted.items()), self.answered

    async def _run(self) -> None:
        visits: list[tuple[str, Visit]] = [("request", request_health), ("websocket", connect_and_leave)]
        await asyncio.gather(*(self._client(*visits[number % 2]) for number in range(CLIENTS)))

    async def _client(self, kind: str, visit: Visit) -> None:
        while not self._enough:
            failure = await self._visit(visit)
            with self._grown:
                if failure:
                    self.failures[f"{kind}: {failure}"] += 1
                else:
                    self.answered[kind] += 1
                self._grown.notify_all()
            await asyncio.sleep(PAUSE_S)

    async def _visit(self, visit: Visit) -> str:
        """Return what went wrong, or nothing."""
        writer = None
        try:
            async with asyncio.timeout(ANSWER_S):
                address = (next(self._addresses), 0)
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port(), local_addr=address)
                return await visit(reader, writer)
        except (OSError, EOFError, TimeoutError) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            if writer is not None:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()


async def request_health(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    writer.write(REQUEST)
    answer = await reader.read()
    return "" if answer.startswith(b"HTTP/1.1 200 ") and b'"status"' in answer else f"answered {answer[:60]!r}"


async def connect_and_leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    writer.write(HANDSHAKE)
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101 "):
        return f"answered {head[:60]!r}"
    writer.write(FRAME)
    first, size = await reader.readexactly(2)
    if size >= 126:
        size = int.from_bytes(await reader.readexactly(2))
    answer = await reader.readexactly(size)
    if first != 0x81 or b'"connect"' not in answer:
        return f"sent {first:#x} {answer[:60]!r}"
    writer.write(GOODBYE)
    await reader.read()
    return ""
