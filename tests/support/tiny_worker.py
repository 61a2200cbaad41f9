"""
A worker for tests of `sticky` alone: it answers every request with what it knows, as one JSON object, and closes.

    GET /            who serves: slot, pid, client, session, …
    GET /hold        the same, then the connection stays open
    GET /block       the event loop stops turning, for ever
    GET /refuse      raises while adopting, in the slot that is to refuse
    GET /send/TO/COUNT/SIZE  sends so many messages of that size: how many were taken
    GET /repeat/TO   has the primary send a message there
    GET /exit/N      ends the process with that status, and /signal/N by that signal
    GET /work        notes that the request is in flight, and never answers
    GET /garbage/HEX  says these bytes to the primary, in a packet of their own
    GET /pipe        gives the primary a connection that is a pipe

What the cluster gives as `config` may change how it behaves: {"boot": "fail"} does not come up,
{"boot": "fail-if", "path": P} does not while the file P exists, {"boot": "wait-if", "path": P} is not ready before the
file is gone, {"die": WHEN, "path": P} has the one worker that first finds the file P die WHEN a connection is being
"adopting", is "adopted", its request "read", or its answer "half" sent, {"refusing": N} has the worker of slot N raise
for /refuse, {"drain": "never"} does not drain, and {"padding": N} makes its statistics so large.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from os.path import exists
from typing import Any

from sticky import Adopted, Worker
from sticky.handoff.channel import Kind

heard: list[list[Any]] = []
"""Messages that came: from whom, and what or which number."""


class Answer(asyncio.Protocol):
    """Reads one head, answers it."""

    def __init__(self, worker: Worker, adopted: Adopted, connections: set[Answer]) -> None:
        self.worker = worker
        self.adopted = adopted
        self.connections = connections
        self.received = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.connections.add(self)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if b"\r\n\r\n" not in self.received:
            return
        assert self.transport is not None
        self.adopted.first_byte_read()
        die_if(self.worker, "read")
        if self.adopted.path == "/block":
            time.sleep(3600)  # a loop that does not turn is what is asked for
        if self.adopted.path == "/work":
            self.adopted.mark.begin()
            return
        facts = {**self.facts(), **self.do()}
        body = json.dumps(facts).encode()
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        die_if(self.worker, "half")
        self.transport.write(body)
        if self.adopted.path != "/hold":
            self.transport.close()

    def do(self) -> dict[str, Any]:
        """Do what the path asks for beside answering."""
        action, _, rest = self.adopted.path.removeprefix("/").partition("/")
        if action == "repeat":
            self.worker.send("primary", {"repeat": rest, "data": "by the primary"})
        if action == "exit":
            os._exit(int(rest))
        if action == "signal":
            os.kill(os.getpid(), int(rest))
        if action == "garbage":
            self.worker._channel.sock.send(bytes.fromhex(rest))
        if action == "pipe":
            self.worker._channel.send(Kind.GIVE_BACK, "127.0.0.1", 1, fd=os.pipe()[0])
        if action != "send":
            return {}
        to, count, size = rest.split("/")
        try:
            return {"taken": sum(self.worker.send(to, [n, "x" * int(size)]) for n in range(int(count)))}
        except ValueError as error:
            return {"error": str(error)}

    def facts(self) -> dict[str, Any]:
        adopted = self.adopted
        return {
            "slot": self.worker.slot,
            "pid": os.getpid(),
            "client": adopted.address,
            "scheme": adopted.scheme,
            "path": adopted.path,
            "session": adopted.sticky_id,
            "new_session": adopted.new_sticky_id,
            "reason": adopted.reason,
            "env": {name: os.environ.get(name) for name in ("TINY", "STICKY_SLOT", "NOTIFY_SOCKET", "LISTEN_FDS")},
            "ids": [os.getuid(), os.getgid()],
            "heard": heard,
            "head": self.received.decode("latin-1"),
        }

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)
        self.worker.closed(self.adopted)


def boot_fault(config: dict[str, Any]) -> str:
    """Return why this worker is not to come up, or nothing."""
    if config.get("boot") == "fail":
        return "the configuration says so"
    if config.get("boot") == "fail-if" and exists(config["path"]):
        return "Traceback: the new version is broken"
    return ""


def sprung(trap: str) -> bool:
    """Return whether the file was there. It is then gone: one worker of all is caught."""
    try:
        os.unlink(trap)
    except FileNotFoundError:
        return False
    return True


def die_if(worker: Worker, when: str) -> None:
    """Kill this process, if it is to be caught now."""
    config = worker.config or {}
    if config.get("die") == when and sprung(config["path"]):
        os.kill(os.getpid(), signal.SIGKILL)


async def main() -> None:
    worker = await Worker.connect()
    config = worker.config or {}
    loop = asyncio.get_running_loop()
    connections: set[Answer] = set()
    tasks: set[asyncio.Task[Any]] = set()
    drained = asyncio.Event()
    if fault := boot_fault(config):
        worker.boot_failed(fault)
    while config.get("boot") == "wait-if" and exists(config["path"]):  # noqa: ASYNC110, ASYNC240 - a file is no event
        await asyncio.sleep(0.02)

    def on_connection(adopted: Adopted) -> None:
        die_if(worker, "adopting")
        loop.call_soon(die_if, worker, "adopted")
        if adopted.path == "/refuse" and worker.slot == config.get("refusing"):
            raise RuntimeError("this worker does not take it")
        task = loop.create_task(
            loop.connect_accepted_socket(lambda: Answer(worker, adopted, connections), adopted.sock)
        )
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def on_drain(deadline_s: float) -> None:
        if config.get("drain") == "never":
            await drained.wait()
        for connection in list(connections):
            assert connection.transport is not None
            connection.transport.close()

    worker.ready()
    await worker.run(
        on_connection=on_connection,
        on_drain=on_drain,
        statistics=lambda: {"here": len(connections), "padding": "x" * config.get("padding", 0)},
        on_message=lambda sender, data: heard.append([sender, data if isinstance(data, str) else data[0]]),
    )


if __name__ == "__main__":
    asyncio.run(main())
