"""
The peer `websockets`: its asyncio server and its own `broadcast`, one process. `uvloop` or `asyncio` is the argument.

Compression is off, as its documentation advises where memory and processor time count, unless a second argument is
`deflate`: then it is as it comes. Everything else is as it comes.
It never keeps a message, and a client that falls behind is the library's affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import defaultdict

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

from benchmarks.peers.rooms import answer, joined

members: dict[str, set[ServerConnection]] = defaultdict(set)


async def handle(connection: ServerConnection) -> None:
    """Serve one client."""
    room: set[ServerConnection] | None = None
    try:
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                assert isinstance(message, str)
                if room is not None:
                    broadcast(room, message)
                elif (name := joined(message)) is not None:
                    room = members[name]
                    room.add(connection)
                    await connection.send(answer(name))
                else:
                    await connection.send(message)
    finally:
        if room is not None:
            room.discard(connection)


async def main(compression: str | None) -> None:
    """Serve until a signal ends the process."""
    async with serve(handle, "127.0.0.1", 0, compression=compression, backlog=2048) as server:
        [sock] = server.sockets
        print("port", sock.getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        loop, *how = sys.argv[1:]
        (uvloop.run if loop == "uvloop" else asyncio.run)(main("deflate" if how == ["deflate"] else None))
