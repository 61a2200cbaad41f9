"""
Secrets that are replaced while a server is deployed again: no client gets another slot, and no token is refused.

Real processes. Each step of the procedure in docs/deploying/rolling.md is a server of its own, as after a deploy.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from realtime.auth.tokens import sign
from tests.process.test_app_ids import APP as IDS_APP
from tests.process.test_app_ids import make
from tests.process.test_app_ids import once as ids_once
from tests.support.client import ProtocolClient
from tests.support.http import WHOSE, Client
from tests.support.server import RunningServer

OLD, NEW = "the secret so far, of enough bytes", "the secret that replaces it, of enough"
WORKERS = 4

BEFORE = {"REALTIME_SECRET": OLD}
DURING = {"REALTIME_SECRET": NEW, "REALTIME_SECRET_PREVIOUS": OLD}
AFTER = {"REALTIME_SECRET": NEW}

TOKENS_DURING = {"REALTIME_TOKEN_HMAC_SECRET": NEW, "REALTIME_TOKEN_HMAC_SECRET_PREVIOUS": OLD}
TOKENS_AFTER = {"REALTIME_TOKEN_HMAC_SECRET": NEW}


@contextmanager
def deployed(env: dict[str, str], *options: str, target: str | Path = WHOSE) -> Iterator[RunningServer]:
    """Run the server as one step of the procedure has it. It never shows a secret."""
    with RunningServer(target, *options, workers=WORKERS, env=env) as server:
        server.wait_until_full()
        yield server
        shown = "\n".join(server.log.lines) + json.dumps(server.status())
    for secret in (OLD, NEW):
        assert secret not in shown


def first_visit(server: RunningServer) -> tuple[str, int]:
    """Visit without a sticky id; return the cookie that is set, and the slot."""
    with Client(server.port) as client:
        found = client.get()
    cookie = re.match(r"rt_session=([^;]+)", found["headers"]["set-cookie"])
    assert cookie is not None
    return cookie[1], found["slot"]


def slot_of(server: RunningServer, sticky_id: str | None = None, address: str = "127.0.0.1") -> int:
    with Client(server.port, address) as client:
        found = client.get(sticky_id)
    assert sticky_id is None or "set-cookie" not in found["headers"], "an id that leads somewhere is kept"
    slot: int = found["slot"]
    return slot


def test_a_sticky_id_of_the_previous_secret_leads_to_the_same_slot_until_that_is_removed() -> None:
    sticky = ("--sticky", "session", "--balance", "round-robin")
    own = [f"an-id-of-the-application-{number}" for number in range(24)]
    with deployed(BEFORE, *sticky) as server:
        visits = dict(first_visit(server) for _ in range(2 * WORKERS))
        hashed = {each: slot_of(server, each) for each in own}
    assert set(visits.values()) == set(range(WORKERS))
    with deployed(DURING, *sticky) as server:
        assert {each: slot_of(server, each) for each in visits} == visits
        assert {each: slot_of(server, each) for each in own} == hashed
        newer = dict(first_visit(server) for _ in range(2 * WORKERS))
    with deployed(AFTER, *sticky) as server:
        assert {each: slot_of(server, each) for each in newer} == newer
        assert {each: slot_of(server, each) for each in own} != hashed, "the keys hash under the new secret now"
        assert {each: slot_of(server, each) for each in visits} != visits, "and these ids are texts like any other"


def test_an_id_that_the_application_made_under_the_previous_secret_is_read_by_the_worker(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(IDS_APP)
    options = ("--sticky", "session", "--session-header", "X-App-Id", "--balance", "round-robin")
    with deployed(BEFORE, *options, target=app) as server:
        made, slot = {}, {}
        for number in range(2 * WORKERS):
            found = ids_once(server, query=make(f"an-id-{number}"))
            [made[number]] = found["ids"]
            slot[number] = found["slot"]
    assert set(slot.values()) == set(range(WORKERS))
    with deployed(DURING, *options, target=app) as server:
        for number, tagged in made.items():
            found = ids_once(server, f"X-App-Id: {tagged}")
            assert (found["seen"], found["slot"]) == ([f"an-id-{number}"], slot[number]), "without its tag"
        [newer] = ids_once(server, query=make("a-newer-id"))["ids"]
    with deployed(AFTER, *options, target=app) as server:
        assert ids_once(server, f"X-App-Id: {newer}")["seen"] == ["a-newer-id"]
        assert ids_once(server, f"X-App-Id: {made[0]}")["seen"] == [made[0]], "a text like any other"


def test_an_address_keeps_its_slot_until_the_previous_secret_is_removed() -> None:
    addresses = [f"127.0.9.{number}" for number in range(1, 25)]
    with deployed(BEFORE) as server:
        before = [slot_of(server, address=each) for each in addresses]
    with deployed(DURING) as server:
        assert [slot_of(server, address=each) for each in addresses] == before
    with deployed(AFTER) as server:
        assert [slot_of(server, address=each) for each in addresses] != before


def test_a_token_of_the_previous_secret_connects_until_that_is_removed() -> None:
    old, new = sign({"sub": "ada"}, OLD), sign({"sub": "ada"}, NEW)

    async def closed_with(server: RunningServer, token: str) -> tuple[int, str] | None:
        client = await ProtocolClient.open(server.websocket_url)
        try:
            await client.ask("connect", token=token)
        except ConnectionResetError:
            return client.closed
        finally:
            await client.close()
        return None

    with deployed(TOKENS_DURING) as server:
        assert asyncio.run(closed_with(server, old)) is None
        assert asyncio.run(closed_with(server, new)) is None
    with deployed(TOKENS_AFTER) as server:
        assert asyncio.run(closed_with(server, new)) is None
        assert asyncio.run(closed_with(server, old)) == (3500, "invalid token")


def test_a_previous_secret_comes_from_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "previous"
    path.write_text(f"{OLD}\n")
    env = {"REALTIME_TOKEN_HMAC_SECRET": NEW, "REALTIME_TOKEN_HMAC_SECRET_PREVIOUS_FILE": str(path)}

    async def connected(server: RunningServer) -> None:
        client = await ProtocolClient.join(server.websocket_url, token=sign({"sub": "ada"}, OLD))
        await client.close()

    with deployed(env) as server:
        asyncio.run(connected(server))
