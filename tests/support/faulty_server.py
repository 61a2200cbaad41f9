"""
A server of the protocol that makes one mistake: it loses, doubles or reorders one publication, or mixes up rooms.

Runs in threads of the test's process. It knows `connect`, `subscribe` and `publish` in JSON over WebSocket, and no more
than a load client needs.
"""

from __future__ import annotations

import json
import threading
from types import TracebackType
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

MISTAKES = ("none", "lost", "doubled", "reordered", "elsewhere")
NUMBER = 5  # of the publication that it happens to


class FaultyServer:
    """
    Serves on a free port of 127.0.0.1 inside a `with` block.

    Args:
        mistake: one of MISTAKES.
    """

    def __init__(self, mistake: str) -> None:
        assert mistake in MISTAKES, mistake
        self._mistake = mistake
        self._members: list[tuple[ServerConnection, str]] = []
        self._seen = 0
        self._held: dict[str, list[bytes]] = {}  # by room, what comes after its next publication
        self._lock = threading.Lock()
        self._server = serve(self._client, "127.0.0.1", 0, compression=None)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.socket.getsockname()[1]}"

    def __enter__(self) -> FaultyServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()

    def _client(self, client: ServerConnection) -> None:
        try:
            for message in client:
                for line in message.splitlines():
                    self._command(client, json.loads(line))
        except ConnectionClosed:
            pass  # it has left

    def _command(self, client: ServerConnection, command: dict[str, Any]) -> None:
        name = next(each for each in command if each != "id")
        with self._lock:
            if name == "subscribe":
                self._members.append((client, command["subscribe"]["channel"]))
            client.send(json.dumps({"id": command["id"], name: {}}), text=True)
            if name == "publish":
                self._publish(command["publish"])

    def _publish(self, publish: dict[str, Any]) -> None:
        room = publish["channel"]
        pushes = [json.dumps({"push": {"channel": room, "pub": {"data": publish["data"]}}}).encode()]
        self._seen += 1
        if self._seen == NUMBER and self._mistake == "lost":
            pushes = []
        elif self._seen == NUMBER and self._mistake == "doubled":
            pushes *= 2
        elif self._seen == NUMBER and self._mistake == "reordered":
            pushes, self._held[room] = [], pushes
        elif self._seen == NUMBER and self._mistake == "elsewhere":
            wrong = next(name for _, name in self._members if name != room)
            pushes = [pushes[0].replace(room.encode(), wrong.encode(), 1)]
            room = wrong
        else:
            pushes += self._held.pop(room, [])
        for push in pushes:
            for member, name in self._members:
                if name == room:
                    member.send(push, text=True)
