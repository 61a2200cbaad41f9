"""A load balancer's probes, as a test sends them: one request on a connection of its own."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from typing import Any

DEADLINE_S = 60.0  # only a hang reaches it

Answer = tuple[int, dict[str, Any]]


def probe(port: int, path: str = "/readyz", *, host: str = "127.0.0.1", method: str = "GET") -> Answer:
    """
    Return the status and the JSON of the answer; of HEAD, nothing.

    Raises:
        OSError: nobody listens, or the connection ended without an answer.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    try:
        connection.request(method, path, headers={"Host": host})
        response = connection.getresponse()
        body = response.read()
        return response.status, json.loads(body) if body else {}
    except http.client.HTTPException as error:
        raise ConnectionResetError(f"no answer: {error!r}") from error
    finally:
        connection.close()


def probe_until(port: int, wanted: Callable[[Answer], bool], path: str = "/readyz") -> Answer:
    """Probe again and again until the answer is what is wanted, and return it."""
    give_up_at = time.monotonic() + DEADLINE_S
    while not wanted(answer := probe(port, path)):
        assert time.monotonic() < give_up_at, answer
    return answer
