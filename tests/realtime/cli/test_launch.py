"""What `realtime serve` says to the primary about paths."""

from __future__ import annotations

import pytest

from realtime.cli.launch import own_paths
from realtime.protocol.centrifuge.endpoints import ENDPOINTS


@pytest.mark.parametrize("prefix", ["", "/rt"])
def test_no_hosted_application_serves_a_path_of_the_wire_protocol(prefix: str) -> None:
    paths, endpoints = own_paths(prefix), ENDPOINTS.below(prefix)
    below = tuple(each for each in paths if each.endswith("/"))
    for path in endpoints.websocket_paths | endpoints.http_paths:
        assert path in paths or path.startswith(below)
    assert not f"{prefix}/page".startswith(below)
