"""
Which paths are the server's own: those that give way to routes of a bare ASGI application, and `--own-prefix`.

Real servers, one for each application: FastAPI, Django, and a plain ASGI callable that answers every path.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.support.require import require
from tests.support.server import DEADLINE_S, RunningServer

KEY = "0123456789abcdef"
WITH_KEY = {"X-API-Key": KEY}

FASTAPI = """
from fastapi import FastAPI, HTTPException, WebSocket
from fastapi.responses import PlainTextResponse, StreamingResponse

app = FastAPI()

@app.get("/health")
def health(): return {"who": "fastapi"}

@app.get("/connection/websocket")
def never(): return {"who": "fastapi"}

@app.post("/api/publish")
def publish(body: dict): return {"who": "fastapi", "body": body}

@app.get("/api/items/{item}")
def item(item: str): raise HTTPException(404, f"no item {item}")
"""
CATCH_ALL = """
async def app(scope, receive, send):
    assert scope["type"] == "http", scope["type"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": f"the page {scope['path']}".encode()})
"""
DJANGO = """
from django.conf import settings
settings.configure(SECRET_KEY="x", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, MIDDLEWARE=[
    "django.middleware.common.CommonMiddleware"])
import django
django.setup()
from django.core.asgi import get_asgi_application
from django.http import JsonResponse
from django.urls import path
urlpatterns = [path("health/", lambda request: JsonResponse({"who": "django"}))]
app = get_asgi_application()
"""
BESIDE_ROOMS = """
from realtime import App
app = App()
app.room("chat:{name}", open=True, history=10)
async def page(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": f"the page {scope['path']}".encode()})
app.mount("/", page)
"""


def serve(directory: Path, source: str, *options: str) -> RunningServer:
    (directory / "served.py").write_text(source)
    env = {"REALTIME_API_KEY": KEY}
    return RunningServer("served.py", *options, workers=1, cwd=directory, env=env)


def visit(server: RunningServer, path: str, method: str = "GET", **more: Any) -> httpx.Response:
    return httpx.request(method, server.url + path, trust_env=False, timeout=DEADLINE_S, **more)


def connected(server: RunningServer, path: str) -> dict[str, Any]:
    """Connect a client to a WebSocket; return what it is told first."""
    url = server.url.replace("http", "ws", 1) + path
    with connect(url, proxy=None, open_timeout=DEADLINE_S) as client:
        client.send('{"id":1,"connect":{}}')
        found: dict[str, Any] = json.loads(client.recv(DEADLINE_S))
        return found


# A bare ASGI application


@pytest.fixture(scope="module")
def fastapi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serve(tmp_path_factory.mktemp("fastapi"), FASTAPI, "--allowed-hosts", "127.0.0.1") as server:
        yield server


def test_routes_of_a_bare_application_come_before_those_of_the_server(fastapi: RunningServer) -> None:
    assert visit(fastapi, "/health").json() == {"who": "fastapi"}
    fastapi.log.wait_for("path given away path=/health")
    assert visit(fastapi, "/api/publish", "POST", json={"a": 1}).json() == {"who": "fastapi", "body": {"a": 1}}
    assert visit(fastapi, "/health", "DELETE").status_code == 405, "the application has the path"


def test_where_it_has_no_route_the_server_answers(fastapi: RunningServer) -> None:
    client = visit(fastapi, "/realtime.js")
    assert client.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "const SERVED_BELOW = '';" in client.text
    assert visit(fastapi, "/api/info", "POST", json={}).status_code == 401
    assert "nodes" in visit(fastapi, "/api/info", "POST", json={}, headers=WITH_KEY).json()["result"]


def test_its_own_404_is_sent_for_what_is_no_path_of_the_server(fastapi: RunningServer) -> None:
    answer = visit(fastapi, "/api/items/9")
    assert (answer.status_code, answer.json()) == (404, {"detail": "no item 9"})
    assert visit(fastapi, "/api/nothing", "POST").json() == {"detail": "Not Found"}


def test_the_endpoints_of_clients_stay_the_servers(fastapi: RunningServer) -> None:
    assert "connect" in connected(fastapi, "/connection/websocket")
    assert visit(fastapi, "/connection/websocket").status_code == 426
    assert visit(fastapi, "/emulation", "POST").status_code == 400


def test_a_balancers_request_by_another_host_never_reaches_the_application(fastapi: RunningServer) -> None:
    assert visit(fastapi, "/health", headers={"Host": "10.0.0.7"}).json()["status"] == "ok"
    assert visit(fastapi, "/docs", headers={"Host": "10.0.0.7"}).status_code == 421


def test_the_start_says_which_paths_hold(fastapi: RunningServer) -> None:
    fastapi.log.wait_for(
        r"paths +the server's: /connection/\*, /emulation, /livez, /readyz, /api, /health, /realtime.js, /socket.io/;"
        r" at /api, /health, /realtime.js, /socket.io/ a bare ASGI application comes first \(--own-prefix\)"
    )


def test_django_has_read_the_body_before_it_says_404_and_the_api_gets_all_of_it(tmp_path: Path) -> None:
    with serve(tmp_path, DJANGO) as server:
        batch = {"commands": [{"info": {}}, {"channels": {"pattern": "x" * 1_000_000}}]}
        answer = visit(server, "/api/batch", "POST", json=batch, headers=WITH_KEY)
        assert answer.status_code == 200
        assert len(answer.json()["replies"]) == 2
        assert visit(server, "/health", follow_redirects=True).json() == {"who": "django"}, "by way of /health/"
        assert visit(server, "/realtime.js").status_code == 200


def test_an_application_that_answers_every_path_hides_what_gives_way_until_it_is_moved(tmp_path: Path) -> None:
    with serve(tmp_path, CATCH_ALL) as server:
        for path in ("/health", "/realtime.js", "/api/info"):
            assert visit(server, path).text == f"the page {path}"
        assert visit(server, "/readyz").json()["status"] == "ready", "probes never give way"
        assert visit(server, "/livez").json()["status"] == "alive"
    with serve(tmp_path, CATCH_ALL, "--own-prefix", "/rt") as server:
        assert visit(server, "/rt/health").json()["status"] == "ok"
        assert visit(server, "/rt/readyz").json()["status"] == "ready"
        assert visit(server, "/rt/api/info", "POST", json={}, headers=WITH_KEY).status_code == 200
        assert visit(server, "/rt/realtime.js").status_code == 200
        for path in (
            "/health",
            "/readyz",
            "/livez",
            "/realtime.js",
            "/connection/sse",
            "/emulation",
            "/rt",
            "/rt/",
            "/rt/other",
            "/rthealth",
        ):
            assert visit(server, path).text == f"the page {path}"


def test_beside_rooms_what_is_mounted_at_the_root_hides_nothing(tmp_path: Path) -> None:
    with serve(tmp_path, BESIDE_ROOMS) as server:
        assert visit(server, "/health").json()["status"] == "ok"
        assert visit(server, "/other").text == "the page /other"


# --own-prefix


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("moved")
    (directory / "realtime.toml").write_text('own_prefix = "/rt"\nallowed_hosts = ["127.0.0.1"]\n')
    with serve(directory, BESIDE_ROOMS) as server:
        yield server


def test_every_path_of_the_server_is_below_the_prefix(moved: RunningServer) -> None:
    moved.log.wait_for("paths +the server's are all below /rt; others are the application's")
    for path in ("/health", "/api/info", "/realtime.js", "/connection/websocket", "/emulation"):
        assert visit(moved, path).text == f"the page {path}", "it is the application's"
    assert visit(moved, "/rt/health", headers={"Host": "10.0.0.7"}).json()["status"] == "ok"
    assert visit(moved, "/health", headers={"Host": "10.0.0.7"}).status_code == 421
    assert "connect" in connected(moved, "/rt/connection/websocket")
    assert visit(moved, "/rt/connection/websocket").status_code == 426
    description = visit(moved, "/rt/api/openapi.json", headers=WITH_KEY).json()
    assert "/rt/api/publish" in description["paths"]


def test_streams_and_what_their_clients_send_are_below_the_prefix(moved: RunningServer) -> None:
    connecting = {"id": 1, "connect": {}}
    with httpx.stream(
        "POST", f"{moved.url}/rt/connection/http_stream", json=connecting, trust_env=False, timeout=DEADLINE_S
    ) as stream:
        lines = stream.iter_lines()
        told = json.loads(next(lines))["connect"]
        request = {"session": told["session"], "node": told["node"]}
        subscribing = {**request, "data": json.dumps({"id": 2, "subscribe": {"channel": "chat:a"}})}
        assert visit(moved, "/rt/emulation", "POST", json=subscribing).status_code == 204
        assert json.loads(next(lines))["id"] == 2
    url = f"{moved.url}/rt/connection/uni_sse"
    with httpx.stream("GET", url, trust_env=False, timeout=DEADLINE_S) as stream:
        lines = filter(None, stream.iter_lines())
        assert next(lines).startswith('data: {"connect":')


def test_the_commands_find_the_server_by_the_same_file(moved: RunningServer) -> None:
    def realtime(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "realtime", *arguments]
        return subprocess.run(argv, cwd=moved.cwd, env=moved.env, capture_output=True, text=True, timeout=60)

    done = realtime("publish", "--url", moved.url, "chat:a", '"hello"')
    assert done.returncode == 0, done.stderr
    done = realtime("publish", "--url", moved.url, "--own-prefix", "/other", "chat:a", '"hello"')
    assert done.returncode == 1
    assert "what /other/api/publish answers is not of the API; is own_prefix the server's?" in done.stderr
    done = realtime("bench", moved.url, "--clients", "2", "--seconds", "0.2", "--room", "chat:bench")
    assert done.returncode == 0, done.stdout + done.stderr


CONNECTS = """
globalThis.location = { href: process.argv[2] };
const { Realtime } = await import(process.argv[3]);
const client = new Realtime();
client.on('connected', () => { console.log('connected'); client.disconnect(); });
client.on('reconnecting', ({ reason }) => { console.log(reason); process.exit(1); });
client.connect();
"""


@pytest.mark.node
def test_the_browser_client_connects_below_the_prefix_that_it_was_served_from(
    moved: RunningServer, tmp_path: Path
) -> None:
    served = visit(moved, "/rt/realtime.js")
    assert 'const SERVED_BELOW = "/rt";' in served.text
    (tmp_path / "realtime.mjs").write_text(served.text)
    (tmp_path / "connects.mjs").write_text(CONNECTS)
    argv = [require("node"), "--experimental-websocket", "connects.mjs", f"{moved.url}/a/page", "./realtime.mjs"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "connected\n"), done.stdout + done.stderr


def test_the_moved_client_is_kept_and_asked_for_again_as_any_file_is(moved: RunningServer) -> None:
    served = visit(moved, "/rt/realtime.js", headers={"Accept-Encoding": "gzip"})
    assert served.headers["content-encoding"] == "gzip"
    assert served.headers["access-control-allow-origin"] == "*"
    tag = {"If-None-Match": served.headers["etag"]}
    assert visit(moved, "/rt/realtime.js", headers=tag).status_code == 304
    head = visit(moved, "/rt/realtime.js", "HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert visit(moved, "/rt/realtime.js", "POST").status_code == 405
    assert visit(moved, "/rt/realtime.d.ts").status_code == 200
