"""
Where a Redis is, and how one gets in: what a `--redis` URL says.

Runs in the worker, and in `realtime doctor`. A URL names one server, the sentinels that know which server it is, or
some nodes of a cluster:

    redis://[user:password@]host[:port][/db]                                  one server; rediss:// with TLS
    unix://[user:password@]/path[?db=0]                                       one server, on a Unix socket
    redis+sentinel://[user:password@]host[:port],host2[:port]/SERVICE[/db]    rediss+sentinel:// with TLS
    redis+cluster://[user:password@]host[:port],host2[:port]                  rediss+cluster:// with TLS

redis-py reads each host's part. Nothing here connects, and what is shown is without the password.
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


class Kind(enum.Enum):
    """What a URL leads to."""

    ONE = "one server"
    SENTINEL = "the master that sentinels name"
    CLUSTER = "a cluster"


@dataclass(frozen=True, slots=True)
class Tls:
    """How a server proves who it is, and we to it. The host's name is verified always."""

    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None

    def context(self) -> ssl.SSLContext:
        """
        Raises:
            OSError: a file is not there, or holds no certificate.
        """
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.certificate_file is not None:
            context.load_cert_chain(self.certificate_file, self.key_file)
        return context


@dataclass(frozen=True, slots=True)
class Address:
    """One server."""

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

    def at(self, host: str, port: int) -> Address:
        """Return another server that is entered in the same way."""
        return replace(self, host=host, port=port)


@dataclass(frozen=True, slots=True)
class Where:
    """
    What a URL says. `seeds`: the server, the sentinels, or some nodes; `login`: how the servers are entered that
    sentinels name; `service`: what they call it.
    """

    kind: Kind
    seeds: tuple[Address, ...]
    login: Address
    service: str = ""

    @property
    def shown(self) -> str:
        return ",".join(each.shown for each in self.seeds)


def parse(url: str) -> Where:
    """
    Raises:
        SettingsError: it is no Redis URL.
    """
    try:
        scheme, _, kind = urlsplit(url).scheme.partition("+")
        if kind == "sentinel":
            return _parse_sentinel(url, scheme)
        if kind == "cluster":
            return _parse_cluster(url, scheme)
        one = _parse_one(url)
        return Where(Kind.ONE, (one,), one)
    except ValueError as error:
        raise SettingsError("redis", "broker URL", str(error)) from error


def _parse_sentinel(url: str, scheme: str) -> Where:
    parts = urlsplit(url)
    service, _, database = unquote(parts.path).strip("/").partition("/")
    if not service:
        raise ValueError("it names no service: redis+sentinel://HOST:PORT,HOST:PORT/SERVICE")
    options = parse_qs(parts.query)
    login = _parse_one(f"{scheme}://{_user(parts.netloc)}localhost/{database}?{parts.query}")
    user, password = (options.get(name, [None])[-1] for name in SENTINEL_OPTIONS)
    entered = replace(login, username=user, password=password, database=0)
    seeds = tuple(entered.at(host, port) for host, port in _hosts(parts.netloc, SENTINEL_PORT))
    return Where(Kind.SENTINEL, seeds, login, service)


def _parse_cluster(url: str, scheme: str) -> Where:
    parts = urlsplit(url)
    if parts.path.strip("/") not in ("", "0"):
        raise ValueError("a cluster has no databases")
    login = _parse_one(f"{scheme}://{_user(parts.netloc)}localhost?{parts.query}")
    if login.database:
        raise ValueError("a cluster has no databases")
    return Where(Kind.CLUSTER, tuple(login.at(host, port) for host, port in _hosts(parts.netloc, REDIS_PORT)), login)


def _user(netloc: str) -> str:
    user, at, _ = netloc.rpartition("@")
    return user + at


def _hosts(netloc: str, port: int) -> list[tuple[str, int]]:
    """
    Raises:
        ValueError: no host, or no port.
    """
    found = []
    for each in netloc.rpartition("@")[2].split(","):
        part = urlsplit(f"//{each}")
        if not part.hostname:
            raise ValueError("it names no host")
        found.append((part.hostname, part.port or port))
    return found


def _parse_one(url: str) -> Address:
    """
    Raises:
        ValueError: it is no URL of one server, or asks for a way of TLS that there is not.
    """
    parts: dict[str, Any] = redis.connection.parse_url(url)  # type: ignore[no-untyped-call]
    is_tls = url.startswith("rediss://")
    unknown = sorted(name for name in parts if name.startswith("ssl_") and (name not in TLS_OPTIONS or not is_tls))
    if unknown:  # ignored, it would promise a safety that there is not
        raise ValueError(f"{unknown[0]} is not known here; there are {', '.join(TLS_OPTIONS)}, for rediss")
    return Address(
        host=parts.get("host", "localhost"),
        port=int(parts.get("port", REDIS_PORT)),
        path=parts.get("path"),
        username=parts.get("username"),
        password=parts.get("password"),
        database=int(parts.get("db", 0)),
        tls=Tls(*(parts.get(name) for name in TLS_OPTIONS)) if is_tls else None,
    )
