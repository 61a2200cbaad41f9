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
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from realtime import logs
from realtime.broker.factory import broker_module
from realtime.broker.local_command import LOCAL_STOP_SIGNAL, local_command
from realtime.cli.banner import LISTENING, banner, facts
from realtime.cli.descriptors import raise_descriptor_limit
from realtime.cli.failed_start import FailedStart
from realtime.cli.keep import PYTHON, keep_settings
from realtime.cli.servers import BROKER_SOCKET, CONTROL_SOCKET, KEYS_FILE, own_directory
from realtime.errors import RealtimeError, SettingsError
from realtime.settings import Settings, misspelt, options
from realtime.transport.probe_paths import PROBES, below
from sticky.cluster import Cluster, ClusterSettings, Sidecar
from sticky.errors import SettingsError as StickySettingsError
from sticky.heads.first_bytes import HeadLimits
from sticky.keys.affinity import AffinitySettings, Sticky
from sticky.lifetime import Lifetime
from sticky.process.keeper_link import KeeperLink

DEVELOPER_DRAIN_S = 1.0
BOOTS_MAX = 3
PROTOCOL_PATHS = ("/connection/", "/emulation")  # the primary loads no wire protocol; a test compares them with it
STARTING = "= starting %s"
FAILED = "! the server did not start: %s"
WORKER = (*PYTHON, "-m", "realtime.worker")  # then the modules that it will need as well

log = logging.getLogger("realtime.serve")


class WrongSystem(RealtimeError):
    """The server does not run on this operating system."""

    def __str__(self) -> str:
        return f"the server runs on Linux, not on {sys.platform}: it needs epoll and SOCK_SEQPACKET"


def launch(settings: Settings, link: KeeperLink | None = None) -> int:
    """
    Be the primary until the cluster has ended, and return the exit status.

    A start that fails ends with its reason in the last line, whether it is raised here or logged.

    Args:
        link: to the keeper that has started this process; None for a primary without one.

    Raises:
        SettingsError: TARGET names a file that is not there, the certificate or a public key is none, or an address,
            a user or the control socket cannot be had.
        WrongSystem: this is not Linux.
    """
    if sys.platform != "linux":
        raise WrongSystem
    # What a person can have got wrong is found before the log is set up: it then ends the command with one sentence.
    settings = for_development(with_target(settings))
    if link is None or not link.is_takeover:
        check_files(settings)
    start_logging(settings, "primary")
    if link is not None:
        if link.is_successor:
            link.take_over()
        keep_settings(link, settings)
    is_takeover = link is not None and link.is_takeover
    if not is_takeover:
        log.info(STARTING, starting(settings))  # before anything slow: the application's imports, a broker far away
        for sentence in misspelt():
            log.warning("! %s", sentence)
    raise_descriptor_limit()
    with directory_of(settings, link) as directory, FailedStart() as failed_start:
        settings = with_sockets(settings, directory)

        def on_listening(addresses: Sequence[str]) -> None:
            failed_start.is_over = True
            if not is_takeover:
                announce(settings, addresses, pid=link.pid if link is not None else None)

        try:
            status = Cluster(
                cluster_settings(settings),
                worker_argv=(*WORKER, broker_module(settings.broker_url)),
                worker_config=settings.to_builtins(),
                sidecars=sidecars(settings),
                env_of=lambda slot: environment(settings, slot),
                on_listening=on_listening,
                forks=settings.start == "fork",
            ).run(link)
        except StickySettingsError as error:
            raise with_source(error, settings) from None
    if (reason := failed_start.reason(status)) is not None:
        log.error(FAILED, reason)
    return status


def directory_of(settings: Settings, link: KeeperLink | None) -> contextlib.AbstractContextManager[Path]:
    """Return the control directory: the keeper's, which removes it; else one of this process."""
    if link is None:
        return own_directory(settings)
    return contextlib.nullcontext(Path(link.directory))


def starting(settings: Settings) -> str:
    """Return what is started, for the line that comes before any worker is ready."""
    many = "1 worker" if settings.workers == 1 else f"{settings.workers} workers"
    return f"{many} of {settings.target or 'the stock application'}"


def with_source(error: StickySettingsError, settings: Settings) -> SettingsError:
    """
    Return the error of a setting with the flag, the variable or the line of the file that the value came from.

    `sticky` does not know where its settings are from. Its names are those of `Settings`, or have no source here.
    """
    names = {each.name for each in options()}
    source = settings.source(error.name) if error.name in names else "default"
    where = "" if source == "default" else f" ({source})"
    return SettingsError(error.name, error.name, f"{error.problem}{where}")


def check_files(settings: Settings) -> None:
    """
    Read the files of keys once, so that a wrong one ends the start before anything runs. Workers read them anew.

    Raises:
        SettingsError: one cannot be read, or holds no key.
    """
    if settings.certfile is not None:
        from realtime.transport.tls import server_context  # only here: a primary that takes over has no use for it

        server_context(settings)
    if settings.token_public_key is not None:
        from realtime.auth.jwks import load_public_key  # likewise

        try:
            load_public_key(Path(settings.directory, settings.token_public_key))
        except SettingsError as error:
            raise SettingsError(error.name, settings.source(error.name), error.problem) from None


def with_target(settings: Settings) -> Settings:
    """
    Return the settings with what is served: app.py when TARGET is not given and the file exists.

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
    Return the settings for development: a drain of a second, for a developer does not wait a minute for old clients.

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
    """Return the settings with the control socket, the broker's address, and the file for the workers' public keys."""
    # A single worker too has its rooms beside it: they outlive it through a reload, a crash and `realtime scale`.
    broker_url = settings.redis or f"local:{directory / BROKER_SOCKET}"
    control = str(Path(settings.directory, settings.control)) if settings.control else str(directory / CONTROL_SOCKET)
    keys_file = str(directory / KEYS_FILE)
    return dataclasses.replace(settings, control=control, broker_url=broker_url, keys_file=keys_file)


def start_logging(settings: Settings, process: str) -> None:
    """Set the log of this process up by the settings. It never shows a secret of theirs."""
    logs.set_up(
        process,
        level=settings.log_level,
        form=settings.log_format,
        color=settings.color,
        secrets=settings.secrets,
    )


def cluster_settings(settings: Settings) -> ClusterSettings:
    """Return the settings of `sticky`, which knows nothing of rooms. Each is passed by name: mypy then sees a slip."""
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
        secret_previous=settings.secret_previous.encode() if settings.secret_previous else None,
        balance=settings.balance,
        proxy_protocol=settings.proxy_protocol,
        tls=settings.certfile is not None,
        limits=HeadLimits(max_bytes=settings.head_bytes, max_headers=settings.head_headers),
        connections_per_address=settings.connections_per_address,
        backlog=settings.backlog,
        handshake_s=settings.handshake_s,
        drain_s=settings.drain_s,
        lame_duck_s=settings.lame_duck_s,
        probe_paths=tuple(sorted(below(settings.own_prefix, PROBES))),
        own_paths=own_paths(settings.own_prefix),
        migrates=settings.migrate == "on",
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


def own_paths(prefix: str) -> tuple[str, ...]:
    """Return the paths that no hosted application serves, whatever it has."""
    return tuple(sorted(below(prefix, {*PROTOCOL_PATHS, *PROBES})))


def environment(settings: Settings, slot: int) -> dict[str, str]:
    """Return the variables of a slot's worker beside those that every worker has."""
    pairs = (each.partition("=") for each in settings.env)
    given = {name: value.replace("{slot}", str(slot)) for name, _, value in pairs}
    # Bytecode is taken for a source of the same second and size: of two quick saves the second would not be served.
    return {"PYTHONDONTWRITEBYTECODE": "1", **given} if settings.reload else given


def sidecars(settings: Settings) -> Sequence[Sidecar]:
    """Return the sidecar processes: the local broker where there is no Redis, a watcher with `--reload`."""
    broker = (local_broker(settings),) if settings.broker_url.startswith("local:") else ()
    return (*broker, watcher(settings)) if settings.reload else broker


def watcher(settings: Settings) -> Sidecar:
    """Return the process that watches files and reads keys from the terminal."""
    assert settings.control is not None, "with_sockets() put the control socket somewhere"
    directories = [str(Path(settings.directory, each)) for each in settings.reload_dir] or [settings.directory]
    argv = [*PYTHON, "-m", "realtime.cli.develop", "--control", settings.control, "--ready-fd", "{ready_fd}"]
    argv += ["--log", settings.log_level, settings.log_format, settings.color]
    argv += ["--no-keys"] if settings.inspect is not None else []
    return Sidecar("the watcher", (*argv, *directories))


def local_broker(settings: Settings) -> Sidecar:
    """Return the broker of this machine, a process beside the workers."""
    path = settings.broker_url.removeprefix("local:")
    argv = local_command(PYTHON, path, settings.broker_memory)
    return Sidecar("the local broker", argv, stop_signal=LOCAL_STOP_SIGNAL, succession=("--take-over",))


def announce(settings: Settings, addresses: Sequence[str], *, pid: int | None = None) -> None:
    """
    Print the banner: people read it, and scripts wait for its line with the address.

    As JSON it is one line of the log, and what the banner lists are its fields.

    Args:
        pid: of the server, for signals: the keeper's; None for a primary without one.
    """
    scheme = "https" if settings.certfile else "http"
    urls = [each if each.startswith("unix:") else f"{scheme}://{each}" for each in addresses]
    if settings.log_format == "json":
        fields = {name: value for name, value, _ in facts(settings)}
        log.info("= %s", LISTENING.format(address=", ".join(urls)), extra={"fields": fields})
        return
    coloured = settings.color == "always" or (settings.color == "auto" and sys.stdout.isatty())
    click.echo(banner(settings, urls, pid=pid or os.getpid(), coloured=coloured), color=coloured)
    sys.stdout.flush()
