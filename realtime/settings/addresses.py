"""
Kinds of addresses that a setting can have: where to listen, networks, origins, hosts, and where Redis is.

Pure, as kinds.py says: an address is looked at and never resolved. Whether something listens there shows later.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class ListenAddress:
    """Where to listen: `HOST:PORT`, `[v6]:PORT`, `:PORT`, `unix:PATH` or `fd://N`."""

    metavar: str = "ADDR"
    allowed: str = "an address such as 127.0.0.1:8000, [::1]:8000, :8000, unix:/run/app.sock or fd://3"

    def parse(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError
        if value.startswith("unix:"):
            path = value.removeprefix("unix:")
            if not path or "\0" in path or len(path.encode()) > 107:
                raise ValueError("a socket's path has 1 to 107 bytes")  # sockaddr_un.sun_path, unix(7)
            return value
        if re.fullmatch(r"fd://[0-9]{1,6}", value):
            if int(value.removeprefix("fd://")) < 3:
                raise ValueError("0, 1 and 2 are the standard streams")
            return value
        # An IPv6 address has to stand in brackets, as in a URL: else its last group could be taken for the port.
        # `%` and letters belong to a scope, as in fe80::1%eth0.
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.%a-z]+\]|[^\s:\[\]/]*):([0-9]{1,5})", value)
        if match is None:
            raise ValueError
        if int(match[2]) > 65535:
            raise ValueError("ports end at 65535")
        if match[1].startswith("["):
            try:
                ipaddress.IPv6Address(match[1][1:-1])
            except ValueError:
                raise ValueError("what stands in brackets is no IPv6 address") from None
        return value


@dataclass(frozen=True)
class Network:
    """
    An address or a CIDR block, as `ipaddress` writes it: an address alone gets its /32 or /128.

    For proxies that are trusted, so what is unclear is refused rather than guessed.
    """

    metavar: str = "CIDR"
    allowed: str = "an address or a network such as 10.0.0.0/8 or fd00::/8"

    def parse(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError
        try:
            return str(ipaddress.ip_network(value.strip()))
        except ValueError:
            pass
        # 10.0.0.1/8 is refused and not rounded: trusting sixteen million addresses should be written as what it is.
        try:
            meant = ipaddress.ip_network(value.strip(), strict=False)
        except ValueError:
            raise ValueError from None
        raise ValueError(f"it has bits set beyond its prefix; {meant} is probably meant")


@dataclass(frozen=True)
class Origin:
    """
    A page's origin. `*.` stands for one label or more, a whole host `*` for every host of the scheme, `*` for any.

    Pages of files and of some frames have no origin that others know; browsers then send `null` or `file://`. Those of
    applications have schemes of their own, such as `capacitor://localhost`.
    """

    metavar: str = "ORIGIN"
    allowed: str = (
        "an origin such as https://example.org, https://*.example.org:8443, capacitor://localhost, moz-extension://*, "
        "file:// or null, or * for any"
    )

    def parse(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError
        if value == "*":
            return value
        origin = value.strip().lower()
        if origin in _NAMELESS:
            return origin
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://(\*|(\*\.)?(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?)", origin):
            raise ValueError("no path, no slash at the end" if origin.endswith("/") else "")
        return _without_default_port(origin)


_NAMELESS = ("null", "file://")  # origins without a host (HTML standard, section 7.1.1; Chromium's for files)


def _without_default_port(origin: str) -> str:
    """Return the origin as a browser sends it, which leaves the default port out (RFC 6454, section 6.2)."""
    for scheme, port in (("http://", ":80"), ("https://", ":443")):
        if origin.startswith(scheme):
            return origin.removesuffix(port)
    return origin


@dataclass(frozen=True)
class Host:
    """A host that a request may ask for: `name`, `.name` or `*.name`, or an IP address, each with a port or without."""

    metavar: str = "HOST"
    allowed: str = "a host such as example.org, .example.org (it and all below it), *.example.org, 192.0.2.1 or [::1]"

    def parse(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError
        host = value.strip().lower()  # hosts are compared without case (RFC 9110, section 4.2.3)
        if host == "*":
            raise ValueError("leave the setting out to serve every host")
        if "://" in host:
            raise ValueError("it has no scheme and no path")
        try:
            return f"[{ipaddress.IPv6Address(host).compressed}]"  # without brackets, so it has no port
        except ValueError:
            pass
        match = re.fullmatch(r"((?:\*?\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", host)
        if match is None or not 0 < int(match[2] or 1) <= 65535:
            raise ValueError
        if match[1].startswith("["):
            ipaddress.IPv6Address(match[1][1:-1])
        return host


@dataclass(frozen=True)
class ServerUrl:
    """Where a server is, for its clients: `https://chat.example.org`, `127.0.0.1:8000`. Without a scheme it is http."""

    metavar: str = "URL"
    allowed: str = "an address such as https://chat.example.org or 127.0.0.1:8000"

    def parse(self, value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
            raise ValueError
        text = value if "://" in value else f"http://{value}"
        try:
            url = urlsplit(text)
            _ = url.port  # raises ValueError where it is no number up to 65535
        except ValueError as error:
            raise ValueError(str(error)) from None
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError
        if url.username is not None or url.query or url.fragment:
            raise ValueError("no user, no query")  # the key has its own setting, and a path may be followed by more
        return text


@dataclass(frozen=True)
class RedisUrl:
    """
    Where Redis is. `realtime.broker.address` reads it; here only its form is checked.

    That is done here as well so that a slip ends the start with its source, and not a worker with a traceback.
    """

    metavar: str = "URL"
    allowed: str = (
        "a URL such as redis://127.0.0.1:6379/0, rediss://…, unix:///run/redis.sock, "
        "redis+sentinel://HOST,HOST/SERVICE or redis+cluster://HOST,HOST"
    )

    def parse(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError
        try:
            url = urlsplit(value)
        except ValueError as error:
            raise ValueError(str(error)) from None
        scheme, _, several = url.scheme.partition("+")
        if scheme not in ("redis", "rediss", "unix") or several not in ("", "sentinel", "cluster"):
            raise ValueError("the scheme is redis, rediss or unix; or redis or rediss with +sentinel or +cluster")
        if scheme == "unix":
            if several or not url.path:
                raise ValueError("it names no socket")
            return value
        hosts = url.netloc.rpartition("@")[2]
        for host in hosts.split(",") if several else [hosts]:
            part = urlsplit(f"//{host}")
            _ = part.port  # raises ValueError where it is no number up to 65535
            if not part.hostname:
                raise ValueError("it names no host")
        if several == "sentinel" and not url.path.strip("/"):
            raise ValueError("it names no service: redis+sentinel://HOST/SERVICE")
        return value


def without_password(url: str) -> str:
    """
    Return a URL that can be shown: user and password become `***`, and a query that has a password as well.

    For logs and banners. It hides too much rather than too little, and never fails on what is no URL.
    """
    scheme, separator, rest = url.partition("://")
    rest = re.sub(r"^[^/?]*@", "***@", rest)
    if re.search(r"\?.*pass", rest):
        rest = f"{rest.partition('?')[0]}?***"
    return scheme + separator + rest
