"""
What a `--redis` URL says: where Redis is, and how to log in.

Runs in the worker, and in `realtime doctor`. A URL names one server, or the sentinels that know the master, or some
nodes of a cluster:

    redis://[user:password@]host[:port][/db]                                  one server; rediss:// with TLS
    unix://[user:password@]/path[?db=0]                                       one server, on a Unix socket
    redis+sentinel://[user:password@]host[:port],host2[:port]/SERVICE[/db]    rediss+sentinel:// with TLS
    redis+cluster://[user:password@]host[:port],host2[:port]                  rediss+cluster:// with TLS

redis-py parses the part of each host. This module never connects, and shows addresses without passwords.
"""

from __future__ import annotations

import enum
import ssl
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import redis.connection

from realtime.errors import SettingsError

SENTINEL_PORT: Final = 26379
REDIS_PORT: Final = 6379
TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
SENTINEL_OPTIONS: Final = ("sentinel_username", "sentinel_password")


class Topology(enum.Enum):
    """The kind of installation that a URL names."""

    ONE = "one server"
    SENTINEL = "the master that sentinels name"
    CLUSTER = "a cluster"


@dataclass(frozen=True, slots=True)
class Tls:
    """The certificates of both sides. The host name of the server is always verified."""

    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None

    def context(self) -> ssl.SSLContext:
        """
        Return the TLS context for a connection.

        Raises:
            OSError: a file does not exist, or holds no certificate.
        """
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.certificate_file is not None:
            context.load_cert_chain(self.certificate_file, self.key_file)
        return context


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """The address of one server, and how to log in there."""

    host: str = "localhost"
    port: int = REDIS_PORT
    path: str | None = None
    username: str | None = None
    password: str | None = None
    database: int = 0
    tls: Tls | None = None

    @property
    def shown(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def at(self, host: str, port: int) -> RedisAddress:
        """Return another server with the same login."""
        return replace(self, host=host, port=port)


@dataclass(frozen=True, slots=True)
class RedisLocation:
    """
    What a URL says.

    `seeds` are the server, the sentinels, or some nodes. `login` is the login at servers that a sentinel or a cluster
    map names. `service` is the master's name at the sentinels.
    """

    topology: Topology
    seeds: tuple[RedisAddress, ...]
    login: RedisAddress
    service: str = ""

    @property
    def shown(self) -> str:
        return ",".join(each.shown for each in self.seeds)


def parse_url(url: str) -> RedisLocation:
    """
    Parse a Redis URL.

    Raises:
        SettingsError: the text is no Redis URL.
    """
    try:
        scheme, _, kind = urlsplit(url).scheme.partition("+")
        if kind == "sentinel":
            return _parse_sentinel(url, scheme)
        if kind == "cluster":
            return _parse_cluster(url, scheme)
        one = _parse_one(url)
        return RedisLocation(Topology.ONE, (one,), one)
    except ValueError as error:
        raise SettingsError("redis", "broker URL", str(error)) from error


def _parse_sentinel(url: str, scheme: str) -> RedisLocation:
    """
    Parse a URL with sentinels. Its user and password are for the servers; options have those for the sentinels.

    Raises:
        ValueError: it names no service, or no host.
    """
    parts = urlsplit(url)
    service, _, database = unquote(parts.path).strip("/").partition("/")
    if not service:
        raise ValueError("it names no service: redis+sentinel://HOST:PORT,HOST:PORT/SERVICE")
    options = parse_qs(parts.query)
    login = _parse_one(f"{scheme}://{_user(parts.netloc)}localhost/{database}?{parts.query}")
    user, password = (options.get(name, [None])[-1] for name in SENTINEL_OPTIONS)
    entered = replace(login, username=user, password=password, database=0)
    seeds = tuple(entered.at(host, port) for host, port in _hosts(parts.netloc, SENTINEL_PORT))
    return RedisLocation(Topology.SENTINEL, seeds, login, service)


def _parse_cluster(url: str, scheme: str) -> RedisLocation:
    """
    Parse a URL with some nodes of a cluster. All nodes have the same login.

    Raises:
        ValueError: it names a database, or no host.
    """
    parts = urlsplit(url)
    if parts.path.strip("/") not in ("", "0"):
        raise ValueError("a cluster has no databases")
    login = _parse_one(f"{scheme}://{_user(parts.netloc)}localhost?{parts.query}")
    if login.database:
        raise ValueError("a cluster has no databases")
    return RedisLocation(
        Topology.CLUSTER, tuple(login.at(host, port) for host, port in _hosts(parts.netloc, REDIS_PORT)), login
    )


def _user(netloc: str) -> str:
    """Return `user:password@` of a URL's network location, or nothing."""
    user, at, _ = netloc.rpartition("@")
    return user + at


def _hosts(netloc: str, port: int) -> list[tuple[str, int]]:
    """
    Return the host and port of each part that commas divide; `port` is the default.

    Raises:
        ValueError: a host is missing, or a port is no number.
    """
    found = []
    for each in netloc.rpartition("@")[2].split(","):
        part = urlsplit(f"//{each}")
        if not part.hostname:
            raise ValueError("it names no host")
        found.append((part.hostname, part.port or port))
    return found


def _parse_one(url: str) -> RedisAddress:
    """
    Parse the URL of one server.

    Raises:
        ValueError: it is no such URL, or has an unsupported TLS option.
    """
    parts: dict[str, Any] = redis.connection.parse_url(url)  # type: ignore[no-untyped-call]
    is_tls = url.startswith("rediss://")
    unknown = sorted(name for name in parts if name.startswith("ssl_") and (name not in TLS_OPTIONS or not is_tls))
    if unknown:  # an ignored option would promise security that does not exist
        raise ValueError(f"unsupported TLS option {unknown[0]}; rediss URLs allow {', '.join(TLS_OPTIONS)}")
    return RedisAddress(
        host=parts.get("host", "localhost"),
        port=int(parts.get("port", REDIS_PORT)),
        path=parts.get("path"),
        username=parts.get("username"),
        password=parts.get("password"),
        database=int(parts.get("db", 0)),
        tls=Tls(*(parts.get(name) for name in TLS_OPTIONS)) if is_tls else None,
    )
