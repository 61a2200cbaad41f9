"""
Where the primary listens: the addresses that a person writes, and the sockets behind them.

Runs in the primary. Binding comes before anything is started, so that an address in use ends the start at once.
Listening begins when the first worker is ready (accept.py), so that no client waits for a server that does not come up.
It never accepts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable, Sequence

from sticky.errors import SettingsError


def bind_all(
    addresses: Sequence[str], take: Callable[[str], socket.socket | None] = lambda address: None
) -> list[socket.socket]:
    """
    Bind every address, or none: what was bound is closed again when one cannot be. See `bind`.

    Args:
        take: returns the listener that an earlier primary has left for an address; None where there is none.

    Raises:
        SettingsError: one of them is no address, or cannot be had.
    """
    bound: list[socket.socket] = []
    try:
        for address in addresses:
            bound.append(take(address) or bind(address))
    except BaseException:
        for listener in bound:
            unlink(listener)
            listener.close()
        raise
    return bound


def bind(address: str) -> socket.socket:
    """
    Bind one address: HOST:PORT, [v6]:PORT, :PORT (every address of the machine), unix:PATH, or fd://N. The last one is
    a socket that this process inherited, as systemd passes it from 3 on (sd_listen_fds(3)). The caller owns the socket.

    Raises:
        SettingsError: it is no address, or cannot be had; the text says why.
    """
    if address.startswith("unix:"):
        return _bind_unix(address.removeprefix("unix:"))
    if address.startswith("fd://"):
        return _inherit(address)
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise SettingsError("bind", f"{address!r} is not HOST:PORT, [v6]:PORT, :PORT, unix:PATH or fd://N")
    host = host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise SettingsError("bind", f"{host!r} is no address of this machine ({error.strerror})") from error
    chosen = next((each for each in found if not host and each[0] == socket.AF_INET6), found[0])
    family, kind, protocol, _, where = chosen
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # `:PORT` is one listener for both families. A host that is named is that host alone: with IPv4 beside it, the
        # same address could not be bound a second time for IPv4.
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if host else 0)
        sock.bind(where)
    except OSError as error:
        sock.close()
        raise SettingsError("bind", f"cannot listen on {address}: {_reason(error)}") from error
    return sock


def _bind_unix(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode) and not _is_served(path):
            os.unlink(path)  # its process was killed, and did not remove it
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise SettingsError("bind", f"cannot listen on unix:{path}: {_reason(error)}") from error
    return sock


class InheritedSocket(socket.socket):
    """A socket that another process made. Its file, if it has one, is not ours to remove."""


def _inherit(address: str) -> socket.socket:
    number = address.removeprefix("fd://")
    if not number.isdecimal() or not 3 <= int(number) < 2**20:
        raise SettingsError("bind", f"{address!r} is not fd://N with N from 3 on")
    try:
        sock = InheritedSocket(fileno=int(number))
    except OSError as error:
        raise SettingsError("bind", f"{address}: this process was given no such socket ({_reason(error)})") from error
    if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        sock.detach()
        raise SettingsError("bind", f"{address} is no stream socket that clients could connect to")
    sock.set_inheritable(False)
    return sock


def _is_served(path: str) -> bool:
    """
    Return whether a process listens on a Unix socket's file. Only a try can tell: the file outlives its process, and
    removing the file of a server that lives would cut that server off without a word.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _reason(error: OSError) -> str:
    """Return why an address cannot be had, for a person who starts a server: what the kernel says names no cause."""
    if error.errno == errno.EADDRINUSE:
        return "another process listens there already"
    if error.errno == errno.EACCES:
        return "this user may not (ports below 1024 need privileges)"
    return error.strerror or str(error)


def address_of(listener: socket.socket) -> str:
    """Return a listener's address as a person writes it, with the port that the kernel chose for 0."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{host}:{name[1]}"


def unlink(listener: socket.socket) -> None:
    """Remove the file of a Unix socket that `bind` made. Does nothing for other sockets."""
    if listener.family == socket.AF_UNIX and not isinstance(listener, InheritedSocket):
        with contextlib.suppress(OSError):
            os.unlink(listener.getsockname())
