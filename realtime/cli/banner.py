"""
What `realtime serve` prints once it listens: where, how many workers, which stickiness and broker, and which clients
may connect. Pure: settings in, text out. It runs in the primary.

The line with the address is made by `LISTENING`; tests and people's scripts wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import realtime
from realtime.settings import Settings, without_password

LISTENING = "listening on {address}"
STOCK = "stock application: every room is open, for trying things out"
HOSTS = "others get 421 (against DNS rebinding and Host header poisoning)"
HELD = "/connection/*, /emulation, /livez, /readyz"  # by the server, whatever the application has
GIVE_WAY = ("/api", "/health", "/realtime.js", "/socket.io/")
DRAWN = "drawn now: affinity then ends with the server (REALTIME_SECRET keeps it)"

_BOLD, _DIM, _GREEN, _YELLOW, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[33m", "\x1b[0m"


def banner(settings: Settings, addresses: Sequence[str], *, pid: int, coloured: bool) -> str:
    """
    Make the banner.

    Args:
        addresses: those that are bound, as they are: a port 0 of the settings is a real one here.
        pid: of the primary, for signals.
        coloured: with colours, which change no character of the text.
    """

    def paint(colour: str, text: str) -> str:
        return f"{colour}{text}{_PLAIN}" if coloured else text

    lines = [f"{paint(_BOLD, 'realtime')} {realtime.__version__}  {paint(_DIM, f'pid {pid}')}"]
    lines += [f"{paint(_GREEN, '=')} {LISTENING.format(address=paint(_BOLD, each))}" for each in addresses]
    for name, value, warns in facts(settings):
        lines.append(f"  {paint(_DIM, name.ljust(12))} {paint(_YELLOW, value) if warns else value}")
    return "\n".join(lines)


def facts(settings: Settings) -> list[tuple[str, str, bool]]:
    """
    Return the lines after the addresses: a name, a value, and whether it is a warning.

    A warning is what is right while one tries things out, and wrong on the Internet.
    """
    found = [
        ("application", settings.target or STOCK, settings.target is None),
        ("workers", workers(settings), False),
        ("sticky", stickiness(settings), False),
        ("broker", broker(settings), False),
    ]
    if settings.sticky != "none":
        found.append(("secret", secret(settings), False))
    found.append(("paths", paths(settings), False))
    found.append(("clients", clients(settings), False))
    found.append(("origins", origins(settings), "*" in settings.allowed_origins))
    if settings.allowed_hosts:
        found.append(("hosts", f"{', '.join(settings.allowed_hosts)}; {HOSTS}", False))
    return found


def secret(settings: Settings) -> str:
    """Return where the secret comes from, and whether it replaces another."""
    if settings.secret is None:
        return DRAWN
    of = "" if settings.secret_previous is None else f"; the previous one too ({settings.source('secret_previous')})"
    return f"set ({settings.source('secret')}){of}"


def clients(settings: Settings) -> str:
    """
    Return which clients may connect to rooms: with which tokens, and without one.

    It is about rooms alone. A hosted application decides by itself, and /api has its own keys.
    """
    keys = [
        *(["the HMAC secret"] if settings.token_hmac_secret is not None else []),
        *(["the previous one"] if settings.token_hmac_secret_previous is not None else []),
        *([f"the public key {settings.token_public_key}"] if settings.token_public_key is not None else []),
        *([f"the keys at {without_password(settings.token_jwks_url)}"] if settings.token_jwks_url is not None else []),
    ]
    if not keys:
        return "all may connect: no key verifies tokens (--token-hmac-secret, --token-public-key, --token-jwks-url)"
    claims = [f"audience {settings.token_audience}"] if settings.token_audience is not None else []
    claims += [f"issuer {settings.token_issuer}"] if settings.token_issuer is not None else []
    of = f", {' and '.join(claims)}" if claims else ""
    others = "and all without a token (--anonymous)" if settings.allows_anonymous else "no client without a token"
    return f"with a token that {' or '.join(keys)} verifies{of}; {others}"


def paths(settings: Settings) -> str:
    """
    Return which paths are the server's own, and which of them an application may have instead.

    The primary never imports TARGET, so whether it is an ASGI application alone is said as a condition.
    """
    if settings.own_prefix:
        return f"the server's are all below {settings.own_prefix}; others are the application's"
    served = {"/api": bool(settings.api_keys), "/socket.io/": settings.socketio == "on"}
    others = ", ".join(path for path in GIVE_WAY if served.get(path, True))
    text = f"the server's: {HELD}, {others}"
    return (
        text if settings.target is None else f"{text}; at {others} a bare ASGI application comes first (--own-prefix)"
    )


def origins(settings: Settings) -> str:
    """Return which web pages may connect to rooms. Clients that are no browsers send no origin, and need none."""
    if "*" in settings.allowed_origins:
        return "pages of any origin may connect"
    return f"pages of {', '.join(settings.allowed_origins) or 'the host that they connect to'} may connect"


def workers(settings: Settings) -> str:
    """Return how many there are, and whether the number was chosen."""
    return f"{settings.workers}" + ("" if "workers" in settings.sources else " (one for each processor)")


def stickiness(settings: Settings) -> str:
    """Return what brings a client back to its worker, and where it is read."""
    if settings.sticky == "session":
        places = [f"path {settings.session_path}"] if settings.session_path else []
        places += [f"header {settings.session_header}"] if settings.session_header else []
        places += [f"query parameter {settings.session_param}"] if settings.session_param else []
        places.append(f"cookie {settings.session_cookie}")
        return f"session, from {', '.join(places)}"
    if settings.sticky == "ip":
        via = "the connection's"
        if settings.proxy_protocol:
            via = f"PROXY protocol from {', '.join(settings.trusted_proxies)}, else the connection's"
        elif settings.trusted_proxies:
            headers = " or ".join(each.title() for each in settings.client_headers)
            via = f"{headers} from {', '.join(settings.trusted_proxies)}, else the connection's"
        return f"ip, the client's address ({via}; IPv6 by /64)"
    how = "with the fewest connections" if settings.balance == "least" else "that is next in turn"
    return f"none: each connection goes to the worker {how}"


def broker(settings: Settings) -> str:
    """Return the broker through which the workers share rooms."""
    if settings.redis is not None:
        return f"Redis at {without_password(settings.redis)}"
    return "local, a process beside the workers (this machine alone)"
