"""
Behind real proxies that pool connections: fifty sessions, shuffled over five connections, five thousand requests.

nginx keeps five connections to us and puts whatever comes on any of them; HAProxy speaks PROXY protocol to us. Every
request has to be answered by the worker of its session. A run without stickiness shows that the count can fail.
Sessions that are found by an id in the query come back without any stickiness too.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.http import WHOSE, Client
from tests.support.processes import accepts, free_port, process
from tests.support.server import RunningServer
from tests.support.tiny_cluster import TinyCluster

SESSIONS, CONNECTIONS, REQUESTS = 50, 5, 5_000
QUERY_ID_REQUESTS = 1_000
WORKERS = 4

NGINX = """
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  upstream workers {{ server 127.0.0.1:{port}; keepalive 5; }}
  server {{
    listen 127.0.0.1:{listen};
    keepalive_requests 100000;
    location / {{
      proxy_pass http://workers;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr;
    }}
  }}
}}
"""

HAPROXY = """
global
    maxconn 200
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse always
frontend clients
    bind 127.0.0.1:{listen}
    default_backend workers
backend workers
    server one 127.0.0.1:{port} source 127.9.0.1 send-proxy-v2
"""


@contextlib.contextmanager
def nginx(port: int, directory: Path) -> Iterator[int]:
    listen = free_port()
    path = directory / "nginx.conf"
    path.write_text(NGINX.format(directory=directory, port=port, listen=listen))
    with process(["nginx", "-c", str(path), "-p", str(directory)], directory, lambda: accepts(listen)):
        yield listen


@contextlib.contextmanager
def haproxy(port: int, directory: Path) -> Iterator[int]:
    listen = free_port()
    path = directory / "haproxy.cfg"
    path.write_text(HAPROXY.format(port=port, listen=listen))
    with process(["haproxy", "-db", "-f", str(path)], directory, lambda: accepts(listen)):
        yield listen


def wrong_answers(port: int, direct: int) -> tuple[int, int]:
    """Send everything. Return how many answers came from another worker than the session's own, and how many came."""
    owner: dict[str, int] = {}
    for number in range(SESSIONS):
        with Client(direct) as client:  # half of the sessions are the server's, half of them the clients' own
            found = client.get(None if number % 2 else f"own-{number}")
            owner[found["session"] or f"other-{number}"] = found["slot"]
    wanted = [*owner] * (REQUESTS // SESSIONS)
    random.Random(1).shuffle(wanted)
    shares = [wanted[number::CONNECTIONS] for number in range(CONNECTIONS)]

    def send(sessions: list[str]) -> list[bool]:
        with Client(port) as client:
            return [client.get(session)["slot"] != owner[session] for session in sessions]

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        answers = [each for share in pool.map(send, shares) for each in share]
    return sum(answers), len(answers)


def serve(*options: str) -> RunningServer:
    return RunningServer(WHOSE, *options, "--balance", "round-robin", workers=WORKERS)


Proxy = Callable[[int, Path], contextlib.AbstractContextManager[int]]


@pytest.mark.parametrize(
    ("proxy", "options"),
    [
        pytest.param(nginx, (), marks=pytest.mark.nginx),
        pytest.param(haproxy, ("--proxy-protocol", "--trusted-proxies", "127.9.0.1"), marks=pytest.mark.haproxy),
    ],
    ids=["nginx", "haproxy"],
)
def test_no_request_is_answered_by_a_wrong_worker(proxy: Proxy, options: tuple[str, ...], tmp_path: Path) -> None:
    with serve("--sticky", "session", *options) as server:
        server.wait_until_full()
        with proxy(server.port, tmp_path) as port:
            assert wrong_answers(port, server.port) == (0, REQUESTS)
        given_back = server.status()["counters"]["given_back"]
        assert given_back > REQUESTS // 2, "most of the requests came on a connection of another session's"


@pytest.mark.nginx
def test_without_stickiness_the_same_requests_meet_any_worker(tmp_path: Path) -> None:
    with serve("--sticky", "none") as server:
        server.wait_until_full()
        with nginx(server.port, tmp_path) as port:
            wrong, answers = wrong_answers(port, server.port)
    assert answers == REQUESTS
    assert wrong > REQUESTS // 4


def strangers(port: int, cluster: TinyCluster) -> tuple[int, int]:
    """Send requests by query ids. Return how many answers came from a wrong worker, and how many came."""
    owner: dict[str, int] = {}
    for number in range(SESSIONS):
        with Client(cluster.address[1], f"127.0.2.{number + 1}") as client:  # a proxy's idle connection has one worker
            client.send(b"GET /io/?EIO=4 HTTP/1.1\r\nHost: h\r\n\r\n")
            found = client.answer()
            owner[found["sid"]] = found["pid"]
    assert set(owner.values()) == set(cluster.pids().values()), "each worker has some"
    wanted = [*owner] * (QUERY_ID_REQUESTS // SESSIONS)
    random.Random(1).shuffle(wanted)
    shares = [wanted[number::CONNECTIONS] for number in range(CONNECTIONS)]

    def send(sids: list[str]) -> list[bool]:
        with Client(port) as client:
            answers = []
            for sid in sids:
                client.send(f"POST /io/?EIO=4&sid={sid} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n42".encode())
                found = client.answer()
                answers.append(not found["known"] or found["pid"] != owner[sid] or found["body"] != 2)
            return answers

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        answers = [each for share in pool.map(send, shares) for each in share]
    return sum(answers), len(answers)


@pytest.mark.parametrize("sticky", ["ip", "none"])
@pytest.mark.parametrize(
    ("proxy", "options"),
    [
        pytest.param(nginx, {"trusted": ["127.0.0.1"]}, marks=pytest.mark.nginx),
        pytest.param(haproxy, {"proxy_protocol": True, "trusted": ["127.9.0.1"]}, marks=pytest.mark.haproxy),
    ],
    ids=["nginx", "haproxy"],
)
def test_no_request_with_a_query_id_is_answered_by_a_wrong_worker(
    proxy: Proxy, options: dict[str, Any], sticky: str, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"balance": "round-robin", "query_id_paths": ["/io/"], **options}
    with (
        TinyCluster(worker="tests.support.sid_worker", workers=WORKERS, sticky=sticky, **asked) as cluster,
        proxy(cluster.address[1], tmp_path) as port,
    ):
        assert strangers(port, cluster) == (0, QUERY_ID_REQUESTS)
        assert cluster.status()["counters"]["given_back"] > QUERY_ID_REQUESTS // 4
