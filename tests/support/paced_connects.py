"""
Connects at a steady rate, all the time, while a test deploys what they connect to.

Every other one sends a request, the others open a WebSocket and connect by the protocol. Each is from an address of its
own, waits for its answer and leaves. What fails is kept with the time at which it began: a test can then say whether it
was pending in a primary that was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from tests.support.connect_storm import connect_and_leave, request_health

ANSWER_S: Final = 60.0  # only a hang reaches it
IN_FLIGHT_MAX: Final = 400


@dataclass(frozen=True)
class Failure:
    """A connect that was not answered. Times are of the clock that all processes share."""

    kind: str
    began_s: float
    ended_s: float
    port: int
    what: str

    @property
    def is_refused(self) -> bool:
        """Whether the system refused the connect itself."""
        return self.what.startswith("ConnectionRefusedError")

    def spans(self, moment_s: float) -> bool:
        return self.began_s <= moment_s <= self.ended_s


class PacedConnects:
    """The connects, in a thread of their own while the `with` block runs."""

    def __init__(self, servers: list[tuple[str, int]], rate: float) -> None:
        """
        Args:
            servers: where they connect, in turn: host and port.
            rate: how many connects a second.
        """
        self.answered: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self.slowest_s = 0.0
        self._servers = itertools.cycle(servers)
        self._addresses = itertools.cycle(f"127.28.3.{number}" for number in range(1, 251))
        self._rate = rate
        self._enough = False
        self._in_flight = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> PacedConnects:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._enough = True
        self._thread.join()

    async def _run(self) -> None:
        due_s = time.monotonic()
        async with asyncio.TaskGroup() as visits:
            for number in itertools.count():
                if self._enough:
                    break
                due_s += 1 / self._rate
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                if self._in_flight >= IN_FLIGHT_MAX:  # the machine is too busy for this rate
                    due_s = time.monotonic()
                    continue
                visits.create_task(self._visit("websocket" if number % 2 else "request"))

    async def _visit(self, kind: str) -> None:
        host, port = next(self._servers)
        began_s = time.monotonic()
        self._in_flight += 1
        writer, what = None, ""
        try:
            async with asyncio.timeout(ANSWER_S):
                address = (next(self._addresses), 0)
                reader, writer = await asyncio.open_connection(host, port, local_addr=address)
                what = await (connect_and_leave if kind == "websocket" else request_health)(reader, writer)
        except (OSError, EOFError, TimeoutError) as error:
            what = f"{type(error).__name__}: {error}"
        finally:
            if writer is not None:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
        self._in_flight -= 1
        ended_s = time.monotonic()
        self.slowest_s = max(self.slowest_s, ended_s - began_s)
        if what:
            self.failures.append(Failure(kind, began_s, ended_s, port, what))
        else:
            self.answered[kind] += 1
