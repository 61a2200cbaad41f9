"""
Handshakes of Engine.IO, and requests that are refused: by polling and for a WebSocket, with CORS.

The sentences are those of the Engine.IO protocol 4, "Handshake". Codes and texts are the reference server's.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from realtime.protocol.socketio.endpoints import EngineRefusal
from tests.support.aio import run_async
from tests.support.engine_server import PATH, EngineServer, ends
from tests.support.one_worker import until

HANDSHAKE = "EIO=4&transport=polling"


@run_async
async def test_a_handshake_by_polling_is_answered_with_exactly_five_keys() -> None:
    async with EngineServer(ping_s=0.3, pong_s=0.2) as server:
        answer = await server.request("GET", HANDSHAKE)
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.text[0] == "0"
        about = json.loads(answer.text[1:])
        assert list(about) == ["sid", "upgrades", "pingInterval", "pingTimeout", "maxPayload"]
        assert len(about.pop("sid")) == 20
        assert about == {"upgrades": ["websocket"], "pingInterval": 300, "pingTimeout": 200, "maxPayload": 1_000_000}


@run_async
async def test_a_handshake_over_a_websocket_is_its_first_frame_and_offers_no_upgrade() -> None:
    async with EngineServer() as server:
        websocket = await server.websocket()
        text = await websocket.recv()
        assert isinstance(text, str)
        assert text[0] == "0"
        about = json.loads(text[1:])
        assert list(about) == ["sid", "upgrades", "pingInterval", "pingTimeout", "maxPayload"]
        assert about["upgrades"] == []


@run_async
async def test_both_spellings_of_the_path_are_served_and_parameters_stand_in_any_order() -> None:
    async with EngineServer() as server:
        for target in (f"?{HANDSHAKE}", "/?transport=polling&t=Ab12.x&EIO=4", f"/?b64=1&{HANDSHAKE}&j=0"):
            answer = await server.request("GET", target, path=PATH)
            assert (answer.status, answer.text[:8]) == (200, '0{"sid":')


@run_async
async def test_an_empty_sid_is_none() -> None:
    async with EngineServer() as server:
        assert (await server.request("GET", f"{HANDSHAKE}&sid=")).status == 200


@run_async
async def test_the_applications_part_of_the_query_is_kept_and_that_of_the_protocol_is_not() -> None:
    async with EngineServer() as server:
        await server.request("GET", f"room=red&{HANDSHAKE}&t=1&x=%2F")
        await server.websocket(query="token=a&EIO=4&transport=websocket")
        polling, websocket = (user.connection.handshake for user in server.users.values())
        assert (polling.query, polling.transport) == ({"room": "red", "x": "/"}, "polling")
        assert polling.address == websocket.address == "127.0.0.1"
        assert (websocket.query, websocket.transport) == ({"token": "a"}, "websocket")


@pytest.mark.parametrize(
    ("method", "query", "refusal"),
    [
        ("GET", "transport=polling", EngineRefusal.UNSUPPORTED_VERSION),
        ("GET", "EIO=abc&transport=polling", EngineRefusal.UNSUPPORTED_VERSION),
        ("GET", "EIO=3&transport=polling", EngineRefusal.UNSUPPORTED_VERSION),
        ("GET", "EIO=5&transport=polling", EngineRefusal.UNSUPPORTED_VERSION),
        ("GET", "EIO=4", EngineRefusal.UNKNOWN_TRANSPORT),
        ("GET", "EIO=4&transport=abc", EngineRefusal.UNKNOWN_TRANSPORT),
        ("GET", "EIO=4&transport=webtransport", EngineRefusal.UNKNOWN_TRANSPORT),
        ("GET", "EIO=3", EngineRefusal.UNKNOWN_TRANSPORT),
        ("GET", "EIO=4&transport=websocket", EngineRefusal.BAD_REQUEST),
        ("POST", HANDSHAKE, EngineRefusal.BAD_METHOD),
        ("PUT", HANDSHAKE, EngineRefusal.BAD_METHOD),
        ("DELETE", HANDSHAKE, EngineRefusal.BAD_METHOD),
        ("OPTIONS", HANDSHAKE, EngineRefusal.BAD_METHOD),
        ("POST", "EIO=3&transport=polling", EngineRefusal.BAD_METHOD),
        ("GET", f"{HANDSHAKE}&sid=AAAAAAAAAAAAAAAAAAAA", EngineRefusal.UNKNOWN_SID),
        ("POST", f"{HANDSHAKE}&sid=AAAAAAAAAAAAAAAAAAAA", EngineRefusal.UNKNOWN_SID),
        ("GET", "EIO=3&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA", EngineRefusal.UNKNOWN_SID),
    ],
)
@run_async
async def test_a_request_is_refused_with_a_code(method: str, query: str, refusal: EngineRefusal) -> None:
    async with EngineServer() as server:
        answer = await server.request(method, query)
        code, message = refusal.value
        assert answer.status == 400
        assert json.loads(answer.body) == {"code": code, "message": message}
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        assert not server.users


@run_async
async def test_head_is_refused_without_a_body() -> None:
    async with EngineServer() as server:
        answer = await server.request("HEAD", HANDSHAKE)
        assert (answer.status, answer.body) == (400, b"")


@pytest.mark.parametrize(
    ("method", "query"),
    [
        ("GET", "EIO=3&transport=polling"),
        ("GET", "transport=polling"),
        ("GET", "EIO=4&transport=websocket"),
        ("PUT", "EIO=4&transport=polling"),
        ("DELETE", "EIO=4&transport=polling"),
        ("OPTIONS", "EIO=4&transport=polling"),
    ],
)
@run_async
async def test_a_request_that_does_not_fit_its_session_is_a_bad_one_and_the_session_lives_on(
    method: str, query: str
) -> None:
    async with EngineServer() as server:
        sid = await server.open()
        assert (await server.request(method, f"{query}&sid={sid}")).refusal == (400, 3)
        assert (await server.post(sid, "4a")).text == "ok"
        assert (await server.poll(sid)).text == "4a"


@run_async
async def test_requests_for_a_session_that_began_on_a_websocket_are_bad_ones() -> None:
    async with EngineServer() as server:
        websocket = await server.websocket()
        await websocket.recv()
        (sid,) = server.users
        assert (await server.poll(sid)).refusal == (400, 3)
        assert (await server.post(sid, "4a")).refusal == (400, 3)
        await websocket.send("4b")
        assert await websocket.recv() == "4b"


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("transport=websocket", "Unsupported protocol version"),
        ("EIO=abc&transport=websocket", "Unsupported protocol version"),
        ("EIO=3&transport=websocket", "Unsupported protocol version"),
        ("EIO=4", "Transport unknown"),
        ("EIO=4&transport=abc", "Transport unknown"),
        ("EIO=4&transport=polling", "Bad request"),
        ("EIO=4&transport=websocket&sid=AAAAAAAAAAAAAAAAAAAA", "Session ID unknown"),
    ],
)
@run_async
async def test_a_websocket_is_refused_before_it_is_one(query: str, text: str) -> None:
    async with EngineServer() as server:
        with pytest.raises(InvalidStatus) as refused:
            await server.websocket(query=query)
        response = refused.value.response
        assert (response.status_code, response.body) == (400, f"{text}\n".encode())
        assert not server.users


@run_async
async def test_a_websocket_with_another_version_than_its_session_is_refused() -> None:
    async with EngineServer() as server:
        sid = await server.open()
        with pytest.raises(InvalidStatus):
            await server.websocket(sid, query="EIO=3&transport=websocket")
        assert (await server.post(sid, "4a")).text == "ok"


@run_async
async def test_a_websocket_gets_no_subprotocol_and_no_compression() -> None:
    async with EngineServer() as server:
        reader, writer = await server.begin(
            "GET",
            "EIO=4&transport=websocket",
            headers={
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
                "Sec-WebSocket-Protocol": "centrifuge-json, chat",
                "Sec-WebSocket-Extensions": "permessage-deflate",
            },
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 101 ")
        assert b"sec-websocket-protocol" not in head
        assert b"sec-websocket-extensions" not in head
        writer.close()


# Origins


def fields(origin: str) -> dict[str, str]:
    return {
        "access-control-allow-origin": origin,
        "access-control-allow-credentials": "true",
        "vary": "Origin",
    }


def cors_of(headers: Any) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("access-control") or name == "vary"}


@pytest.mark.parametrize("allowed", ["http://a.example", "*"])
@run_async
async def test_every_answer_to_an_allowed_page_can_be_read_by_it(allowed: str) -> None:
    async with EngineServer(allowed_origins=(allowed,)) as server:
        page = {"Origin": "http://a.example"}
        begun = await server.request("GET", HANDSHAKE, headers=page)
        sid = json.loads(begun.text[1:])["sid"]
        query = f"{HANDSHAKE}&sid={sid}"
        answers = [
            begun,
            await server.request("POST", query, b"4a", page),
            await server.request("GET", query, headers=page),
            await server.request("GET", "EIO=3&transport=polling", headers=page),
            await server.request("GET", f"{HANDSHAKE}&sid=unknown", headers=page),
            await server.request("POST", query, b"9", page),
            await server.request("POST", f"{HANDSHAKE}&sid={await server.open()}", b"x" * 1_000_001, page),
        ]
        assert [each.status for each in answers] == [200, 200, 200, 400, 400, 400, 413]
        assert [cors_of(each.headers) for each in answers] == [fields("http://a.example")] * len(answers)


@run_async
async def test_a_page_of_the_same_host_is_allowed_and_a_program_gets_no_fields() -> None:
    async with EngineServer() as server:
        page = await server.request("GET", HANDSHAKE, headers={"Origin": "https://localhost"})
        assert (page.status, cors_of(page.headers)) == (200, fields("https://localhost"))
        assert cors_of((await server.request("GET", HANDSHAKE)).headers) == {}


@run_async
async def test_a_foreign_page_is_refused_by_polling_and_by_websocket() -> None:
    async with EngineServer(allowed_origins=("http://a.example",)) as server:
        answer = await server.request("GET", HANDSHAKE, headers={"Origin": "http://b.example"})
        assert answer.status == 403
        assert json.loads(answer.body)["code"] == 4
        assert "access-control-allow-origin" not in answer.headers
        reader, writer = await server.begin(
            "GET",
            "EIO=4&transport=websocket",
            headers={
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
                "Origin": "http://b.example",
            },
        )
        assert (await reader.readline()).split()[1] == b"403"
        writer.close()
        assert not server.users


@run_async
async def test_a_preflight_is_answered_without_a_look_at_the_session() -> None:
    async with EngineServer(allowed_origins=("http://a.example",)) as server:
        asked = {
            "Origin": "http://a.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-token,content-type",
        }
        for query in (HANDSHAKE, f"{HANDSHAKE}&sid=unknown"):
            answer = await server.request("OPTIONS", query, headers=asked)
            assert answer.status == 204
            assert cors_of(answer.headers) == {
                "access-control-allow-origin": "http://a.example",
                "access-control-allow-credentials": "true",
                "access-control-allow-methods": "GET,HEAD,PUT,PATCH,POST,DELETE",
                "access-control-allow-headers": "x-token,content-type",
                "vary": "Origin, Access-Control-Request-Headers",
            }


@run_async
async def test_what_cannot_be_served_leaves_no_connection_behind() -> None:
    """A user that cannot be made is a bug; the connection is forgotten all the same."""

    def fail(connection: Any) -> Any:
        raise LookupError("no user")

    async with EngineServer(users=fail) as server:
        websocket = await server.websocket()
        assert await websocket.recv() != ""
        assert await ends(websocket) == 3004
        reader, writer = await server.begin("GET", HANDSHAKE)
        assert (await reader.readline()).split()[1] == b"500"
        writer.close()
        await until(lambda: not server.socketio.engines.connections)
