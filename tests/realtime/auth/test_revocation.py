"""
Revoked tokens: which ones are, for how long, and that every worker knows it, whatever message it missed.

The list by itself; a worker that reads a broker whose messages a test may lose; and clients of one worker. Several
machines are in tests/process/test_api.py.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from realtime import App
from realtime.auth.revocation import MOST, Revocation, Revoked
from realtime.auth.tokens import sign
from realtime.broker.base import WorkerId
from realtime.cluster.bus import REVOCATIONS, REVOCATIONS_KEPT, ClusterBus
from realtime.cluster.mailbox import Mailbox
from realtime.cluster.revocation_sync import RevocationSync
from realtime.errors import BrokerUnavailable
from realtime.session.registry import Home
from tests.support.aio import run_async
from tests.support.client import Refused
from tests.support.lagging_broker import LaggingBroker
from tests.support.one_worker import SECRET, OneWorker

NOW_S = 1_800_000_000.0
LATER_S = NOW_S + 3600


def revoked(*revocations: Revocation) -> Revoked:
    found = Revoked()
    for each in revocations:
        found.add(each, NOW_S)
    return found


# The list


@pytest.mark.parametrize(
    ("claims", "is_covered"),
    [
        ({"jti": "t1"}, True),
        ({"jti": "t1", "sub": "ben", "iat": NOW_S + 60}, True),
        ({"jti": "t2"}, False),
        ({"jti": 1}, False),
        ({"jti": ["t1"]}, False),
        ({"sub": "ana", "iat": NOW_S - 1}, True),
        ({"sub": "ana", "iat": NOW_S}, False),
        ({"sub": "ana", "iat": NOW_S + 60.5}, False),
        ({"sub": "ana"}, True),
        ({"sub": "ana", "iat": None}, True),
        ({"sub": "ana", "iat": True}, True),
        ({"sub": "ana", "iat": "later"}, True),
        ({"sub": "ana", "iat": float("nan")}, True),
        ({"sub": "ben", "iat": 0}, False),
        ({}, False),
    ],
    ids=str,
)
def test_a_token_is_revoked_by_its_id_or_with_its_user_by_when_it_was_issued(
    claims: dict[str, Any], is_covered: bool
) -> None:
    found = revoked(Revocation(LATER_S, token="t1"), Revocation(LATER_S, user="ana", before_s=NOW_S))
    assert found.covers(claims, NOW_S) is is_covered


def test_of_two_revocations_the_stricter_counts_whichever_came_first() -> None:
    one, other = Revocation(LATER_S, user="ana", before_s=NOW_S), Revocation(NOW_S + 9, user="ana", before_s=NOW_S - 60)
    for found in (revoked(one, other), revoked(other, one), revoked(one, one)):
        assert len(found) == 1
        assert found.covers({"sub": "ana", "iat": NOW_S - 1}, NOW_S + 10)
        assert not found.covers({"sub": "ana", "iat": NOW_S}, NOW_S)


def test_what_has_ended_is_forgotten() -> None:
    found = revoked(Revocation(NOW_S, token="over"), Revocation(LATER_S, token="t"), Revocation(LATER_S, user="u"))
    assert len(found) == 2
    assert found.covers({"jti": "t"}, LATER_S - 1)
    assert not found.covers({"jti": "t"}, LATER_S)
    assert not found.covers({"sub": "u"}, LATER_S)


def test_the_list_has_an_end_and_says_when_it_is_reached(caplog: pytest.LogCaptureFixture) -> None:
    found = revoked(*[Revocation(NOW_S + 1, token=f"brief {n}") for n in range(5)])
    for number in range(MOST):
        found.add(Revocation(LATER_S, token=f"t{number}"), NOW_S + 2)
    assert len(found) == MOST
    assert caplog.text == ""
    found.add(Revocation(LATER_S, token="one more"), NOW_S + 2)
    assert len(found) == MOST
    assert not found.covers({"jti": "t0"}, NOW_S)
    assert found.covers({"jti": "t1"}, NOW_S)
    assert "the oldest is forgotten" in caplog.text


# Clients


def kinds() -> App:
    app = App()
    app.room("$private:{name}", open=True)
    return app


def token(**claims: Any) -> str:
    return sign({"sub": "ana", "exp": time.time() + 3600, **claims}, SECRET)


@run_async
async def test_a_connection_with_a_revoked_token_must_bring_another() -> None:
    app = kinds()
    async with OneWorker(app) as worker:
        old = token(iat=time.time() - 60)
        client = await worker.join(token=old)
        named = await worker.join(token=token(iat=time.time() + 60, jti="t1"))
        ben = await worker.join(token=token(sub="ben", iat=1))
        anonymous = await worker.join()
        await app.user("ana").revoke_tokens()
        assert await client.wait_closed() == (3005, "connection expired")
        with pytest.raises(Refused) as refused:
            await worker.join(token=old)
        assert (refused.value.code, refused.value.message) == (109, "token expired"), "so that an SDK fetches another"
        await worker.join(token=token(iat=time.time() + 1))
        await worker.bus.revoke(token="t1")
        assert await named.wait_closed() == (3005, "connection expired")
        for other in (ben, anonymous):
            assert await other.ask("unsubscribe", channel="x") == {}


@run_async
async def test_a_revoked_token_refreshes_nothing_and_opens_no_room() -> None:
    async with OneWorker(kinds()) as worker:
        await worker.bus.revoke(token="t1")
        client = await worker.join(token=token())
        room = {"channel": "$private:a", "token": token(channel="$private:a", jti="t1")}
        with pytest.raises(Refused) as refused:
            await client.ask("subscribe", **room)
        assert refused.value.code == 109
        await client.ask("subscribe", channel="$private:a", token=token(channel="$private:a"))
        with pytest.raises(Refused) as refused:
            await client.ask("sub_refresh", **room)
        assert refused.value.code == 109
        with pytest.raises(ConnectionResetError):
            await client.ask("refresh", token=token(jti="t1"))
        assert await client.wait_closed() == (3005, "connection expired")


# Every worker


def another_bus(worker: OneWorker, revoked: Revoked) -> ClusterBus:
    """Return the bus of a worker that knows of nothing yet."""
    mailbox = Mailbox(worker.broker, worker.hub.private, WorkerId("another"))
    return ClusterBus(
        Home(), worker.broker, mailbox, worker.hub.registry, worker.hub.delivery, worker.registry, revoked
    )


@run_async
async def test_a_worker_that_starts_and_one_that_missed_the_message_know_it_too() -> None:
    broker = LaggingBroker()
    async with OneWorker(kinds(), broker=broker) as worker:
        client = await worker.join(token=token(jti="t1"))
        looking = RevocationSync(worker.broker, worker.bus, worker.tokens.revoked)
        await looking.read()
        said = msgspec.msgpack.encode(Revocation(time.time() + 60, token="t1"))
        await broker.publish_unheard(REVOCATIONS, said, retention=REVOCATIONS_KEPT)
        assert client.closed is None
        await looking.read()
        assert await client.wait_closed() == (3005, "connection expired")
        late = Revoked()
        await RevocationSync(worker.broker, another_bus(worker, late), late).read()
        assert late.covers({"jti": "t1"}, time.time())


@run_async
async def test_a_broker_that_begins_anew_gets_the_revocations() -> None:
    broker = LaggingBroker()
    async with OneWorker(kinds(), broker=broker) as worker:
        looking = RevocationSync(worker.broker, worker.bus, worker.tokens.revoked)
        await worker.bus.revoke(token="t1")
        await worker.bus.revoke(user="ana")
        await looking.read()
        broker.lose_stream(REVOCATIONS)
        await looking.read()
        for _ in range(2):
            page = await worker.broker.history(REVOCATIONS, retention=REVOCATIONS_KEPT, limit=10, create=True)
            assert len(page.publications) == 2, "each once"
            await looking.read()


@run_async
async def test_an_entry_that_cannot_be_read_hides_no_other() -> None:
    broker = LaggingBroker()
    async with OneWorker(kinds(), broker=broker) as worker:
        for said in (b"\xc1", msgspec.msgpack.encode({"a": "later version"})):
            await broker.publish_unheard(REVOCATIONS, said, retention=REVOCATIONS_KEPT)
        await worker.bus.revoke(token="t1")
        late = Revoked()
        await RevocationSync(worker.broker, another_bus(worker, late), late).read()
        assert late.covers({"jti": "t1"}, time.time())


@run_async
async def test_while_the_broker_is_away_revocations_are_reported_as_uncertain() -> None:
    broker = LaggingBroker()
    async with OneWorker(kinds(), broker=broker) as worker:
        broker.lose_link()
        with pytest.raises(BrokerUnavailable):
            await worker.bus.revoke(token="t1")
