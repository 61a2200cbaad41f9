"""
Makes a cluster out of settings and runs it: the primary's address book, the local broker, the workers' command.

Runs in the primary. It never imports the application: a worker does, so that a reload brings new code and a broken
application cannot harm the primary.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import ipaddress
import logging
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from realtime import logs
from realtime.broker import LOCAL_STOP_SIGNAL
from realtime.cli.banner import LISTENING, banner
from realtime.cli.servers import BROKER_SOCKET, CONTROL_SOCKET, KEYS_FILE, own_directory
from realtime.errors import RealtimeError, SettingsError
from realtime.settings import Settings, misspelt
from realtime.transport.tls import server_context
from sticky.affinity import AffinitySettings, Sticky
from sticky.cluster import Cluster, ClusterSettings, Sidecar
from sticky.first_bytes import HeadLimits
from sticky.lifetime import Lifetime

DEVELOPER_DRAIN_S = 1.0
BOOTS_MAX = 3
PYTHON = (sys.executable, "-P")  # the working directory is not looked through: a folder `realtime` there is not ours
WORKER = (*PYTHON, "-m", "realtime.worker")

log = logging.getLogger("realtime.serve")


class WrongSystem(RealtimeError):
    """This is no system that the server runs on."""

    def __str__(self) -> str:
        return f"the server runs on Linux, not on {sys.platform}: it needs epoll and SOCK_SEQPACKET"


def launch(settings: Settings) -> int:
    """
    Be the primary until the cluster has ended, and give the exit status.

    Raises:
        SettingsError: TARGET names a file that is not there, or the certificate is none.
        WrongSystem: not here.
    """
    if sys.platform != "linux":
        raise WrongSystem
    settings = for_development(with_target(settings))
    server_context(settings)
    start_logging(settings, "primary")
    for sentence in misspelt():
        log.warning("! %s", sentence)
    raise_descriptor_limit()
    with own_directory(settings) as directory:
        settings = with_sockets(settings, directory)
        cluster = Cluster(
            cluster_settings(settings),
            worker_argv=WORKER,
            worker_config=settings.to_builtins(),
            sidecars=sidecars(settings),
            env_of=lambda slot: environment(settings, slot),
            on_listening=lambda addresses: announce(settings, addresses),
        )
        return cluster.run()


def with_target(settings: Settings) -> Settings:
    """
    Settle what is served: app.py when nothing was named and it is there.

    Raises:
        SettingsError: a file was named that is not there. Whether a module can be imported shows in a worker.
    """
    here = Path(settings.directory)
    if settings.target is None:
        return dataclasses.replace(settings, target="app.py") if (here / "app.py").is_file() else settings
    name = settings.target.partition(":")[0]
    if (name.endswith(".py") or "/" in name) and not (here / name).is_file():
        raise SettingsError("target", settings.source("target"), f"there is no file {name!r}")
    return settings


def for_development(settings: Settings) -> Settings:
    """
    Settle what is different while somebody develops: nobody wants to wait a minute for old clients to leave.

    Raises:
        SettingsError: what watches files is not installed, or there is nothing to watch.
    """
    if not settings.reload:
        return settings
    if importlib.util.find_spec("watchfiles") is None:
        problem = "it needs watchfiles: pip install watchfiles"
        raise SettingsError("reload", settings.source("reload"), problem)
    for each in settings.reload_dir:
        if not Path(settings.directory, each).is_dir():
            raise SettingsError("reload_dir", settings.source("reload_dir"), f"there is no directory {each!r}")
    if "drain_s" in settings.sources:
        return settings
    return dataclasses.replace(settings, drain_s=DEVELOPER_DRAIN_S)


def with_sockets(settings: Settings, directory: Path) -> Settings:
    """Settle where the control socket is, how the workers reach their broker, and where they leave public keys."""
    # A single worker too has its rooms beside it: they outlive it through a reload, a crash and `realtime scale`.
    broker_url = settings.redis or f"local:{directory / BROKER_SOCKET}"
    control = str(Path(settings.directory, settings.control)) if settings.control else str(directory / CONTROL_SOCKET)
    keys_file = str(directory / KEYS_FILE)
    return dataclasses.replace(settings, control=control, broker_url=broker_url, keys_file=keys_file)


def start_logging(settings: Settings, who: str) -> None:
    """Log as the settings say, and never a secret of theirs."""
    logs.set_up(
        who,
        level=settings.log_level,
        form=settings.log_format,
        color=settings.color,
        secrets=settings.secrets,
    )


def raise_descriptor_limit() -> None:
    """Allow as many open files as this user may have: the soft limit is for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def cluster_settings(settings: Settings) -> ClusterSettings:
    """Say the settings in the words of `sticky`, which knows nothing of rooms."""
    affinity = AffinitySettings(
        sticky=Sticky(settings.sticky),
        trusted=tuple(ipaddress.ip_network(each) for each in settings.trusted_proxies),
        session_cookie=settings.session_cookie,
        session_param=settings.session_param,
        session_header=settings.session_header,
        session_path=settings.session_path,
        client_headers=settings.client_headers,
    )
    return ClusterSettings(
        binds=settings.bind,
        workers=settings.workers,
        affinity=affinity,
        secret=settings.secret.encode() if settings.secret else None,
        balance=settings.balance,
        proxy_protocol=settings.proxy_protocol,
        tls=settings.certfile is not None,
        limits=HeadLimits(max_bytes=settings.head_bytes, max_headers=settings.head_headers),
        connections_per_address=settings.connections_per_address,
        backlog=settings.backlog,
        handshake_s=settings.handshake_s,
        drain_s=settings.drain_s,
        heartbeat_s=settings.heartbeat_s,
        hung_s=settings.hung_s,
        boot_s=settings.boot_s,
        orphan_grace_s=settings.orphan_grace_s,
        boots_max=None if settings.reload else BOOTS_MAX,
        inspected=settings.inspect,
        lifetime=Lifetime(settings.max_lifetime_s, settings.max_memory, settings.max_connections, settings.max_jitter),
        user=settings.user,
        group=settings.group,
        umask=settings.umask,
        control=settings.control,
        pid_file=settings.pid_file,
    )


def environment(settings: Settings, slot: int) -> dict[str, str]:
    """Give what a slot's worker has in its environment beside what everybody has."""
    pairs = (each.partition("=") for each in settings.env)
    given = {name: value.replace("{slot}", str(slot)) for name, _, value in pairs}
    # Bytecode is taken for a source of the same second and size: of two quick saves the second would not be served.
    return {"PYTHONDONTWRITEBYTECODE": "1", **given} if settings.reload else given


def sidecars(settings: Settings) -> Sequence[Sidecar]:
    """Give what runs beside the workers: the local broker where there is no Redis, a watcher while one develops."""
    broker = (local_broker(settings),) if settings.broker_url.startswith("local:") else ()
    return (*broker, watcher(settings)) if settings.reload else broker


def watcher(settings: Settings) -> Sidecar:
    """Give the process that watches files and hears keys."""
    assert settings.control is not None, "it is settled where the control socket is"
    directories = [str(Path(settings.directory, each)) for each in settings.reload_dir] or [settings.directory]
    argv = [*PYTHON, "-m", "realtime.cli.develop", "--control", settings.control, "--ready-fd", "{ready_fd}"]
    argv += ["--log", settings.log_level, settings.log_format, settings.color]
    argv += ["--no-keys"] if settings.inspect is not None else []
    return Sidecar("the watcher", (*argv, *directories))


def local_broker(settings: Settings) -> Sidecar:
    """Give the broker of this machine."""
    path = settings.broker_url.removeprefix("local:")
    argv = (*PYTHON, "-m", "realtime.broker.local_server", "--socket", path, "--ready-fd", "{ready_fd}",
            "--memory", str(settings.broker_memory))  # fmt: skip
    return Sidecar("the local broker", argv, stop_signal=LOCAL_STOP_SIGNAL)


def announce(settings: Settings, addresses: Sequence[str]) -> None:
    """Print the banner: people read it, and scripts wait for its line with the address."""
    scheme = "https" if settings.certfile else "http"
    urls = [each if each.startswith("unix:") else f"{scheme}://{each}" for each in addresses]
    if settings.log_format == "json":
        log.info("= %s", LISTENING.format(address=", ".join(urls)))
        return
    coloured = settings.color == "always" or (settings.color == "auto" and sys.stdout.isatty())
    click.echo(banner(settings, urls, pid=os.getpid(), coloured=coloured), color=coloured)
    sys.stdout.flush()
