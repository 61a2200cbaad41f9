"""The primary's own answer to a probe: a whole response, in JSON, that ends its connection."""

from __future__ import annotations

import http.client
import io
import json
import socket
from typing import cast

import pytest

from sticky.handoff import probes


class _Socket(io.BytesIO):
    def makefile(self, mode: str) -> io.BytesIO:
        return self


@pytest.mark.parametrize("is_head", [False, True])
def test_the_answer_is_a_response_that_a_client_understands(is_head: bool) -> None:
    data = probes.unready([probes.NO_WORKER, 'with "quotes"'], is_head=is_head)
    response = http.client.HTTPResponse(cast(socket.socket, _Socket(data)), method="HEAD" if is_head else "GET")
    response.begin()
    assert response.status == 503
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Connection"] == "close"
    body = response.read()
    assert int(response.headers["Content-Length"]) == len(
        probes.body(probes.UNREADY, [probes.NO_WORKER, 'with "quotes"'])
    )
    if is_head:
        assert body == b""
        assert data.endswith(b"\r\n\r\n")
    else:
        assert json.loads(body) == {"status": "unready", "reasons": ["no worker is ready", 'with "quotes"']}
