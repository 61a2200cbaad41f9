"""
Kinds of values a setting can have. Pure: text, or a value from TOML, goes in; the value or a `ValueError` comes out.

Runs in whatever process resolves settings. It never reads a file, the environment or the network. Each kind can say
what it allows, in words that finish the sentence "… is not …".
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit


class Kind(Protocol):
    """What a setting accepts."""

    @property
    def metavar(self) -> str:
        """The word for the value in `--help`."""

    @property
    def allowed(self) -> str:
        """What is allowed, as in "'x' is not {allowed}"."""

    def parse(self, value: object) -> Any:
        """
        Make the value out of text or of what TOML gave.

        Raises:
            ValueError: it is not one of ours. Its text, when there is one, says what is wrong with it in particular.
        """


@dataclass(frozen=True)
class Text:
    """A non-empty text, perhaps of a given form."""

    metavar: str = "TEXT"
    allowed: str = "a text"
    pattern: str = r".+"

    def parse(self, value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            raise ValueError
        return value


@dataclass(frozen=True)
class Secret:
    """A text that is never shown, not even in the error that refuses it."""

    min_bytes: int
    metavar: str = "TEXT"

    @property
    def allowed(self) -> str:
        return f"a secret of at least {self.min_bytes} bytes"

    def parse(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError
        size = len(value.encode())
        if size < self.min_bytes:
            raise ValueError(f"it has {size}; `openssl rand -hex 32` makes a good one")
        return value


@dataclass(frozen=True)
class Choice:
    """One word out of a few."""

    words: tuple[str, ...]

    @property
    def metavar(self) -> str:
        return "|".join(self.words)

    @property
    def allowed(self) -> str:
        return f"one of {', '.join(self.words)}"

    def parse(self, value: object) -> str:
        if not isinstance(value, str) or value.lower() not in self.words:
            raise ValueError
        return value.lower()


@dataclass(frozen=True)
class Flag:
    """Yes or no."""

    metavar: str = ""
    allowed: str = "yes or no (true, false, on, off, 1, 0)"

    def parse(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        word = value.lower() if isinstance(value, str) else None
        if word in ("1", "yes", "true", "on"):
            return True
        if word in ("0", "no", "false", "off"):
            return False
        raise ValueError


@dataclass(frozen=True)
class Whole:
    """A whole number within bounds, or one of a few words that stand for one."""

    low: int
    high: int
    words: tuple[tuple[str, int], ...] = ()

    @property
    def metavar(self) -> str:
        return "|".join(["N", *(word for word, _ in self.words)])

    @property
    def allowed(self) -> str:
        return " or ".join([f"a whole number from {self.low} to {self.high}", *(word for word, _ in self.words)])

    def parse(self, value: object) -> int:
        if isinstance(value, str):
            for word, number in self.words:
                if value.lower() == word:
                    return number
            if not re.fullmatch(r"-?[0-9]{1,18}", value):
                raise ValueError
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise ValueError
        return value


@dataclass(frozen=True)
class Size:
    """A number of bytes: `65536`, `64KiB`, `1MiB`, `2GiB`."""

    low: int
    high: int
    metavar: str = "BYTES"

    @property
    def allowed(self) -> str:
        return f"a size from {size_text(self.low)} to {size_text(self.high)}, such as 65536 or 64KiB"

    def parse(self, value: object) -> int:
        if isinstance(value, str):
            match = re.fullmatch(r"([0-9]{1,15})\s*(|b|k|kb|kib|m|mb|mib|g|gb|gib)", value.strip().lower())
            if match is None:
                raise ValueError
            value = int(match[1]) * {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}[match[2][:1]]
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise ValueError
        return value


@dataclass(frozen=True)
class Share:
    """A part of the whole: `0.1`, `10%`."""

    metavar: str = "SHARE"
    allowed: str = "a share from 0 to 1, such as 0.1 or 10%"

    def parse(self, value: object) -> float:
        if isinstance(value, str):
            match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)(%?)", value.strip())
            if match is None:
                raise ValueError
            value = float(match[1]) / (100 if match[2] else 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError
        return float(value)


@dataclass(frozen=True)
class Octal:
    """Mode bits, as chmod(1) and umask(1) write them: `027`. A number of TOML has to say its base: `0o027`."""

    metavar: str = "OCTAL"
    allowed: str = "mode bits in octal from 000 to 777, such as 027"

    def parse(self, value: object) -> int:
        if isinstance(value, str):
            match = re.fullmatch(r"(?:0o)?([0-7]{1,4})", value.strip())
            if match is None:
                raise ValueError
            value = int(match[1], 8)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 0o777:
            raise ValueError
        return value


@dataclass(frozen=True)
class Variable:
    """A variable of the environment."""

    metavar: str = "NAME=VALUE"
    allowed: str = "a variable such as CUDA_VISIBLE_DEVICES={slot}"

    def parse(self, value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=[^\0]*", value):
            raise ValueError
        return value


@dataclass(frozen=True)
class Seconds:
    """A length of time: `25`, `1.5`, `25s`, `500ms`, `2m`, `1h`."""

    low: float
    high: float
    metavar: str = "SECONDS"

    @property
    def allowed(self) -> str:
        return f"a time from {seconds_text(self.low)} to {seconds_text(self.high)}, such as 25, 25s, 500ms or 2m"

    def parse(self, value: object) -> float:
        if isinstance(value, str):
            match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(|ms|s|m|h)", value.strip().lower())
            if match is None:
                raise ValueError
            value = float(match[1]) * {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}[match[2]]
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise ValueError  # a NaN fails the comparison too
        return float(value)


@dataclass(frozen=True)
class Address:
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
    """An address or a CIDR block."""

    metavar: str = "CIDR"
    allowed: str = "an address or a network such as 10.0.0.0/8 or fd00::/8"

    def parse(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError
        try:
            return str(ipaddress.ip_network(value.strip()))
        except ValueError:
            pass
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
        host = value.strip().lower()
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
class RedisUrl:
    """Where Redis is. `realtime.broker.address` reads it; here only its form is looked at."""

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
            _ = part.port  # raises where it is none
            if not part.hostname:
                raise ValueError("it names no host")
        if several == "sentinel" and not url.path.strip("/"):
            raise ValueError("it names no service: redis+sentinel://HOST/SERVICE")
        return value


@dataclass(frozen=True)
class Many:
    """Several values of one kind: a list in TOML, else separated by commas, else the option given again."""

    each: Kind
    has_commas: bool = False  # a value may hold one: nothing is separated

    @property
    def metavar(self) -> str:
        return self.each.metavar

    @property
    def allowed(self) -> str:
        return self.each.allowed

    def parse(self, value: object) -> tuple[Any, ...]:
        items = value if isinstance(value, list | tuple) else [value]
        found: list[Any] = []
        for item in items:
            for part in item.split(",") if isinstance(item, str) and not self.has_commas else [item]:
                part = part.strip() if isinstance(part, str) else part
                if part == "":
                    continue
                try:
                    parsed = self.each.parse(part)
                except ValueError as error:
                    raise PartError(part, str(error)) from None
                if parsed not in found:
                    found.append(parsed)
        return tuple(found)


class PartError(ValueError):
    """One of several values is wrong."""

    def __init__(self, part: object, problem: str) -> None:
        super().__init__(problem)
        self.part = part


def size_text(size: int) -> str:
    """Write a size as people do: 64KiB."""
    for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def seconds_text(seconds: float) -> str:
    """Write a length of time as people do: 25s, 500ms, 5m, 1h."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    for unit, factor in (("h", 3600), ("m", 60)):
        if seconds and seconds % factor == 0:
            return f"{seconds / factor:g}{unit}"
    return f"{seconds:g}s"


def without_password(url: str) -> str:
    """Give a URL that can be shown: whatever stands for a user and a password becomes `***`."""
    scheme, separator, rest = url.partition("://")
    rest = re.sub(r"^[^/?]*@", "***@", rest)
    if re.search(r"\?.*pass", rest):
        rest = f"{rest.partition('?')[0]}?***"
    return scheme + separator + rest
