"""
For which hosts requests are served: `--allowed-hosts`.

Runs in the worker. A browser sends the name that stands in its address bar as `Host`, and no page can change it. A page
whose own name was made to lead to this server (DNS rebinding) thus gives itself away; and an application that makes
links of the `Host` is not given another's (host header poisoning). A request for another host gets 421 (RFC 9110,
section 15.5.20).

`Hosts.allows` is pure. `GET` of `/health`, `/livez` and `/readyz` is answered whatever its host is: balancers ask for
them by an address, or without.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final

from realtime.log_lines import log
from realtime.transport.probe_paths import FOR_EVERY_HOST, below
from sticky.heads.first_bytes import Head
from sticky.loop.log_throttle import LogThrottle

STATUS: Final = 421
TEXT: Final = b"This host is not served here.\n"
SHOWN: Final = 100  # characters of a host in the log
HOST_REFUSED: Final = "x host refused"

_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{0,5}))?")
_DEFAULT_PORTS: Final = ("80", "443")  # what no port may stand for: the scheme is the proxy's affair

logger = logging.getLogger("realtime.hosts")


class Hosts:
    """The hosts that are served, and how many requests were for others."""

    def __init__(
        self, allowed: Sequence[str] = (), *, own_prefix: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            allowed: as `realtime.settings.addresses.Host` makes them; none for every host.
            own_prefix: a setting of the same name; `/health` and the probes are below it.
            clock: seconds, for the log.
        """
        self.is_limited = bool(allowed)
        self._for_every_host = frozenset(path.encode() for path in below(own_prefix, FOR_EVERY_HOST))
        self.misdirected = 0
        self._names: set[tuple[str, str | None]] = set()
        self._suffixes: list[tuple[str, str | None]] = []
        for each in allowed:
            dot = each.removeprefix("*") if each.startswith("*.") else each
            name, port = _split(dot.removeprefix(".")) or (dot, None)
            if not each.startswith("*."):
                self._names.add((name, port))
            if dot.startswith("."):
                self._suffixes.append((f".{name}", port))
        self._clock = clock
        self._line = LogThrottle()

    def allows(self, host: str) -> bool:
        """Say whether requests for this host are served, which is the text of a `Host` header."""
        if not self.is_limited:
            return True
        found = _split(host.lower())
        if found is None:
            return False
        name, port = found
        ports = (None, port) if port is not None else (None, *_DEFAULT_PORTS)
        if any((name, each) in self._names for each in ports):
            return True
        return any(name.endswith(suffix) and of in ports for suffix, of in self._suffixes)

    def admits(self, head: Head, client: Callable[[], str]) -> bool:
        """Say whether a request is served. One that is not is counted and logged; `client` names the sender."""
        if not self.is_limited:
            return True
        if head.method in ("GET", "HEAD") and head.target.partition(b"?")[0] in self._for_every_host:
            return True
        host = head.authority.decode("latin-1")
        if self.allows(host):
            return True
        self.refuse(host, client())
        return False

    def refuse(self, host: str, client: str) -> None:
        """Count a request for another host, and log it, at most once a second."""
        self.misdirected += 1
        left_out = self._line.due(self._clock())
        if left_out is not None:
            reason = "it is none of --allowed-hosts"
            log(logger, logging.WARNING, HOST_REFUSED, address=client, host=host[:SHOWN], more=left_out, reason=reason)

    async def answer(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        """Answer a request that is not admitted, as an ASGI application."""
        prefix = "websocket.http" if scope["type"] == "websocket" else "http"
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(TEXT))]
        if scope["type"] == "websocket":
            await receive()
        await send({"type": f"{prefix}.response.start", "status": STATUS, "headers": headers})
        is_head = scope.get("method") == "HEAD"
        await send({"type": f"{prefix}.response.body", "body": b"" if is_head else TEXT})


ANY_HOST: Final = Hosts()


def _split(host: str) -> tuple[str, str | None] | None:
    """Split a host in lower case into its name and its port, each spelt in one way; None where it is none."""
    match = _HOST.fullmatch(host)
    if match is None:
        return None
    name, port = match[1], match[2]
    if name.startswith("["):
        try:
            name = f"[{ipaddress.IPv6Address(name[1:-1]).compressed}]"
        except ValueError:
            return None
    else:
        name = name.removesuffix(".")  # the root's: the same name (RFC 1034, section 3.1)
    return name, port.lstrip("0") or "0" if port else None
