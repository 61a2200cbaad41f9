"""
What strangers send through one proxy, set up as docs/deploying/proxies.md says: offers, bodies, chunks, in sequences.

The proxy puts the requests of all of them on few connections. Each has to be answered as its own sender's, with its
whole body, whatever somebody else has sent before on the same connection.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.http import WHOSE, Client
from tests.support.processes import accepts, free_port, process
from tests.support.sequences import SECRET_REQUEST, Request, faulty_handshakes, handshake, sequences
from tests.support.server import ROOT, RunningServer

PEOPLE = [f"127.10.0.{number}" for number in range(1, 5)]
GUIDE = (ROOT / "docs" / "deploying" / "proxies.md").read_text()
NGINX = """
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_buffer_size 1m;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  {guide}
}}
"""
HAPROXY = """
global
    maxconn 200
defaults
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse always
{guide}
"""


def from_the_guide(kind: str, port: int, listen: int) -> str:
    """Take a proxy's configuration out of the guide, with the addresses of this test, and without TLS."""
    found = re.search(rf"^```{kind}\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
    assert found is not None
    text = found[1].replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    text = re.sub(r"^ *ssl_certificate.*\n", "", text, flags=re.MULTILINE)
    for place in ("listen 443 ssl;", "bind :443 ssl crt /etc/chat/chat.pem"):
        text = text.replace(place, f"{place.split()[0]} 127.0.0.1:{listen}{';' if ';' in place else ''}")
    assert str(listen) in text
    assert str(port) in text
    return text


@contextlib.contextmanager
def proxied(kind: str, port: int, directory: Path) -> Iterator[int]:
    listen = free_port()
    path = directory / kind
    whole = {"nginx": NGINX, "haproxy": HAPROXY}[kind]
    path.write_text(whole.format(directory=directory, guide=from_the_guide(kind, port, listen)))
    command = (
        ["nginx", "-c", str(path), "-p", str(directory)] if kind == "nginx" else ["haproxy", "-db", "-f", str(path)]
    )
    with process(command, directory, lambda: accepts(listen)):
        yield listen


@pytest.fixture(scope="module", params=["ip", "session", "none"])
def sticky(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def server(sticky: str) -> Iterator[RunningServer]:
    with RunningServer(WHOSE, "--sticky", sticky, "--trusted-proxies", "127.0.0.1", workers=2) as running:
        running.wait_until_full()
        yield running


@pytest.fixture(
    scope="module",
    params=[pytest.param("nginx", marks=pytest.mark.nginx), pytest.param("haproxy", marks=pytest.mark.haproxy)],
)
def port(
    request: pytest.FixtureRequest, server: RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    with proxied(request.param, server.port, tmp_path_factory.mktemp("proxy")) as listen:
        yield listen


def assert_answered(client: Client, person: str, request: Request, sticky: str) -> None:
    found = client.answer()
    assert (found["path"], found["client"][0]) == (request.path, person)
    assert found["body"] == (request.body.decode("latin-1") if len(request.body) < 1000 else len(request.body))
    if sticky == "session" and request.session is not None:
        assert found["session"] == request.session


@settings(max_examples=20, phases=[Phase.explicit, Phase.generate], suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(sequences(sessions=("ada", "bela", "cleo")), min_size=len(PEOPLE), max_size=len(PEOPLE)))
def test_each_request_is_its_own_senders_whatever_others_offered(
    port: int, sticky: str, of_each: list[list[Request]]
) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(port, person)) for person in PEOPLE]
        for turn in itertools.zip_longest(*of_each):
            for client, person, request in zip(clients, PEOPLE, turn, strict=True):
                if request is not None:
                    client.send(request.data)
                    assert_answered(client, person, request, sticky)


def test_what_is_no_handshake_ends_nobody_elses_requests(port: int, sticky: str) -> None:
    with Client(port, PEOPLE[0]) as other:
        for faulty in faulty_handshakes(1):
            if faulty.version == "1.0" or faulty.chunks is not None:
                continue  # the proxy's own affair
            with Client(port, PEOPLE[1]) as client:
                client.send(faulty.data)
                status = int(client.stream.readline().split()[1])
                # HAProxy takes the offer out of what has a body; what is left is a request.
                assert status == 400 or (faulty.body and status == 200), faulty
            other.send(Request(2, "POST", body=SECRET_REQUEST, session="ada").data)
            assert_answered(other, PEOPLE[0], Request(2, body=SECRET_REQUEST, session="ada"), sticky)


def test_a_websocket_is_opened_through_the_proxy(port: int) -> None:
    with Client(port, PEOPLE[0]) as client:
        client.get("ada")
        client.send(handshake(1, session="ada").data)
        assert b" 101 " in client.stream.readline()
        while client.stream.readline() != b"\r\n":
            pass
        assert client.stream.read(1) == b"\x81"
