"""
What a worker answers by itself: its health, the browser client, static files, and that there is nothing.

One real server with one worker is asked over sockets, with paths that no well-behaved client would send: `http.client`
sends a path as it is given. Around the served directory lie files that nobody may have.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import realtime
from realtime.application.app import Application
from tests.support.server import DEADLINE_S, ROOT, RunningServer

SECRET = b"nobody may have this"
CLIENT = ROOT / "realtime" / "client"
APP = """
from pathlib import Path
from realtime import App

HERE = Path(__file__).parent
app = App()
app.static("/files", HERE / "public")
app.static("/", HERE / "site")
"""
TYPES = {
    "page.html": "text/html; charset=utf-8", "style.css": "text/css; charset=utf-8",
    "module.js": "text/javascript; charset=utf-8", "module.mjs": "text/javascript; charset=utf-8",
    "LOUD.JS": "text/javascript; charset=utf-8", "types.d.ts": "text/plain; charset=utf-8",
    "data.json": "application/json", "program.wasm": "application/wasm", "picture.png": "image/png",
    "picture.svg": "image/svg+xml", "notes.txt": "text/plain; charset=utf-8", "no-suffix": "application/octet-stream",
    "strange.qqqq": "application/octet-stream", "packed.js.gz": "application/gzip", "packed.tar.gz": "application/gzip",
}  # fmt: skip


def lay_out(directory: Path) -> None:
    public, site, outside = (directory / name for name in ("public", "site", "outside"))
    for each in (public, site, outside, public / "sub", public / "empty", directory / "public-not"):
        each.mkdir()
    for secret in (directory / "secret.txt", outside / "secret.txt", directory / "public-not" / "secret.txt"):
        secret.write_bytes(SECRET)
    for name in TYPES:
        (public / name).write_bytes(name.encode())
    (public / "café und kuchen.txt").write_text("sweet")
    (public / "%2e%2e").write_text("a strange name")
    (public / "nothing").write_bytes(b"")
    (public / "big").write_bytes(bytes(range(256)) * 8192)
    (public / "sub" / "index.html").write_text("<p>the index</p>")
    (public / "in").symlink_to("notes.txt")
    (public / "in-directory").symlink_to("sub")
    (public / "out").symlink_to(outside / "secret.txt")
    (public / "out-relative").symlink_to("../secret.txt")
    (public / "out-directory").symlink_to(outside)
    (public / "dangling").symlink_to("is-not-there")
    (public / "loop").symlink_to("loop")
    (public / "empty" / "index.html").symlink_to(outside / "secret.txt")
    (public / "locked").mkdir()
    os.mkfifo(public / "pipe")
    (site / "index.html").write_text("<h1>the site</h1>")
    (site / "realtime.js").write_text("never served: built in comes first")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("http")
    lay_out(directory)
    (directory / "app.py").write_text(APP)
    with RunningServer(directory / "app.py", workers=1) as server:
        yield server


@pytest.fixture(scope="module")
def stock() -> Iterator[RunningServer]:
    """A server without an application."""
    with RunningServer(workers=1) as server:
        yield server


class Asker:
    """A client that keeps its connection."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)

    def __call__(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, http.client.HTTPMessage]:
        self.connection.request(method, path, headers={name.replace("_", "-"): headers[name] for name in headers})
        response = self.connection.getresponse()
        return response.status, response.read(), response.headers

    def status(self, path: str, method: str = "GET") -> int:
        return self(path, method)[0]


@pytest.fixture
def ask(server: RunningServer) -> Iterator[Asker]:
    asker = Asker(server.port)
    yield asker
    asker.connection.close()


@pytest.fixture
def ask_stock(stock: RunningServer) -> Iterator[Asker]:
    asker = Asker(stock.port)
    yield asker
    asker.connection.close()


# Health


def test_health_says_how_the_worker_is_and_may_not_be_kept(ask: Asker) -> None:
    status, body, headers = ask("/health")
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert headers["Cache-Control"] == "no-store"
    told = json.loads(body)
    assert told["status"] == "ok"
    assert told["version"] == realtime.__version__
    assert told["slot"] == 0
    assert told["broker"]["link"] == "up"
    assert told["connections"] >= 1, "the one that asks"


def test_health_answers_head_without_a_body_and_nothing_else(ask: Asker) -> None:
    status, body, headers = ask("/health", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        status, _, headers = ask("/health", method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert ask.status("/health?verbose=1") == 200
    assert ask.status("/health/") == 404, "another path"


# The browser client


@pytest.mark.parametrize(("name", "kind"), [("realtime.js", "text/javascript"), ("realtime.d.ts", "text/plain")])
def test_the_browser_client_is_served_and_asked_for_again_after_each_deploy(ask: Asker, name: str, kind: str) -> None:
    status, body, headers = ask(f"/{name}")
    assert (status, body) == (200, (CLIENT / name).read_bytes())
    assert headers["Content-Type"] == f"{kind}; charset=utf-8"
    assert headers["Cache-Control"] == "no-cache"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Access-Control-Allow-Origin"] == "*", "a page of another origin may have it as well"
    assert headers["Last-Modified"].endswith(" GMT")
    assert headers["ETag"].startswith('"')
    assert ask(f"/{name}", If_None_Match=headers["ETag"])[:2] == (304, b"")


def test_the_address_of_the_websocket_says_so_to_who_asks_without_an_upgrade(ask: Asker) -> None:
    status, body, headers = ask("/connection/websocket")
    assert (status, headers["Upgrade"], headers["Connection"]) == (426, "websocket", "upgrade")
    assert b"WebSocket" in body
    assert ask.status("/health") == 200, "the connection goes on"


# Static files


@pytest.mark.parametrize("name", TYPES)
def test_a_file_has_the_type_of_its_name(ask: Asker, name: str) -> None:
    status, body, headers = ask(f"/files/{name}")
    assert (status, body) == (200, name.encode())
    assert headers["Content-Type"] == TYPES[name]
    assert headers["Content-Length"] == str(len(name))
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers.get("Content-Encoding") is None


def test_a_big_and_an_empty_file_arrive_whole(ask: Asker) -> None:
    assert ask("/files/big")[:2] == (200, bytes(range(256)) * 8192)
    assert ask("/files/nothing")[:2] == (200, b"")


def test_a_name_may_be_encoded(ask: Asker) -> None:
    assert ask("/files/caf%C3%A9%20und%20kuchen.txt")[:2] == (200, b"sweet")
    assert ask("/files/%6eotes.txt?and=a")[:2] == (200, b"notes.txt")
    assert ask("/files/notes.txt?and=a#fragment")[0] == 400, "no target has one (RFC 9112, section 3.2)"
    assert ask("/files/%252e%252e")[:2] == (200, b"a strange name")
    assert ask("/files/sub%2Findex.html")[:2] == (200, b"<p>the index</p>")


def test_a_directory_is_its_index(ask: Asker) -> None:
    for path in ("/files/sub", "/files/sub/", "/files/sub/index.html"):
        status, body, headers = ask(path)
        assert (status, body, headers["Content-Type"]) == (200, b"<p>the index</p>", "text/html; charset=utf-8")
    assert ask("/")[:2] == (200, b"<h1>the site</h1>")
    assert ask.status("/files") == ask.status("/files/locked") == 404, "no index, and no list"


def test_what_is_built_in_comes_before_a_file_of_the_same_name(ask: Asker) -> None:
    assert ask("/realtime.js")[1] == (CLIENT / "realtime.js").read_bytes()


def test_links_are_followed_within_the_directory_only(ask: Asker) -> None:
    assert ask("/files/in")[:2] == (200, b"notes.txt")
    assert ask("/files/in-directory/index.html")[:2] == (200, b"<p>the index</p>")
    outside = (
        "out",
        "out-relative",
        "out-directory/secret.txt",
        "out-directory",
        "dangling",
        "loop",
        "loop/x",
        "empty",
    )
    for name in outside:
        assert ask(f"/files/{name}")[:2] == (404, b"There is nothing here.\n"), name


def test_what_is_no_file_is_not_there(ask: Asker) -> None:
    for name in ("pipe", "notes.txt/below", "x" * 300, "x/" * 3000):
        assert ask.status(f"/files/{name}") == 404, name


@pytest.mark.parametrize(
    "path",
    [
        "/files/../secret.txt",
        "/files/sub/../../secret.txt",
        "/files/./../secret.txt",
        "/files//../secret.txt",
        "/files/%2e%2e/secret.txt",
        "/files/%2E%2E/secret.txt",
        "/files/.%2e/secret.txt",
        "/files/..%2fsecret.txt",
        "/files/..%2Fsecret.txt",
        "/files/%2e%2e%2fsecret.txt",
        "/files/%252e%252e/secret.txt",
        "/files/..%5csecret.txt",
        "/files/..\\secret.txt",
        "/files/..;/secret.txt",
        "/files/..%00/secret.txt",
        "/files/../public-not/secret.txt",
        "/files/../public/../secret.txt",
        "/files-not/secret.txt",
        "/../secret.txt",
        "/..%2fsecret.txt",
        "/..//secret.txt",
        "/site/../secret.txt",
        "/files/%c0%ae%c0%ae/secret.txt",
        "/files/%u002e%u002e/secret.txt",
        "/files/~root/.profile",
        "/realtime.js/../../secret.txt",
    ],
)
def test_no_path_leads_out_of_the_directory(ask: Asker, path: str) -> None:
    status, body, _ = ask(path)
    assert status in (400, 404)
    assert SECRET not in body


def test_no_absolute_path_leads_out_of_the_directory(ask: Asker, server: RunningServer) -> None:
    secret = Path(server.argv[4]).parent / "secret.txt"
    assert secret.read_bytes() == SECRET
    encoded = str(secret).replace("/", "%2f")
    for path in (f"/files/{secret}", f"/files/{encoded}", f"//{secret}", f"/{encoded}", f"/files//{secret}"):
        assert ask.status(path) in (400, 404), path


@pytest.mark.parametrize(
    "path", ["/files/notes.txt%00", "/files/notes.txt%00.html", "/files/%00", "/%00", "/files/%ff"]
)
def test_a_name_that_no_file_can_have_is_not_there(ask: Asker, path: str) -> None:
    assert ask.status(path) == 404


def test_head_says_what_get_would_send(ask: Asker) -> None:
    got, asked = ask("/files/big"), ask("/files/big", "HEAD")
    assert asked[:2] == (200, b"")
    for name in ("Content-Length", "Content-Type", "ETag", "Last-Modified"):
        assert asked[2][name] == got[2][name]
    assert ask("/files/absent", "HEAD")[:2] == (404, b"")


def test_a_file_is_sent_again_only_when_it_has_changed(ask: Asker, server: RunningServer) -> None:
    path = Path(server.argv[4]).parent / "public" / "changing.txt"
    path.write_text("old")
    etag = ask("/files/changing.txt")[2]["ETag"]
    for said in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        status, body, headers = ask("/files/changing.txt", If_None_Match=said)
        assert (status, body, headers["ETag"]) == (304, b"", etag), said
    assert ask("/files/changing.txt", If_None_Match='"other"')[:2] == (200, b"old")
    path.write_text("new and longer")
    status, body, headers = ask("/files/changing.txt", If_None_Match=etag)
    assert (status, body) == (200, b"new and longer")
    assert headers["ETag"] != etag


def test_a_range_that_is_asked_for_is_all_that_is_sent(ask: Asker) -> None:
    status, body, headers = ask("/files/notes.txt", Range="bytes=1-3")
    assert (status, body, headers["Content-Range"]) == (206, b"ote", "bytes 1-3/9")
    etag = headers["ETag"]
    assert ask("/files/notes.txt", Range="bytes=-3", If_Range=etag)[:2] == (206, b"txt")
    assert ask("/files/notes.txt", Range="bytes=-3", If_Range='"of another version"')[:2] == (200, b"notes.txt")
    assert ask("/files/notes.txt", Range="bytes=9-")[0] == 416


def test_text_is_compressed_for_a_client_that_takes_gzip(ask: Asker) -> None:
    status, body, headers = ask("/realtime.js", Accept_Encoding="gzip")
    assert (status, headers["Content-Encoding"], headers["Vary"]) == (200, "gzip", "Accept-Encoding")
    assert gzip.decompress(body) == (CLIENT / "realtime.js").read_bytes()
    plain = ask("/realtime.js", Accept_Encoding="gzip", Range="bytes=0-3")
    assert plain[:2] == (206, b"/**\n"), "a range is of the file as it is"
    assert ask("/files/big", Accept_Encoding="gzip")[2].get("Content-Encoding") is None, "it is no text"


def test_a_file_is_not_sent_again_to_a_client_that_has_it_since(ask: Asker) -> None:
    since = ask("/files/notes.txt")[2]["Last-Modified"]
    assert ask("/files/notes.txt", If_Modified_Since=since)[:2] == (304, b"")
    assert ask("/files/notes.txt", If_Modified_Since="Mon, 01 Jan 1990 00:00:00 GMT")[:2] == (200, b"notes.txt")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_a_file_can_only_be_read(ask: Asker, method: str) -> None:
    etag = ask("/files/notes.txt")[2]["ETag"]
    for said in ("", etag):
        status, _, headers = ask("/files/notes.txt", method, If_None_Match=said)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert ask.status("/files/absent", method) == 404


# What is not there


def test_an_unknown_path_is_a_404_and_the_connection_goes_on(ask: Asker) -> None:
    for path in ("/unknown", "/unknown/deep?q", "/connection", "/connection/websocket/", "/healthy", "*"):
        status, _, headers = ask(path)
        assert status == 404, path
        assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert ask.status("/health") == 200


def test_without_an_application_a_page_says_that_it_serves(ask_stock: Asker) -> None:
    status, body, headers = ask_stock("/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"It serves." in body
    assert ask_stock.status("/", "POST") == 405
    assert ask_stock.status("/index.html") == 404


# What an application declares


def test_a_static_directory_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no directory"):
        Application().static("/", tmp_path / "absent")


def test_a_path_that_does_not_begin_with_a_slash_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'files' does not begin with a slash"):
        Application().static("files", tmp_path)
