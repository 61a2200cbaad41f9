"""
Where the primary listens: the addresses that a person writes, and the sockets behind them.

Runs in the primary. Binding comes before anything is started, so that an address in use is told at once; listening
begins when the first worker is ready, so that nobody is accepted whom nobody serves.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat

from sticky.errors import SettingsError


def bind(address: str) -> socket.socket:
    """
    Bind one address: HOST:PORT, [v6]:PORT, :PORT (every address), unix:PATH, or fd://N for a socket that is there
    already, as systemd gives it from 3 on (sd_listen_fds(3)).

    Raises:
        SettingsError: it is no address, or cannot be had; the text says why.
    """
    if address.startswith("unix:"):
        return _bind_unix(address.removeprefix("unix:"))
    if address.startswith("fd://"):
        return _take(address)
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise SettingsError("bind", f"{address!r} is not HOST:PORT, [v6]:PORT, :PORT, unix:PATH or fd://N")
    host = host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise SettingsError("bind", f"{host!r} is no address of this machine ({error.strerror})") from error
    everywhere = next((each for each in found if not host and each[0] == socket.AF_INET6), found[0])
    family, kind, protocol, _, where = everywhere
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if host else 0)
        sock.bind(where)
    except OSError as error:
        sock.close()
        raise SettingsError("bind", f"cannot listen on {address}: {_why(error)}") from error
    return sock


def _bind_unix(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode) and not _answers(path):
            os.unlink(path)  # left behind by a process that was killed
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise SettingsError("bind", f"cannot listen on unix:{path}: {_why(error)}") from error
    return sock


class Given(socket.socket):
    """A socket that somebody else made, and whose file, if it has one, is theirs."""


def _take(address: str) -> socket.socket:
    number = address.removeprefix("fd://")
    if not number.isdecimal() or not 3 <= int(number) < 2**20:
        raise SettingsError("bind", f"{address!r} is not fd://N with N from 3 on")
    try:
        sock = Given(fileno=int(number))
    except OSError as error:
        raise SettingsError("bind", f"{address}: this process was given no such socket ({_why(error)})") from error
    if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        sock.detach()
        raise SettingsError("bind", f"{address} is no stream socket that clients could connect to")
    sock.set_inheritable(False)
    return sock


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another process listens there already"
    if error.errno == errno.EACCES:
        return "this user may not (ports below 1024 need privileges)"
    return error.strerror or str(error)


def written(listener: socket.socket) -> str:
    """Write a listener's address as a person would, with the port that it really got."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{host}:{name[1]}"


def unlink(listener: socket.socket) -> None:
    """Remove the file of a Unix socket; nothing for others."""
    if listener.family == socket.AF_UNIX and not isinstance(listener, Given):
        with contextlib.suppress(OSError):
            os.unlink(listener.getsockname())
