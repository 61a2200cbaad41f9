"""A test's end of an audience: starts its process, orders it about, and reads what it has written down."""

from __future__ import annotations

import asyncio
import sys
from types import TracebackType
from typing import Any

import msgspec

from tests.support.server import ROOT

LINE_MAX = 2**26
STOP_S = 20.0


class AudienceHandle:
    """One process of clients."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> AudienceHandle:
        pipe = asyncio.subprocess.PIPE
        argv = [sys.executable, "-m", "tests.support.audience"]
        self._process = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, stdin=pipe, stdout=pipe, limit=LINE_MAX)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # at which it ends
        try:
            await asyncio.wait_for(self._process.wait(), STOP_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def order(self, what: str, **fields: Any) -> Any:
        """Give an order, and return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._turn:
            self._process.stdin.write(msgspec.json.encode({"do": what, **fields}) + b"\n")
            await self._process.stdin.drain()
            line = await self._process.stdout.readline()
        assert line, f"the audience ended at {what!r}"
        answer = msgspec.json.decode(line)
        if isinstance(answer, dict) and "failed" in answer:
            raise AssertionError(f"{what}: {answer['failed']}")
        return answer
