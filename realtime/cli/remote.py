"""
What the commands share that call a server's API: where the server is, its key, and one call.

Runs in the process of the command. Address and key are settings like any other: of the command line, the environment,
or the `realtime.toml` that the server has read as well. Nothing here looks for a process of this machine.
"""

from __future__ import annotations

import functools
import http.client
import json
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import click

from realtime.cli.options import GroupedCommand, settings_options
from realtime.errors import RealtimeError
from realtime.settings import Settings, resolve

TIMEOUT_S: Final = 30.0
LOOPBACK: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - what stands for every address


class ServerAddress(NamedTuple):
    """Where the server is, and which setting it is from."""

    url: str
    source: str


def server_address(settings: Settings) -> ServerAddress:
    """
    Return the setting `url`, else the first address of `bind` that a client on this machine can connect to.

    Raises:
        click.UsageError: `bind` has none: sockets of files, given descriptors, or ports that the kernel chooses.
    """
    if settings.url is not None:
        return ServerAddress(settings.url, settings.source("url"))
    for each in settings.bind:
        host, _, port = each.rpartition(":")
        if not each.startswith(("unix:", "fd://")) and port != "0":
            scheme = "https" if settings.certfile else "http"
            return ServerAddress(f"{scheme}://{LOOPBACK.get(host, host)}:{port}", settings.source("bind"))
    problem = (
        f"bind has no address that a command can connect to: {', '.join(settings.bind)} ({settings.source('bind')})"
    )
    raise click.UsageError(f"{problem}; give --url")


class CallFailed(RealtimeError):
    """A call failed: the server refused it, or did not answer."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return self.text


class Remote:
    """A server's API."""

    def __init__(self, settings: Settings) -> None:
        """
        Raises:
            click.UsageError: there is no key, or no address.
        """
        if not settings.api_keys:
            raise click.UsageError(
                "there is no key: set REALTIME_API_KEY or api_key in realtime.toml, as for the server"
            )
        self._address = server_address(settings)
        self._key_source = settings.source("api_key")
        found = urlsplit(self._address.url)
        assert found.hostname, "the kinds of `url` and `bind` let nothing else through"
        self._secure = found.scheme == "https"
        self._host, self._port = found.hostname, found.port
        self._root = found.path.rstrip("/") + settings.own_prefix
        self._headers = {"X-API-Key": settings.api_keys[0]}
        self.shown = f"{found.scheme}://{found.netloc.rpartition('@')[2]}"

    def call(self, method: str, **fields: Any) -> dict[str, Any]:
        """
        Call a method and return its result.

        Raises:
            CallFailed: the server does not answer, does not take the key, or answers with an error; or an application
                answered in place of the API.
        """
        with self._request("POST", f"/api/{method}", json.dumps(fields), TIMEOUT_S) as response:
            text = response.read()
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not answer.keys() & {"error", "result"}:
            # A page of the application, which has this path because the API is elsewhere or needs a key to be there.
            problem = f"what {self._root}/api/{method} answers is not of the API; is own_prefix the server's?"
            raise CallFailed(f"{self.shown}: {problem}")
        if "error" in answer:
            raise CallFailed(f"{method}: {answer['error']['message']} ({answer['error']['code']})")
        found: dict[str, Any] = answer["result"]
        return found

    @contextmanager
    def _request(self, method: str, path: str, body: str | None, timeout_s: float | None) -> Any:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=timeout_s)
        try:
            connection.request(method, self._root + path, body, self._headers)
            response = connection.getresponse()
            if response.status == 401:
                raise CallFailed(f"{self.shown} does not take this key ({self._key_source})")
            if response.status == 404:
                where = path.partition("?")[0]
                problem = "or not this room; does it run with an API key, and with the same own_prefix?"
                raise CallFailed(f"{self.shown} has no {self._root}{where}, {problem}")
            if response.status != 200:
                text = response.read(200).decode(errors="replace").strip()
                raise CallFailed(f"{self.shown} answers {response.status}: {text}")
            yield response
        except (OSError, http.client.HTTPException) as error:
            where = "" if self._address.source == "default" else f" ({self._address.source})"
            raise CallFailed(f"{self.shown}{where} does not answer: {error}") from None
        finally:
            connection.close()

    def follow(self, path: str, on_event: Callable[[dict[str, Any]], None]) -> None:
        """Call `on_event` with each event of a stream until the stream ends."""
        with self._request("GET", path, None, None) as response:
            for line in response:
                if line.startswith(b"data: "):
                    on_event(json.loads(line.removeprefix(b"data: ")))


def remote_command(function: Callable[..., Any]) -> click.Command:
    """
    Make a command that calls the API: with options for address, key and file, and the `Remote` as first argument.

    Other options and arguments are decorators below this one.
    """

    @settings_options(["url", "own_prefix", "api_key"])
    @functools.wraps(function)
    def with_remote(*arguments: Any, config: str | None, **given: Any) -> Any:
        asked = {name: given.pop(name) for name in ("url", "own_prefix", "api_key", "api_key_file")}
        return function(Remote(resolve(asked, config=config)), *arguments, **given)

    return click.command(cls=GroupedCommand)(with_remote)


def on_one_line(value: Any) -> str:
    """Return a value on one line."""
    return json.dumps(value, ensure_ascii=False)


def table(*columns: str) -> Any:
    """Return a table of a terminal."""
    from rich.table import Table  # most commands do not need it

    found = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        found.add_column(column, justify="right" if column in ("connections", "users", "offset") else "left")
    return found


def show(what: Any) -> None:
    """Print a table."""
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(what)
