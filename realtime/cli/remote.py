"""What the commands share that speak to a server over its API: where it is, its key, and one call."""

from __future__ import annotations

import functools
import http.client
import json
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import click

from realtime.errors import RealtimeError

F = TypeVar("F", bound=Callable[..., Any])

URL: Final = "http://127.0.0.1:8000"
TIMEOUT_S: Final = 30.0


class CallFailed(RealtimeError):
    """The server said no, or nothing."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return self.text


class Remote:
    """A server's API."""

    def __init__(self, url: str, key: str | None) -> None:
        """
        Raises:
            click.UsageError: the URL is none, or there is no key.
        """
        if not key:
            raise click.UsageError("there is no key: set REALTIME_API_KEY, as for the server")
        found = urlsplit(url if "://" in url else f"http://{url}")
        if found.scheme not in ("http", "https") or not found.hostname:
            raise click.UsageError(f"--url: {url!r} is no address such as {URL}")
        self._secure = found.scheme == "https"
        self._host, self._port = found.hostname, found.port
        self._root = found.path.rstrip("/")
        self._headers = {"X-API-Key": key}
        self.shown = f"{found.scheme}://{found.netloc.rpartition('@')[2]}"

    def call(self, method: str, **fields: Any) -> dict[str, Any]:
        """
        Call a method and return its result.

        Raises:
            CallFailed: nobody answers, the key is wrong, or the answer is an error.
        """
        with self._asked("POST", f"/api/{method}", json.dumps(fields), TIMEOUT_S) as response:
            answer = json.loads(response.read())
        if "error" in answer:
            raise CallFailed(f"{method}: {answer['error']['message']} ({answer['error']['code']})")
        found: dict[str, Any] = answer["result"]
        return found

    @contextmanager
    def _asked(self, method: str, path: str, body: str | None, timeout_s: float | None) -> Any:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=timeout_s)
        try:
            connection.request(method, self._root + path, body, self._headers)
            response = connection.getresponse()
            if response.status == 401:
                raise CallFailed(f"{self.shown} does not take this key")
            if response.status == 404:
                where = path.partition("?")[0]
                raise CallFailed(f"{self.shown} has no {where}, or not this room; does it run with an API key?")
            if response.status != 200:
                said = response.read(200).decode(errors="replace").strip()
                raise CallFailed(f"{self.shown} answers {response.status}: {said}")
            yield response
        except (OSError, http.client.HTTPException) as error:
            raise CallFailed(f"{self.shown} does not answer: {error}") from None
        finally:
            connection.close()

    def follow(self, path: str, take: Callable[[dict[str, Any]], None]) -> None:
        """Have `take` told of each event of a stream until it ends."""
        with self._asked("GET", path, None, None) as response:
            for line in response:
                if line.startswith(b"data: "):
                    take(json.loads(line.removeprefix(b"data: ")))


def remote_options(function: F) -> F:
    """Give a command `--url` and `--api-key`, and the `Remote` that they lead to as its first argument."""

    @click.option("--url", envvar="REALTIME_URL", default=URL, show_default=True, help="The server. [REALTIME_URL]")
    @click.option("--api-key", envvar="REALTIME_API_KEY", help="Its key; better in REALTIME_API_KEY than here.")
    @functools.wraps(function)
    def with_remote(*arguments: Any, url: str, api_key: str | None, **given: Any) -> Any:
        return function(Remote(url, (api_key or "").split(",")[0]), *arguments, **given)

    return with_remote  # type: ignore[return-value]


def told(value: Any) -> str:
    """Return a value on one line."""
    return json.dumps(value, ensure_ascii=False)


def table(*columns: str) -> Any:
    """Return a table of a terminal."""
    from rich.table import Table  # most commands do not need it

    found = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        found.add_column(column, justify="right" if column in ("clients", "users", "offset") else "left")
    return found


def show(what: Any) -> None:
    """Print a table."""
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(what)
