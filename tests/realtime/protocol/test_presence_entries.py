"""An answer to `presence` that is made once for all, with what one client is told beside it, is the answer itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.broker.base import ClientInfo, ConnectionId
from realtime.protocol.centrifuge import json, protobuf
from realtime.protocol.shapes import PresenceResult, info_of

INFOS = st.sampled_from([None, b"{}", b'{"a":"\xc3\xb6,}"}', b'","'])
MEMBERS = st.dictionaries(st.text(max_size=5), st.tuples(st.text(max_size=5), INFOS, INFOS), max_size=5)


@pytest.mark.parametrize("codec", [json, protobuf])
@given(members=MEMBERS, cut=st.integers(0, 5), id=st.integers(1, 2**32 - 1))
def test_parts_make_the_whole_answer(codec: Any, members: dict[str, Any], cut: int, id: int) -> None:
    infos = {ConnectionId(client): ClientInfo(each[0], client, each[1], each[2]) for client, each in members.items()}
    whole = codec.reply(id, "presence", PresenceResult({client: info_of(info) for client, info in infos.items()}))
    some, others = dict(list(infos.items())[:cut]), dict(list(infos.items())[cut:])
    parts = [codec.presence_entries(some), codec.presence_entries(others)]
    assert codec.presence_reply(id, parts) == whole
