"""
No input of a client ends a worker, or harms another client.

Thousands of connections say what no client says: random bytes, commands that were changed here and there, frames cut
and glued, in both encodings, over WebSocket, streams, events and `/emulation`. Then it is the same process that
serves, and who was there before notices nothing. What is drawn is the same in each run.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections.abc import Iterator
from urllib.parse import quote_from_bytes

import pytest

from tests.sdk.conftest import APP
from tests.support.aio import run_async_for
from tests.support.client import ProtocolClient
from tests.support.server import RunningServer
from tests.support.streams import Stream

SEED = 20261125
TIMES = 800

HEAD = (
    b"GET /connection/websocket%b HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
COMMANDS = [
    {"id": 1, "connect": {"name": "x", "subs": {"a": {"recover": True, "epoch": "e", "offset": 1}}}},
    {"id": 2, "subscribe": {"channel": "open:a", "recover": True, "epoch": "e", "offset": 7, "delta": "fossil"}},
    {"id": 3, "publish": {"channel": "open:a", "data": {"text": "hello", "deep": [[[[1]]]]}}},
    {"id": 4, "history": {"channel": "open:a", "limit": -1, "since": {"offset": 1, "epoch": "e"}, "reverse": True}},
    {"id": 5, "presence": {"channel": "open:a"}},
    {"id": 6, "rpc": {"method": "echo", "data": 1}},
    {"id": 7, "refresh": {"token": "a.b.c"}},
    {"id": 8, "sub_refresh": {"channel": "open:a", "token": "a.b.c"}},
    {"send": {"data": 1}},
    {"id": 9, "unsubscribe": {"channel": "open:a"}},
    {},
]
# connect and subscribe of the protocol's own vectors, each with its length before it
PROTOBUF = [bytes.fromhex("0408012200"), bytes.fromhex("0a08022a060a046e657773"), b"\x00"]
PIECES = [b"\0", b'"', b"{", b"]" * 9, b"\n", b"[" * 2000, b"\xff\xfe", b"9" * 400, b"-1"]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(APP, "--anonymous", workers=1) as running:
        running.wait_until_full()
        yield running


def spoil(draw: random.Random, data: bytes) -> bytes:
    """Change bytes, cut, repeat, or insert what means something elsewhere."""
    spoiled = bytearray(data)
    for _ in range(draw.randint(0, 4)):
        at = draw.randrange(len(spoiled) + 1)
        kind = draw.randrange(5)
        if kind == 0 and at < len(spoiled):
            spoiled[at] = draw.randrange(256)
        elif kind == 1:
            del spoiled[at : at + draw.randint(1, 9)]
        elif kind == 2:
            spoiled[at:at] = spoiled[: draw.randint(1, 20)]
        elif kind == 3:
            spoiled[at:at] = draw.choice(
                [b"\0", b'"', b"{", b"]" * 9, b"\n", b"[" * 2000, b"\xff\xfe", b"9" * 400, b"-1"]
            )
        else:
            spoiled[at:at] = draw.randbytes(draw.randint(1, 40))
    return bytes(spoiled)


def message(draw: random.Random, *, binary: bool) -> bytes:
    if draw.random() < 0.1:
        return draw.randbytes(draw.randint(0, 200))
    if binary:
        return spoil(draw, b"".join(draw.choices(PROTOBUF, k=draw.randint(1, 4))))
    begin = [COMMANDS[0]] if draw.random() < 0.8 else []
    said = [json.dumps(each).encode() for each in begin + draw.choices(COMMANDS, k=draw.randint(1, 5))]
    return spoil(draw, draw.choice([b"\n", b"\n", b"", b"\n\n"]).join(said))


def frame(draw: random.Random, payload: bytes, *, binary: bool) -> bytes:
    """Mask a message; now and then with a head that is none."""
    first = 0x82 if binary else 0x81
    if draw.random() < 0.15:
        first = draw.randrange(256)
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size)
    mask = draw.randbytes(4)
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    whole = bytes([first]) + length + mask + masked
    return spoil(draw, whole) if draw.random() < 0.15 else whole


def throw(server: RunningServer, data: bytes, rest: bytes = b"") -> None:
    """Send, say that nothing follows, and take what comes until the end."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as sock:
        try:
            sock.sendall(data)
            if rest:
                sock.sendall(rest)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
        except ConnectionError:
            pass


def post(path: bytes, body: bytes, kind: bytes) -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Type: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % (path, kind, len(body)) + body


@run_async_for(120)
async def test_whatever_clients_send_the_worker_goes_on(server: RunningServer) -> None:
    draw = random.Random(SEED)
    before = server.children()
    witness = await ProtocolClient.join(server.websocket_url, "127.0.80.1")

    def throw_everything() -> None:
        for number in range(TIMES):
            binary = number % 2 == 1
            messages = [frame(draw, message(draw, binary=binary), binary=binary) for _ in range(draw.randint(1, 4))]
            throw(server, HEAD % (b"?format=protobuf" if binary else b""), b"".join(messages))
            kind = b"application/octet-stream" if binary else b"application/json"
            throw(server, post(b"/connection/http_stream", message(draw, binary=binary), kind))
            said = message(draw, binary=binary)
            emulated = json.dumps({"session": "s", "node": "n", "data": said.decode("latin-1")}).encode()
            throw(server, post(b"/emulation", spoil(draw, said if binary else emulated), kind))
            query = quote_from_bytes(message(draw, binary=False)[:4000]).encode()
            throw(server, b"GET /connection/sse?cf_connect=%b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % query)

    await asyncio.to_thread(throw_everything)  # meanwhile the witness answers pings: on a busy machine this takes long
    assert server.children() == before, "nobody was replaced"
    await witness.ask("subscribe", channel="open:still here")
    await witness.ask("publish", channel="open:still here", data=1)
    assert (await witness.push("pub"))["pub"]["data"] == 1
    assert not server.log.find_all("Traceback"), "and no bug was found"
    await witness.close()


@run_async_for(120)
async def test_whatever_is_sent_beside_a_stream_ends_that_stream_at_most() -> None:
    """To sessions that there are: by the worker that has them, and by letter from another one."""
    draw = random.Random(SEED)
    with RunningServer(APP, "--anonymous", "--sticky", "none", "--balance", "round-robin", workers=2) as server:
        server.wait_until_full()
        before = server.children()
        witness = await ProtocolClient.join(server.websocket_url, "127.0.80.2")
        ended = answered = 0
        for _ in range(40):
            with Stream(server, "/connection/http_stream", {"id": 1, "connect": {}}) as stream:
                for _ in range(8):
                    said = message(draw, binary=False)[:20_000].decode("latin-1")
                    body = json.dumps({"session": stream.session, "node": stream.node, "data": said}).encode()
                    throw(server, post(b"/emulation", body, b"application/json"))
                stream.say({"id": 4_000_000_000, "rpc": {"method": "echo", "data": 1}})
                for line in stream.response:
                    ended += b'"disconnect"' in line
                    answered += b'"id":4000000000' in line
                    if b'"disconnect"' in line or b'"id":4000000000' in line:
                        break
        assert ended + answered == 40, "each stream was answered, or told of its end"
        assert ended
        assert server.children() == before, "nobody was replaced"
        assert (await witness.ask("rpc", method="echo", data=1))["data"] == 1
        assert not server.log.find_all("Traceback")
        await witness.close()
