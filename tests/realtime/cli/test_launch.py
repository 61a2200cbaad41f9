"""What `realtime serve` says to the primary about paths."""

from __future__ import annotations

import pytest

from realtime.cli.launch import own_paths, query_id_paths
from realtime.protocol.centrifuge.endpoints import ENDPOINTS


@pytest.mark.parametrize("prefix", ["", "/rt"])
def test_no_hosted_application_serves_a_path_of_the_wire_protocol(prefix: str) -> None:
    paths, endpoints = own_paths(prefix), ENDPOINTS.below(prefix)
    below = tuple(each for each in paths if each.endswith("/"))
    for path in endpoints.websocket_paths | endpoints.http_paths:
        assert path in paths or path.startswith(below)
    assert not f"{prefix}/page".startswith(below)


@pytest.mark.parametrize("prefix", ["", "/rt"])
def test_the_paths_of_query_ids_are_below_the_prefix_and_may_be_a_hosted_applications(prefix: str) -> None:
    assert query_id_paths(prefix) == (f"{prefix}/socket.io", f"{prefix}/socket.io/")
    assert not any(path.startswith(own_paths(prefix)) for path in query_id_paths(prefix))
