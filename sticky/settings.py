"""
`ClusterSettings`: how a cluster runs. Plain data; nothing is read from anywhere here, and nothing is started.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sticky.errors import SettingsError
from sticky.heads.first_bytes import HeadLimits
from sticky.keys.affinity import AffinitySettings
from sticky.lifetime import Lifetime

WORKERS_MAX = 512


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """How a cluster runs. Times are in seconds."""

    binds: tuple[str, ...] = ("127.0.0.1:8000",)
    workers: int = 1
    affinity: AffinitySettings = field(default_factory=AffinitySettings)
    secret: bytes | None = None  # at least 16 bytes; None: drawn at start, and affinity ends with the server
    secret_previous: bytes | None = None  # the one that `secret` replaces: keys keep its slots, and its ids are read
    balance: str = "least"  # for connections without a key; or "round-robin"
    proxy_protocol: bool = False  # trusted peers begin with a PROXY header
    tls: bool = False  # TLS ends in the workers
    raw: bool = False  # no HTTP: nothing is peeked at, the address decides
    limits: HeadLimits = field(default_factory=HeadLimits)
    connections_per_address: int | None = None  # of all IPv4, of an IPv6 /64; trusted proxies' are not counted
    backlog: int = 2048
    handshake_s: float = 10.0  # from a connection's start to its whole head
    patience_s: float = 10.0  # for a worker to have room for it
    drain_s: float = 60.0
    migrates: bool = True  # live connections move to other workers, where the workers can
    lame_duck_s: float = 0.0  # from a stop to its drain, while everything is served and workers say that it stops
    probe_paths: tuple[str, ...] = ()  # of a load balancer; the primary answers 503 there while no worker is ready
    own_paths: tuple[str, ...] = ()  # of no hosted application, never for a worker that drains; "/a/": all below it
    heartbeat_s: float = 1.0
    hung_s: float = 6.0
    boot_s: float = 30.0
    orphan_grace_s: float = 60.0
    lifetime: Lifetime = field(default_factory=Lifetime)  # after which a worker is replaced
    boots_max: int | None = 3  # failures in a row, while nothing was ever ready, that end the start; None: go on trying
    inspected: int | None = None  # the slot whose worker may stop for a debugger: its silence is not a fault
    user: str | None = None  # the user that the process becomes once every address is bound
    group: str | None = None
    umask: int | None = None
    control: str | None = None
    pid_file: str | None = None
    node: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= WORKERS_MAX:
            raise SettingsError("workers", f"{self.workers} is not from 1 to {WORKERS_MAX}")
        if not self.binds:
            raise SettingsError("binds", "there is no address to listen on")
        if self.secret_previous is not None and self.secret is None:
            raise SettingsError("secret_previous", "it has no meaning without the secret that replaces it")
        if self.connections_per_address is not None and self.connections_per_address < 1:
            raise SettingsError("connections_per_address", "no client could connect: it must be at least 1")
        if self.hung_s < 2 * self.heartbeat_s:
            raise SettingsError("hung_s", "it must be at least twice heartbeat_s, else healthy workers are killed")
