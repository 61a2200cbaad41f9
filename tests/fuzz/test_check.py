"""What the fuzzer looks for holds for every wire case, alone and joined to another."""

from __future__ import annotations

import pytest

from tests.fuzz.__main__ import FOLDERS, MESSAGES
from tests.fuzz.check import check
from tests.sticky.wire_cases import Case, load

CASES = [case for folder in FOLDERS for case in load(folder)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_holds_for_every_wire_case(case: Case) -> None:
    check(case.data)
    for other in CASES[::7]:
        check(case.data + other.data)


def test_it_holds_for_every_message() -> None:
    for message in MESSAGES:
        check(message)
        check(message[:-1])
