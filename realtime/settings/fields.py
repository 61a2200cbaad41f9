"""
`Settings`: every option of the server, with its default, its sentence and what it allows.

One frozen dataclass, plain data, made in the process that runs the command line and sent to the workers as msgpack. The
command line, the names of the environment variables, the keys of `realtime.toml` and docs/settings.md are made from it.
It never reads anything: `sources.py` does.

A default stands here and nowhere else in `realtime`: the parts write `Settings.ping_s` for theirs. `sticky`, which is
used without `realtime` as well, has defaults of its own, and a test compares them with these. To add a setting, add a
field; then run `python -m realtime.settings > docs/settings.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from realtime.settings.addresses import Host, ListenAddress, Network, Origin, RedisUrl, ServerUrl
from realtime.settings.cpus import usable_cpus
from realtime.settings.kinds import Choice, Flag, Many, Secret, Text, ValueKind, Variable
from realtime.settings.log_levels import LogLevels
from realtime.settings.quantities import Octal, Seconds, Share, Size, Whole, seconds_text, size_text

GROUPS = ("What to serve", "Where", "Workers", "Stickiness", "Broker", "Access", "Limits", "Development",
          "Operation", "Commands that call the API")  # fmt: skip
KEY_BYTES: Final = 16  # of each key of the API, at least
(_WHAT, _WHERE, _WORKERS, _STICKY, _BROKER, _ACCESS, _LIMITS, _DEVELOP, _OPERATION, COMMANDS) = GROUPS

_COOKIE = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # a token, RFC 9110 section 5.6.2: also what a header's name may hold
_PARAM = r"[0-9A-Za-z._~-]+"  # what never needs percent-encoding, RFC 3986 section 2.3
_PATH = r"(?:/[^/?#{}\s]+)*/\{key\}(?:/[^/?#{}\s]+)*/?"  # sticky/keys/path_key.py
HOSTED_MESSAGE_BYTES: Final = 16 * 1024**2  # what applications are used to: uvicorn's `--ws-max-size`
AUTO = 0  # of `workers`: as many as `usable_cpus` finds, in the process that made the settings


def _set(default: Any, kind: ValueKind, group: str, help: str, *, short: str = "", shown: str = "") -> Any:
    """
    Declare one option.

    Its names on the command line, in the environment and in the file are made from the field's: see `Option`. `shown`
    is how `--help` writes a default that explains little by itself.
    """
    metadata = {"kind": kind, "group": group, "help": help, "short": short, "shown": shown}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the server does. A value is trusted once it is in here: `resolve()` has checked each, and all together."""

    # fmt: off
    target: str | None = _set(None, Text("TARGET", "module:attr or path/to/file.py:attr", r"[^\s\0][^\0]*"), _WHAT,
        "The application: `module:attr` or `path/to/file.py:attr`; `attr` is `app` unless given. `attr()` is called.",
        shown="app.py here, else a stock application in which every room is open")
    factory: bool = _set(False, Flag(), _WHAT,
        "TARGET names a function without parameters that makes the application, as if `attr()` were written.")

    root_path: str = _set("", Text("PATH", "a path such as /chat", r"(/[^/?#\s\0]+)*"), _WHAT,
        "The path under which a proxy serves this application; the proxy takes it off. For links that it makes.")
    own_prefix: str = _set("", Text("PATH", "a path such as /rt", r"(/[0-9A-Za-z._~-]+)*"), _WHAT,
        "The path below which the server's own paths are: /rt makes them /rt/connection/websocket, /rt/api, "
        "/rt/readyz, /rt/realtime.js. All others are then the application's.", shown="none: they are at the root")
    http: str = _set("httptools", Choice(("httptools", "h11")), _WHAT,
        "The parser of requests to the hosted application: httptools is C, h11 is Python and stricter in places.")
    compression: bool = _set(False, Flag(), _WHAT,
        "Compress the rooms' messages of 128 bytes and more, once for all members, where a WebSocket's client offers "
        "permessage-deflate. The length of an encrypted message then depends on its text (CRIME, BREACH).")

    socketio: str = _set("on", Choice(("on", "off")), _WHAT,
        "Serve Socket.IO at /socket.io/, in the same rooms. Where TARGET is a bare ASGI application, it is off.")

    bind: tuple[str, ...] = _set(("127.0.0.1:8000",), Many(ListenAddress()), _WHERE,
        "Where to listen: HOST:PORT, [v6]:PORT, :PORT for every address, unix:PATH, fd://N for a socket that was given "
        "(systemd gives them from 3 on). Can be given several times.",
        short="b")
    # 2048: the default of uvicorn and gunicorn.
    backlog: int = _set(2048, Whole(1, 65535), _WHERE,
        "Connections that the kernel holds before they are accepted; it caps this at net.core.somaxconn.")
    certfile: str | None = _set(None, Text("FILE", "a file"), _WHERE,
        "Certificate chain (PEM): https:// and wss:// alone are then spoken. New handshakes get a renewed one.")
    keyfile: str | None = _set(None, Text("FILE", "a file"), _WHERE, "The certificate's key (PEM), without a password.")

    workers: int = _set(AUTO, Whole(1, 512, (("auto", AUTO),)), _WORKERS,
        "Worker processes; auto is one for each processor that this process may use.", short="w", shown="auto")
    balance: str = _set("least", Choice(("least", "round-robin")), _WORKERS,
        "Which worker gets a connection that has no key: the one with the fewest, or each in turn.")
    # The primary waits for `hung` and not for one late report: a garbage collection, or a busy machine, delays a few.
    # `check_relations` wants at least two periods between them.
    boot_s: float = _set(30.0, Seconds(1, 600), _WORKERS,
        "Time from the start of a worker until it must be ready; else it is replaced.")
    drain_s: float = _set(60.0, Seconds(0, 86400), _WORKERS,
        "The time over which a worker that has to stop closes its clients, evenly, so that they reconnect elsewhere.")
    start: str = _set("fork", Choice(("fork", "spawn")), _WORKERS,
        "How a worker starts: forked of a process that has imported what every worker needs; or spawn, executed anew.")
    migrate: str = _set("on", Choice(("on", "off")), _WORKERS,
        "Whether live connections move to another worker in a reload or a change of slots; off: clients reconnect.")
    migrate_within_s: float = _set(5.0, Seconds(0, 3600), _WORKERS,
        "How long a connection that is to move waits for its handlers to end; after that its client has to reconnect.")
    lame_duck_s: float = _set(0.0, Seconds(0, 3600), _WORKERS,
        "Time from TERM to the drain: /readyz says 503, and everything is served on. For load balancers.")
    # On: all nodes share a Redis. Its outage would take every node out of the balancer.
    ready_when_degraded: str = _set("on", Choice(("on", "off")), _WORKERS,
        "Whether /readyz says 200 while the broker is away.")
    heartbeat_s: float = _set(1.0, Seconds(0.05, 60), _WORKERS,
        "Time between two reports of a worker's event loop that it runs.")
    hung_s: float = _set(6.0, Seconds(0.2, 600), _WORKERS,
        "A worker without a report for this long is hung: its stacks go to the log, then it is killed and replaced.")
    orphan_grace_s: float = _set(60.0, Seconds(0, 86400), _WORKERS,
        "How long a worker that lost its primary keeps serving its connections.")

    # A worker is replaced before an application's leak becomes a crash. Each worker draws its own share of
    # `max_jitter`, so that workers that were started together are not replaced together.
    env: tuple[str, ...] = _set((), Many(Variable(), has_commas=True), _WORKERS,
        "A variable for the workers' environment; {slot} in it stands for a worker's slot. Can be given several times.")
    max_lifetime_s: float | None = _set(None, Seconds(1, 86400 * 365), _WORKERS,
        "A worker that has served for so long is replaced, as in a reload.")
    max_memory: int | None = _set(None, Size(16 * 1024**2, 1024**4), _WORKERS,
        "A worker that has so much memory in use is replaced, as in a reload.")
    max_connections: int | None = _set(None, Whole(1, 10**12), _WORKERS,
        "A worker that has had so many connections is replaced, as in a reload.")
    max_jitter: float = _set(0.1, Share(), _WORKERS,
        "By which share, drawn for each worker, max_lifetime and max_connections may be less.")

    sticky: str = _set("ip", Choice(("ip", "session", "none")), _STICKY,
        "What brings a client to the same worker again: its address, its sticky id, or nothing.", short="s")
    session_cookie: str = _set("rt_session", Text("NAME", "a cookie's name", _COOKIE), _STICKY,
        "The cookie that carries the sticky id.")
    session_param: str | None = _set(None, Text("NAME", "a query parameter's name", _PARAM), _STICKY,
        "A query parameter that carries the sticky id; it goes before the cookie.")
    session_header: str | None = _set(None, Text("NAME", "a header's name", _COOKIE), _STICKY,
        "A request header that carries the sticky id; it goes before both. Ids an application sends in it lead back.")
    session_path: str | None = _set(None, Text("PATH", "a path with {key} as a whole segment: /doc/{key}", _PATH),
        _STICKY, "A path in which one segment is the sticky id, such as /doc/{key}; it goes before all others.")
    trusted_proxies: tuple[str, ...] = _set((), Many(Network()), _STICKY,
        "Proxies whose headers give the client address (X-Forwarded-For, PROXY protocol).")
    client_headers: tuple[str, ...] = _set(("x-forwarded-for", "forwarded"),
        Many(Choice(("x-forwarded-for", "forwarded"))), _STICKY,
        "Headers in which a trusted proxy gives the client address; the first that a request has decides.")
    proxy_protocol: bool = _set(False, Flag(), _STICKY,
        "Connections from trusted proxies begin with a PROXY protocol header (v1 or v2).")
    # 16 bytes are 128 bits: what no one guesses, and what `openssl rand -hex 16` makes.
    secret: str | None = _set(None, Secret(16), _STICKY,
        "Keys the hashing of clients to workers, and sticky ids; the same on all machines.",
        shown="drawn at start: affinity then ends with the server")
    secret_previous: str | None = _set(None, Secret(16), _STICKY,
        "The secret that `secret` replaces. While it is given, keys keep their slots and its sticky ids are read.")

    redis: str | None = _set(None, RedisUrl(), _BROKER,
        "Redis, Sentinel or Redis Cluster, which joins machines; without it this machine serves alone, with a broker "
        "of its own.")
    redis_prefix: str = _set("rt", Text("NAME", "1 to 64 letters, digits, '.', '_' or '-'", r"[0-9A-Za-z._-]{1,64}"),
        _BROKER, "What every key and channel in Redis begins with; servers that share it share their rooms.")
    broker_memory: int = _set(512 * 1024**2, Size(1024**2, 1024**4), _BROKER,
        "What the local broker may keep: history, positions, members, idempotency keys. What would be more is refused "
        "with a temporary error; reading and leaving go on. Redis has its own `maxmemory`.")

    # The secret is as long as its hash at least (RFC 7518, section 3.2); shorter ones are found from a single token.
    token_hmac_secret: str | None = _set(None, Secret(32), _ACCESS,
        "Verifies the HS256, HS384 and HS512 tokens that clients connect with (RFC 7518: 32, 48 and 64 bytes).")
    token_hmac_secret_previous: str | None = _set(None, Secret(32), _ACCESS,
        "The secret that `token_hmac_secret` replaces: tokens that it signed are still accepted.")
    token_public_key: str | None = _set(None, Text("FILE", "a file"), _ACCESS,
        "A public key or certificate (PEM) that verifies tokens: RS256/384/512, ES256/384/512 or EdDSA.")
    token_jwks_url: str | None = _set(None, Text("URL", "http:// or https:// and a host", r"https?://[^/\s\0]+[^\s\0]*"),
        _ACCESS, "Where an identity provider publishes the keys (JWKS) that verify its tokens.")
    token_audience: str | None = _set(None, Text(), _ACCESS, "What a token's `aud` must hold.")
    token_issuer: str | None = _set(None, Text(), _ACCESS, "What a token's `iss` must be.")
    token_leeway_s: float = _set(10.0, Seconds(0, 300), _ACCESS,
        "By how much clocks may differ: a token is good from so long before `nbf` until so long after `exp`.")
    api_key: str | None = _set(None, Secret(KEY_BYTES), _ACCESS,
        "Opens /api to other programs; several, separated by commas, while one replaces another.",
        shown="there is no /api")
    anonymous: bool | None = _set(None, Flag(), _ACCESS,
        "Clients without a token may connect.", shown="yes where nothing verifies tokens, else no")
    # Without a list, pages of the own host alone: a browser sends its cookies along, whatever page connects, and a
    # WebSocket has no other rule against foreign pages (RFC 6455, section 10.2).
    allowed_origins: tuple[str, ...] = _set((), Many(Origin()), _ACCESS,
        "Origins of web pages that may connect to rooms, `*` for all. Pages of applications have schemes of their own, "
        "those of files `file://` or `null`; `null` allows every page in a sandboxed frame.",
        shown="the page's own host only")
    allowed_hosts: tuple[str, ...] = _set((), Many(Host()), _ACCESS,
        "Hosts that requests may ask for; others get 421, but for `GET /health` and probes. A port counts where given. "
        "Against DNS rebinding and Host headers that poison links.", shown="every host is served")

    connections_per_address: int | None = _set(None, Whole(1, 10**6), _LIMITS,
        "Connections of one client address (IPv6: /64); others get 503. Those of trusted proxies are not counted.",
        shown="three quarters of each process's descriptors")
    # Numbers that clients of other servers live with: a head of 16 KiB as in Node.js, 100 headers as in Apache, 75 s
    # of keep-alive as in nginx; messages of 64 KiB, 1 MiB of unsent bytes, 128 rooms and a ping each 25 s as in
    # Centrifugo. 25 s is also below the 60 s of silence after which most proxies close a connection.
    handshake_s: float = _set(10.0, Seconds(0.1, 300), _LIMITS,
        "Time from a connection's start to its first whole head, from a later head's first byte to its last, and from "
        "a WebSocket's request to the hosted application's answer.")
    keep_alive_s: float = _set(75.0, Seconds(0.1, 3600), _LIMITS,
        "Time for which an HTTP connection without a request is kept open; above what a proxy in front has.")
    head_bytes: int = _set(16384, Size(1024, 65536), _LIMITS, "Size of a request's head.")
    head_headers: int = _set(100, Whole(10, 1000), _LIMITS, "Headers in a request's head.")
    message_bytes: int = _set(65536, Size(1024, 64 * 1024**2), _LIMITS,
        "Size of one message from a client of rooms.")
    hosted_message_bytes: int | None = _set(None, Size(1024, 1024**3), _LIMITS,
        "Size of one message to a WebSocket of a hosted application.",
        shown="16MiB, or message_bytes where that is more")
    outbound_bytes: int = _set(1024**2, Size(16384, 256 * 1024**2), _LIMITS,
        "Bytes that may wait for one client of rooms; above this it is closed as slow. A hosted application waits "
        "for its clients instead.")
    outbound_s: float = _set(10.0, Seconds(0.5, 300), _LIMITS,
        "Time for which bytes may wait for one client; after this it is closed as slow. One of a hosted application "
        "is, when it has taken nothing for so long.")
    ping_s: float = _set(25.0, Seconds(0.1, 600), _LIMITS,
        "How often each client is pinged, those of a hosted application's WebSockets included.")
    pong_s: float = _set(10.0, Seconds(0.05, 300), _LIMITS, "Time for the answer to a ping.")
    # As stock Socket.IO servers have them; their clients give up after the sum of both.
    socketio_ping_s: float = _set(25.0, Seconds(0.05, 600), _LIMITS, "How often each Socket.IO client is pinged.")
    socketio_ping_timeout_s: float = _set(20.0, Seconds(0.05, 600), _LIMITS,
        "Time for a Socket.IO client's answer to a ping.")
    rooms_per_connection: int = _set(128, Whole(1, 100_000), _LIMITS, "Rooms that one connection may be in.")
    commands_per_second: int = _set(100, Whole(0, 1_000_000), _LIMITS,
        "Commands that one connection may send, beside one for each room at once; 0: as many as it likes.")
    answer_bytes: int = _set(1024**2, Size(0, 1024**3), _LIMITS,
        "Bytes of presence and history that one connection is answered a second, four times as many at once; above it: "
        "error 111. 0: as many as it likes.")
    large_room: int = _set(200, Whole(1, 10_000_000), _LIMITS,
        "Members of a room above which joins and leaves are sent once a second, as the difference since then, and "
        "presence is as of the last of these.")
    # These three cost processor time without being a command: `commands_per_second` does not see them.
    control_frames_per_second: int = _set(100, Whole(0, 1_000_000), _LIMITS,
        "Pings and pongs that one WebSocket may send, on average over 10 s; above this it is closed (1008). 0: no "
        "limit.")
    fragments_per_second: int = _set(1000, Whole(0, 1_000_000), _LIMITS,
        "Fragments of less than 512 bytes that one WebSocket may send, likewise. 0: no limit.")
    segments_per_second: int = _set(1000, Whole(0, 1_000_000), _LIMITS,
        "Pieces of less than 512 bytes that complete no frame and that one WebSocket may send, likewise. 0: no limit.")

    reload: bool = _set(False, Flag(), _DEVELOP,
        "Replace the workers whenever a Python file changes; new code that fails to start replaces no worker.")
    reload_dir: tuple[str, ...] = _set((), Many(Text("DIRECTORY", "a directory")), _DEVELOP,
        "What to watch. Can be given several times.", shown="the directory where the server was started")
    inspect: int | None = _set(None, Whole(0, 511), _DEVELOP,
        "The slot whose worker may stop at breakpoint(): it has the terminal, and its silence is no fault.")

    log_level: str = _set("info", LogLevels(), _OPERATION,
        "The least that is logged, and that of single loggers: info,realtime.hub=debug.")
    access_log: bool = _set(False, Flag(), _OPERATION,
        "A line for each request of the hosted application: client, method, path without query, status, bytes, time. "
        "Probes have none.")
    log_format: str = _set("text", Choice(("text", "json")), _OPERATION, "Lines for people, or one JSON object a line.")
    color: str = _set("auto", Choice(("auto", "always", "never")), _OPERATION,
        "Colours in the banner and the log; auto is for terminals, and never with NO_COLOR set.")
    user: str | None = _set(None, Text("NAME", "a user's name or number", r"[^\s\0:]+"), _OPERATION,
        "The user to become once every address is bound; its group comes with it.")
    group: str | None = _set(None, Text("NAME", "a group's name or number", r"[^\s\0:]+"), _OPERATION,
        "The group to become.")
    umask: int | None = _set(None, Octal(), _OPERATION, "The mode bits that files of the server and its workers lack.")
    pid_file: str | None = _set(None, Text("FILE", "a file"), _OPERATION,
        "Where the process id of the server is written: the keeper's.")
    control: str | None = _set(None, Text("FILE", "a socket's path of at most 107 bytes", r"[^\0]{1,107}"), _OPERATION,
        "The Unix socket (mode 0600) for `realtime status`, `reload`, `scale`, `drain`, `inspect` and `stop`.",
        shown="one in this user's runtime directory")
    url: str | None = _set(None, ServerUrl(), COMMANDS,
        "Where the server is, for the commands that are its clients: `realtime publish`, `tail`, `bench` and the like.",
        shown="the first address of bind")
    # fmt: on

    # What follows is no option: `realtime serve` works it out.
    directory: str = field(default="", metadata={})
    """Where the server was started: TARGET and relative paths are looked up here."""
    broker_url: str = field(default="memory:", metadata={})
    """`memory:`, `local:PATH` or a Redis URL."""
    keys_file: str = field(default="", metadata={})
    """Where workers leave the key server's public keys for those after them; "" for nowhere."""
    sources: Mapping[str, str] = field(default_factory=dict, metadata={}, compare=False, repr=False)
    """Field -> where its value came from, for those that are not defaults."""

    def __post_init__(self) -> None:
        if self.workers == AUTO:
            object.__setattr__(self, "workers", usable_cpus())

    @property
    def allows_anonymous(self) -> bool:
        """Clients without a token may connect."""
        return not self.reads_tokens if self.anonymous is None else self.anonymous

    @property
    def reads_tokens(self) -> bool:
        """There is something to verify tokens with."""
        return any(each is not None for each in (self.token_hmac_secret, self.token_public_key, self.token_jwks_url))

    @property
    def hosted_message_bytes_or_default(self) -> int:
        """How large a message to a hosted WebSocket may be."""
        return self.hosted_message_bytes or max(HOSTED_MESSAGE_BYTES, self.message_bytes)

    def with_defaults(self, defaults: Mapping[str, Any]) -> Settings:
        """Return these settings; where one has its default, with the application's value for it."""
        untouched = {each.name for each in fields(self) if getattr(self, each.name) == each.default}
        return replace(self, **{name: value for name, value in defaults.items() if name in untouched})

    @property
    def api_keys(self) -> tuple[str, ...]:
        """What opens the API; nothing where there is none."""
        return tuple(each for each in (self.api_key or "").split(",") if each)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown: for `realtime.logs.set_up`."""
        url = urlsplit(self.redis or "")
        password = url.password
        in_query = [each for name, values in parse_qs(url.query).items() if "password" in name for each in values]
        known = (
            self.secret,
            self.secret_previous,
            self.token_hmac_secret,
            self.token_hmac_secret_previous,
            self.api_key,
            *self.api_keys,
            password,
            unquote(password) if password else None,
            *in_query,
        )
        return tuple(each for each in known if each)

    def source(self, name: str) -> str:
        """Say where a value came from, as a person would look for it."""
        return self.sources.get(name, "default")

    def to_builtins(self) -> dict[str, Any]:
        """Give it as what msgpack can carry. It holds the secrets: for our own processes, never for a log."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_builtins(cls, values: Mapping[str, Any]) -> Settings:
        """Take it back, in another process."""
        return msgspec.convert(dict(values), cls)

    def __repr__(self) -> str:
        """Show what differs from the defaults, secrets as `***`."""
        shown = [
            f"{each.name}={'***' if each.secret else repr(value)}"
            for each in options()
            if (value := getattr(self, each.name)) != each.default
        ]
        return f"Settings({', '.join(shown)})"


@dataclass(frozen=True)
class Option:
    """
    One option as the command line, the environment and the file see it.

    Made from a field of `Settings`. A field `ping_s` is the option `--ping`, the variable `REALTIME_PING` and the key
    `ping`: only the field names its unit, for a value from outside can carry one.
    """

    field: str
    kind: ValueKind
    default: Any
    group: str
    help: str
    short: str
    shown: str

    @property
    def name(self) -> str:
        """The field's name in `Settings`."""
        return self.field

    @property
    def key(self) -> str:
        """Its key in `realtime.toml`. The unit `_s` is left out: the value can carry one (`25s`)."""
        return self.field.removesuffix("_s")

    @property
    def env(self) -> str:
        return f"REALTIME_{self.key.upper()}"

    @property
    def flag(self) -> str:
        return "TARGET" if self.field == "target" else f"--{self.key.replace('_', '-')}"

    @property
    def secret(self) -> bool:
        """Its value is never shown."""
        return isinstance(self.kind, Secret)

    @property
    def many(self) -> bool:
        return isinstance(self.kind, Many)

    @property
    def default_text(self) -> str:
        """The default in words, as the command line takes it."""
        if self.shown:
            return self.shown
        if self.default is None or self.default == ():
            return ""
        if isinstance(self.kind, Seconds):
            return seconds_text(self.default)
        if isinstance(self.kind, Size):
            return size_text(self.default)
        if isinstance(self.default, bool):
            return "yes" if self.default else "no"
        return ", ".join(self.default) if isinstance(self.default, tuple) else str(self.default)


def options() -> tuple[Option, ...]:
    """Give every option, in the order of the fields."""
    return tuple(_option(each) for each in fields(Settings) if each.metadata)


def _option(each: Field[Any]) -> Option:
    assert each.default is not MISSING, f"{each.name} has no default"
    assert each.metadata["group"] in GROUPS, f"{each.name} would be in no section of --help and of docs/settings.md"
    return Option(each.name, default=each.default, **each.metadata)


assert len({each.flag for each in options()}) == len(options()), "an option hides no other on the command line"
assert len({each.env for each in options()}) == len(options()), "nor in the environment"
