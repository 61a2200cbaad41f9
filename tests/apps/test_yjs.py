"""Yjs documents on four workers, with the stock y-websocket client: all who edit a document meet in one process."""

from __future__ import annotations

import json
from urllib.request import urlopen

import pytest

from tests.apps.stock_clients import NodeClients
from tests.support.server import ROOT, RunningServer

pytestmark = [pytest.mark.slow, pytest.mark.node]

APP = ROOT / "examples" / "yjs" / "app.py"
DOCUMENTS = ["plans", "notes", "budget", "a b", "café", "x", "y", "z"]
STICKY = ("--sticky", "session", "--session-path", "/doc/{key}")


def test_two_editors_of_each_document_meet_and_each_document_is_on_one_worker() -> None:
    with RunningServer(APP, *STICKY, "--balance", "round-robin", "--drain", "1", workers=4) as server:
        server.wait_until_full()
        with NodeClients("yjs.mjs", f"ws{server.url.removeprefix('http')}/doc", *DOCUMENTS) as editors:
            assert editors.read(len(DOCUMENTS)) == DOCUMENTS, "both have seen what both have written"
            workers = set()
            for name in DOCUMENTS:
                path = "".join(f"%{byte:02x}" for byte in name.encode())  # another spelling of the same name
                with urlopen(f"{server.url}/doc/{path}") as answer:
                    found = json.load(answer)
                assert found["open"], f"{name!r} is where its path leads"
                workers.add(found["worker"])
        assert len(workers) > 1, "they are on several workers"
