"""
Who can be measured: each contestant by its name, how it is started, what it wants to hear, and why it may be absent.

Runs in the bench's process. A contestant is a server in one configuration; those whose names begin with `realtime` are
ours. Asking whether one is absent starts nothing.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.compile import CACHE, program, zlib_flags
from benchmarks.errors import Absent
from benchmarks.load import Dialect
from benchmarks.servers import (
    CALLS,
    HTTP,
    PLAIN,
    PLAIN_ECHO,
    Clustered,
    OnPort,
    Ours,
    Redis,
    Running,
    SelfDriven,
    Server,
    WithRedis,
    free_port,
    redis_program,
    rooms,
    socketio,
)

PEERS: Final = Path(__file__).parent / "peers"
INSTALL: Final = "make bench installs it"


@dataclass(frozen=True, slots=True)
class Contestant:
    """
    One server in one configuration.

    Attributes:
        start: makes its processes, not yet running, in a directory.
        needs: says what is missing, by raising `Absent`.
        dialects: by what clients do: `room`, `echo`, `kept` (with history), `seen` (with presence), `http`.
        recovers: clients that return get what they missed.
    """

    name: str
    start: Callable[[Path], Running]
    needs: Callable[[], object]
    dialects: dict[str, Dialect]
    recovers: bool = False

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("realtime")

    def absent(self) -> str | None:
        """Say why it cannot be measured here, None where it can."""
        try:
            self.needs()
        except Absent as why:
            return str(why)
        return None


def _nothing() -> None:
    """Need nothing."""


def _zlib_and(needs: Callable[[], object]) -> Callable[[], None]:
    def check() -> None:
        zlib_flags()
        needs()

    return check


def _packages(*names: str) -> Callable[[], None]:
    def check() -> None:
        for name in names:
            if importlib.util.find_spec(name) is None:
                raise Absent(f"the package {name}", INSTALL)

    return check


def _packages_and_redis(*names: str) -> Callable[[], None]:
    def check() -> None:
        _packages(*names)()
        redis_program()

    return check


def _node(module: str) -> Callable[[], None]:
    def check() -> None:
        if shutil.which("node") is None:
            raise Absent("node", "Debian, Ubuntu: apt install nodejs npm")
        if not (PEERS / "node_modules" / module).is_dir():
            raise Absent(f"the npm package {module}", INSTALL)

    return check


def _node_and_redis() -> None:
    _node("socket.io")()
    redis_program()


CENTRIFUGO: Final = CACHE / "centrifugo"


def _centrifugo() -> None:
    if not CENTRIFUGO.exists() and shutil.which("centrifugo") is None:
        raise Absent("centrifugo", "make bench builds it where a Go toolchain is found")


def _start_centrifugo(directory: Path) -> Server:
    """Start Centrifugo: one node on all cores, its memory engine, open to everybody, and telling nobody outside."""
    open_room: dict[str, Any] = {"allow_subscribe_for_client": True, "allow_publish_for_client": True}
    seen = {**open_room, "presence": True, "join_leave": True, "force_push_join_leave": True}
    kept = {**open_room, "history_size": 2000, "history_ttl": "300s", "force_recovery": True}
    namespaces = {"bench": open_room, "seen": seen, "kept": kept}
    port = free_port()
    config = {
        "http_server": {"address": "127.0.0.1", "port": port},
        "client": {"insecure": True, "allowed_origins": ["*"], "recovery_max_publication_limit": 2000},
        "channel": {"namespaces": [{"name": name, **options} for name, options in namespaces.items()]},
        "usage_stats": {"disabled": True},
        "log": {"level": "error"},
    }
    path = directory / "config.json"
    path.write_text(json.dumps(config))
    binary = str(CENTRIFUGO) if CENTRIFUGO.exists() else "centrifugo"
    return OnPort([binary, "--config", str(path)], directory, port=port)


def _python(module: str, *arguments: str) -> Callable[[Path], Server]:
    return lambda directory: Server([sys.executable, "-m", f"benchmarks.peers.{module}", *arguments], directory)


def _socketio(workers: str, *arguments: str) -> Callable[[Path], Server]:
    kind = Server if workers == "1" else Clustered
    return lambda directory: kind(["node", str(PEERS / "socketio_server.mjs"), workers, *arguments], directory)


def _with_redis(make: Callable[[Path, int], Server]) -> Callable[[Path], Running]:
    return lambda directory: WithRedis(Redis(directory / "redis"), lambda port: make(directory, port))


def _on_free_port(argv: list[str], workers: int) -> Callable[[Path], Server]:
    def start(directory: Path) -> Server:
        port = free_port()
        return OnPort([each.replace("PORT", str(port)) for each in argv], directory, port=port, workers=workers)

    return start


def _uvicorn(workers: int) -> Callable[[Path], Server]:
    argv = [sys.executable, "-m", "uvicorn", "benchmarks.peers.starlette_app:app", "--host", "127.0.0.1"]
    argv += ["--port", "PORT", "--loop", "uvloop", "--http", "httptools", "--ws", "websockets-sansio"]
    argv += ["--no-access-log", "--no-server-header", "--no-proxy-headers", "--timeout-keep-alive", "75"]
    argv += ["--backlog", "2048", *(["--workers", str(workers)] if workers > 1 else [])]
    return _on_free_port(argv, workers)


def _gunicorn(workers: int) -> Callable[[Path], Server]:
    argv = [sys.executable, "-m", "gunicorn", "benchmarks.peers.starlette_app:app", "--bind", "127.0.0.1:PORT"]
    argv += ["--workers", str(workers), "--worker-class", "uvicorn_worker.UvicornWorker", "--keep-alive", "75"]
    return _on_free_port(argv, workers)


def _hosting(workers: int) -> Callable[[Path], Server]:
    return lambda directory: Ours(directory, workers=workers, target="benchmarks/peers/starlette_app.py")


OURS_SPEAKS: Final = {
    "room": rooms("bench"),
    "echo": CALLS,
    "kept": rooms("kept", again=True),
    "seen": rooms("seen"),
}
PLAIN_SPEAKS: Final = {"room": PLAIN, "echo": PLAIN_ECHO, "kept": PLAIN, "seen": PLAIN}
SOCKETIO_SPEAKS: Final = {
    "room": socketio(),
    "echo": socketio(echo=True),
    "kept": socketio(),
    "seen": socketio(presence=True),
}
CENTRIFUGO_SPEAKS: Final = {name: OURS_SPEAKS[name] for name in ("room", "kept", "seen")}
HOSTED_SPEAKS: Final = {"http": HTTP, "echo": PLAIN_ECHO}
NO_MOVES: Final = ("--migrate", "off")  # a reload closes the connections, and the clients return
NO_KEYS: Final = ("--sticky", "none", "--balance", "round-robin")  # one client for each worker, and then the next


def _compressed(dialect: Dialect) -> dict[str, Dialect]:
    return {"room": replace(dialect, deflate=True)}


def _redis_py(listeners: int) -> Callable[[Path], Running]:
    argv = [sys.executable, "-m", "benchmarks.peers.redis_py"]
    return _with_redis(lambda at, port: SelfDriven([*argv, str(port), str(listeners)], at, serves="ready"))


def _make() -> dict[str, Contestant]:
    everything: list[tuple[str, Callable[[Path], Any], Callable[[], object], dict[str, Dialect], bool]] = [
        ("realtime", lambda directory: Ours(directory), _nothing, OURS_SPEAKS, True),
        ("realtime, server publishes", lambda at: Ours(at), _nothing, {"room": rooms("bench", called=True)}, True),
        ("realtime, 2 workers", lambda directory: Ours(directory, workers=2), _nothing, OURS_SPEAKS, True),
        ("realtime, without moves", lambda at: Ours(at, *NO_MOVES), _nothing, OURS_SPEAKS, True),
        ("realtime, 2 workers, without moves", lambda at: Ours(at, *NO_MOVES, workers=2), _nothing, OURS_SPEAKS, True),
        ("realtime, local broker", lambda at: Ours(at, *NO_KEYS, workers=4), _nothing, OURS_SPEAKS, True),
        (
            "realtime, Redis",
            _with_redis(lambda at, port: Ours(at, *NO_KEYS, "--redis", f"redis://127.0.0.1:{port}", workers=4)),
            redis_program,
            OURS_SPEAKS,
            True,
        ),
        (
            "realtime, server publishes, local broker",
            lambda at: Ours(at, *NO_KEYS, workers=4),
            _nothing,
            {"room": rooms("bench", called=True)},
            True,
        ),
        (
            "realtime, server publishes, Redis",
            _with_redis(lambda at, port: Ours(at, *NO_KEYS, "--redis", f"redis://127.0.0.1:{port}", workers=4)),
            redis_program,
            {"room": rooms("bench", called=True)},
            True,
        ),
        (
            "realtime, compressed",
            lambda at: Ours(at, "--compression"),
            _zlib_and(_nothing),
            _compressed(rooms("bench")),
            True,
        ),
        ("realtime hosting", _hosting(1), _packages("starlette"), HOSTED_SPEAKS, False),
        ("realtime hosting, 2 workers", _hosting(2), _packages("starlette"), HOSTED_SPEAKS, False),
        ("floor", lambda at: Server([str(program("floor"))], at), _nothing, PLAIN_SPEAKS, False),
        ("websockets (uvloop)", _python("websockets_server", "uvloop"), _nothing, PLAIN_SPEAKS, False),
        ("websockets (asyncio)", _python("websockets_server", "asyncio"), _nothing, PLAIN_SPEAKS, False),
        ("picows", _python("picows_server"), _packages("picows"), PLAIN_SPEAKS, False),
        ("ws", lambda at: Server(["node", str(PEERS / "ws_server.mjs")], at), _node("ws"), PLAIN_SPEAKS, False),
        (
            "websockets (uvloop), compressed",
            _python("websockets_server", "uvloop", "deflate"),
            _zlib_and(_nothing),
            _compressed(PLAIN),
            False,
        ),
        (
            "ws, compressed",
            lambda at: Server(["node", str(PEERS / "ws_server.mjs"), "deflate"], at),
            _zlib_and(_node("ws")),
            _compressed(PLAIN),
            False,
        ),
        (
            "Socket.IO, compressed",
            _socketio("1", "deflate"),
            _zlib_and(_node("socket.io")),
            _compressed(socketio()),
            False,
        ),
        ("Socket.IO", _socketio("1"), _node("socket.io"), SOCKETIO_SPEAKS, False),
        ("Socket.IO, sticky cluster of 2", _socketio("2"), _node("socket.io"), SOCKETIO_SPEAKS, False),
        ("Socket.IO, sticky cluster of 4", _socketio("4"), _node("socket.io"), SOCKETIO_SPEAKS, False),
        (
            "Socket.IO, sticky cluster of 4, Redis",
            _with_redis(lambda at, port: _socketio("4", str(port))(at)),
            _node_and_redis,
            SOCKETIO_SPEAKS,
            False,
        ),
        ("redis-py, 1 listener", _redis_py(1), redis_program, {}, False),
        ("redis-py, 4 listeners", _redis_py(4), redis_program, {}, False),
        (
            "python-socketio",
            _python("python_socketio_app"),
            _packages("socketio", "uvicorn"),
            SOCKETIO_SPEAKS,
            False,
        ),
        (
            "Django Channels",
            _with_redis(lambda at, port: _python("channels_app", str(port))(at)),
            _packages_and_redis("channels", "channels_redis", "uvicorn"),
            PLAIN_SPEAKS,
            False,
        ),
        ("Centrifugo", _start_centrifugo, _centrifugo, CENTRIFUGO_SPEAKS, True),
        ("uvicorn", _uvicorn(1), _packages("uvicorn", "starlette"), HOSTED_SPEAKS, False),
        ("uvicorn, 2 workers", _uvicorn(2), _packages("uvicorn", "starlette"), HOSTED_SPEAKS, False),
        ("gunicorn, 2 workers", _gunicorn(2), _packages("gunicorn", "uvicorn_worker"), HOSTED_SPEAKS, False),
    ]
    return {
        name: Contestant(name, start, needs, dialects, recovers)
        for name, start, needs, dialects, recovers in everything
    }


CONTESTANTS: Final = _make()
