"""What `realtime` exports: all that an application meets, each with words of its own."""

from __future__ import annotations

import inspect

import pytest

import realtime
from realtime import CloseCode, codes

MET = """
    AnswerError AnswersMissing App BrokerUnavailable ClientError ClientInfo CloseCode Connection ConnectionEnded
    ConnectionMoved DeclarationError Disconnect FoundConnection MemberCounts MembersPage NoAcknowledgements NotKept
    Page Position Publication RealtimeError Reject ReservedEvent RoomError RoomHandle RoomIsDeclared Target
    UnknownNamespace UnknownRoom UserHandle
"""


def test_all_that_an_application_meets_is_exported() -> None:
    assert set(realtime.__all__) - {"__version__"} == set(MET.split())


@pytest.mark.parametrize("name", MET.split())
def test_each_is_documented(name: str) -> None:
    found = getattr(realtime, name)
    assert found.__name__ == name
    assert len(inspect.getdoc(found) or "") > 20


def test_there_is_nothing_else() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Ap'"):
        realtime.Ap  # noqa: B018


def test_the_close_codes_are_those_of_the_wire_protocol() -> None:
    on_the_wire = {each.code: each for each in vars(codes).values() if isinstance(each, codes.DisconnectCode)}
    assert set(CloseCode) == set(on_the_wire)
    assert {code: code.reconnects for code in CloseCode} == {
        code: each.reconnects for code, each in on_the_wire.items()
    }
