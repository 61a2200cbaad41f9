"""
A primary for tests of `sticky` alone, as a process: `python -m tests.support.tiny_cluster JSON`.

The JSON object gives fields of `ClusterSettings`, `AffinitySettings` and `Lifetime`, `config` for the workers,
`nofile`, a limit of open files, `python`, the interpreter of the workers, and `worker`, their module. The hooks of the
events in `failing` raise, and so does what makes the environment of the worker of slot 1 as long as the file `homeless`
exists. Logs go to standard output, each event of a hook as a line of its own; a message {"repeat": to, "data": …} for
the primary is sent on to `to`. Beside it stands `TinyCluster`, which starts that process and waits for what it says.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from sticky import AffinitySettings, Cluster, ClusterSettings, Lifetime, Sticky
from sticky.heads.first_bytes import HeadLimits
from sticky.loop.log_lines import SERVER_LISTENING
from sticky.process.control import ControlFailed, send_request
from tests.support.log_lines import pattern
from tests.support.server import DEADLINE_S, ROOT, Log

HOOKS = ("setup", "fork", "online", "listening", "message", "disconnect", "exit", "reopen_logs")
AFFINITY = ("session_cookie", "session_param", "session_header", "session_path")


def serve(asked: dict[str, Any]) -> int:
    """Be the primary."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if limit := asked.pop("nofile", None):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    affinity = AffinitySettings(
        sticky=Sticky(asked.pop("sticky", "ip")),
        trusted=tuple(ipaddress.ip_network(each) for each in asked.pop("trusted", ())),
        query_id_paths=tuple(asked.pop("query_id_paths", ())),
        **{name: asked.pop(name) for name in AFFINITY if name in asked},
    )
    config, worker = asked.pop("config", None), asked.pop("worker", "tests.support.tiny_worker")
    python = asked.pop("python", sys.executable)
    asked["binds"] = tuple(asked.pop("binds", ["127.0.0.1:0"]))
    for name in ("secret", "secret_previous"):
        if name in asked:
            asked[name] = asked[name].encode()
    if "head_bytes" in asked:
        asked["limits"] = HeadLimits(max_bytes=asked.pop("head_bytes"))
    if "lifetime" in asked:
        asked["lifetime"] = Lifetime(**asked["lifetime"])
    failing, homeless = asked.pop("failing", ()), asked.pop("homeless", "")
    settings = ClusterSettings(affinity=affinity, **asked)
    cluster = Cluster(
        settings,
        worker_argv=[python, "-m", worker],
        worker_config=config,
        env_of=lambda slot: environment_of(slot, homeless),
        hooks={name: told(name) for name in HOOKS},
    )
    for name in failing:
        cluster.on(name, fail)

    def on_message(message: dict[str, Any]) -> None:
        if isinstance(message["data"], dict) and "repeat" in message["data"]:
            count = cluster.send(message["data"]["repeat"], message["data"]["data"])
            logging.info("sent to %d", count)

    cluster.on("message", on_message)
    return cluster.run()


def environment_of(slot: int, homeless: str) -> dict[str, str]:
    """Return what only the worker of one slot has."""
    if slot == 1 and homeless and Path(homeless).exists():
        raise LookupError("slot 1 has no home")
    return {"TINY": f"of slot {slot}"}


def fail(fields: dict[str, Any]) -> None:
    """Be a hook with a mistake."""
    raise LookupError("a mistake in a hook")


def told(name: str) -> Callable[[dict[str, Any]], None]:
    """Return a hook that logs its event."""
    return lambda fields: logging.info("hook %s %s", name, json.dumps(fields))


class TinyCluster:
    """A primary with tiny workers, in a process of its own. Its log is in `log`."""

    def __init__(
        self,
        *,
        workers: int = 2,
        secret: str = "s" * 32,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        **asked: Any,
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="tiny-")
        if "python" in asked and "user" in asked:
            shutil.chown(self._directory.name, asked["user"])
        self.control = str(Path(self._directory.name, "control.sock"))
        self.asked = {"workers": workers, "secret": secret, "control": self.control, "drain_s": 5.0, **asked}
        self.env = {**os.environ, **(env or {})}
        self.pass_fds = pass_fds
        self.log = Log()
        self.address = ("", 0)

    def start(self) -> TinyCluster:
        """Start the process without waiting. The caller owes `stop`."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.tiny_cluster", json.dumps(self.asked)],
            cwd=ROOT,
            env=self.env,
            pass_fds=self.pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self.log.read, args=(self.process.stdout,), daemon=True)
        self._reader.start()
        return self

    def wait_until_ready(self) -> None:
        """Wait until every slot is served."""
        host, _, port = self.log.wait_for(pattern(SERVER_LISTENING, address=r"(\S+:\d+)"))[1].rpartition(":")
        self.address = (host, int(port))
        self.wait_for_live(list(range(self.asked["workers"])))

    def wait_for_live(self, slots: list[int]) -> None:
        """Wait until exactly these slots are served."""
        self.wait_until(lambda status: status["live"] == slots, f"slots {slots} are live")

    def wait_until(self, holds: Any, what: str, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Ask for the status until it is as wanted; asking is the clock."""
        give_up_at = time.monotonic() + deadline_s
        while True:
            status = self.status()
            if holds(status):
                return status
            if time.monotonic() > give_up_at:
                raise AssertionError(
                    f"never came: {what}\n{json.dumps(status, indent=1)}\n" + "\n".join(self.log.lines)
                )
            threading.Event().wait(0.01)

    def status(self) -> dict[str, Any]:
        return send_request(self.control, {"command": "status"})

    def command(self, name: str, **fields: Any) -> dict[str, Any]:
        return send_request(self.control, {"command": name, **fields})

    def pids(self) -> dict[int, int]:
        """Return the process of every slot that is served."""
        return {each["slot"]: each["pid"] for each in self.status()["workers"] if each["state"] == "ready"}

    def connect(self, client: str = "127.0.0.1") -> socket.socket:
        """Connect from an address of the loopback network."""
        sock = socket.socket()
        sock.settimeout(DEADLINE_S)
        sock.bind((client, 0))
        sock.connect(self.address)
        return sock

    def get(self, path: str = "/", *, client: str = "127.0.0.1", headers: str = "") -> dict[str, Any]:
        """Ask who serves."""
        with self.connect(client) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: tiny\r\n{headers}\r\n".encode())
            return answer(sock)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it as an operator would; then end what is left of the processes it started."""
        try:
            if self.process.poll() is None:
                self.process.send_signal(number)
            return self.process.wait(DEADLINE_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # the session that we made
            self.process.wait()
            self._reader.join(5)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self._directory.cleanup()

    def __enter__(self) -> TinyCluster:
        self.start()
        try:
            self.wait_until_ready()
        except (AssertionError, ControlFailed):
            self.stop()
            print("\n".join(self.log.lines))
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            print("\n".join(["--- the cluster's log ---", *self.log.lines[-200:]]))
        self.stop()


def read_all(sock: socket.socket) -> bytes:
    """Read until the peer has said everything."""
    received = bytearray()
    while data := sock.recv(65536):
        received += data
    return bytes(received)


def answer(sock: socket.socket) -> dict[str, Any]:
    """Read a tiny worker's answer."""
    received = bytearray()
    while b"\r\n\r\n" not in received:
        data = sock.recv(65536)
        assert data, f"closed after {bytes(received)!r}"
        received += data
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        data = sock.recv(65536)
        assert data, "closed within the body"
        body += data
    found: dict[str, Any] = json.loads(body)
    return found


if __name__ == "__main__":
    sys.exit(serve(json.loads(sys.argv[1])))
