"""
A cable between a worker and its broker that a test pulls out: Unix socket to Unix socket, in the test's own loop.

It carries bytes unchanged. Pulled out, it ends every connection and refuses new ones; plugged in again, everything is
as before. A test thus decides what happens while a worker is cut off, and need not be quick.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

from tests.realtime.broker.workers import Place


class Cable:
    """One cable, from `path` to `far`."""

    def __init__(self, path: Path, far: str) -> None:
        self.path = path
        self._far = far
        self._server: asyncio.Server | None = None
        self._answers = asyncio.Event()  # set while answers pass
        self._connections = 0  # since it was plugged in
        self._cut_after: dict[int, int] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self._carrying: set[asyncio.Task[None]] = set()

    def keep_answers(self) -> None:
        """Let questions pass, and no answer until it is plugged in anew."""
        self._answers.clear()

    async def plug_in(self, cut_after: Mapping[int, int] | None = None) -> None:
        """Plug it in. `cut_after` says after how many answers a connection, counted from 1, ends."""
        self._connections = 0
        self._cut_after = dict(cut_after or {})
        self._answers.set()
        self._server = await asyncio.start_unix_server(self._accept, self.path)

    async def pull_out(self) -> None:
        """End every connection. New connections are refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self.path.unlink(missing_ok=True)  # from 3.13 on the server has done it
        for writer in tuple(self._writers):
            writer.transport.abort()
        for task in tuple(self._carrying):
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    async def _accept(self, near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        try:
            far, to_far = await asyncio.open_unix_connection(self._far)
        except OSError:
            to_near.transport.abort()  # as the broker refused us, so do we
            return
        if self._server is None:
            to_near.transport.abort()
            to_far.transport.abort()
            return
        self._connections += 1
        left = self._cut_after.get(self._connections, -1)
        for work in (self._carry(near, to_far), self._answer(far, to_near, left)):
            task = asyncio.create_task(work)
            self._carrying.add(task)
            task.add_done_callback(self._carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError):
                while left and (data := await reader.read(65536)):
                    await self._answers.wait()
                    writer.write(data)
                    await writer.drain()
                    left -= 1
        finally:
            self._writers.discard(writer)
            writer.close()


@contextlib.asynccontextmanager
async def cable(place: Place, directory: Path) -> AsyncIterator[tuple[Cable, Place]]:
    """Lay a cable to a broker on a Unix socket. The second is the place as it is seen from the cable's near end."""
    scheme = "local:" if place.url.startswith("local:") else "unix://"
    laid = Cable(directory / "cable.sock", place.url.removeprefix(scheme))
    await laid.plug_in()
    try:
        yield laid, replace(place, url=f"{scheme}{laid.path}")
    finally:
        await laid.pull_out()
