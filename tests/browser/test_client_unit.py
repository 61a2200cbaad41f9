"""The browser client's own tests run under Node, one by one named here as they are there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.require import require

pytestmark = pytest.mark.node
UNIT = Path(__file__).parent / "unit"
DEADLINE_S = 120.0


@pytest.mark.parametrize("file", sorted(UNIT.glob("*.test.mjs")), ids=lambda file: file.name)
def test_the_client_passes_its_own_tests(file: Path) -> None:
    """A failure shows Node's report, which names the sentence that does not hold."""
    done = subprocess.run(
        [require("node"), "--test", "--test-reporter=tap", str(file)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)
    assert passed is not None, done.stdout
    assert int(passed[1]) > 0, "the file holds tests"


def test_the_types_name_what_the_module_exports() -> None:
    client = Path(__file__).parents[2] / "realtime" / "client"
    exported = set(re.findall(r"^export class (\w+)", (client / "realtime.js").read_text(), re.MULTILINE))
    declared = set(re.findall(r"^export class (\w+)", (client / "realtime.d.ts").read_text(), re.MULTILINE))
    assert exported == declared == {"Realtime", "RealtimeError"}


CLIENT = Path(__file__).parents[2] / "realtime" / "client"


@pytest.mark.parametrize(
    ("constant", "interface"),
    [
        ("CLIENT_EVENTS", "ClientEvents"),
        ("CLIENT_OPTIONS", "RealtimeOptions"),
        ("ROOM_EVENTS", "RoomEvents"),
        ("ROOM_OPTIONS", "RoomOptions"),
        ("HISTORY_OPTIONS", "HistoryOptions"),
    ],
)
def test_what_the_client_knows_is_what_the_types_declare(constant: str, interface: str) -> None:
    """Else the client would warn of an option that is documented."""
    source, types = (CLIENT / "realtime.js").read_text(), (CLIENT / "realtime.d.ts").read_text()
    known = re.search(rf"^const {constant} = \[(.*?)\];", source, re.MULTILINE)
    declared = re.search(rf"^export interface {interface}\b.*?^\}}", types, re.MULTILINE | re.DOTALL)
    assert known is not None
    assert declared is not None
    assert re.findall(r"'(\w+)'", known[1]) == re.findall(r"^  (\w+)\??:", declared[0], re.MULTILINE)


def test_a_room_has_the_type_of_what_is_published_in_it() -> None:
    types = (CLIENT / "realtime.d.ts").read_text()
    assert "room<T = any>(name: string, options?: RoomOptions): Room<T>;" in types
