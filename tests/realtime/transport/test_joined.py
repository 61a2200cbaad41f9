"""An answer's head leaves with the beginning of its body, and never waits for the application."""

from __future__ import annotations

import asyncio
from typing import Any

from realtime.transport.joined import JoiningTransport
from tests.support.aio import run_async


class Wire(asyncio.Transport):
    """What was sent, one entry a system call."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.sent.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.sent.append(b"".join(list_of_data))

    def close(self) -> None:
        self.closed = True


@run_async
async def test_a_head_waits_for_what_is_written_next_and_nothing_else_waits() -> None:
    wire = Wire()
    joining = JoiningTransport(wire, asyncio.get_running_loop())
    joining.hold()
    joining.write(b"head ")
    assert wire.sent == []
    joining.write(b"one")
    joining.write(b"two")
    assert wire.sent == [b"head one", b"two"]
    await asyncio.sleep(0)
    assert wire.sent == [b"head one", b"two"], "and nothing is sent again"


@run_async
async def test_a_head_alone_leaves_when_the_turn_ends() -> None:
    wire = Wire()
    joining = JoiningTransport(wire, asyncio.get_running_loop())
    joining.hold()
    joining.write(b"head")
    await asyncio.sleep(0)
    assert wire.sent == [b"head"]
    joining.write(b"body")
    assert wire.sent == [b"head", b"body"]


@run_async
async def test_what_waits_leaves_before_the_connection_closes() -> None:
    wire = Wire()
    joining = JoiningTransport(wire, asyncio.get_running_loop())
    joining.hold()
    joining.write(b"head")
    joining.close()
    assert (wire.sent, wire.closed) == ([b"head"], True)
