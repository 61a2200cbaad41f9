"""The header in which an application sends ids of its own, in requests and answers, without a socket."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from realtime.transport.app_ids import AppIds
from sticky.keys.affinity import Affinity, AffinitySettings, Sticky
from sticky.keys.hashing import Hashing, Slot
from sticky.worker.routes import Routes

HASHING = Hashing(b"a secret of some length")
SETTINGS = AffinitySettings(sticky=Sticky.SESSION, session_header="X-Id")
HEADER = b"x-id"


def ids_of(slot: int) -> AppIds:
    routes = Routes(Affinity(SETTINGS, HASHING), HASHING, Slot(slot))
    assert routes.header == HEADER
    return AppIds(HEADER, routes)


def exchange(ids: AppIds, request: list[tuple[bytes, bytes]], answer: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Return the headers that the application sees, and those that the client gets for its answer."""
    scope: dict[str, Any] = {"type": "http", "headers": request}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(ids.translate(scope, send)(answer))  # type: ignore[arg-type]
    [message] = sent
    return scope["headers"], list(message.get("headers", []))


values = st.binary(min_size=1).map(lambda value: value.strip()).filter(bool)


@given(values, st.booleans())
def test_an_id_goes_out_with_a_tag_and_comes_back_without(app_id: bytes, has_spaces: bool) -> None:
    value = b" " + app_id + b"\t" if has_spaces else app_id
    answer = {"type": "http.response.start", "headers": [[b"X-Id", value], (b"y", app_id)]}
    _, [(name, tagged), other] = exchange(ids_of(3), [], answer)
    assert (name, other) == (b"X-Id", (b"y", app_id))
    assert HASHING.untag(tagged) == (app_id, 3)
    seen, repeated = exchange(ids_of(1), [(HEADER, tagged), (b"y", tagged)], answer)
    assert seen == [(HEADER, app_id), (b"y", tagged)]
    assert repeated[0] == (b"X-Id", tagged), "the client gets what it sent"


def test_only_the_beginnings_of_answers_have_headers_that_count() -> None:
    body = {"type": "http.response.body", "body": b"x-id: a", "headers": [(HEADER, b"a")]}
    assert exchange(ids_of(0), [], body)[1] == body["headers"]
    assert exchange(ids_of(0), [], {"type": "websocket.accept"})[1] == []


def test_a_session_that_is_no_id_of_the_header_is_shown_as_it_is() -> None:
    ids = ids_of(0)
    tagged = HASHING.tag(b"a", Slot(2)).decode()
    assert [ids.plain(each) for each in (None, "own", "документ", tagged)] == [None, "own", "документ", "a"]
