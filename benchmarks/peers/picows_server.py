"""
The peer picows: a WebSocket library in Cython, on uvloop, one process. It never keeps a message.

A broadcast is `send` to each member, as in the library's own examples.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from typing import Any

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

from benchmarks.peers.rooms import answer, joined

members: dict[str, set[Any]] = defaultdict(set)


class Client(WSListener):  # type: ignore[misc]  # mypy skips the library: `make lint` does not install it
    """One client."""

    room: set[Any] | None = None

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.TEXT:
            payload = frame.get_payload_as_bytes()
            if self.room is not None:
                for member in self.room:
                    member.send(WSMsgType.TEXT, payload)
            elif (name := joined(payload.decode())) is not None:
                self.room = members[name]
                self.room.add(transport)
                transport.send(WSMsgType.TEXT, answer(name).encode())
            else:
                transport.send(WSMsgType.TEXT, payload)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self.room is not None:
            self.room.discard(transport)


async def main() -> None:
    """Serve until a signal ends the process."""
    server = await ws_create_server(lambda request: Client(), "127.0.0.1", 0, backlog=2048)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main())
